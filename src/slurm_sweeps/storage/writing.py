"""Writing records into an open transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from ..trial import Status
from .aggregates import build_rows, update_aggregates
from .records import (
    Record,
    ReportRecord,
    StateRecord,
    TrialRecord,
)

RUN_COLUMNS = (
    "status",
    "attempt",
    "slot",
    "host",
    "gpus",
    "start_time",
    "end_time",
    "exit_code",
    "signal",
    "error_type",
    "error_message",
    "traceback",
)
TRIAL_COLUMNS = ("trial_id", "repetition", "cfg", "lost_count", *RUN_COLUMNS)


def _build_upsert(table: str, keys: Sequence[str], values: Sequence[str]) -> str:
    columns = (*keys, *values)
    changes = ", ".join(f"{name} = excluded.{name}" for name in values)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
    )


_TRIAL_UPSERT = _build_upsert("trials", ("experiment_id", "number"), TRIAL_COLUMNS)
_ATTEMPT_UPSERT = _build_upsert(
    "attempts",
    ("experiment_id", "number", "attempt"),
    [column for column in RUN_COLUMNS if column != "attempt"],
)
_METRIC_INSERT = "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?)"


def write_records(
    connection: sqlite3.Connection,
    experiment_id: int,
    records: Sequence[Record],
    metric_ids: dict[str, int],
) -> None:
    """Write records of one experiment, in order.

    Args:
        connection: A connection inside a transaction.
        experiment_id: The experiment, which is there.
        records: What to write. Reports of one transaction are written after all its trials.
        metric_ids: The known metric names; new ones are added.
    """
    trials = [record for record in records if isinstance(record, TrialRecord)]
    reports = [record for record in records if isinstance(record, ReportRecord)]
    states = [record for record in records if isinstance(record, StateRecord)]
    if trials:
        _write_trials(connection, experiment_id, trials)
    if reports:
        _write_reports(connection, experiment_id, reports, metric_ids)
    if states:
        write_state(connection, experiment_id, states[-1].state)


def write_state(connection: sqlite3.Connection, experiment_id: int, state: str) -> None:
    """Set the state of an experiment."""
    connection.execute("UPDATE experiments SET state = ? WHERE id = ?", (state, experiment_id))


def _write_trials(
    connection: sqlite3.Connection, experiment_id: int, trials: Sequence[TrialRecord]
) -> None:
    connection.executemany(
        _TRIAL_UPSERT, [_build_trial_row(experiment_id, trial) for trial in trials]
    )
    connection.executemany(
        _ATTEMPT_UPSERT,
        [
            _build_attempt_row(experiment_id, trial)
            for trial in trials
            if trial.status is not Status.SCHEDULED  # its next attempt has not begun
        ],
    )


def _build_trial_row(experiment_id: int, trial: TrialRecord) -> tuple[Any, ...]:
    return (
        experiment_id,
        trial.number,
        trial.trial_id,
        trial.repetition,
        clean_text(trial.cfg_json),
        trial.lost_count,
        trial.status.value,
        trial.attempt,
        *_build_run_columns(trial),
    )


def _build_attempt_row(experiment_id: int, trial: TrialRecord) -> tuple[Any, ...]:
    return (
        experiment_id,
        trial.number,
        trial.attempt,
        trial.status.value,
        *_build_run_columns(trial),
    )


def _build_run_columns(trial: TrialRecord) -> tuple[Any, ...]:
    """Everything of `RUN_COLUMNS` after status and attempt."""
    error = trial.error
    return (
        trial.slot,
        trial.host,
        trial.gpus,
        trial.start_time,
        trial.end_time,
        trial.exit_code,
        trial.signal,
        *(
            (clean_text(error.type), clean_text(error.message), clean_text(error.traceback))
            if error
            else (None, None, None)
        ),
    )


def _write_reports(
    connection: sqlite3.Connection,
    experiment_id: int,
    reports: Sequence[ReportRecord],
    metric_ids: dict[str, int],
) -> None:
    names = dict.fromkeys(name for report in reports for name in report.metrics)
    for name in [name for name in names if name not in metric_ids]:
        metric_ids[name] = _add_metric_name(connection, experiment_id, clean_text(name))
    rows = build_rows(experiment_id, reports, metric_ids)
    connection.executemany(_METRIC_INSERT, rows)
    update_aggregates(connection, experiment_id, rows)


def _add_metric_name(connection: sqlite3.Connection, experiment_id: int, name: str) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO metric_names (experiment_id, name) VALUES (?, ?)",
        (experiment_id, name),
    )
    metric_id: int = connection.execute(
        "SELECT id FROM metric_names WHERE experiment_id = ? AND name = ?", (experiment_id, name)
    ).fetchone()[0]
    return metric_id


def clean_text(text: str) -> str:
    """Write half a surrogate pair as an escape: a trial may log it, UTF-8 can't hold it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
