"""The floor: a process for each trial and nothing else. No store, no reports but one line.

`BENCH_BARE` is `fork` (of a small Python process) or `python` (a fresh `python -c` each).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common

KIND = os.environ.get("BENCH_BARE", "fork")


def start_fork(number: int) -> tuple[int, int]:
    """Fork a trial that writes its loss to a pipe; return its pid and the pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"%d" % number)
        os._exit(0)
    os.close(writer)
    return pid, reader


def run_forks(n: int) -> None:
    running: list[tuple[int, int]] = []
    for number in range(n):
        running.append(start_fork(number))
        if len(running) == common.SLOTS:
            finish_fork(*running.pop(0))
    for child in running:
        finish_fork(*child)


def finish_fork(pid: int, reader: int) -> None:
    os.read(reader, 100)
    os.close(reader)
    os.waitpid(pid, 0)


def run_pythons(n: int) -> None:
    running: list[subprocess.Popen] = []
    for number in range(n):
        argv = [sys.executable, "-c", f"print({number})"]
        running.append(subprocess.Popen(argv, stdout=subprocess.PIPE))
        if len(running) == common.SLOTS:
            running.pop(0).communicate()
    for process in running:
        process.communicate()


def trivial(task: common.Task) -> None:
    with common.trivial_trials(task.n):
        (run_forks if KIND == "fork" else run_pythons)(task.n)


if __name__ == "__main__":
    common.main({"trivial": trivial})
