"""slurm-sweeps 0.1.3: a fresh Python for each trial, every report reads the whole database."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common

import slurm_sweeps as ss

# Its trials are run by the first `python` of the path, and import what `train` uses.
os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)


def build_experiment(train: object, task: common.Task, **options: object) -> object:
    logging.getLogger("slurm_sweeps").setLevel(logging.ERROR)  # as fast as it can be: no summary
    space = {"x": ss.Uniform(0, 1)}
    return ss.Experiment(train, space, local_dir=task.folder / "sweeps", **options)


def build_asha() -> object:
    return ss.ASHA("loss", "min", reduction_factor=common.REDUCTION_FACTOR)


def trivial(task: common.Task) -> None:
    def train(cfg: dict) -> None:
        ss.log({"loss": cfg["x"]}, 1)

    experiment = build_experiment(train, task)
    with common.trivial_trials(task.n):
        rows = experiment.run(task.n, max_concurrent_trials=common.SLOTS)
    common.check(len(rows), task.n)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(cfg: dict) -> None:
        for iteration in range(1, common.EPOCHS + 1):
            common.epoch(mark)
            ss.log({"loss": common.compute_loss(cfg["x"], iteration)}, iteration)

    experiment = build_experiment(train, task, asha=build_asha())
    with common.epochs_of(task.folder):
        rows = experiment.run(task.n, max_concurrent_trials=common.SLOTS)
    common.check(rows["_trial_id"].nunique(), task.n)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")

    def train(_cfg: dict) -> None:
        common.write_now(mark)
        ss.log({"loss": 0.0}, 1)

    experiment = build_experiment(train, task)
    started = time.time()
    experiment.run(1, max_concurrent_trials=common.SLOTS)
    common.emit_first_line(task.folder, started)


def report(task: common.Task) -> None:
    spans = str(task.folder / "spans.json")
    asha = build_asha()

    def train(_cfg: dict) -> None:
        timed = common.time_reports(lambda loss, iteration: ss.log({"loss": loss}, iteration))
        Path(spans).write_text(json.dumps(timed))

    experiment = build_experiment(train, task, asha=asha)
    if task.rows:
        write_history(task)
    experiment.run(1, max_concurrent_trials=1)
    common.emit_reports(json.loads(Path(spans).read_text()))


def write_history(task: common.Task) -> None:
    """Put an earlier sweep's rows into its database, in its layout, faster than it does."""
    database = ss.database.SqlDatabase(task.folder / "sweeps" / "slurm_sweeps.db")
    first = {"_trial_id": "0", "_iteration": 1, "_cfg": "{}", "loss": 1.0, "loss_logged": 1}
    database.write("MySweep", first)  # makes the columns
    with sqlite3.connect(database.path) as connection:
        connection.executemany(
            "insert into MySweep (_trial_id, _iteration, _cfg, loss, loss_logged) "
            "values (?, ?, ?, ?, 1)",
            (
                (f"{number:012x}", i, json.dumps({"x": x}), common.compute_loss(x, i))
                for number, x, reports in common.iterate_history(task.rows)
                for i in range(1, reports + 1)
            ),
        )


if __name__ == "__main__":
    common.main({"trivial": trivial, "readme": readme, "first_line": first_line, "report": report})
