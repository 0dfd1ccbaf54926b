"""Models by their hub names, from a server that speaks as the Hugging Face hub does."""

import contextlib
import hashlib
import http.server
import json
import subprocess
import threading

import pytest

from support import CONTINUATIONS, ROOT, environment, program

MODEL = "org/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = ROOT / "crates" / "vllm-demo-model" / "model"


class Handler(http.server.BaseHTTPRequestHandler):
    """The two kinds of request that a download is made of."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.server.paths.append(self.path)
        if self.path == f"/api/models/{MODEL}/revision/main":
            siblings = [{"rfilename": file.name} for file in FILES.iterdir()]
            return self.send(json.dumps({"sha": COMMIT, "siblings": siblings}).encode(), {}, with_body)
        prefix = f"/{MODEL}/resolve/{COMMIT}/"
        if self.path.startswith(prefix):
            contents = (FILES / self.path.removeprefix(prefix)).read_bytes()
            tag = hashlib.sha256(contents).hexdigest()
            return self.send(contents, {"ETag": f'"{tag}"'}, with_body)
        return self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, with_body, status=401)

    def send(self, body, headers, with_body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with contextlib.ExitStack() as stack:
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            yield server


def run_offline(model, hub, home, **variables):
    variables = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HUB_OFFLINE": "0",
        **variables,
    }
    return subprocess.run(
        [program("vllm-offline"), "--model", model, "--temperature", "0", "--max-tokens", "32"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(**variables),
    )


def check_texts(run):
    assert run.returncode == 0, run.stderr
    for text in CONTINUATIONS.values():
        assert text in run.stdout


def test_a_model_is_downloaded_once_and_runs_without_the_hub_afterwards(hub, tmp_path):
    check_texts(run_offline(MODEL, hub, tmp_path))
    downloads = len(hub.paths)
    check_texts(run_offline(MODEL, hub, tmp_path))
    assert len(hub.paths) == downloads + 1, "only the listing is asked for again"
    check_texts(run_offline(MODEL, hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert len(hub.paths) == downloads + 1


def test_a_wrong_name_is_explained(hub, tmp_path):
    run = run_offline("org/typo", hub, tmp_path)
    assert run.returncode not in (0, 101)
    for mention in ("org/typo", "spelling", "HF_TOKEN"):
        assert mention in run.stderr


def test_a_model_that_is_not_there_offline_is_explained(hub, tmp_path):
    run = run_offline(MODEL, hub, tmp_path, HF_HUB_OFFLINE="1")
    assert run.returncode not in (0, 101)
    assert "HF_HUB_OFFLINE" in run.stderr and hub.paths == []
