"""Ray Tune on a Ray of two CPUs; starting Ray counts only for the first line of train."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ |= {
    "PYTHONPATH": str(Path(__file__).resolve().parent),
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files of each trial
}

import common
import ray
from ray import tune


def run(task: common.Task, train: object, asha: bool) -> object:
    scheduler = tune.schedulers.ASHAScheduler(
        metric="loss", mode="min", reduction_factor=common.REDUCTION_FACTOR
    )
    return tune.Tuner(
        train,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=task.n, scheduler=scheduler if asha else None),
        run_config=tune.RunConfig(storage_path=str(task.folder / "ray"), verbose=0),
    ).fit()


def trivial(task: common.Task) -> None:
    ray.init(num_cpus=common.SLOTS, include_dashboard=False)
    with common.trivial_trials(task.n):
        results = run(task, lambda cfg: tune.report({"loss": cfg["x"]}), asha=False)
    common.check(len(results) - results.num_errors, task.n)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(cfg: dict) -> None:
        for iteration in range(1, common.EPOCHS + 1):
            common.epoch(mark)
            tune.report({"loss": common.compute_loss(cfg["x"], iteration)})

    ray.init(num_cpus=common.SLOTS, include_dashboard=False)
    with common.epochs_of(task.folder):
        results = run(task, train, asha=True)
    common.check(len(results) - results.num_errors, task.n)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")

    def train(_cfg: dict) -> None:
        common.write_now(mark)
        tune.report({"loss": 0.0})

    started = time.time()
    ray.init(num_cpus=common.SLOTS, include_dashboard=False)
    run(common.Task(1, 0, task.folder), train, asha=False)
    common.emit_first_line(task.folder, started)


def many(task: common.Task) -> None:
    """Trials of a second, 16 at once: a row of Ray's own table, as `scale_rows.py` has it."""

    def train(cfg: dict) -> None:
        time.sleep(1)
        tune.report({"loss": cfg["x"]})

    ray.init(num_cpus=16, include_dashboard=False)
    time_row(task, train, task.n / 16)


def reports(task: common.Task) -> None:
    """Trials that run all at once and report ten times a second, `rows` times each; likewise."""

    def train(cfg: dict) -> None:
        begun = time.monotonic()
        for iteration in range(1, task.rows + 1):
            time.sleep(max(0.0, begun + iteration / 10 - time.monotonic()))
            tune.report({"loss": cfg["x"] + iteration})

    ray.init(num_cpus=task.n, include_dashboard=False)
    time_row(task, train, task.rows / 10)


def time_row(task: common.Task, train: object, least_s: float) -> None:
    started = time.perf_counter()
    results = run(task, train, asha=False)
    elapsed_s = time.perf_counter() - started
    common.check(len(results) - results.num_errors, task.n)
    common.emit(elapsed_s, "s", least_s=least_s, trials=task.n)


if __name__ == "__main__":
    common.main(
        {
            "trivial": trivial,
            "readme": readme,
            "first_line": first_line,
            "many": many,
            "reports": reports,
        }
    )
