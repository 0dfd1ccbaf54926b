"""What the two peer programs share: reading workloads, making prompts, reporting.

A workload on the command line is `NAME:BATCH,PROMPT,NEW[,SHARED]`: BATCH requests at once, each of
PROMPT tokens of which the first SHARED are the same for all, each continued by NEW tokens. Results
are lines on stdout, the same that the benchmark `cpu` of `vllm-engine` prints for our engine:

    ready SECONDS              from the start of the program to the first token of a first prompt
    workload NAME SECONDS      the shortest of the measured runs
    peak BYTES                 the largest resident set of the process that holds the model
"""

import os
import random
import time
from pathlib import Path

_random = random.Random(0)


class Workload:
    def __init__(self, text):
        self.name, numbers = text.split(":")
        numbers = [int(number) for number in numbers.split(",")]
        self.batch, self.prompt, self.new = numbers[:3]
        self.shared = numbers[3] if len(numbers) > 3 else 0

    def prompts(self):
        """Fresh prompts; none repeats an earlier one, so that no cache of another run helps."""
        shared = _tokens(self.shared)
        return [shared + _tokens(self.prompt - self.shared) for _ in range(self.batch)]

    def measure(self, run):
        """Runs `run(prompts, new)` and reports the best of three runs, of fewer if they are long."""
        tokens = self.batch * (self.prompt - self.shared)
        repeats = 3 if tokens < 2048 else 2 if tokens < 8192 else 1
        times = []
        for _ in range(repeats):
            prompts = self.prompts()
            started = time.perf_counter()
            run(prompts, self.new)
            times.append(time.perf_counter() - started)
        report("workload", self.name, min(times))


def _tokens(count):
    return [_random.randrange(10, 10000) for _ in range(count)]


def report(*words):
    print(*words, flush=True)


def report_ready():
    # The kernel knows when the process began; imports come before the first line of Python.
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    report("ready", uptime - ticks / os.sysconf("SC_CLK_TCK"))


def report_peak():
    """The largest resident set among this process and those it started."""
    peaks = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _descends(folder.name):
            peaks.append(_status(folder.name).get("VmHWM", "0 kB"))
    report("peak", max(int(peak.split()[0]) for peak in peaks) * 1024)


def _descends(pid):
    while pid not in ("0", "1", ""):
        if pid == str(os.getpid()):
            return True
        pid = _status(pid).get("PPid", "")
    return False


def _status(pid):
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
