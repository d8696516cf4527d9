"""Many real workers on this machine, each with its pipes: what the driver and a report take.

The trials do nothing but report, twice a second by default. Prints a line of JSON: the driver's
CPU share of one core while all trials run, and percentiles of a report's time.

    python benchmarks/many_workers.py [--workers 500] [--seconds 30] [--interval 0.5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import slurm_sweeps as ss


def main() -> None:
    """Start the workers, let them report for a while, sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30.0, help="of reporting, once all run")
    parser.add_argument("--interval", type=float, default=0.5, help="between a trial's reports")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options)))


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one trial in each worker; the clock runs once all of them have begun."""
    begun, stop, spans = folder / "begun", folder / "stop", folder / "spans"
    begun.touch()
    interval_s = options.interval

    def train(_cfg: dict[str, Any]) -> None:
        with begun.open("ab") as file:
            file.write(b".")
        took, iteration = [], 0
        time.sleep(random.random() * interval_s)  # so that they don't report in step
        while not stop.exists():
            iteration += 1
            started = time.perf_counter()
            ss.log({"loss": 0.5}, iteration)
            took.append((time.time(), time.perf_counter() - started))
            time.sleep(interval_s)
        with spans.open("a") as file:
            file.write(json.dumps(took) + "\n")

    marks: list[tuple[float, float]] = []  # when, and this process's CPU seconds by then
    watcher = threading.Thread(target=watch, args=(begun, stop, marks, options))
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir=folder / "sweeps")
    started = time.time()
    watcher.start()
    with contextlib.redirect_stdout(sys.stderr):
        experiment.run(options.workers, options.workers, summary_interval_in_sec=3600)
    watcher.join()
    (first, cpu_before), (last, cpu_after) = marks
    took = [pair for line in spans.read_text().splitlines() for pair in json.loads(line)]
    inside = sorted(span for at, span in took if first <= at <= last)
    return {
        "workers": options.workers,
        "all_begun_after_s": round(first - started, 1),
        "reports/s": round(len(inside) / (last - first), 1),
        "driver_cpu_percent": round(100 * (cpu_after - cpu_before) / (last - first), 2),
        **{f"p{p}_ms": round(1e3 * inside[int(len(inside) * p / 100)], 3) for p in (50, 99)},
    }


def watch(
    begun: Path, stop: Path, marks: list[tuple[float, float]], options: argparse.Namespace
) -> None:
    """Wait until all have begun, take the time before and after, let them end."""
    while begun.stat().st_size < options.workers:
        time.sleep(0.2)
    time.sleep(2 * options.interval)
    for pause_s in (0.0, options.seconds):
        time.sleep(pause_s)
        marks.append((time.time(), time.process_time()))
    stop.touch()


if __name__ == "__main__":
    main()
