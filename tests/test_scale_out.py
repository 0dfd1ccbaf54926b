"""The files in `docs/scale-out`: every way of spreading a data set gives the output of the whole."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import yaml

import support

DOCS = support.ROOT / "docs" / "scale-out"
FLAGS = ("--temperature", "0", "--max-tokens", "64")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the files are for POSIX shells")


@pytest.fixture
def folder(tmp_path):
    """A folder with a data set, and what one process makes of it."""
    lines = [{"prompt": f"{n}. The capital of {c} is"} for n in range(3) for c in support.CAPITALS]
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = support.run_offline("--model", "demo", "--input", data, "--output", tmp_path / "whole.jsonl", *FLAGS)
    assert run.returncode == 0, run.stderr
    return tmp_path


def with_program(**variables):
    """An environment in which a shell finds the program."""
    programs = pathlib.Path(support.program("vllm-offline")).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return support.environment(PATH=path, **{name: str(value) for name, value in variables.items()})


def joined(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.glob("answers-*.jsonl")))


def test_the_pods_of_a_kubernetes_job(folder):
    job = yaml.safe_load((DOCS / "kubernetes-job.yaml").read_text(encoding="utf-8"))
    assert (job["kind"], job["spec"]["completionMode"]) == ("Job", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert int(variables["SHARDS"]) == job["spec"]["completions"]
    variables["DATA"] = folder
    for index in range(job["spec"]["completions"]):
        environment = with_program(**variables, JOB_COMPLETION_INDEX=index)
        subprocess.run(container["command"] + container["args"], env=environment, check=True)
    assert joined(folder) == (folder / "whole.jsonl").read_bytes()


def test_the_tasks_of_a_slurm_array(folder):
    script = DOCS / "slurm-array.sh"
    for task in range(1, 5):
        environment = with_program(SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT=4)
        subprocess.run([script], cwd=folder, env=environment, check=True)
    assert joined(folder) == (folder / "whole.jsonl").read_bytes()


def test_the_tasks_of_ray(folder):
    pytest.importorskip("ray", reason="install `ray` to test the script that uses it")
    output = folder / "answers.jsonl"
    command = [sys.executable, DOCS / "ray_shards.py", "--input", folder / "prompts.jsonl", "--output", output]
    flags = ("--shards", "4", "--", "--model", "demo", *FLAGS)
    run = subprocess.run(
        [*map(str, command), *flags],
        env=with_program(RAY_USAGE_STATS_ENABLED=0, RAY_OVERRIDE_RESOURCES='{"CPU": 2}'),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("is done") == 4
    assert output.read_bytes() == (folder / "whole.jsonl").read_bytes()
    assert not list(folder.glob("answers-*"))
