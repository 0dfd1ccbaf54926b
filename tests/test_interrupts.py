"""Ctrl-C while a program gets ready: it ends at once and says so."""

import contextlib
import os
import signal
import socket
import subprocess

import pytest

from object_server import object_server
from support import environment, free_port, program

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


@contextlib.contextmanager
def silent_server():
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


def interrupted(listener, *arguments, signals=(signal.SIGINT,), **variables):
    """Starts a program, sends it signals when it waits for the server, and returns its end."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(HF_HUB_OFFLINE="0", **variables),
    )
    connection, _ = listener.accept()
    with connection:
        for number in signals:
            process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    return process.returncode, printed


def test_while_a_model_is_fetched(tmp_path):
    with silent_server() as (listener, url):
        hub = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        output = tmp_path / "answers.jsonl"
        offline = (program("vllm-offline"), "--model", "org/name", "--output", output)
        code, printed = interrupted(listener, *offline, **hub)
        assert code == 130 and "stopped before the first row; the same command begins again" in printed, printed
        assert not output.exists()
        serve = (program("vllm-serve"), "org/name", "--host", "127.0.0.1", "--port", str(free_port()))
        for number in (signal.SIGINT, signal.SIGTERM):
            code, printed = interrupted(listener, *serve, signals=(number,), **hub)
            assert code == 0 and "Stopped while the model was loading" in printed, printed


def test_while_a_data_set_is_fetched(tmp_path):
    with silent_server() as (listener, url):
        offline = (program("vllm-offline"), "--input", f"{url}/prompts.txt", "--work-dir", tmp_path)
        code, printed = interrupted(listener, *offline)
        assert code == 130 and "stopped before the first row" in printed, printed


def test_while_the_output_is_sent(tmp_path):
    with object_server() as store:
        stalled = []
        original = store.handle

        def stall(handler):
            if handler.command == "PUT" and not stalled:
                stalled.append(handler)
                process.send_signal(signal.SIGINT)
                process.wait(60)
                return
            original(handler)

        store.handle = stall
        job = (program("vllm-offline"), "--output", "s3://put/answers.jsonl", "--work-dir", tmp_path)
        env = environment(**store.variables)
        process = subprocess.Popen(job, stderr=subprocess.PIPE, text=True, env=env)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert "nothing is lost, the same command puts it there" in printed
        assert "put/answers.jsonl" not in store.objects
        again = subprocess.run(job, capture_output=True, text=True, timeout=60, env=env)
        assert again.returncode == 0 and "Going on after 4 rows" in again.stderr, again.stderr
        assert store.objects["put/answers.jsonl"].count(b"\n") == 4
