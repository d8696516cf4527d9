"""The rows of Ray Tune's own table of scalability that fit one machine, with trials that sleep.

    python benchmarks/scale_rows.py many [--trials 10000]                   # of 1 s, 16 at once
    python benchmarks/scale_rows.py reports [--trials 256] [--seconds 100]  # 10 reports a second

Prints the wall-clock time beside the least that is possible, and how much is in the store, as JSON.
Ray's table says 715 s for the first (least: 625), 113 s for the second (least: 100).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slurm_sweeps as ss

SLOTS = 16
PER_SECOND = 10


def main() -> None:
    """Run one of the rows."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.row == "many":
            least = options.trials / SLOTS
            measure(folder, sleep_once, options.trials, SLOTS, least)
        else:
            row = make_reporting(options.seconds)
            measure(folder, row, options.trials, options.trials, options.seconds)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=("many", "reports"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seconds", type=int, default=100, help="that a reporting trial takes")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: /tmp")
    options = parser.parse_args()
    options.trials = options.trials or {"many": 10_000, "reports": 256}[options.row]
    return options


def sleep_once(cfg: dict[str, Any]) -> None:
    """Take a second."""
    time.sleep(1)
    ss.log({"loss": cfg["x"]}, 1)


def make_reporting(seconds: int) -> Callable[[dict[str, Any]], None]:
    """Return a trial that reports ten times a second for so long."""

    def report(cfg: dict[str, Any]) -> None:
        begun = time.monotonic()
        for iteration in range(1, seconds * PER_SECOND + 1):
            time.sleep(max(0.0, begun + iteration / PER_SECOND - time.monotonic()))
            ss.log({"loss": cfg["x"] + iteration}, iteration)

    return report


def measure(
    folder: str, train: Callable[[dict[str, Any]], None], trials: int, slots: int, least_s: float
) -> None:
    """Run a sweep; print how long it took."""
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir=folder)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        result = experiment.run(trials, max_concurrent_trials=slots)
    elapsed_s = time.perf_counter() - started
    begun = [trial.start_time.timestamp() for trial in result.trials if trial.start_time]
    ended = [trial.end_time.timestamp() for trial in result.trials if trial.end_time]
    said = {
        "trials": len(result.trials),
        "completed": sum(trial.status == "completed" for trial in result.trials),
        "values": len(result.metrics_dataframe()),
        "elapsed_s": round(elapsed_s, 1),
        "first_to_last_s": round(max(ended) - min(begun), 1),
        "least_s": least_s,
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
