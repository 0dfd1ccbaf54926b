"""Tables in Parquet files, written and read by the reference implementation."""

import json
import signal
import subprocess
import time

import pyarrow
import pyarrow.parquet
import pytest

from support import CONTINUATIONS, environment, program, run_offline

GREEDY = ("--temperature", "0", "--max-tokens", "24")
FRANCE = "The capital of France is"


def write(path, columns, **options):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def answer(*arguments, code=0):
    run = run_offline("--model", "demo", *arguments, *GREEDY)
    assert run.returncode == code, run.stderr
    return run


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_rows_come_from_a_table_and_go_to_one(tmp_path, compression):
    prompts = list(CONTINUATIONS)
    columns = {
        "question": prompts,
        "id": [1, 2, None, 4],
        "score": [0.5, 1.0, 2.0, None],
        "tags": [["a", "b"], [], None, ["c", None]],
        "source": [{"url": "x", "page": 1}, None, {"url": None, "page": 3}, {"url": "y", "page": None}],
        "good": [True, False, None, True],
    }
    data = write(tmp_path / "rows.parquet", columns, compression=compression)
    output = tmp_path / "answers.parquet"
    answer("--input", data, "--output", output, "--prompt-column", "question")
    rows = pyarrow.parquet.read_table(output)
    for name, values in columns.items():
        assert rows[name].to_pylist() == values, name
    assert rows["index"].to_pylist() == [0, 1, 2, 3]
    assert [outputs[0]["text"] for outputs in rows["outputs"].to_pylist()] == list(CONTINUATIONS.values())
    assert all(usage["prompt_tokens"] > 0 for usage in rows["usage"].to_pylist())
    assert pyarrow.types.is_int64(rows.schema.field("id").type)
    assert pyarrow.types.is_string(rows.schema.field("question").type)


def test_one_table_gives_the_same_lines_as_the_same_rows_in_json(tmp_path):
    rows = [{"prompt": prompt, "n": n} for n, prompt in enumerate(CONTINUATIONS)]
    table = write(tmp_path / "rows.parquet", {name: [row[name] for row in rows] for name in rows[0]})
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answer("--input", table, "--output", tmp_path / "a.jsonl")
    answer("--input", lines, "--output", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_conversations_token_ids_and_rows_without_a_prompt(tmp_path):
    messages = [{"role": "user", "content": "What is the capital of Spain?"}]
    data = write(tmp_path / "rows.parquet", {"messages": [messages, None]})
    output = tmp_path / "answers.parquet"
    answer("--input", data, "--output", output, code=3)
    first, second = pyarrow.parquet.read_table(output).to_pylist()
    assert "Madrid" in first["outputs"][0]["text"] and first["error"] is None
    assert second["outputs"] is None and "rows.parquet:2: `prompt` is empty" in second["error"]
    data = write(tmp_path / "ids.parquet", {"prompt": [[5, 6, 7]]})
    answer("--input", data, "--output", output)
    assert pyarrow.parquet.read_table(output)["prompt"].to_pylist() == [[5, 6, 7]]


def test_a_killed_job_ends_with_the_same_bytes(tmp_path):
    prompts = [f"{number}. The capital of France is" for number in range(600)]
    data = write(tmp_path / "rows.parquet", {"prompt": prompts, "n": list(range(600))}, row_group_size=100)
    whole, output = tmp_path / "whole.parquet", tmp_path / "answers.parquet"
    answer("--input", data, "--output", whole)
    command = [program("vllm-offline"), "--model", "demo", "--input", data, "--output", output, *GREEDY]
    for rows in (100, 350):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment())
        journal = tmp_path / "answers.parquet.partial"
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > rows):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    run = answer("--input", data, "--output", output)
    assert "Going on after" in run.stderr
    assert output.read_bytes() == whole.read_bytes()
    assert pyarrow.parquet.read_table(output)["n"].to_pylist() == list(range(600))


def test_shards_and_damage(tmp_path):
    data = write(tmp_path / "rows.parquet", {"prompt": [FRANCE] * 10, "n": list(range(10))})
    numbers = []
    for shard in ("1/3", "2/3", "3/3"):
        output = tmp_path / f"{shard[0]}.parquet"
        answer("--input", data, "--output", output, "--shard", shard)
        numbers += pyarrow.parquet.read_table(output)["n"].to_pylist()
    assert numbers == list(range(10))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(data.read_bytes()[:-20])
    assert "cut.parquet: not a Parquet file" in answer("--input", cut, code=1).stderr
    content = bytearray(data.read_bytes())
    content[4:60] = b"\xff" * 56
    cut.write_bytes(content)
    assert "cut.parquet: " in answer("--input", cut, code=1).stderr
    missing = write(tmp_path / "other.parquet", {"question": [FRANCE]})
    assert "one of: question" in answer("--input", missing, code=1).stderr
    stdin = run_offline("--input", "-", "--input-format", "parquet", stdin="PAR1")
    assert stdin.returncode == 1 and "read from its end" in stdin.stderr


def test_bad_rows_of_a_table_count_and_end_the_job_where_that_is_asked(tmp_path):
    prompts = [FRANCE, None, FRANCE, "", FRANCE, None]
    data = write(tmp_path / "rows.parquet", {"prompt": prompts, "n": list(range(6))})
    output = tmp_path / "answers.parquet"
    places = ("--input", data, "--output", output)
    strict = answer(*places, "--strict", code=1)
    assert "1 rows failed, at most 0 may" in strict.stderr and "rows.parquet:" in strict.stderr
    assert "(--max-errors)" in strict.stderr and not output.exists()
    # The failed row is done, so the same command would otherwise go on behind it.
    assert "in an earlier run" in answer(*places, "--strict", code=1).stderr
    assert "at most 1 may" in answer(*places, "--max-errors", "1", code=1).stderr
    answer(*places, "--max-errors", "3", code=3)
    table = pyarrow.parquet.read_table(output)
    assert table["index"].to_pylist() == list(range(6))
    errors = [error and error.split(": ")[0].rpartition("/")[2] for error in table["error"].to_pylist()]
    assert errors[:3] == [None, "rows.parquet:2", None] and errors[4:] == [None, "rows.parquet:6"]


def test_rows_as_they_finish(tmp_path):
    data = write(tmp_path / "rows.parquet", {"prompt": [FRANCE] * 50, "n": list(range(50))})
    output = tmp_path / "answers.parquet"
    answer("--input", data, "--output", output, "--as-finished", "--max-num-seqs", "8")
    table = pyarrow.parquet.read_table(output)
    assert sorted(table["n"].to_pylist()) == list(range(50))
    assert table["n"].to_pylist() == table["index"].to_pylist()
