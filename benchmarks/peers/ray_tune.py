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


if __name__ == "__main__":
    common.main({"trivial": trivial, "readme": readme, "first_line": first_line})
