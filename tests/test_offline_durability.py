"""Nothing lost, nothing twice: `vllm-offline` killed, interrupted and started again."""

import json
import os
import random
import signal
import subprocess
import time

import pytest

import support
from support import run_offline

SAMPLED = ("--temperature", "0.8", "--seed", "11", "--max-tokens", "24")
START_SECONDS = 60

posix_only = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def write_prompts(path, rows):
    """Prompts that are alike in pairs only, so that a row out of place shows."""
    capitals = list(support.CAPITALS)
    lines = [f"{number}. The capital of {capitals[number % len(capitals)]} is" for number in range(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def start(*arguments, **options):
    return subprocess.Popen(
        [support.program("vllm-offline"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=support.environment(),
        **options,
    )


def lines_of(journal):
    """Whole lines of a journal, the one that says what job it is included."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for_rows(process, journal, rows):
    """Waits until this many rows are in the journal; false if the job has ended before."""
    deadline = time.monotonic() + START_SECONDS
    while lines_of(journal) <= rows:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"only {lines_of(journal)} lines in {journal}"
        time.sleep(0.002)
    return True


class Job:
    """A data set, its flags, and where its output and journal are."""

    def __init__(self, folder, rows, *flags):
        self.prompts = folder / "prompts.txt"
        write_prompts(self.prompts, rows)
        self.output = folder / "answers.jsonl"
        self.journal = folder / "answers.jsonl.partial"
        self.flags = (*SAMPLED, "--threads", "1", *flags)

    def arguments(self, output=None):
        return ("--input", self.prompts, "--output", output or self.output, *self.flags)

    def whole_output(self, folder):
        """What a run that nothing disturbs gives."""
        output = folder / "undisturbed.jsonl"
        run = run_offline(*self.arguments(output))
        assert run.returncode == 0, run.stderr
        return output.read_bytes()

    def begun(self):
        """Kills a run that has done some rows and returns what its journal holds."""
        process = start(*self.arguments())
        assert wait_for_rows(process, self.journal, 3), process.communicate()
        process.kill()
        process.communicate()
        return self.journal.read_bytes()

    def finish(self, *more):
        run = run_offline(*self.arguments(), *more)
        assert run.returncode == 0, run.stderr
        assert not self.journal.exists()
        return run


def kill_at_random_moments(tmp_path, rows, kills, seed):
    job = Job(tmp_path, rows, "--max-num-seqs", "16")
    expected = job.whole_output(tmp_path)
    chance = random.Random(seed)
    killed = 0
    for marks_left in range(kills, 0, -1):
        done = lines_of(job.journal)
        # Each run gets about as far as its share of what is left, and dies somewhere on the way.
        mark = done + chance.randint(0, max(1, (rows - done) // marks_left))
        process = start(*job.arguments())
        if wait_for_rows(process, job.journal, mark):
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not job.output.exists() or job.output.read_bytes() == expected
    job.finish()
    assert job.output.read_bytes() == expected
    return killed


@posix_only
def test_killed_at_ten_random_moments_the_output_is_the_same(tmp_path):
    assert kill_at_random_moments(tmp_path, rows=300, kills=10, seed=1) >= 8


@posix_only
@pytest.mark.skipif("VLLM_LONG_TESTS" not in os.environ, reason="takes minutes; set VLLM_LONG_TESTS")
def test_killed_at_twenty_random_moments_of_a_long_job_the_output_is_the_same(tmp_path):
    assert kill_at_random_moments(tmp_path, rows=2000, kills=20, seed=2) >= 18


def test_a_torn_last_line_is_done_again(tmp_path):
    job = Job(tmp_path, 300)
    expected = job.whole_output(tmp_path)
    journal = job.begun()
    whole = journal[: journal.rindex(b"\n")]
    for torn in (whole, whole[:-9], journal + b"0123", journal + b"\0" * 64):
        job.journal.write_bytes(torn)
        run = job.finish()
        assert "rows that are done" in run.stderr
        assert job.output.read_bytes() == expected


def test_the_journal_of_another_job_is_refused_and_restart_discards_it(tmp_path):
    job = Job(tmp_path, 300)
    journal = job.begun()

    def refused(*mentions, flags=()):
        run = run_offline(*job.arguments(), *flags)
        assert run.returncode == 1, run.stderr
        for mention in (str(job.journal), "--restart", *mentions):
            assert mention in run.stderr, run.stderr
        assert job.journal.read_bytes() == journal

    refused("sampling", flags=("--top-k", "5"))
    refused("max_model_len", flags=("--max-model-len", "128"))
    refused("shard", flags=("--shard", "1/2"))
    write_prompts(job.prompts, 200)
    refused("input")
    job.finish("--restart")
    assert len(job.output.read_bytes().splitlines()) == 200


def test_a_file_that_is_no_journal_is_not_touched(tmp_path):
    job = Job(tmp_path, 3)
    job.journal.write_text("my notes\n", encoding="utf-8")
    run = run_offline(*job.arguments())
    assert run.returncode == 1
    assert "not the journal of a job" in run.stderr and "--restart" in run.stderr
    assert job.journal.read_text(encoding="utf-8") == "my notes\n"


def test_standard_input_must_be_the_same_when_a_job_goes_on(tmp_path):
    job = Job(tmp_path, 300)
    output, journal = tmp_path / "piped.jsonl", tmp_path / "piped.jsonl.partial"
    arguments = ("--input", "-", "--output", output, *job.flags, "--max-errors")
    text = job.prompts.read_text(encoding="utf-8")
    # A prompt beyond the context fails, and so ends the job when much is done.
    broken = run_offline(*arguments, "0", stdin=text + "long " * 4000 + "\n")
    assert broken.returncode == 1 and journal.exists(), broken.stderr
    # The row that failed still counts, so another is allowed.
    other = run_offline(*arguments, "1", stdin="another\n" + text)
    assert other.returncode == 1, other.stderr
    assert "differs at row" in other.stderr and "--restart" in other.stderr


@posix_only
def test_a_second_process_on_the_same_output_is_refused(tmp_path):
    job = Job(tmp_path, 2000)
    process = start(*job.arguments())
    try:
        assert wait_for_rows(process, job.journal, 1)
        second = run_offline(*job.arguments())
        assert second.returncode == 1
        assert "another process" in second.stderr and str(job.journal) in second.stderr
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@posix_only
def test_one_interrupt_finishes_the_rows_under_way(tmp_path):
    job = Job(tmp_path, 2000, "--max-num-seqs", "4", "--summary-json", tmp_path / "summary.json")
    process = start(*job.arguments())
    assert wait_for_rows(process, job.journal, 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "finishing the rows under way" in stderr
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert not summary["complete"] and not job.output.exists()
    assert 1 <= summary["rows"] == lines_of(job.journal) - 1 < 2000
