"""Records to store, and ways to look at a database from outside."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import (
    LeaseOwner,
    Record,
    ReportRecord,
    TrialRecord,
)
from slurm_sweeps.storage.rows import read_aggregates, read_metric_rows, read_trials
from slurm_sweeps.storage.schema import prepare_schema
from slurm_sweeps.trial import Status

OWNER = LeaseOwner("node1", 4711, "17", "boot/1", "first")
RIVAL = LeaseOwner("node2", 1234, None, "boot/2", "second")

REPORTS_EACH = 9


def make_trial(number: int, status: Status = Status.RUNNING, **more: object) -> TrialRecord:
    """A trial, running its first attempt."""
    return TrialRecord(number, f"{number:012x}", 0, f'{{"x": {number}}}', status=status, **more)  # type: ignore[arg-type] # the test's business


def make_report(number: int, iteration: int, attempt: int = 1, **metrics: float) -> ReportRecord:
    """What a trial logged; `loss` by default."""
    return ReportRecord(number, attempt, iteration, metrics or {"loss": 1.0 / (1 + iteration)}, 5.0)


def make_record(index: int) -> Record:
    """The record at a place of an endless sequence: a trial, its reports, the next trial, …"""
    number, step = divmod(index, 1 + REPORTS_EACH)
    return make_trial(number) if step == 0 else make_report(number, step)


def count_prefix(database: Database, experiment_id: int) -> int:
    """How many records of `make_record`'s sequence are stored; fails if it is not a prefix."""
    trials = [trial.number for trial in read_trials(database, experiment_id)]
    assert trials == list(range(len(trials)))
    rows = read_metric_rows(database, experiment_id)
    reports = rows[["number", "iteration"]].tolist()
    found = sorted([(number, 0) for number in trials] + reports)
    assert found == [divmod(index, 1 + REPORTS_EACH) for index in range(len(found))]
    return len(found)


def assert_sound(path: Path) -> None:
    """Let SQLite check the whole file, in a connection that has nothing to do with ours."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    finally:
        connection.close()


def open_in_memory() -> Database:
    """A database without a file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    prepare_schema(connection, Path(":memory:"), create=True)
    return Database(connection, Path(":memory:"))


Expected = tuple[int, int, float, "float | None", "int | None", "float | None", "int | None"]


def expect_aggregate(curve: dict[int, float]) -> Expected:
    """What `Aggregate` says of a curve, worked out anew."""
    finite = {at: value for at, value in sorted(curve.items()) if math.isfinite(value)}
    low = min(finite, key=finite.__getitem__, default=None)
    high = max(finite, key=finite.__getitem__, default=None)
    last = max(curve)
    return (
        len(curve),
        last,
        curve[last],
        None if low is None else finite[low],
        low,
        None if high is None else finite[high],
        high,
    )


def assert_aggregates(
    database: Database, experiment_id: int, curves: dict[int, dict[int, float]], metric: str
) -> None:
    """The aggregates of a metric are what its curves, by trial, give."""
    found = {each.number: each for each in read_aggregates(database, experiment_id, metric)}
    assert found.keys() == curves.keys()
    for number, curve in curves.items():
        each = found[number]
        assert is_same(
            (
                each.count,
                each.last_iteration,
                each.last_value,
                each.min_value,
                each.min_iteration,
                each.max_value,
                each.max_iteration,
            ),
            expect_aggregate(curve),
        )


def is_same(left: Iterable[object], right: Iterable[object]) -> bool:
    """Equal, where NaN equals NaN."""
    return [repr(value) if value != value else value for value in left] == [
        repr(value) if value != value else value for value in right
    ]
