"""The `openai` JavaScript package against the server, where node and npm are installed."""

import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parent / "js"
INSTALL_SECONDS = 180


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the script and the package that it needs."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("js")
    for name in ("package.json", "package-lock.json", "calls.mjs"):
        shutil.copy(SCRIPT / name, folder)
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    run = subprocess.run(
        install, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS
    )
    assert run.returncode == 0, run.stderr
    return folder


def test_twenty_calls(server, package):
    run = subprocess.run(
        ["node", "calls.mjs", server.base_url],
        cwd=package,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("ok ") == 20
