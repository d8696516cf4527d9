"""Measure the store: rows written a second, what a busy main thread feels of it, and reading.

Writes the reports of 100,000 trials (10,000,000 rows by default) as a driver with 500 slots would,
then reads them back. One JSON line for each figure goes to stdout.

    python benchmarks/storage.py [--trials 100000] [--iterations 20] [--metrics 5] [--folder DIR]

With --lenders, so many jobs lend their nodes to one driver instead, all at the same moment, and
look from then on what has become of it, as jobs do: how long each waits for the file, and the
driver, which writes some hundred reports a second meanwhile.

    python benchmarks/storage.py --lenders 1000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from slurm_sweeps.result import Result
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.jobs import LOOK_TIMEOUT_S, decode_job, look, tell_driver
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import (
    JobRecord,
    JobState,
    Record,
    ReportRecord,
    Request,
    StateRecord,
    TrialRecord,
)
from slurm_sweeps.storage.writer import Writer
from slurm_sweeps.trial import Status, compute_trial_id

SLOTS = 500
#: How many processes play the jobs that lend, and for how many seconds they look.
LENDING_PROCESSES, LENDING_S = 8, 30.0
SETTINGS = {"metric": "loss", "mode": "min", "asha": None, "seed": 0, "n_trials": 0}


def main() -> None:
    """Run all measurements in a folder of their own."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.lenders:
            measure_lenders(Layout(folder, "lent"), options.lenders)
            return
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
    parser.add_argument("--lenders", type=int, help="how many jobs lend their nodes at once")
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


# --- jobs that lend


def measure_lenders(layout: Layout, count: int) -> None:
    """Have jobs lend their nodes at once, from a few processes, then look for a while."""
    owner, heard = build_owner(), SimpleQueue[Request]()
    with Database.open(layout.database, create=True) as database:
        key = database.create_experiment(layout.name, SETTINGS, time.time(), owner).id
    context = multiprocessing.get_context("spawn")
    start, queue = context.Event(), context.Queue()
    parts = [range(first, count, LENDING_PROCESSES) for first in range(LENDING_PROCESSES)]
    processes = [context.Process(target=play, args=(layout, part, start, queue)) for part in parts]
    for process in processes:
        process.start()
    for _ in processes:
        queue.get()  # it is ready
    with Writer(layout.database, key, owner, on_request=heard.put) as writer:
        for number in range(SLOTS):
            writer.put(build_trial(number, build_cfg(number)))
        drive(writer, heard, lambda _jobs, s: s > LENDING_S / 3, "before")
        began = time.perf_counter()
        start.set()
        drive(writer, heard, lambda jobs, _s: jobs == count, "as all come")
        show("all jobs are used after", time.perf_counter() - began, "s", jobs=count)
        drive(writer, heard, lambda _jobs, s: s > LENDING_S, "as all look")
        writer.put(StateRecord("completed"))
    found = [queue.get() for _ in processes]
    for name, at in (("a job's offer", 0), ("a job's look", 1)):
        show_spans(name, [span for spans in found for span in spans[at]])


def drive(
    writer: Writer, heard: SimpleQueue[Request], is_over: Callable[[int, float], bool], when: str
) -> None:
    """Report, use the jobs that come, and see how long it takes until what was put is written."""
    began, jobs, spans, number = time.perf_counter(), 0, [], 0
    put_at, goal = began, writer.n_put
    while not is_over(jobs, time.perf_counter() - began):
        for _ in range(5):
            number += 1
            metrics = {"loss": 0.5, "accuracy": 0.5}
            writer.put(ReportRecord(number % SLOTS, 1, number // SLOTS, metrics, time.time()))
        while not heard.empty():
            job = decode_job(heard.get().argument or "")
            writer.put(dataclasses.replace(job, state=JobState.LENDING, slots=4))
            jobs += 1
        if writer.n_committed >= goal:
            spans.append(time.perf_counter() - put_at)
            put_at, goal = time.perf_counter(), writer.n_put
        time.sleep(0.01)
    show_spans(f"from a report to the disk, {when}", spans)


def play(layout: Layout, jobs: Sequence[int], start: Event, queue: Queue[Any]) -> None:
    """Play these jobs: each makes its offer in a thread of its own; then they look in turn."""
    offers: list[float] = []
    looks: list[float] = []
    due: list[tuple[float, int]] = []

    def offer(number: int) -> None:
        start.wait()
        began = time.perf_counter()
        with Database.open(layout.database, timeout_s=LOOK_TIMEOUT_S) as database:
            tell_driver(database, 1, "lend", build_job(number))
        offers.append(time.perf_counter() - began)
        due.append((0.0, number))

    for number in jobs:
        threading.Thread(target=offer, args=(number,)).start()
    queue.put("ready")
    state = "running"
    with Database.open(layout.database, timeout_s=LOOK_TIMEOUT_S) as database:
        while state != "completed":
            now = time.monotonic()
            for place, (at, number) in enumerate(due):
                if at <= now:
                    began = time.perf_counter()
                    found = look(database, layout.name, build_job(number))
                    looks.append(time.perf_counter() - began)
                    state, due[place] = found.experiment.state, (now + found.look_s, number)
            time.sleep(0.01)
    queue.put((offers, looks))


def build_job(number: int) -> JobRecord:
    """A job that lends a node."""
    state, nodes = JobState.WAITING, f"n{number}"
    since = 1.7e9 + number
    return JobRecord(
        str(number), 0, state, can_drive=True, nodes=nodes, offer="-" * 400, since=since
    )


def show_spans(name: str, spans: Sequence[float]) -> None:
    """Print the median, and the longest."""
    for percent in (50, 99, 100):
        value = float(np.percentile(spans, percent))
        show(name, value, "s", percentile=percent, times=len(spans))


if __name__ == "__main__":
    main()
