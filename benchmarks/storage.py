"""Measure the store: rows written a second, what a busy main thread feels of it, and reading.

Writes the reports of 100,000 trials (10,000,000 rows by default) as a driver with 500 slots would,
then reads them back. One JSON line for each figure goes to stdout.

    python benchmarks/storage.py [--trials 100000] [--iterations 20] [--metrics 5] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slurm_sweeps.result import Result
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.records import (
    Record,
    ReportRecord,
    StateRecord,
    TrialRecord,
)
from slurm_sweeps.storage.writer import Writer
from slurm_sweeps.trial import Status, compute_trial_id

SLOTS = 500
SETTINGS = {"metric": "loss", "mode": "min", "asha": None, "seed": 0, "n_trials": 0}


def main() -> None:
    """Run all measurements in a folder of their own."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        layout = Layout(folder, "bench")
        write_all(layout, options.trials, options.iterations, options.metrics)
        feel_writer(Layout(folder, "latency"), busy=False)
        feel_writer(Layout(folder, "latency, writing"), busy=True)
        read_all(folder)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--metrics", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: /tmp")
    return parser.parse_args()


def show(figure: str, value: float, unit: str, **more: Any) -> None:
    """Print one figure as a line of JSON."""
    print(json.dumps({"figure": figure, "value": float(f"{value:.4g}"), "unit": unit, **more}))


def build_waves(trials: int, iterations: int, metrics: int) -> Iterator[list[Record]]:
    """What a driver of `SLOTS` slots writes, a wave of trials at a time; they report in turn."""
    random = np.random.default_rng(0)
    names = ["loss", *(f"metric {index}" for index in range(1, metrics))]
    for first in range(0, trials, SLOTS):
        wave: list[Record] = [
            build_trial(n, build_cfg(n)) for n in range(first, min(first + SLOTS, trials))
        ]
        numbers = range(first, first + len(wave))
        for iteration in range(iterations):
            values = random.random((len(numbers), metrics)).tolist()
            for number, row in zip(numbers, values, strict=True):
                logged = dict(zip(names, row, strict=True))
                wave.append(ReportRecord(number, 1, iteration, logged, time.time()))
        yield wave


def build_cfg(number: int) -> dict[str, Any]:
    """A cfg of four keys."""
    return {"lr": number * 1e-6, "batch_size": 64, "opt": {"name": "adam", "decay": 0.1}}


def build_trial(number: int, cfg: dict[str, Any]) -> TrialRecord:
    """A trial that has completed."""
    return TrialRecord(
        number=number,
        trial_id=compute_trial_id(cfg),
        repetition=0,
        cfg_json=json.dumps(cfg),
        status=Status.COMPLETED,
        slot=number % SLOTS,
        host="node",
        start_time=1.7e9 + number,
        end_time=1.7e9 + number + 60,
    )


def write_all(layout: Layout, trials: int, iterations: int, metrics: int) -> None:
    """Rows a second through the writer, without making them, and the size of a row."""
    elapsed_s = 0.0
    with Database.open(layout.database, create=True) as database:
        experiment = database.create_experiment(layout.name, SETTINGS, time.time())
        with Writer(database.path, experiment.id) as writer:
            for wave in build_waves(trials, iterations, metrics):
                started = time.perf_counter()
                for record in wave:
                    writer.put(record)
                writer.flush()
                elapsed_s += time.perf_counter() - started
            writer.put(StateRecord("completed"))
    rows = trials * iterations * metrics
    show("rows written", rows / elapsed_s, "rows/s", rows=rows)
    show("size", layout.database.stat().st_size / rows, "bytes/row")


def feel_writer(layout: Layout, busy: bool, seconds: float = 5.0) -> None:
    """How long 50 µs of work in the main thread take while the writer is idle or at work."""
    spans: list[float] = []
    with Database.open(layout.database, create=True) as database:
        experiment = database.create_experiment(layout.name, SETTINGS, time.time())
        with Writer(database.path, experiment.id) as writer:
            for number in range(SLOTS):
                writer.put(build_trial(number, build_cfg(number)))
            end = time.perf_counter() + seconds
            number = iteration = 0
            while (now := time.perf_counter()) < end:
                work(50e-6)
                if busy:
                    number, iteration = (number + 1) % SLOTS, iteration + (number == 0)
                    metrics = {"loss": 0.5, "accuracy": 0.5}
                    writer.put(ReportRecord(number, 1, iteration, metrics, now))
                spans.append(time.perf_counter() - now)
                time.sleep(0)  # where a driver would wait for its workers
    microseconds = np.array(spans) * 1e6
    name = "step of a main thread, " + ("writer at work" if busy else "writer idle")
    for percent in (50, 99, 99.9):
        value = float(np.percentile(microseconds, percent))
        show(name, value, "µs", percentile=percent, steps=len(spans))


def work(seconds: float) -> None:
    """Keep the interpreter busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def read_all(folder: str) -> None:
    """How long the reading calls take; the least of three."""
    result = Result("bench", folder)
    calls: dict[str, Callable[[], object]] = {
        "best_trial()": result.best_trial,
        "to_dataframe()": result.to_dataframe,
        "metrics_dataframe()": result.metrics_dataframe,
    }
    for name, call in calls.items():
        spans = []
        for _ in range(3):
            started = time.perf_counter()
            call()
            spans.append(time.perf_counter() - started)
        show(name, min(spans), "s", worst=float(f"{max(spans):.4g}"))


if __name__ == "__main__":
    main()
