"""Trials, attempts, and what was logged: reading and writing their rows.

Everything is fetched before a function returns: an open cursor would be a lock on the file. Where
several reads must agree, put `Database.reading()` around them.
"""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..trial import Status, TrialError, make_storable
from .aggregates import AGGREGATE_COLUMNS, build_aggregate, update_aggregates
from .database import Database
from .jobs import release_all, write_job
from .records import (
    Aggregate,
    AttemptRecord,
    JobRecord,
    LeaseOwner,
    Record,
    ReportRecord,
    RunRecord,
    StateRecord,
    TrialRecord,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How a trial runs, as columns of `attempts` and as fields of its record.
_RUN_FIELDS = (
    *("slot", "job_id", "host", "gpus", "start_time", "end_time", "last_iteration"),
    *("exit_code", "signal"),
    *("memory_mb", "cpu_s", "gpu_memory_mb"),
)
_RUN = f"{', '.join(_RUN_FIELDS)}, error_type, error_message, traceback"

#: A trial with its latest attempt; one that is scheduled has not begun it.
_TRIALS = (
    "trials LEFT JOIN attempts ON attempts.experiment_id = trials.experiment_id "
    "AND attempts.number = trials.number AND attempts.attempt = trials.attempt "
    f"AND trials.status != '{Status.SCHEDULED}'"
)

#: The rows of one metric, by experiment and name; none where it was never logged.
_OF_METRIC = (
    "experiment_id = ?1 "
    "AND metric_id = (SELECT id FROM metric_names WHERE experiment_id = ?1 AND name = ?2)"
)

#: The columns of one metric's reports.
REPORT_FIELDS = [("number", "i8"), ("iteration", "i8"), ("value", "f8"), ("logged_at", "f8")]

#: The columns of all that was logged.
METRIC_FIELDS = [("number", "i8"), ("metric_id", "i8"), *REPORT_FIELDS[1:]]

#: The most of a diff that is read, in bytes.
MAX_DIFF = 10_000_000

#: How many rows of metrics are read while the file is locked for writers: about half a second.
PORTION = 500_000

#: The same where they are read trial by trial.
TRIALS_AT_ONCE = 200

#: The columns of one metric's aggregates that tables of trials show; NaN for what is not known.
AGGREGATE_FIELDS = [("number", "i8"), ("count", "i8"), ("last", "f8"), ("min", "f8"), ("max", "f8")]

#: (number, trial_id, status, start_time, end_time, memory_mb, cpu_s, gpu_memory_mb, cfg as JSON):
#: what tables of trials show. Tuples, since a hundred thousand of them are wanted in no time.
TrialRow = tuple[
    int, str, str, float | None, float | None, float | None, float | None, float | None, str
]


# Trials


def read_trials(
    database: Database,
    experiment_id: int,
    *,
    statuses: Iterable[Status] | None = None,
    number: int | None = None,
    id_prefix: str = "",
    newest_first: bool = False,
    limit: int | None = None,
) -> list[TrialRecord]:
    """Read trials of an experiment, by number: those to which all that is given applies."""
    where, table = ["trials.experiment_id = ?"], _TRIALS
    bound: list[int | str] = [experiment_id]
    if statuses is not None:  # SQLite would read all trials, for their order
        table = _TRIALS.replace("trials", "trials INDEXED BY trials_by_status", 1)
        chosen = [status.value for status in statuses]
        where.append(f"trials.status IN ({', '.join('?' * len(chosen))})")
        bound += chosen
    if number is not None:
        where.append("trials.number = ?")
        bound.append(number)
    if id_prefix:
        where.append("substr(trial_id, 1, ?) = ?")
        bound += [len(id_prefix), id_prefix]
    rows = database.fetch(
        f"SELECT trials.number, trial_id, repetition, cfg, lost_count, trials.status, "
        f"trials.attempt, {_RUN} FROM {table} WHERE {' AND '.join(where)} "
        f"ORDER BY trials.number {'DESC' if newest_first else 'ASC'} LIMIT ?",
        [*bound, -1 if limit is None else limit],
    )
    return [
        TrialRecord(number, trial_id, repetition, cfg, lost_count=lost, **_build_run(run))
        for number, trial_id, repetition, cfg, lost, *run in rows
    ]


def read_trial(database: Database, experiment_id: int, number: int) -> TrialRecord | None:
    """Read the trial of a number, None if there is none."""
    return next(iter(read_trials(database, experiment_id, number=number)), None)


def read_trial_rows(database: Database, experiment_id: int) -> list[TrialRow]:
    """Read what tables show of all trials, by number: much faster than `read_trials`."""
    return database.fetch(
        "SELECT trials.number, trial_id, trials.status, start_time, end_time, memory_mb, cpu_s, "
        "gpu_memory_mb, cfg "
        f"FROM {_TRIALS} WHERE trials.experiment_id = ? ORDER BY trials.number",
        (experiment_id,),
    )


def read_trial_ids(
    database: Database, experiment_id: int, statuses: Iterable[Status]
) -> dict[int, str]:
    """Read the ids of the trials of some statuses, by number."""
    chosen = [status.value for status in statuses]
    rows = database.fetch(
        "SELECT number, trial_id FROM trials WHERE experiment_id = ? "
        f"AND status IN ({', '.join('?' * len(chosen))}) ORDER BY number",
        [experiment_id, *chosen],
    )
    return dict(rows)


def read_statuses(database: Database, experiment_id: int) -> list[tuple[int, str, int]]:
    """Read number, status and attempt of all trials, by number: faster than anything else."""
    sql = "SELECT number, status, attempt FROM trials WHERE experiment_id = ? ORDER BY number"
    return database.fetch(sql, (experiment_id,))


def count_trials(database: Database, experiment_id: int) -> dict[Status, int]:
    """Count the trials of each status; statuses that none has are left out."""
    sql = "SELECT status, count(*) FROM trials WHERE experiment_id = ? GROUP BY status"
    return {Status(status): count for status, count in database.fetch(sql, (experiment_id,))}


def read_driver_runs(database: Database, experiment_id: int) -> list[RunRecord]:
    """Read of what code each driver ran, and where, in their order."""
    sql = "SELECT started_at, told, diff FROM runs WHERE experiment_id = ? ORDER BY started_at"
    rows = database.fetch(sql, (experiment_id,))
    return [RunRecord(at, json.loads(told), _decompress(diff)) for at, told, diff in rows]


def _decompress(diff: bytes) -> str:
    """Return a stored text, up to `MAX_DIFF`: a database may come from anyone."""
    return zlib.decompressobj().decompress(diff, MAX_DIFF).decode("utf-8", "replace")


def count_errors(database: Database, experiment_id: int, kind: str) -> dict[Status, int]:
    """Count the trials whose latest attempt ended with an error of a type, by their status."""
    ended = ", ".join(f"'{status}'" for status in Status if status.is_broken)
    rows = database.fetch(
        f"SELECT trials.status, count(*) FROM {_TRIALS} WHERE trials.experiment_id = ? "
        f"AND trials.status IN ({ended}, '{Status.INFEASIBLE}') AND error_type = ? "
        "GROUP BY trials.status",
        (experiment_id, kind),
    )
    return {Status(status): count for status, count in rows}


def read_earlier_s(
    database: Database, experiment_id: int, number: int | None = None
) -> dict[int, float]:
    """Read how long the attempts before the latest one ran together, by the trial's number.

    Trials of one attempt are left out.
    """
    which, bound = ("", ()) if number is None else ("AND trials.number = ?", (number,))
    return dict(
        database.fetch(
            "SELECT trials.number, total(end_time - start_time) FROM trials JOIN attempts USING "
            "(experiment_id, number) WHERE experiment_id = ? AND trials.attempt > 1 "
            f"AND attempts.attempt < trials.attempt {which} GROUP BY trials.number",
            (experiment_id, *bound),
        )
    )


def count_driver_runs(database: Database, experiment_id: int) -> int:
    """Count the drivers that have worked on an experiment, one after the other."""
    sql = "SELECT count(*) FROM runs WHERE experiment_id = ?"
    ((count,),) = database.fetch(sql, (experiment_id,))
    return int(count)


def read_last_end(database: Database, experiment_id: int) -> float | None:
    """When the attempt that ended last ended, in seconds since 1970; None if none has."""
    sql = "SELECT max(end_time) FROM attempts WHERE experiment_id = ?"
    ((end,),) = database.fetch(sql, (experiment_id,))
    return None if end is None else float(end)


def read_attempts(
    database: Database, experiment_id: int, number: int | None = None
) -> list[AttemptRecord]:
    """Read the attempts of one trial or of all, by trial and attempt."""
    which, bound = ("", ()) if number is None else ("AND number = ?", (number,))
    sql = f"SELECT number, status, attempt, {_RUN} FROM attempts WHERE experiment_id = ? {which}"
    rows = database.fetch(f"{sql} ORDER BY number, attempt", (experiment_id, *bound))
    return [AttemptRecord(number, **_build_run(run)) for number, *run in rows]


def count_failed_attempts(database: Database, experiment_id: int) -> dict[int, int]:
    """Count the attempts of each trial that failed; trials that have none are left out."""
    sql = "SELECT number, count(*) FROM attempts WHERE experiment_id = ? AND status = ? GROUP BY 1"
    return dict(database.fetch(sql, (experiment_id, Status.FAILED.value)))


def _build_run(columns: Sequence[Any]) -> dict[str, Any]:
    """What trials and attempts share, of the status, the attempt and `_RUN`."""
    status, attempt, *run, kind, message, traceback = columns
    return {
        "status": Status(status),
        "attempt": attempt,
        "error": None if kind is None else TrialError(kind, message or "", traceback or ""),
        **dict(zip(_RUN_FIELDS, run, strict=True)),
    }


# Metrics


def read_metric_ids(database: Database, experiment_id: int) -> dict[str, int]:
    """Read the key of each metric's name, in the order in which they were first logged."""
    sql = "SELECT name, id FROM metric_names WHERE experiment_id = ? ORDER BY id"
    return dict(database.fetch(sql, (experiment_id,)))


def read_aggregates(database: Database, experiment_id: int, metric: str) -> list[Aggregate]:
    """Read what is known of one metric of each trial that logged it, by trial."""
    rows = database.fetch(
        f"SELECT {AGGREGATE_COLUMNS} FROM aggregates WHERE {_OF_METRIC} ORDER BY number",
        (experiment_id, metric),
    )
    return [build_aggregate(row) for row in rows]


def read_aggregates_of_trial(
    database: Database, experiment_id: int, number: int
) -> dict[str, Aggregate]:
    """Read what is known of each metric that one trial has logged, by the metric's name."""
    rows = database.fetch(
        # CROSS: each metric's one row is looked up, else SQLite might read all trials' rows.
        f"SELECT name, {AGGREGATE_COLUMNS} FROM metric_names CROSS JOIN aggregates "
        "ON aggregates.experiment_id = metric_names.experiment_id AND metric_id = id "
        "WHERE metric_names.experiment_id = ? AND number = ? ORDER BY id",
        (experiment_id, number),
    )
    return {name: build_aggregate(row) for name, *row in rows}


def read_last_iterations(database: Database, experiment_id: int) -> dict[int, int]:
    """Read the highest iteration that each trial has logged, by the trial's number."""
    sql = "SELECT number, max(last_iteration) FROM aggregates WHERE experiment_id = ? GROUP BY 1"
    return dict(database.fetch(sql, (experiment_id,)))


def read_best(
    database: Database,
    experiment_id: int,
    metric: str,
    mode: str,
    limit: int = 1,
    *,
    by_last: bool = False,
    statuses: Iterable[Status] | None = None,
) -> list[Aggregate]:
    """Read the trials with the best finite value at any iteration, or at their last one.

    The best come first; of equal ones the earlier trial. Only those of some statuses, if given;
    else all that are not infeasible.
    """
    value, order = ("min_value", "ASC") if mode == "min" else ("max_value", "DESC")
    which = _write_chosen(statuses)
    if by_last:
        value, which = "last_value", f"abs(last_value) < 9e999 AND {which}"  # infinity, in SQL
    rows = database.fetch(
        f"SELECT {AGGREGATE_COLUMNS} FROM aggregates WHERE {_OF_METRIC} "
        f"AND {value} IS NOT NULL AND {which} ORDER BY {value} {order}, number LIMIT ?3",
        (experiment_id, metric, limit),
    )
    return [build_aggregate(row) for row in rows]


def _write_chosen(statuses: Iterable[Status] | None) -> str:
    """Write the condition that a row is of a trial of some statuses; None: not infeasible."""
    among, chosen = "NOT IN", f"= '{Status.INFEASIBLE}'"
    if statuses is not None:
        among, chosen = "IN", f"IN ({', '.join(repr(status.value) for status in statuses)})"
    return (
        f"number {among} (SELECT number FROM trials WHERE experiment_id = ?1 AND status {chosen})"
    )


def read_known_values(
    database: Database,
    experiment_id: int,
    metric: str,
    which: str = "last",
    statuses: Iterable[Status] | None = None,
) -> dict[int, float]:
    """Read the "last", "min" or "max" value of each trial of which that is finite, by its number.

    Only those of some statuses, if given; else all that are not infeasible.
    """
    return dict(
        database.fetch(
            f"SELECT number, {which}_value FROM aggregates WHERE {_OF_METRIC} "
            f"AND abs({which}_value) < 9e999 AND {_write_chosen(statuses)}",
            (experiment_id, metric),
        )
    )


def read_aggregate_tables(
    database: Database, experiment_id: int
) -> dict[str, npt.NDArray[np.void]]:
    """Read a structured array of `AGGREGATE_FIELDS`, by trial, for each metric by its name."""
    with database.reading() as connection:
        return {
            name: _fetch_table(
                connection.execute(
                    "SELECT number, count, last_value, min_value, max_value FROM aggregates "
                    "WHERE experiment_id = ? AND metric_id = ? ORDER BY number",
                    (experiment_id, metric_id),
                ),
                AGGREGATE_FIELDS,
            )
            for name, metric_id in read_metric_ids(database, experiment_id).items()
        }


def read_metrics_of_trial(
    database: Database, experiment_id: int, number: int
) -> dict[str, dict[int, float]]:
    """Read `{name: {iteration: value}}` of one trial, iterations rising."""
    metrics: dict[str, dict[int, float]] = {}
    rows = database.fetch(
        "SELECT name, iteration, value FROM metrics JOIN metric_names ON id = metric_id "
        "WHERE metrics.experiment_id = ? AND number = ? ORDER BY metric_id, iteration",
        (experiment_id, number),
    )
    for name, iteration, value in rows:
        metrics.setdefault(name, {})[iteration] = math.nan if value is None else value
    return metrics


def read_points(
    database: Database, experiment_id: int, number: int, after: Mapping[str, int]
) -> list[tuple[str, int, float, float]]:
    """Read what one trial has logged: metric, iteration, value, when; by iteration.

    Of each metric only what comes after the iteration that `after` has for it.
    """
    found = []
    for name, metric_id in read_metric_ids(database, experiment_id).items():
        rows = database.fetch(
            "SELECT iteration, value, logged_at FROM metrics WHERE experiment_id = ? "
            "AND number = ? AND metric_id = ? AND iteration > ?",
            (experiment_id, number, metric_id, after.get(name, -1)),
        )
        found += [(name, at, math.nan if value is None else value, t) for at, value, t in rows]
    return sorted(found, key=lambda point: point[1])


def read_first_reports(
    database: Database, experiment_id: int, metric: str
) -> dict[int, tuple[int, int, float, float]]:
    """Read the first report of each trial that logged a metric, by the trial's number.

    Returns:
        The lowest iteration from 1 on, the attempt that logged it, that attempt's start and the
        time at which it was logged (seconds since 1970).
    """
    rows = database.fetch(
        # With min() the other columns are those of the row that has it.
        "SELECT number, iteration, attempt, start_time, logged_at FROM "
        "(SELECT number, min(iteration) AS iteration, logged_at, attempt FROM metrics "
        f"WHERE {_OF_METRIC} AND iteration >= 1 GROUP BY number) "
        "JOIN attempts USING (number, attempt) "
        "WHERE experiment_id = ?1 AND start_time IS NOT NULL",
        (experiment_id, metric),
    )
    return {row[0]: row[1:] for row in rows}


def read_reports(
    database: Database, experiment_id: int, metric: str, numbers: Sequence[int]
) -> Iterator[npt.NDArray[np.void]]:
    """Read what trials, of rising numbers, have logged of one metric, and when.

    Yields:
        Structured arrays with `REPORT_FIELDS`, by trial and iteration, each of a portion of the
        trials: a driver may write in between.
    """
    for portion in _read_portions(database, experiment_id, metric, numbers):
        yield _fetch_table(portion, REPORT_FIELDS)


def _read_portions(
    database: Database, experiment_id: int, metric: str, numbers: Sequence[int]
) -> Iterator[list[tuple[int, int, float, float]]]:
    for first in range(0, len(numbers), TRIALS_AT_ONCE):
        bounds = numbers[first], numbers[min(first + TRIALS_AT_ONCE, len(numbers)) - 1]
        rows = database.fetch(
            # CROSS and the plus: each trial's rows are looked up by their whole key.
            "SELECT logged.number, iteration, value, logged_at FROM "
            f"(SELECT number, metric_id FROM aggregates WHERE {_OF_METRIC} "
            "AND number BETWEEN ?3 AND ?4) AS trial CROSS JOIN metrics AS logged "
            "ON experiment_id = ?1 AND logged.number = +trial.number "
            "AND logged.metric_id = trial.metric_id ORDER BY trial.number, iteration",
            (experiment_id, metric, *bounds),
        )
        # NULL was NaN.
        yield [row if row[2] is not None else (*row[:2], math.nan, row[3]) for row in rows]


def read_values(
    database: Database, experiment_id: int, names: tuple[str, ...], numbers: Sequence[int]
) -> Iterator[tuple[int, int, Any, float]]:
    """Read what trials, of rising numbers, have logged of a metric, or of several as tuples.

    Yields:
        The trial's number, the iteration, the value, and the time at which it was logged; by trial
        and iteration.
    """
    for first, *others in zip(
        *(_read_portions(database, experiment_id, name, numbers) for name in names), strict=True
    ):
        if not others:
            yield from first
            continue
        known = [{row[:2]: row[2:] for row in rows} for rows in others]
        for number, iteration, value, at in first:
            found = [each.get((number, iteration)) for each in known]
            if all(found):
                values, times = zip((value, at), *filter(None, found), strict=True)
                yield number, iteration, values, max(times)


def read_metric_rows(database: Database, experiment_id: int) -> npt.NDArray[np.void]:
    """Read all that was ever logged: `METRIC_FIELDS`, by trial, metric and iteration.

    Read in portions, between which a running driver may write: trials that report meanwhile may be
    seen further on than others.
    """
    import numpy as np

    return np.concatenate(list(_iterate_portions(database, experiment_id)))


def _iterate_portions(database: Database, experiment_id: int) -> Iterator[npt.NDArray[np.void]]:
    after = (-1, -1, -1)  # before all keys
    while True:
        with database.reading() as connection:
            rows = connection.execute(
                "SELECT number, metric_id, iteration, value, logged_at FROM metrics "
                "WHERE experiment_id = ? AND (number, metric_id, iteration) > (?, ?, ?) "
                "ORDER BY number, metric_id, iteration LIMIT ?",
                (experiment_id, *after, PORTION),
            )
            portion = _fetch_table(rows, METRIC_FIELDS)
        yield portion
        if len(portion) < PORTION:
            return
        after = portion[-1].item()[:3]  # Python's integers: SQLite takes numpy's for bytes


def _fetch_table(
    rows: Iterable[tuple[Any, ...]], fields: list[tuple[str, str]]
) -> npt.NDArray[np.void]:
    import numpy as np  # here, so that who only writes need not load it

    return np.fromiter(rows, dtype=fields)


# Writing


def write_records(
    database: Database,
    experiment_id: int,
    records: Sequence[Record],
    owner: LeaseOwner | None = None,
    now: float = 0.0,
) -> None:
    """Write records in one transaction: all of them or none.

    A later record of the same key replaces an earlier one; reports are written after all trials.
    With an `owner`, its lease is renewed in the same transaction, see `Database.writing`.
    """
    trials = [record for record in records if isinstance(record, TrialRecord)]
    reports = [record for record in records if isinstance(record, ReportRecord)]
    states = [record for record in records if isinstance(record, StateRecord)]
    with database.writing(experiment_id, owner, now) as connection:
        if trials:
            _write_trials(connection, experiment_id, trials)
        if reports:
            _write_reports(database, connection, experiment_id, reports)
        for job in records:
            if isinstance(job, JobRecord):
                write_job(connection, experiment_id, job)
        if states:
            _write_state(connection, experiment_id, states[-1])
            if states[-1].state == "completed":
                release_all(connection, experiment_id, now)
        for run in (record for record in records if isinstance(record, RunRecord)):
            diff = zlib.compress(run.diff.encode("utf-8", "replace"))
            connection.execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)",
                (experiment_id, run.started_at, json.dumps(dict(run.told)), diff),
            )


def _write_state(connection: sqlite3.Connection, experiment_id: int, record: StateRecord) -> None:
    """Write a state, and what has ended the experiment into its settings."""
    query = "SELECT settings FROM experiments WHERE id = ?"
    (settings,) = connection.execute(query, (experiment_id,)).fetchone()
    connection.execute(
        "UPDATE experiments SET state = ?, settings = ? WHERE id = ?",
        (
            record.state,
            json.dumps({**json.loads(settings), "ended_by": record.ended_by}),
            experiment_id,
        ),
    )


def _build_upsert(table: str, keys: str, values: str) -> str:
    names = values.split(", ")
    marks = ", ".join("?" * (len(keys.split(", ")) + len(names)))
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {table} ({keys}, {values}) VALUES ({marks}) "
        f"ON CONFLICT ({keys}) DO UPDATE SET {changes}"
    )


_TRIAL_UPSERT = _build_upsert(
    "trials", "experiment_id, number", "trial_id, repetition, cfg, lost_count, status, attempt"
)
_ATTEMPT_UPSERT = _build_upsert("attempts", "experiment_id, number, attempt", f"status, {_RUN}")


def _write_trials(
    connection: sqlite3.Connection, experiment_id: int, trials: Sequence[TrialRecord]
) -> None:
    connection.executemany(
        _TRIAL_UPSERT,
        [
            (
                experiment_id,
                trial.number,
                trial.trial_id,
                trial.repetition,
                make_storable(trial.cfg_json),
                trial.lost_count,
                trial.status.value,
                trial.attempt,
            )
            for trial in trials
        ],
    )
    begun = [trial for trial in trials if trial.status is not Status.SCHEDULED]
    connection.executemany(
        _ATTEMPT_UPSERT, [_build_attempt_row(experiment_id, trial) for trial in begun]
    )


def _build_attempt_row(experiment_id: int, trial: TrialRecord) -> tuple[Any, ...]:
    error = trial.error
    texts = (None,) * 3 if error is None else (error.type, error.message, error.traceback)
    return (
        experiment_id,
        trial.number,
        trial.attempt,
        trial.status.value,
        *(getattr(trial, name) for name in _RUN_FIELDS),
        *(text if text is None else make_storable(text) for text in texts),
    )


def _write_reports(
    database: Database,
    connection: sqlite3.Connection,
    experiment_id: int,
    reports: Sequence[ReportRecord],
) -> None:
    logged = dict.fromkeys(name for report in reports for name in report.metrics)
    names = {name: make_storable(name) for name in logged}
    connection.executemany(
        "INSERT OR IGNORE INTO metric_names (experiment_id, name) VALUES (?, ?)",
        [(experiment_id, stored) for stored in names.values()],
    )
    known = read_metric_ids(database, experiment_id)
    metric_ids = {name: known[stored] for name, stored in names.items()}
    rows = [
        (
            experiment_id,
            report.number,
            metric_ids[name],
            report.iteration,
            value,
            report.logged_at,
            report.attempt,
        )
        for report in reports
        for name, value in report.metrics.items()
    ]
    connection.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    update_aggregates(connection, experiment_id, rows)
