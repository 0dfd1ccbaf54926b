"""Answers one data set with several `vllm-offline` processes that Ray places on its nodes.

    python ray_shards.py --input prompts.jsonl --output answers.jsonl --shards 8 -- --model demo

What follows `--` goes to every process. Input and output must be on a folder that all nodes see, or
in an object store. A task whose node or process dies is placed again and goes on from its journal.
The parts of an output are put together if it is a file of lines; tables and objects stay in parts.
"""

import argparse
import os
import shutil
import subprocess

import ray

SOME_ROWS_FAILED = 3


def answer(number, shards, arguments):
    """Works on one shard to its end, and tells its output and whether all its rows have answers."""
    output = part(arguments.output, number)
    command = [
        *(arguments.program, "--input", arguments.input, "--output", output),
        *("--shard", f"{number}/{shards}", *arguments.rest),
    ]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    if run.returncode not in (0, SOME_ROWS_FAILED):
        raise RuntimeError(f"shard {number} ended with exit code {run.returncode}:\n{run.stderr}")
    return output, run.returncode == 0


def place(text):
    return text if "://" in text else os.path.abspath(text)


def part(output, number):
    stem, suffix = os.path.splitext(output)
    return f"{stem}-{number:04}{suffix}"


def has_lines_in_a_file(output):
    return "://" not in output and not output.endswith(".parquet")


def join(parts, output):
    """Puts the parts one after the other, under another name until all are there."""
    unfinished = f"{output}.tmp"
    with open(unfinished, "wb") as whole:
        for path in parts:
            with open(path, "rb") as piece:
                shutil.copyfileobj(piece, whole)
    os.replace(unfinished, output)
    for path in parts:
        os.unlink(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", required=True, type=place)
    parser.add_argument("--output", required=True, type=place)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--program", default="vllm-offline")
    parser.add_argument("--cpus-per-shard", type=float, default=1)
    parser.add_argument("--gpus-per-shard", type=float, default=0)
    parser.add_argument("--address", help="of a running cluster; without, Ray starts on this machine")
    parser.add_argument("rest", nargs="*", help="flags for vllm-offline, after --")
    arguments = parser.parse_args()

    ray.init(address=arguments.address, log_to_driver=False)
    # Retried also when the program fails, such as on a node that runs out of memory.
    task = ray.remote(
        num_cpus=arguments.cpus_per_shard,
        num_gpus=arguments.gpus_per_shard,
        max_retries=3,
        retry_exceptions=True,
    )(answer)
    numbers = range(1, arguments.shards + 1)
    waiting = {task.remote(number, arguments.shards, arguments): number for number in numbers}
    finished = {}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(done)
        finished[number] = ray.get(done)
        print(f"shard {number} is done, {len(waiting)} to go", flush=True)
    parts = [finished[number][0] for number in numbers]
    if has_lines_in_a_file(arguments.output):
        join(parts, arguments.output)
    if not all(complete for _, complete in finished.values()):
        raise SystemExit("some rows failed; their results say why")


if __name__ == "__main__":
    main()
