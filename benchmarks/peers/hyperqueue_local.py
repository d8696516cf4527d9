"""HyperQueue's LocalCluster, Python functions or programs as tasks: no reports and no ASHA."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
# Its tasks are processes that import what they unpickle: this folder has to be on their path.
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent)

import common
from hyperqueue import Client, Job
from hyperqueue.cluster import LocalCluster, WorkerConfig
from hyperqueue.task.function import PythonEnv


@contextmanager
def connect(_task: common.Task):
    """Start a server and a worker of two cores; a client comes out."""
    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=common.SLOTS))
        yield cluster.client(python_env=PythonEnv(python_bin=sys.executable))


def run(client: Client, n: int, train: Callable[[float], object]) -> None:
    """Run the trials as one job and wait for it; its tasks' output is not kept."""
    job = Job()
    for number in range(n):
        job.function(train, args=(number / n,), stdout=None, stderr=None)
    client.wait_for_jobs([client.submit(job)])


def trivial(task: common.Task) -> None:
    with connect(task) as client, common.trivial_trials(task.n):
        run(client, task.n, lambda x: x)


def program(task: common.Task) -> None:
    """One job of many programs, as `hq submit --array` makes it."""
    with connect(task) as client, common.trivial_trials(task.n):
        job = Job()
        for _ in range(task.n):
            job.program([common.PROGRAM], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(job)])


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(x: float) -> float:
        for _ in range(common.EPOCHS):
            common.epoch(mark)
        return common.compute_loss(x, common.EPOCHS)

    with connect(task) as client, common.epochs_of(task.folder):
        run(client, task.n, train)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")
    started = time.time()
    with connect(task) as client:
        run(client, 1, lambda _x: common.write_now(mark))
    common.emit_first_line(task.folder, started)


if __name__ == "__main__":
    common.main(
        {"trivial": trivial, "program": program, "readme": readme, "first_line": first_line}
    )
