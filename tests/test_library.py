"""The Rust library's example, run as the README tells."""

import subprocess

from support import CONTINUATIONS, environment, program


def test_the_offline_example_completes_the_quick_start_prompts():
    run = subprocess.run(
        [program("examples/offline_inference")],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(),
    )
    assert run.returncode == 0, run.stderr
    for prompt in CONTINUATIONS:
        assert prompt in run.stdout
