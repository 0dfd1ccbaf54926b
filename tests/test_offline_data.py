"""Forms of data sets, and what becomes of rows that fail: `vllm-offline` as a user sees it."""

import csv
import json

import pytest

import support
from support import CONTINUATIONS, run_offline

GREEDY = ("--temperature", "0", "--max-tokens", "16")
FRANCE = "The capital of France is"
JAPAN = "The capital of Japan is"


def results(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def line(custom_id, url, **body):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def answer_batch(tmp_path, *lines):
    """The output of a batch file, by `custom_id`, and the exit code."""
    batch, output = tmp_path / "batch.jsonl", tmp_path / "answers.jsonl"
    write_lines(batch, lines)
    run = run_offline("--model", "demo", "--input", batch, "--output", output)
    answers = results(output)
    assert [answer["custom_id"] for answer in answers] == [given.get("custom_id") for given in lines]
    assert len({answer["id"] for answer in answers}) == len(lines)
    return {answer["custom_id"]: answer for answer in answers}, run.returncode


def test_a_batch_file_is_answered_as_the_server_would(tmp_path):
    question = {"model": "demo", "messages": support.WORLD_SERIES_QUESTION, "temperature": 0}
    prompts = {"prompt": [FRANCE, JAPAN], "temperature": 0, "max_tokens": 16, "logprobs": 1}
    answers, code = answer_batch(
        tmp_path,
        line("chat", "/v1/chat/completions", **question),
        line("text", "/v1/completions", **prompts),
    )
    assert code == 0
    for answer in answers.values():
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        assert answer["response"]["request_id"].startswith("vllm-batch-")
    chat, text = (answers[name]["response"]["body"] for name in ("chat", "text"))
    assert chat["object"] == "chat.completion" and chat["model"] == "demo"
    assert chat["choices"][0]["message"]["content"] == support.WORLD_SERIES_ANSWER
    assert [choice["text"] for choice in text["choices"]] == [CONTINUATIONS[FRANCE], " Tokyo."]
    assert text["usage"]["prompt_tokens"] == 12
    assert all(value <= 0 for value in text["choices"][0]["logprobs"]["token_logprobs"])


def test_lines_that_cannot_be_answered_say_why(tmp_path):
    no_method = line("no method", "/v1/completions", prompt="a")
    del no_method["method"]
    answers, code = answer_batch(
        tmp_path,
        line("model", "/v1/completions", model="other", prompt="a"),
        line("value", "/v1/completions", prompt="a", temperature=-1),
        line("schema", "/v1/chat/completions", messages="hello"),
        line("stream", "/v1/completions", prompt="a", stream=True),
        line("url", "/v1/embeddings", input="a"),
        no_method,
        {"custom_id": "no object", "method": "POST", "url": "/v1/completions", "body": 3},
        line("good", "/v1/completions", prompt="a"),
    )
    assert code == 3

    def refused(custom_id, status, mention):
        answer = answers[custom_id]
        assert answer["response"]["status_code"] == status and answer["response"]["body"] is None
        error = answer["error"]
        message = error if isinstance(error, str) else error["error"]["message"]
        assert mention in message, answer
        return error

    assert refused("model", 404, "`other` does not exist")["error"]["type"] == "NotFoundError"
    assert refused("value", 400, "temperature must be non-negative")["error"]["param"] == "temperature"
    refused("schema", 400, "messages")
    assert refused("stream", 400, "stream") == "Request must not be sent in stream mode"
    assert isinstance(refused("url", 400, "URL /v1/embeddings was used."), str)
    refused("no method", 400, "`method` is missing")
    refused("no object", 400, "`body` must be an object")
    assert answers["good"]["error"] is None


def test_a_table_is_answered_by_the_column_of_its_prompts(tmp_path):
    table, output = tmp_path / "table.csv", tmp_path / "answers.jsonl"
    with open(table, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "question"), ("7", FRANCE), ("8", JAPAN)])
    run = run_offline("--input", table, "--output", output, "--prompt-column", "question", *GREEDY)
    assert run.returncode == 0, run.stderr
    assert [(row["id"], row["outputs"][0]["text"]) for row in results(output)] == [
        ("7", CONTINUATIONS[FRANCE]),
        ("8", " Tokyo."),
    ]
    run = run_offline("--input", table, "--output", output)
    assert run.returncode == 1
    assert "one of: id, question" in run.stderr and "--prompt-column" in run.stderr


def test_standard_input_to_standard_output():
    run = run_offline("--input", "-", "--output", "-", *GREEDY, stdin=f"{FRANCE}\n\n{JAPAN}\n")
    assert run.returncode == 0, run.stderr
    rows = [json.loads(row) for row in run.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == [FRANCE, JAPAN]
    given = json.dumps({"prompt": FRANCE, "id": 1}) + "\n"
    run = run_offline("--input", "-", "--input-format", "jsonl", "--output", "-", *GREEDY, stdin=given)
    assert json.loads(run.stdout)["id"] == 1


def test_shards_one_after_the_other_are_the_whole(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"The number {i} is\n" for i in range(20)), encoding="utf-8")

    def output_of(name, *flags):
        output = tmp_path / name
        sampled = ("--temperature", "1", "--seed", "3", "--max-tokens", "12")
        run = run_offline("--input", prompts, "--output", output, *sampled, *flags)
        assert run.returncode == 0, run.stderr
        return output.read_bytes()

    whole = output_of("whole.jsonl")
    shards = [output_of(f"{i}.jsonl", "--shard", f"{i}/3") for i in (1, 2, 3)]
    assert all(shards) and b"".join(shards) == whole
    finished = output_of("finished.jsonl", "--as-finished")
    assert sorted(finished.splitlines()) == sorted(whole.splitlines())


def test_equal_prompts_draw_different_texts(tmp_path):
    prompts, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("Once upon a time\n" * 8, encoding="utf-8")
    run = run_offline("--input", prompts, "--output", output, "--temperature", "1.5", "--max-tokens", "12")
    assert run.returncode == 0, run.stderr
    assert len({row["outputs"][0]["text"] for row in results(output)}) > 4


@pytest.mark.parametrize(("flags", "failures"), [(("--strict",), 1), (("--max-errors", "2"), 3)])
def test_too_many_failed_rows_end_the_job(tmp_path, flags, failures):
    data, output = tmp_path / "data.jsonl", tmp_path / "answers.jsonl"
    data.write_text("{}\n" * 10, encoding="utf-8")
    run = run_offline("--input", data, "--output", output, *flags)
    assert run.returncode == 1
    assert f"{failures} rows failed" in run.stderr and "neither `prompt`" in run.stderr
    assert not output.exists()


def test_the_summary_counts_rows_and_tokens(tmp_path):
    data, summary = tmp_path / "data.jsonl", tmp_path / "summary.json"
    data.write_text(json.dumps({"prompt": FRANCE}) + "\n[]\n", encoding="utf-8")
    run = run_offline("--input", data, "--output", tmp_path / "o.jsonl", "--summary-json", summary, *GREEDY)
    assert run.returncode == 3
    assert "2 rows, 1 failed" in run.stderr
    found = json.loads(summary.read_text(encoding="utf-8"))
    (row, _) = results(tmp_path / "o.jsonl")
    assert found["complete"] and (found["rows"], found["rows_failed"]) == (2, 1)
    assert found["prompt_tokens"] == row["usage"]["prompt_tokens"]
    assert found["output_tokens"] == row["usage"]["completion_tokens"]
    assert found["seconds"] > 0 and 0 <= found["cache_hit_rate"] <= 1


@pytest.mark.parametrize(
    ("flags", "mention"),
    [
        (("--shard", "4/3"), "from 1/N to N/N"),
        (("--shard", "one"), "I/N"),
        (("--strict", "--max-errors", "3"), "--max-errors"),
        (("--input-format", "xml"), "--input-format"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path, flags, mention):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\n", encoding="utf-8")
    run = run_offline("--input", prompts, *flags)
    assert run.returncode == 2 and mention in run.stderr, run.stderr


def test_standard_input_has_no_shards():
    run = run_offline("--input", "-", "--shard", "1/2", stdin="a\n")
    assert run.returncode == 1 and "--shard needs --input FILE" in run.stderr
