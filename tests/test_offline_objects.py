"""Data sets and outputs in object stores: `vllm-offline` against a small local store."""

import io
import json
import random
import shutil
import subprocess
import time

import pyarrow
import pyarrow.parquet
import pytest

from object_server import object_server
from support import CONTINUATIONS, environment, free_port, program, run_offline

PROMPTS = "".join(f"{prompt}\n" for prompt in CONTINUATIONS)
GREEDY = ("--temperature", "0", "--max-tokens", "24")


@pytest.fixture
def store():
    with object_server() as server:
        server.objects["data/prompts.txt"] = PROMPTS.encode()
        yield server


def command(tmp_path, *arguments):
    return [program("vllm-offline"), "--model", "demo", "--work-dir", str(tmp_path / "work"), *map(str, arguments), *GREEDY]


def run(store, tmp_path, *arguments, without=(), **variables):
    """Runs the program in the store's environment, `without` some of its variables."""
    variables = {**environment(**store.variables), **variables}
    return subprocess.run(
        command(tmp_path, *arguments),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={name: value for name, value in variables.items() if name not in without},
    )


def texts(content):
    return [json.loads(line)["outputs"][0]["text"] for line in content.decode().splitlines()]


def left_behind(tmp_path):
    return [path for path in (tmp_path / "work").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("scheme", "signature"), [("s3", "AWS4-HMAC-SHA256"), ("gs", "Bearer"), ("az", "SharedKey")])
def test_from_a_store_to_a_store(store, tmp_path, scheme, signature):
    summary = tmp_path / "summary.json"
    places = ("--input", f"{scheme}://data/prompts.txt", "--output", f"{scheme}://data/answers.jsonl")
    done = run(store, tmp_path, *places, "--summary-json", summary)
    assert done.returncode == 0, done.stderr
    assert texts(store.objects["data/answers.jsonl"]) == list(CONTINUATIONS.values())
    assert store.signatures == {signature}
    local = tmp_path / "local.jsonl"
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(PROMPTS, encoding="utf-8")
    assert run_offline("--input", prompts, "--output", local, *GREEDY).returncode == 0
    assert store.objects["data/answers.jsonl"] == local.read_bytes()
    assert not left_behind(tmp_path)
    for told in (f"Fetched {scheme}://data/prompts.txt, 101 B", f"to {scheme}://data/answers.jsonl", "4 rows, 0 failed"):
        assert told in done.stderr
    told = json.loads(summary.read_text(encoding="utf-8"))
    assert told["complete"] and told["rows"] == 4


def test_from_the_web(store, tmp_path):
    answers = tmp_path / "answers.jsonl"
    done = run(store, tmp_path, "--input", f"{store.url}/data/prompts.txt", "--output", answers)
    assert done.returncode == 0, done.stderr
    assert texts(answers.read_bytes()) == list(CONTINUATIONS.values())
    done = run(store, tmp_path, "--input", f"{store.url}/data/prompts.txt", "--output", f"{store.url}/put/here.jsonl")
    assert done.returncode == 0, done.stderr
    assert store.objects["put/here.jsonl"] == answers.read_bytes()


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_from_the_web_and_a_store_with_encryption(tmp_path):
    made = tmp_path / "made.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*make, *names, "-keyout", made, "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    made.write_bytes(made.read_bytes() + (tmp_path / "cert.pem").read_bytes())
    with object_server(tls=made) as store:
        store.objects["data/prompts.txt"] = PROMPTS.encode()
        trusted = {"SSL_CERT_FILE": str(tmp_path / "cert.pem")}
        for address in (f"{store.url}/data/prompts.txt", "s3://data/prompts.txt"):
            refused = run(store, tmp_path, "--input", address)
            assert refused.returncode == 1 and "certificate" in refused.stderr, refused.stderr
            done = run(store, tmp_path, "--input", address, "--output", "-", **trusted)
            assert done.returncode == 0, done.stderr
            assert texts(done.stdout.encode()) == list(CONTINUATIONS.values())


def test_a_transfer_that_is_cut_off_goes_on(store, tmp_path):
    rows = [{"prompt": "The capital of France is", "note": "x" * 400_000}, {"prompt": "The future of AI is"}]
    store.objects["data/rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    store.drop_after = [100_000, 50_000]
    store.refusals = [503]
    done = run(store, tmp_path, "--input", "s3://data/rows.jsonl", "--output", "s3://data/answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert len(texts(store.objects["data/answers.jsonl"])) == 2
    assert not store.drop_after and not store.refusals


def test_a_transfer_may_be_cut_off_any_number_of_times(store, tmp_path):
    row = {"prompt": "The future of AI is", "note": "x" * 400_000}
    store.objects["data/rows.jsonl"] = json.dumps(row).encode()
    store.drop_after = [30_000] * 12
    done = run(store, tmp_path, "--input", f"{store.url}/data/rows.jsonl", "--output", tmp_path / "answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert not store.drop_after


def test_a_dead_line_ends_the_command_and_the_next_one_goes_on(store, tmp_path):
    row = {"prompt": "The future of AI is", "note": "x" * 400_000}
    store.objects["data/rows.jsonl"] = json.dumps(row).encode()
    places = ("--input", "s3://data/rows.jsonl", "--output", "-")
    store.drop_after = [100_000, *[0] * 50]
    failed = run(store, tmp_path, *places)
    assert failed.returncode == 1 and "s3://data/rows.jsonl: " in failed.stderr, failed.stderr
    (part,) = left_behind(tmp_path)
    assert part.name.endswith("rows.jsonl.part") and part.stat().st_size == 100_000
    store.drop_after, store.ranges = [], []
    done = run(store, tmp_path, *places)
    assert done.returncode == 0, done.stderr
    assert store.ranges == ["bytes=100000-"]
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "requests"),
    [
        ("s3", ["POST", "DELETE", "POST", "PUT", "PUT", "PUT", "POST"]),
        ("gs", ["POST", "DELETE", "POST", "PUT", "PUT", "PUT", "POST"]),
        ("az", ["PUT", "PUT", "PUT", "PUT", "PUT"]),
    ],
)
def test_a_large_output_goes_in_parts(store, tmp_path, scheme, requests):
    rows = [{"prompt": "The future of AI is", "note": "x" * 1_000_000} for _ in range(20)]
    store.objects["data/rows.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = run(store, tmp_path, "--input", f"{scheme}://data/rows.jsonl", "--output", f"{scheme}://data/answers.jsonl")
    assert done.returncode == 0, done.stderr
    assert store.methods("data/answers.jsonl") == requests
    assert [json.loads(line)["note"] for line in store.objects["data/answers.jsonl"].splitlines()] == [row["note"] for row in rows]


def test_a_table_from_a_store_to_a_store(store, tmp_path):
    table = pyarrow.table({"question": list(CONTINUATIONS), "id": [1, 2, 3, 4]})
    data = io.BytesIO()
    pyarrow.parquet.write_table(table, data)
    store.objects["data/rows.parquet"] = data.getvalue()
    places = ("--input", "s3://data/rows.parquet", "--output", "s3://data/answers.parquet")
    done = run(store, tmp_path, *places, "--prompt-column", "question")
    assert done.returncode == 0, done.stderr
    rows = pyarrow.parquet.read_table(io.BytesIO(store.objects["data/answers.parquet"]))
    assert rows["id"].to_pylist() == [1, 2, 3, 4]
    assert [outputs[0]["text"] for outputs in rows["outputs"].to_pylist()] == list(CONTINUATIONS.values())


def test_an_output_that_is_refused_is_sent_by_the_next_run(store, tmp_path):
    job = ("--input", "s3://data/prompts.txt", "--output", "s3://data/answers.jsonl")
    original = store.handle

    def refuse_uploads(handler):
        if handler.command == "PUT":
            store.refusals = [403]
        original(handler)

    store.handle = refuse_uploads
    failed = run(store, tmp_path, *job)
    assert failed.returncode == 1
    assert "s3://data/answers.jsonl: the store refuses" in failed.stderr and "AWS_ACCESS_KEY_ID" in failed.stderr
    assert "the same command sends them again" in failed.stderr
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
        ("s3://data/missing.txt", "there is no such object; check its name and the bucket"),
        ("gs://missing/prompts.txt", "there is no such object; check its name and the bucket"),
        ("az://missing/prompts.txt", "there is no such object; check its name and the container"),
        ("ftp://data/prompts.txt", "addresses begin with s3://"),
        ("s3://data", "names no object"),
        ("https://host/a.txt?signature=1", "download the file first"),
    ],
)
def test_what_is_not_there_is_named(store, tmp_path, address, mention):
    failed = run(store, tmp_path, "--input", address)
    assert failed.returncode == 1 and mention in failed.stderr, failed.stderr
    assert address.split("?")[0] in failed.stderr


@pytest.mark.parametrize(("scheme", "place"), [("s3", "bucket"), ("gs", "bucket"), ("az", "container")])
def test_an_output_without_a_place_is_refused_before_the_first_row(store, tmp_path, scheme, place):
    failed = run(store, tmp_path, "--output", f"{scheme}://missing/answers.jsonl")
    assert failed.returncode == 1, failed.stderr
    assert f"{scheme}://missing/answers.jsonl: there is no such {place}; make it" in failed.stderr
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("scheme", "variable"),
    [("s3", "AWS_SECRET_ACCESS_KEY"), ("gs", "GOOGLE_APPLICATION_CREDENTIALS"), ("az", "AZURE_STORAGE_ACCOUNT_KEY")],
)
def test_who_may_not_read_or_write_learns_which_variables_to_check(store, tmp_path, scheme, variable):
    for way, deed in (("--input", "read"), ("--output", "write")):
        store.refusals = [403]
        failed = run(store, tmp_path, way, f"{scheme}://data/prompts.txt")
        assert failed.returncode == 1, failed.stderr
        assert "the store refuses; check" in failed.stderr and f"that they may {deed} there" in failed.stderr
        assert variable in failed.stderr


def test_without_credentials_the_variables_to_set_are_told(store, tmp_path):
    # Machines in Amazon's cloud are given credentials by such a service; here it gives none.
    store.buckets = (*store.buckets, "latest")
    without = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    places = ("--input", "s3://data/prompts.txt")
    failed = run(store, tmp_path, *places, without=without, AWS_METADATA_ENDPOINT=store.url)
    assert failed.returncode == 1, failed.stderr
    assert "no credentials were found; set AWS_ACCESS_KEY_ID" in failed.stderr
    assert "AWS_SKIP_SIGNATURE=true" in failed.stderr
    done = run(store, tmp_path, *places, without=without, AWS_SKIP_SIGNATURE="true")
    assert done.returncode == 0, done.stderr
    assert "none" in store.signatures


def test_a_store_that_does_not_answer(store, tmp_path):
    nowhere = f"http://127.0.0.1:{free_port()}"
    for address in ("s3://data/prompts.txt", f"{nowhere}/prompts.txt"):
        failed = run(store, tmp_path, "--input", address, AWS_ENDPOINT_URL=nowhere)
        assert failed.returncode == 1, failed.stderr
        assert f"{address}: the store cannot be reached; check the network" in failed.stderr


def test_a_job_killed_at_random_moments_sends_the_same_bytes(store, tmp_path):
    prompts = "".join(f"{number}. The capital of France is\n" for number in range(400))
    store.objects["data/rows.txt"] = prompts.encode()
    job = ("--input", "gs://data/rows.txt", "--output", "az://put/answers.jsonl", "--threads", "1")
    whole = run(store, tmp_path, *job)
    assert whole.returncode == 0, whole.stderr
    expected = store.objects.pop("put/answers.jsonl")
    chance = random.Random(3)
    for _ in range(4):
        process = subprocess.Popen(command(tmp_path, *job), stderr=subprocess.DEVNULL, env=environment(**store.variables))
        time.sleep(chance.uniform(0.05, 0.6))
        process.kill()
        process.wait()
        assert store.objects.get("put/answers.jsonl", expected) == expected
    done = run(store, tmp_path, *job)
    assert done.returncode == 0, done.stderr
    assert store.objects["put/answers.jsonl"] == expected
    assert not left_behind(tmp_path)
