"""submitit's local executor: a fresh Python for each trial; it has no reports and no ASHA."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import submitit

# Its jobs are processes that import what they unpickle: this folder has to be on their path.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)


def run(task: common.Task, train: Callable[[float], object]) -> None:
    """Run the trials, two at a time, and wait for their results."""
    executor = submitit.LocalExecutor(folder=task.folder / "jobs")
    executor.update_parameters(timeout_min=10)
    running: list[submitit.Job] = []
    left = [number / task.n for number in range(task.n)]
    while left or running:
        while left and len(running) < common.SLOTS:
            running.append(executor.submit(train, left.pop()))
        for job in [job for job in running if job.done()]:
            job.result()
            running.remove(job)
        time.sleep(0.005)


def trivial(task: common.Task) -> None:
    with common.trivial_trials(task.n):
        run(task, lambda x: x)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(x: float) -> float:
        for _ in range(common.EPOCHS):
            common.epoch(mark)
        return common.compute_loss(x, common.EPOCHS)

    with common.epochs_of(task.folder):
        run(task, train)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")
    started = time.time()
    run(common.Task(1, 0, task.folder), lambda _x: common.write_now(mark))
    common.emit_first_line(task.folder, started)


if __name__ == "__main__":
    common.main({"trivial": trivial, "readme": readme, "first_line": first_line})
