"""`vllm-offline bench` and `vllm-serve bench`: the flags and results of `vllm bench`."""

import json
import subprocess

from support import environment, program, run_offline


def bench_offline(tmp_path, kind, *flags):
    results = tmp_path / "results.json"
    run = run_offline("bench", kind, *flags, "--output-json", results)
    assert run.returncode == 0, run.stderr
    return json.loads(results.read_text(encoding="utf-8")), run.stdout


def bench_server(server, *flags, **variables):
    return subprocess.run(
        [program("vllm-serve"), "bench", "--port", str(server.port), *map(str, flags)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(**variables),
    )


def test_throughput_of_random_prompts(tmp_path):
    flags = ("--random-input-len", 24, "--random-output-len", 6, "--num-prompts", 5)
    results, text = bench_offline(tmp_path, "throughput", *flags)
    assert (results["num_requests"], results["total_num_tokens"]) == (5, 5 * (24 + 6))
    assert results["num_output_tokens"] == 30
    for name in ("elapsed_time", "requests_per_second", "tokens_per_second", "mean_ttft_ms", "p99_tpot_ms"):
        assert results[name] > 0, name
    assert "output tokens/s" in text and "Total num prompt tokens:  120" in text


def test_throughput_of_conversations(tmp_path):
    data = tmp_path / "conversations.json"
    turns = [{"from": "human", "value": "What is the capital of France?"},
             {"from": "gpt", "value": "The capital of France is Paris."}]
    data.write_text(json.dumps([{"id": "a", "conversations": turns}]), encoding="utf-8")
    flags = ("--dataset-name", "sharegpt", "--dataset-path", data, "--num-prompts", 3, "--n", 2)
    results, _ = bench_offline(tmp_path, "throughput", *flags)
    assert results["num_requests"] == 3 and results["num_output_tokens"] % 6 == 0


def test_latency_of_a_batch(tmp_path):
    flags = ("--input-len", 8, "--output-len", 4, "--batch-size", 2, "--num-iters", 3, "--num-iters-warmup", 1)
    results, text = bench_offline(tmp_path, "latency", *flags)
    assert len(results["latencies"]) == 3 and results["avg_latency"] > 0
    assert list(results["percentiles"]) == ["10", "25", "50", "75", "90", "99"]
    assert "Avg latency:" in text and "99% percentile latency:" in text


def test_what_cannot_be_measured_is_refused():
    for flags, mention in [
        (("--input-len", 2000), "2000 tokens and 128 tokens of output do not fit"),
        (("--dataset-name", "sharegpt"), "--dataset-path"),
        (("--dataset-path", "no/such.json"), "no/such.json"),
    ]:
        run = run_offline("bench", "throughput", "--num-prompts", 2, *flags)
        assert run.returncode == 1 and mention in run.stderr, run.stderr


def test_clients_of_a_server(server, tmp_path):
    flags = ("--random-input-len", 16, "--random-output-len", 5, "--num-prompts", 12, "--ignore-eos")
    saved = ("--save-result", "--save-detailed", "--result-dir", tmp_path, "--result-filename", "r.json")
    load = ("--request-rate", 200, "--max-concurrency", 4, "--goodput", "ttft:60000", "--metadata", "a=b")
    run = bench_server(server, *flags, *saved, *load)
    assert run.returncode == 0, run.stderr
    assert " Serving Benchmark Result " in run.stdout and "P99 TTFT (ms):" in run.stdout
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (results["completed"], results["failed"], results["model_id"]) == (12, 0, "demo")
    assert results["total_output_tokens"] == 60 and results["output_lens"] == [5] * 12
    assert results["request_rate"] == 200 and results["max_concurrency"] == 4 and results["a"] == "b"
    for name in ("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"):
        assert results[name] > 0, name
    for metric in ("ttft", "tpot", "itl"):
        for figure in ("mean", "median", "std", "p99"):
            assert results[f"{figure}_{metric}_ms"] >= 0


def test_clients_that_chat(server, tmp_path):
    flags = ("--backend", "openai-chat", "--random_input_len", 8, "--random_output_len", 4, "--num_prompts", 3)
    run = bench_server(server, *flags, "--percentile-metrics", "e2el", "--metric-percentiles", "50,90")
    assert run.returncode == 0, run.stderr
    assert "P90 E2EL (ms):" in run.stdout and "TTFT" not in run.stdout


def test_a_server_that_refuses_is_quoted(server):
    run = bench_server(server, "--model", "demo", "--served-model-name", "other", "--random-input-len", 8)
    assert run.returncode == 1
    assert "404" in run.stderr and "`other` does not exist" in run.stderr
