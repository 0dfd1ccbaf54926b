"""`vllm-serve` as a program: its flags, its refusals, and how it stops."""

import contextlib
import json
import subprocess
import threading

import pytest

from support import CONTINUATIONS, STOP_SECONDS, environment, program, serving

FRANCE = "The capital of France is"
LONG = {
    "model": "demo",
    "prompt": FRANCE,
    "temperature": 0,
    "max_tokens": 1000,
    "ignore_eos": True,
    "stream": True,
}


def run_serve(*arguments):
    return subprocess.run(
        [program("vllm-serve"), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        env=environment(),
    )


def test_without_a_model_the_demo_model_is_served_and_named():
    with serving() as server:
        assert server.send("GET", "/v1/models").json["data"][0]["id"] == "demo"
        assert "demo" in server.log


def test_a_dry_run_prints_the_memory_plan_and_refuses_one_that_does_not_fit():
    planned = run_serve("demo", "--dry-run", "--max-num-seqs", 4)
    assert planned.returncode == 0, planned.stderr
    assert "4.00 requests of 1024 tokens at once" in planned.stderr
    refused = run_serve("demo", "--dry-run", "--kv-cache-memory-bytes", "1M")
    assert refused.returncode == 1
    assert "max seq len (1024)" in refused.stderr
    assert "estimated maximum model length is 320" in refused.stderr


def test_served_names_length_and_template(tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[-1]['content'] }}", encoding="utf-8")
    flags = ("--served-model-name", "first", "second", "--max-model-len", "64", "--dtype", "float32")
    with serving("demo", *flags, "--chat-template", template) as server:
        cards = server.send("GET", "/v1/models").json["data"]
        assert [(card["id"], card["max_model_len"]) for card in cards] == [("first", 64), ("second", 64)]

        message = {"role": "user", "content": FRANCE}
        request = {"model": "second", "messages": [message], "temperature": 0, "max_tokens": 3}
        body = server.send("POST", "/v1/chat/completions", request).json
        assert body["model"] == "first"
        assert body["choices"][0]["message"]["content"].startswith(" Paris")

        request = {"model": "first", "prompt": "a " * 200, "max_tokens": 1}
        answer = server.send("POST", "/v1/completions", request)
        assert answer.status == 400
        assert "maximum context length is 64 tokens" in answer.json["error"]["message"]


def test_interrupt_tells_running_requests_why_and_stops():
    streams = 8
    with serving("demo") as server:
        started = threading.Barrier(streams + 1)
        endings = []

        def follow():
            with contextlib.closing(server.connect()) as connection:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/v1/completions", json.dumps(LONG), headers)
                response = connection.getresponse()
                first = response.readline()
                started.wait(timeout=30)
                endings.append((first + response.read()).decode("utf-8"))

        threads = [threading.Thread(target=follow) for _ in range(streams)]
        for thread in threads:
            thread.start()
        started.wait(timeout=30)
        server.interrupt()
        exit_code = server.process.wait(STOP_SECONDS)
        for thread in threads:
            thread.join(STOP_SECONDS)

        assert exit_code in (0, 130), server.log
        assert len(endings) == streams
        for ending in endings:
            frames = [frame.removeprefix("data: ") for frame in ending.strip().split("\n\n")]
            assert frames[-1] == "[DONE]", frames[-2:]
            last = json.loads(frames[-2])
            assert last["choices"][0]["finish_reason"] == "abort", last


def test_an_idle_server_stops_at_the_first_interrupt():
    with serving("demo") as server:
        server.interrupt()
        assert server.process.wait(STOP_SECONDS) in (0, 130)
        assert "panicked" not in server.log


def test_a_port_in_use_is_named():
    with serving("demo") as server:
        run = run_serve("demo", "--host", "127.0.0.1", "--port", server.port)
        assert run.returncode not in (0, 101)
        assert str(server.port) in run.stderr
        answer = server.send("POST", "/v1/completions", {"prompt": FRANCE, "temperature": 0, "max_tokens": 32})
        assert answer.json["choices"][0]["text"] == CONTINUATIONS[FRANCE]


@pytest.mark.parametrize(
    ("arguments", "mention"),
    [
        (("/no/such/model",), "/no/such/model"),
        (("demo", "--chat-template", "/no/such/template.jinja"), "/no/such/template.jinja"),
        (("demo", "--dtype", "float3"), "float3"),
        (("demo", "--max-model-len", "100000"), "1024"),
        (("demo", "--device", "abacus"), "abacus"),
        (("demo", "--port", "many"), "--port"),
        (("demo", "--frobnicate"), "--frobnicate"),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, mention):
    run = run_serve(*arguments)
    assert run.returncode not in (0, 101), run.stderr
    assert mention in run.stderr
    assert "panicked" not in run.stderr


def test_the_environment_moves_the_limits_of_a_request():
    body = {"prompt": ["a"] * 1100, "max_tokens": 1}
    with serving("demo", VLLM_MAX_N_SEQUENCES="2", VLLM_MAX_COMPLETION_PROMPTS="1100") as server:
        assert len(server.send("POST", "/v1/completions", body).json["choices"]) == 1100
        refused = server.send("POST", "/v1/completions", {**body, "prompt": ["a"] * 1101})
        assert refused.status == 400 and "maximum allowed count of 1100" in refused.json["error"]["message"]
        refused = server.send("POST", "/v1/completions", {"prompt": "a", "n": 3, "temperature": 1})
        assert refused.status == 400 and "n must be at most 2, got 3" in refused.json["error"]["message"]
        assert "variable detected: VLLM_MAX" not in server.log
