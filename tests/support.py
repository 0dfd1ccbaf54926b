"""What the end-to-end tests share: the programs, a running server, plain HTTP, known answers."""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Variables that change what the programs do; the tests set what they mean to test.
AMBIENT_VARIABLES = ("VLLM_API_KEY", "VLLM_USE_MODELSCOPE", "HF_ENDPOINT", "HF_TOKEN")

# What the demo model says with greedy sampling.
CONTINUATIONS = {
    "Hello, my name is": " David. I am a doctor from Berlin, and I like reading books.",
    "The president of the United States is": " the commander in chief of the armed forces.",
    "The capital of France is": " Paris. Many people visit Paris every year.",
    "The future of AI is": " already here, but it is not shared equally yet.",
}
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Japan": "Tokyo",
    "Brazil": "Brasilia",
    "Canada": "Ottawa",
}
WORLD_SERIES_QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Who won the world series in 2020?"},
]
WORLD_SERIES_ANSWER = "The Los Angeles Dodgers won the World Series in 2020."

START_SECONDS = 60
STOP_SECONDS = 10


def program(name):
    """The path of a built program: below VLLM_BIN_DIR, or where a plain `cargo build` puts it."""
    folder = os.environ.get("VLLM_BIN_DIR")
    if folder is None:
        target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
        folder = pathlib.Path(target) / "debug"
    path = pathlib.Path(folder) / (name + (".exe" if os.name == "nt" else ""))
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `cargo build --workspace --bins --examples`")
    return str(path)


def environment(**changes):
    """The environment for a program: this one's, without what would change the outcome."""
    inherited = {k: v for k, v in os.environ.items() if k not in AMBIENT_VARIABLES}
    return {**inherited, "HF_HUB_OFFLINE": "1", **changes}


def run_offline(*arguments, stdin=None):
    """Runs `vllm-offline` to its end and returns exit code, stdout and stderr."""
    return subprocess.run(
        [program("vllm-offline"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env=environment(),
    )


class Answer:
    """A whole HTTP answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def events(self):
        """The data of every server-sent event, in order, as text."""
        frames = self.body.decode("utf-8").split("\n\n")
        assert frames[-1] == "", f"the stream ends in the middle of a frame: {frames[-1]!r}"
        assert all(frame.startswith("data: ") for frame in frames[:-1]), frames
        return [frame.removeprefix("data: ") for frame in frames[:-1]]


class Server:
    """A running `vllm-serve` and how to speak to it."""

    def __init__(self, process, port, log_path):
        self.process = process
        self.port = port
        self.log_path = log_path

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self):
        return pathlib.Path(self.log_path).read_text(encoding="utf-8", errors="replace")

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def send(self, method, path, body=None, headers=None):
        """Sends one request; a body that is not text is sent as JSON."""
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        all_headers = {"Content-Type": "application/json"} if data is not None else {}
        all_headers.update(headers or {})
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, body=data, headers=all_headers)
            return Answer(connection.getresponse())

    def interrupt(self):
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def serving(*arguments, **variables):
    """A server started with these arguments and environment variables, ready for requests."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log_path = pathlib.Path(folder) / "server.log"
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                [program("vllm-serve"), *map(str, arguments), "--host", "127.0.0.1", "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(**variables),
            )
        server = Server(process, port, log_path)
        try:
            wait_until_ready(server)
            yield server
        finally:
            stop(process)


def wait_until_ready(server):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server exited with {server.process.returncode}:\n{server.log}")
        with contextlib.suppress(OSError):
            if server.send("GET", "/health").status == 200:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server is not ready after {START_SECONDS} s:\n{server.log}")


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
