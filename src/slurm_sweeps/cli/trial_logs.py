"""The verbs about one trial: `trial` and `logs`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click

from ..errors import StorageError
from ..storage.layout import TrialLayout
from ..storage.records import AttemptRecord, TrialRecord
from ..storage.rows import read_earlier_s, read_metrics_of_trial, read_trial
from ..trial import Status
from ..views.formats import clean, draw_sparkline, format_duration, format_number, format_yaml
from ..views.sight import compute_runtime_s, look_at_driver, read_runs
from .common import (
    Store,
    find_trial,
    json_option,
    on_experiment,
    open_store,
    print_json,
    print_lines,
    trial_argument,
)

#: How often a log is looked at for more, and the database for the trial's end, in seconds.
_FOLLOW_S = 0.2
_STATUS_S = 2.0


@click.command("trial")
@on_experiment
@trial_argument
@json_option
def show_trial(name: str, trial: str, local_dir: Path, as_json: bool) -> None:
    """Show one trial: cfg, status, attempts, metrics as small charts, and its error.

    ID may be shortened, as long as it is unique.
    """
    now = time.time()
    with open_store(local_dir, name) as store:
        sight = look_at_driver(store.experiment, now)
        record = sight.settle(find_trial(store, trial))
        attempts = read_runs(store.database, store.experiment, now, record.number)
        metrics = read_metrics_of_trial(store.database, store.experiment.id, record.number)
        files = store.layout.trial(record.trial_id)
        earlier = read_earlier_s(store.database, store.experiment.id, record.number)
        runtime_s = compute_runtime_s(record, sight.last_sign, earlier)
    if not as_json:
        print_lines(_format(record, runtime_s, attempts, metrics, files))
        return
    print_json(
        {
            "trial_id": record.trial_id,
            "number": record.number,
            "status": record.status,
            "runtime_s": runtime_s,
            "folder": str(files.folder),
            "cfg": json.loads(record.cfg_json),
            "attempts": [
                {name: value for name, value in asdict(attempt).items() if name != "number"}
                for attempt in attempts
            ],
            "metrics": metrics,
        }
    )


def _format(
    record: TrialRecord,
    runtime_s: float | None,
    attempts: list[AttemptRecord],
    metrics: Mapping[str, Mapping[int, float]],
    files: TrialLayout,
) -> Iterator[str]:
    runtime = format_duration(runtime_s)
    yield f"trial {record.trial_id} (number {record.number}): {record.status}, {runtime}"
    yield f"folder: {files.folder}"
    yield "cfg:"
    yield from (f"  {line}" for line in format_yaml(json.loads(record.cfg_json)).split("\n"))
    yield "attempts:"
    yield from (f"  {_format_attempt(attempt)}" for attempt in attempts)
    if metrics:
        yield "metrics:"
        yield from _format_metrics(metrics)
    error = record.error
    if error is not None:
        yield f"error, see {files.stderr()}:"
        text = error.traceback or f"{error.type}: {error.message}"
        yield from (f"  {line}" for line in text.rstrip().splitlines())


def format_usage(attempt: AttemptRecord) -> Iterator[str]:
    """Tell what an attempt used, as far as that is known."""
    if attempt.memory_mb is not None:
        yield f"{attempt.memory_mb:,.0f} MiB"
    if attempt.cpu_s is not None:
        yield f"{format_duration(attempt.cpu_s)} of CPU time"
    if attempt.gpu_memory_mb is not None:
        yield f"{attempt.gpu_memory_mb:,.0f} MiB of GPU memory"


def _format_attempt(attempt: AttemptRecord) -> str:
    where = [] if attempt.host is None else [f"on {attempt.host}"]
    where += [] if attempt.slot is None else [f"slot {attempt.slot}"]
    where += [f"GPUs {attempt.gpus}"] if attempt.gpus else []
    if attempt.start_time is not None:
        where.append(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.start_time)))
        if attempt.end_time is not None:
            where.append(f"for {format_duration(attempt.end_time - attempt.start_time)}")
    where += format_usage(attempt)
    error = "" if attempt.error is None else f": {attempt.error.type}"
    return f"{attempt.attempt}  {attempt.status}{error}  {', '.join(where)}"


def _format_metrics(metrics: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    names = {name: clean(name) for name in metrics}
    width = max(map(len, names.values()))
    for name, curve in metrics.items():
        values = list(curve.values())
        low, high = format_number(min(values)), format_number(max(values))
        chart = f"{names[name].ljust(width)}  {draw_sparkline(values)}"
        last = f"{format_number(values[-1])} at iteration {max(curve)}"
        yield f"  {chart}  {last}, from {low} to {high}"


@click.command()
@on_experiment
@trial_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the trial ends.")
@click.option("--stderr", is_flag=True, help="Its standard error instead of its output.")
@click.option("--rank", type=click.IntRange(0), default=0, help="Of a trial with several tasks.")
def logs(name: str, trial: str, local_dir: Path, follow: bool, stderr: bool, rank: int) -> None:
    """Print what a trial has printed."""
    with open_store(local_dir, name) as store:
        record = look_at_driver(store.experiment, time.time()).settle(find_trial(store, trial))
        files = store.layout.trial(record.trial_id)
        path = files.stderr(rank) if stderr else files.stdout(rank)
        try:
            if follow:
                size = _follow(path, store, record)
            else:
                with path.open("rb") as file:
                    size = _copy(file)
        except FileNotFoundError as error:
            raise StorageError(
                f"there is no {path}: trial {record.trial_id} ({record.status}) has no such log"
            ) from error
        except OSError as error:  # of another user, say: only its owner may read a sweep's files
            raise StorageError(f"{path} can't be read: {error.strerror}") from error
        if not size:
            _tell_silence(record, stderr, files.stdout(rank) if stderr else files.stderr(rank))


def _tell_silence(record: TrialRecord, stderr: bool, other: Path) -> None:
    """Say that a log is empty, and what is in the other one; not where the log itself goes."""
    what, option = ("standard error", "without --stderr") if stderr else ("output", "--stderr")
    size = other.stat().st_size if other.exists() else 0
    hint = f"; {option} shows {size} bytes" if size else ""
    click.echo(f"trial {record.trial_id} ({record.status}): its {what} is empty{hint}", err=True)


def _follow(path: Path, store: Store, record: TrialRecord) -> int:
    """Copy a growing file until its trial has ended and all of it is copied; return the bytes."""
    while not path.exists() and _is_running(store, record):
        time.sleep(_FOLLOW_S)
    size, asked_at, running = 0, 0.0, True
    with path.open("rb") as file:
        while True:
            size += _copy(file)
            if not running:
                return size
            time.sleep(_FOLLOW_S)
            if time.monotonic() - asked_at > _STATUS_S:
                asked_at = time.monotonic()
                running = _is_running(store, record)


def _is_running(store: Store, record: TrialRecord) -> bool:
    """Whether a driver is at work that runs a trial, or will."""
    found = read_trial(store.database, store.experiment.id, record.number)
    sight = look_at_driver(store.database.experiment(store.experiment.name), time.time())
    is_open = found is not None and found.status in (Status.RUNNING, Status.SCHEDULED)
    return is_open and sight.is_at_work


def _copy(file: BinaryIO) -> int:
    size = 0
    while chunk := file.read(1 << 16):
        size += sys.stdout.buffer.write(chunk)
    sys.stdout.flush()
    return size
