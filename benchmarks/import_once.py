"""Is one import for all slots of a node worth it? Many processes that import, or one that forks.

What the slots of one node do when a sweep starts: `each` is a process for each slot that imports
the module by itself, all at once; `once` is one process that imports it and forks the slots. Prints
seconds until all have it, CPU seconds, and the memory that they take together (PSS: what is shared
counts once).

    python benchmarks/import_once.py [--slots 18] [--module torch]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: What a slot does: import, say so, stay until told to leave.
SLOT = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(1, flush=True)
sys.stdin.read()
"""
#: The same by forks of one process: each says so and stays.
NODE = """
import importlib, os, sys
importlib.import_module(sys.argv[1])
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        os.read(0, 1)
        os._exit(0)
for _ in range(int(sys.argv[2])):
    os.wait()
"""


def start(code: str, *argv: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", code, *argv]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def start_each(module: str, slots: int) -> tuple[list[subprocess.Popen[bytes]], list[int]]:
    """Return the processes, all of which have the module, and their pids."""
    processes = [start(SLOT, module) for _ in range(slots)]
    for process in processes:
        process.stdout.readline()
    return processes, [process.pid for process in processes]


def start_once(module: str, slots: int) -> tuple[list[subprocess.Popen[bytes]], list[int]]:
    """Return the one process, and the pids of all its forks and its own."""
    process = start(NODE, module, str(slots))
    pids = [int(process.stdout.readline()) for _ in range(slots)]
    return [process], [process.pid, *pids]


def measure(
    name: str,
    start_all: Callable[[str, int], tuple[list[subprocess.Popen[bytes]], list[int]]],
    module: str,
    slots: int,
) -> None:
    """Print one line."""
    before, started = cpu_seconds(), time.perf_counter()
    processes, pids = start_all(module, slots)
    elapsed_s = time.perf_counter() - started
    memory_mb = sum(map(read_pss_kb, pids)) / 1024
    for process in processes:
        process.stdin.close()
        process.wait()
    figures = {
        "way": name,
        "module": module,
        "slots": slots,
        "elapsed_s": round(elapsed_s, 2),
        "cpu_s": round(cpu_seconds() - before, 2),
        "memory_mb": round(memory_mb),
    }
    print(json.dumps(figures), flush=True)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def read_pss_kb(pid: int) -> int:
    """Return a process's share of the memory it uses."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def main() -> None:
    """Measure both ways, each twice: the first pass may find a cold disk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=18)
    parser.add_argument("--module", default="torch")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for _ in range(2):
        measure("each", start_each, options.module, options.slots)
        measure("once", start_once, options.module, options.slots)


if __name__ == "__main__":
    main()
