"""joblib with loky, the plain way: one call of a function each, in processes that stay; no reports.

Nothing is stored, a call that crashes ends all of them, and what it leaves behind stays.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
from joblib import Parallel, delayed


def run(train: Callable[[float], object], n: int) -> list[object]:
    """Run the trials, two at a time; return what they return."""
    calls = (delayed(train)(number / n) for number in range(n))
    return Parallel(n_jobs=common.SLOTS, backend="loky")(calls)


def trivial(task: common.Task) -> None:
    with common.trivial_trials(task.n):
        done = run(lambda x: x, task.n)
    common.check(len(done), task.n)


def program(task: common.Task) -> None:
    with common.trivial_trials(task.n):
        done = run(lambda _x: subprocess.run([common.PROGRAM], check=True).returncode, task.n)
    common.check(done.count(0), task.n)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(x: float) -> float:
        for _ in range(common.EPOCHS):
            common.epoch(mark)
        return common.compute_loss(x, common.EPOCHS)

    with common.epochs_of(task.folder):
        run(train, task.n)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")
    started = time.time()
    run(lambda _x: common.write_now(mark), 1)
    common.emit_first_line(task.folder, started)


if __name__ == "__main__":
    common.main(
        {"trivial": trivial, "program": program, "readme": readme, "first_line": first_line}
    )
