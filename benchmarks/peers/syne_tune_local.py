"""Syne Tune's local back end: each trial runs a script, which reports by printing.

This file is that script too, when it is started with `--x`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common


def train(x: float) -> None:
    """Be a trial, of the kind that the environment names."""
    from syne_tune import Reporter

    kind, mark = os.environ["BENCH_KIND"], os.environ["BENCH_MARK"]
    report = Reporter()
    if kind == "readme":
        for iteration in range(1, common.EPOCHS + 1):
            common.epoch(mark)
            report(loss=common.compute_loss(x, iteration), epoch=iteration)
        return
    if kind == "first_line":
        common.write_now(mark)
    report(loss=x, epoch=1)


def run(task: common.Task, kind: str, mark: Path) -> None:
    """Run the sweep; it looks for news as often as its loop can."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.baselines import ASHA, RandomSearch

    os.environ |= {
        "BENCH_KIND": kind,
        "BENCH_MARK": str(mark),
        "SYNETUNE_FOLDER": str(task.folder / "syne-tune"),
    }
    space = {"x": uniform(0, 1)}
    if kind == "readme":
        scheduler = ASHA(
            space,
            metric="loss",
            time_attr="epoch",
            max_t=common.EPOCHS,
            reduction_factor=common.REDUCTION_FACTOR,
        )
    else:
        scheduler = RandomSearch(space, metrics=["loss"])
    Tuner(
        trial_backend=LocalBackend(entry_point=str(Path(__file__).resolve())),
        scheduler=scheduler,
        stop_criterion=StoppingCriterion(max_num_trials_finished=task.n),
        n_workers=common.SLOTS,
        sleep_time=0.01,
        save_tuner=False,
    ).run()


def trivial(task: common.Task) -> None:
    with common.trivial_trials(task.n):
        run(task, "trivial", task.folder)


def readme(task: common.Task) -> None:
    with common.epochs_of(task.folder):
        run(task, "readme", task.folder / "epochs")


def first_line(task: common.Task) -> None:
    started = time.time()
    run(common.Task(1, 0, task.folder), "first_line", task.folder / "first")
    common.emit_first_line(task.folder, started)


if __name__ == "__main__":
    if "--x" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--x", type=float)
        train(parser.parse_known_args()[0].x)
    else:
        common.main({"trivial": trivial, "readme": readme, "first_line": first_line})
