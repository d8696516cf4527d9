"""Measure how long a large sweep takes to come back: restore, and what people look at meanwhile.

Runs a trial, adds so many that have ended, through the product's own writer, then restores the
sweep for one more, and times each view of it. One JSON line for each figure, with the CPU time.

    python benchmarks/restore.py [--trials 100000] [--iterations 10] [--folder DIR] [--profile]
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import slurm_sweeps as ss
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.records import ReportRecord, StateRecord
from slurm_sweeps.storage.writer import Writer
from storage import build_trial

NAME = "large"
SPACE = {"lr": ss.LogUniform(1e-5, 1), "momentum": ss.Uniform(0, 1), "layers": ss.Integer(1, 8)}
#: So many trials are written between two waits for the disk.
WAVE = 1000
VIEWS = (["list"], ["show", NAME], ["best", NAME], ["report", NAME, "-o", os.devnull])


def main() -> None:
    """Write, restore, look."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        with timed("first trial"):
            run(folder, 1)
        with timed("written", trials=options.trials, values=options.trials * options.iterations):
            write(folder, options.trials, options.iterations)
        with timed("restored, and one more trial run"), profiled(options.profile):
            run(folder, options.trials + 1)
        for view in VIEWS:
            with timed(" ".join(view)):
                look(folder, view)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: /tmp")
    parser.add_argument("--profile", action="store_true", help="show where restoring spends it")
    return parser.parse_args()


def train(cfg: dict[str, Any]) -> None:
    """Say one value."""
    ss.log({"loss": cfg["lr"]}, 1)


def run(folder: str, n_trials: int) -> None:
    """Run the sweep, or go on with it, to so many trials."""
    rule = ss.ASHA("loss", "min", max_t=10)
    options: dict[str, Any] = {"asha": rule, "name": NAME, "local_dir": folder, "seed": 0}
    experiment = ss.Experiment(train, SPACE, restore="auto", **options)
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(n_trials, max_concurrent_trials=1)


def write(folder: str, trials: int, iterations: int) -> None:
    """Add trials that have ended, with their reports."""
    draws = np.random.default_rng(0).random((trials, 3)).tolist()
    layout = Layout(folder, NAME)
    with Database.open(layout.database) as database:
        experiment = database.experiment(NAME)
        with Writer(database.path, experiment.id) as writer:
            for number, (lr, momentum, layers) in enumerate(draws[1:], start=1):
                cfg = {"lr": 10 ** (-5 * lr), "momentum": momentum, "layers": 1 + int(8 * layers)}
                writer.put(build_trial(number, cfg))
                for iteration in range(1, iterations + 1):
                    loss = {"loss": lr + 1 / iteration}
                    writer.put(ReportRecord(number, 1, iteration, loss, 1.7e9 + number + iteration))
                if number % WAVE == 0:
                    writer.flush()
            writer.put(StateRecord("stopped"))


def look(folder: str, view: list[str]) -> None:
    """Run a verb of the command line, in a process of its own, as people do."""
    argv = [sys.executable, "-m", "slurm_sweeps", *view, "--local-dir", folder]
    env = {**os.environ, "COLUMNS": "120"}
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env=env)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all children that were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextlib.contextmanager
def timed(figure: str, **more: Any) -> Iterator[None]:
    """Print how long something takes as a line of JSON."""
    started, used = time.perf_counter(), cpu_seconds()
    yield
    value, cpu = time.perf_counter() - started, cpu_seconds() - used
    said = {"figure": figure, "value": round(value, 2), "unit": "s", "cpu_s": round(cpu, 2)}
    print(json.dumps({**said, **more}), flush=True)


@contextlib.contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print what takes the time, if that is wanted."""
    if not wanted:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
