"""What all peers share: the work, the arguments, and how a figure is said.

Only the standard library is imported here, and no clock runs while a peer is being imported: each
peer is measured in a process of its own, in a virtual environment of its own.

The measures, the same for all:

- `trivial`: `--n` trials that report one number and end; two at a time; trials per second.
- `program`: `--n` runs of a program that does nothing; two at a time; programs per second.
- `readme`: `--n` trials of up to 10 epochs, each 0.05 s of sleep and one report, two at a
  time, with ASHA where there is one; the share of 2 x wall-clock time that was spent in epochs.
- `first_line`: from the call that begins a sweep to the first line of the user's function.
- `report`: one report and its verdict by ASHA, with `--rows` earlier reports in the store; median.

Ray Tune alone also has `many` and `reports` (`--rows` of each trial), for `scale_rows.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

EPOCHS = 10
EPOCH_S = 0.05
SLOTS = 2
REDUCTION_FACTOR = 4
#: A program that does nothing.
PROGRAM = "/bin/true"
#: So many reports of a history belong to one trial.
ROWS_PER_TRIAL = 10
#: So many reports are timed for one median.
N_TIMED = 200


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure: `n` trials, or `rows` of history, in an empty folder."""

    n: int
    rows: int
    folder: Path


Measure = Callable[[Task], None]


def main(measures: dict[str, Measure]) -> None:
    """Run one measure of a peer in a folder of its own, or in BENCH_FOLDER, which stays."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=sorted(measures))
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--rows", type=int, default=0)
    options = parser.parse_args()
    given = os.environ.get("BENCH_FOLDER")
    with nullcontext(given) if given else tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.chdir(folder)
        measures[options.measure](Task(options.n, options.rows, Path(folder)))


def emit(value: float, unit: str, **more: float) -> None:
    """Say one figure, as the last line of standard output."""
    print("\n" + json.dumps({"value": value, "unit": unit, **more}), flush=True)


def check(done: int, wanted: int) -> None:
    """Fail loudly where a peer's trials did not do their work: its figure would be worthless."""
    if done != wanted:
        raise RuntimeError(f"{done} of {wanted} trials have done their work")


def cpu_seconds() -> float:
    """Return the CPU time of this process and of all children that were waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@contextmanager
def trivial_trials(n: int) -> Iterator[None]:
    """Time `n` trivial trials, and the CPU that they take with all around them."""
    cpu_s, started = cpu_seconds(), time.perf_counter()
    yield
    elapsed_s = time.perf_counter() - started
    emit(n / elapsed_s, "trials/s", cpu_ms_per_trial=(cpu_seconds() - cpu_s) / n * 1e3)


@contextmanager
def epochs_of(folder: Path) -> Iterator[None]:
    """Time a sweep whose trials call `epoch` in this folder."""
    mark = folder / "epochs"
    mark.touch()
    started = time.perf_counter()
    yield
    elapsed_s = time.perf_counter() - started
    epochs = mark.stat().st_size
    share = 100 * epochs * EPOCH_S / (SLOTS * elapsed_s)
    emit(share, "% of 2 slots", epochs=epochs, elapsed_s=elapsed_s)


def epoch(mark: str) -> None:
    """Be busy for an epoch, and add a byte to the file that counts them."""
    time.sleep(EPOCH_S)
    fd = os.open(mark, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b".")
    os.close(fd)


def compute_loss(x: float, iteration: int) -> float:
    """The learning curve of a configuration: good ones are good from the start."""
    return x + 1 / iteration


def write_now(mark: str) -> None:
    """As the first line of a trial: take down when it came."""
    now = time.time()
    with open(mark, "a") as file:
        file.write(f"{now!r}\n")


def emit_first_line(folder: Path, started: float) -> None:
    """Say how long the first of the lines took that `write_now` wrote."""
    first = min(map(float, (folder / "first").read_text().split()))
    emit((first - started) * 1e3, "ms")


def time_reports(report: Callable[[float, int], object]) -> list[float]:
    """Call `report(loss, iteration)`, each the best so far; return what each took, in seconds."""
    spans = []
    for iteration in range(1, N_TIMED + 1):
        started = time.perf_counter()
        report(-float(iteration), iteration)
        spans.append(time.perf_counter() - started)
    return spans


def emit_reports(spans: list[float]) -> None:
    """Say the median of reports' spans, and what the slow ones took."""
    ordered = sorted(spans)
    p99 = ordered[int(0.99 * len(ordered))]
    emit(statistics.median(ordered) * 1e3, "ms", p99=p99 * 1e3, mean=statistics.mean(spans) * 1e3)


def iterate_history(rows: int) -> Iterator[tuple[int, float, int]]:
    """Yield trial number, x and number of reports of an earlier sweep with `rows` reports."""
    for number in range(rows // ROWS_PER_TRIAL):
        yield number, (number * 0.6180339887) % 1.0, ROWS_PER_TRIAL
