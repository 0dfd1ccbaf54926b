"""Data sets and outputs in object stores: `vllm-offline` against a small local store."""

import json
import subprocess

import pytest

from object_server import object_server
from support import CONTINUATIONS, environment, program, run_offline

PROMPTS = "".join(f"{prompt}\n" for prompt in CONTINUATIONS)
GREEDY = ("--temperature", "0", "--max-tokens", "24")


@pytest.fixture
def store():
    with object_server() as server:
        server.objects["data/prompts.txt"] = PROMPTS.encode()
        yield server


def run(store, tmp_path, *arguments):
    return subprocess.run(
        [program("vllm-offline"), "--model", "demo", "--work-dir", str(tmp_path / "work"), *map(str, arguments), *GREEDY],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(**store.variables),
    )


def texts(content):
    return [json.loads(line)["outputs"][0]["text"] for line in content.decode().splitlines()]


def left_behind(tmp_path):
    return [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


def test_from_a_store_to_a_store(store, tmp_path):
    done = run(store, tmp_path, "--input", "s3://data/prompts.txt", "--output", "s3://data/answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert texts(store.objects["data/answers.jsonl"]) == list(CONTINUATIONS.values())
    local = tmp_path / "local.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS, encoding="utf-8")
    assert run_offline("--input", prompts, "--output", local, *GREEDY).returncode == 0
    assert store.objects["data/answers.jsonl"] == local.read_bytes()
    assert not left_behind(tmp_path)


def test_from_the_web(store, tmp_path):
    answers = tmp_path / "answers.jsonl"
    done = run(store, tmp_path, "--input", f"{store.url}/data/prompts.txt", "--output", answers)
    assert done.returncode == 0, done.stderr
    assert texts(answers.read_bytes()) == list(CONTINUATIONS.values())
    done = run(store, tmp_path, "--input", f"{store.url}/data/prompts.txt", "--output", f"{store.url}/put/here.jsonl")
    assert done.returncode == 0, done.stderr
    assert store.objects["put/here.jsonl"] == answers.read_bytes()


def test_a_transfer_that_is_cut_off_goes_on(store, tmp_path):
    rows = [{"prompt": "The capital of France is", "note": "x" * 400_000}, {"prompt": "The future of AI is"}]
    store.objects["data/rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    store.drop_after = [100_000, 50_000]
    store.refusals = [503]
    done = run(store, tmp_path, "--input", "s3://data/rows.jsonl", "--output", "s3://data/answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(texts(store.objects["data/answers.jsonl"])) == 2
    assert not store.drop_after and not store.refusals


def test_a_large_output_goes_in_parts(store, tmp_path):
    rows = [{"prompt": "The future of AI is", "note": "x" * 1_000_000} for _ in range(20)]
    store.objects["data/rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = run(store, tmp_path, "--input", "s3://data/rows.jsonl", "--output", "s3://data/answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert store.methods("data/answers.jsonl") == ["POST", "PUT", "PUT", "PUT", "POST"]
    assert [json.loads(line)["note"] for line in store.objects["data/answers.jsonl"].splitlines()] == [row["note"] for row in rows]


def test_an_output_that_is_refused_is_sent_by_the_next_run(store, tmp_path):
    job = ("--input", "s3://data/prompts.txt", "--output", "s3://data/answers.jsonl")
    store.refusals = []
    original = store.handle

    def refuse_uploads(handler):
        if handler.command == "PUT":
            store.refusals = [403]
        original(handler)

    store.handle = refuse_uploads
    failed = run(store, tmp_path, *job)
    assert failed.returncode == 1
    assert "s3://data/answers.jsonl: the store refuses" in failed.stderr and "AWS_ACCESS_KEY_ID" in failed.stderr
    assert any(path.name == "answers.jsonl.partial" for path in left_behind(tmp_path))
    store.handle = original
    done = run(store, tmp_path, *job)
    assert done.returncode == 0, done.stderr
    assert "Going on after 4 rows" in done.stderr
    assert texts(store.objects["data/answers.jsonl"]) == list(CONTINUATIONS.values())
    assert not left_behind(tmp_path)


def test_an_object_that_has_changed_is_another_data_set(store, tmp_path):
    job = ("--input", "s3://data/prompts.txt", "--output", tmp_path / "answers.jsonl")
    store.objects["data/prompts.txt"] = b"[\n" + PROMPTS.encode()
    failed = run(store, tmp_path, *job, "--input-format", "jsonl", "--max-errors", "0")
    assert failed.returncode == 1 and "s3://data/prompts.txt:1: not valid JSON" in failed.stderr, failed.stderr
    store.objects["data/prompts.txt"] = b"(\n" + PROMPTS.encode()
    failed = run(store, tmp_path, *job, "--input-format", "jsonl", "--max-errors", "0")
    assert failed.returncode == 1 and "input was" in failed.stderr, failed.stderr


@pytest.mark.parametrize(
    ("address", "mention"),
    [
        ("s3://data/missing.txt", "there is no such object"),
        ("ftp://data/prompts.txt", "addresses begin with s3://"),
        ("s3://data", "names no object"),
        ("https://host/a.txt?signature=1", "download the file first"),
    ],
)
def test_what_is_not_there_is_named(store, tmp_path, address, mention):
    failed = run(store, tmp_path, "--input", address)
    assert failed.returncode == 1 and mention in failed.stderr, failed.stderr
    assert address.split("?")[0] in failed.stderr
