"""Reading trials, attempts, aggregates and curves.

The functions take a connection; where several reads must agree, put a transaction around them.
Everything is fetched before a function returns: an open cursor would be a lock on the file.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..trial import Status, TrialError
from .aggregates import build_aggregate
from .records import Aggregate, AttemptRecord, TrialRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_RUN = (
    "attempt, slot, host, gpus, start_time, end_time, "
    "error_type, error_message, traceback, exit_code, signal"
)
_TRIAL = f"number, trial_id, repetition, cfg, status, lost_count, {_RUN}"
_AGGREGATE = (
    "number, count, first_iteration, first_value, last_iteration, last_value, "
    "min_value, min_iteration, max_value, max_iteration"
)

#: The columns of a portion of metric rows, with numpy's types.
METRIC_FIELDS = [
    ("number", "i8"),
    ("metric_id", "i8"),
    ("iteration", "i8"),
    ("value", "f8"),
    ("logged_at", "f8"),
    ("attempt", "i8"),
]

#: How many rows of metrics are read while the file is locked for writers: about half a second.
PORTION = 500_000

#: A key that comes before all others.
BEFORE_ALL = (-1, -1, -1)


#: The columns of one metric's reports.
REPORT_FIELDS = [("number", "i8"), ("iteration", "i8"), ("value", "f8"), ("logged_at", "f8")]

#: The columns of aggregates that tables of trials show.
AGGREGATE_FIELDS = [
    ("metric_id", "i8"),
    ("number", "i8"),
    ("count", "i8"),
    ("last", "f8"),
    ("min", "f8"),
    ("max", "f8"),
]


#: (number, trial_id, status, start_time, end_time, cfg as JSON): what tables of trials show.
#: Tuples, since a hundred thousand of them are wanted in no time.
TrialRow = tuple[int, str, str, "float | None", "float | None", str]


@dataclass(frozen=True, slots=True)
class AggregateRows:
    """Aggregates of all metrics as one array.

    Args:
        table: A structured array with `AGGREGATE_FIELDS`, by metric and trial; where a value is
            not known it is NaN.
        names: The metric's name for each `metric_id`.
    """

    table: npt.NDArray[np.void]
    names: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class MetricRows:
    """Rows of metrics as arrays of one length.

    Args:
        number: The trial's number, int64.
        metric_id: The key in `names`, int64.
        iteration: int64.
        value: float64, NaN and infinities as they were logged.
        logged_at: Seconds since 1970, float64.
        attempt: int64.
        names: The metric's name for each `metric_id`.
    """

    number: npt.NDArray[np.int64]
    metric_id: npt.NDArray[np.int64]
    iteration: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    logged_at: npt.NDArray[np.float64]
    attempt: npt.NDArray[np.int64]
    names: Mapping[int, str]


def read_trials(
    connection: sqlite3.Connection,
    experiment_id: int,
    *,
    statuses: Iterable[Status] | None = None,
    number: int | None = None,
    id_prefix: str = "",
    newest_first: bool = False,
    limit: int | None = None,
) -> list[TrialRecord]:
    """Read trials; `Database.trials` tells the rest."""
    where = ["experiment_id = ?"]
    bound: list[int | str] = [experiment_id]
    if statuses is not None:
        chosen = [status.value for status in statuses]
        where.append(f"status IN ({', '.join('?' * len(chosen))})")
        bound += chosen
    if number is not None:
        where.append("number = ?")
        bound.append(number)
    if id_prefix:
        where.append("substr(trial_id, 1, ?) = ?")
        bound += [len(id_prefix), id_prefix]
    rows = connection.execute(
        f"SELECT {_TRIAL} FROM trials WHERE {' AND '.join(where)} "
        f"ORDER BY number {'DESC' if newest_first else 'ASC'} LIMIT ?",
        [*bound, -1 if limit is None else limit],
    )
    return [_build_trial(row) for row in rows]


def read_trial_rows(connection: sqlite3.Connection, experiment_id: int) -> list[TrialRow]:
    """What tables show of all trials, by number."""
    return connection.execute(
        "SELECT number, trial_id, status, start_time, end_time, cfg FROM trials "
        "WHERE experiment_id = ? ORDER BY number",
        (experiment_id,),
    ).fetchall()


def _build_trial(row: Sequence[Any]) -> TrialRecord:
    number, trial_id, repetition, cfg, status, lost_count, attempt, *run = row
    slot, host, gpus, start_time, end_time, *error, exit_code, signal = run
    return TrialRecord(
        number=number,
        trial_id=trial_id,
        repetition=repetition,
        cfg_json=cfg,
        status=Status(status),
        attempt=attempt,
        lost_count=lost_count,
        slot=slot,
        host=host,
        gpus=gpus,
        start_time=start_time,
        end_time=end_time,
        error=_build_error(error),
        exit_code=exit_code,
        signal=signal,
    )


def _build_error(columns: Sequence[str | None]) -> TrialError | None:
    kind, message, traceback = columns
    return None if kind is None else TrialError(kind, message or "", traceback or "")


def count_trials(connection: sqlite3.Connection, experiment_id: int) -> dict[Status, int]:
    """How many trials of an experiment have each status; those that none has are left out."""
    rows = connection.execute(
        "SELECT status, count(*) FROM trials WHERE experiment_id = ? GROUP BY status",
        (experiment_id,),
    )
    return {Status(status): count for status, count in rows}


def read_attempts(
    connection: sqlite3.Connection, experiment_id: int, number: int | None
) -> list[AttemptRecord]:
    """The attempts of one trial or of all, by trial and attempt."""
    one = "" if number is None else "AND number = :number"
    rows = connection.execute(
        f"SELECT number, status, {_RUN} FROM attempts WHERE experiment_id = :experiment {one} "
        "ORDER BY number, attempt",
        {"experiment": experiment_id, "number": number},
    )
    return [_build_attempt(row) for row in rows]


def _build_attempt(row: Sequence[Any]) -> AttemptRecord:
    number, status, attempt, slot, host, gpus, start, end, *error, exit_code, signal = row
    return AttemptRecord(
        number=number,
        attempt=attempt,
        status=Status(status),
        slot=slot,
        host=host,
        gpus=gpus,
        start_time=start,
        end_time=end,
        error=_build_error(error),
        exit_code=exit_code,
        signal=signal,
    )


def read_metric_ids(connection: sqlite3.Connection, experiment_id: int) -> dict[str, int]:
    """The key of each metric's name, in the order in which they were first logged."""
    rows = connection.execute(
        "SELECT name, id FROM metric_names WHERE experiment_id = ? ORDER BY id", (experiment_id,)
    )
    return dict(rows.fetchall())


def read_aggregates(
    connection: sqlite3.Connection, experiment_id: int, metric_id: int
) -> list[Aggregate]:
    """The aggregates of one metric, by trial."""
    rows = connection.execute(
        f"SELECT {_AGGREGATE} FROM aggregates WHERE experiment_id = ? AND metric_id = ? "
        "ORDER BY number",
        (experiment_id, metric_id),
    )
    return [build_aggregate(row) for row in rows]


def read_aggregates_of_trial(
    connection: sqlite3.Connection, experiment_id: int, number: int
) -> dict[str, Aggregate]:
    """The aggregates of one trial by the metric's name."""
    found = {}
    for name, metric_id in read_metric_ids(connection, experiment_id).items():
        row = connection.execute(
            f"SELECT {_AGGREGATE} FROM aggregates "
            "WHERE experiment_id = ? AND metric_id = ? AND number = ?",
            (experiment_id, metric_id, number),
        ).fetchone()
        if row is not None:
            found[name] = build_aggregate(row)
    return found


def read_best(
    connection: sqlite3.Connection, experiment_id: int, metric_id: int, mode: str, limit: int
) -> list[Aggregate]:
    """The aggregates with the best extremes, the best first; of equal ones the earlier trial."""
    value, order = ("min_value", "ASC") if mode == "min" else ("max_value", "DESC")
    rows = connection.execute(
        f"SELECT {_AGGREGATE} FROM aggregates WHERE experiment_id = ? AND metric_id = ? "
        f"AND {value} IS NOT NULL ORDER BY {value} {order}, number LIMIT ?",
        (experiment_id, metric_id, limit),
    )
    return [build_aggregate(row) for row in rows]


def read_aggregate_rows(connection: sqlite3.Connection, experiment_id: int) -> AggregateRows:
    """What tables of trials show of all metrics."""
    rows = connection.execute(
        "SELECT metric_id, number, count, last_value, min_value, max_value FROM aggregates "
        "WHERE experiment_id = ? ORDER BY metric_id, number",
        (experiment_id,),
    )
    names = {key: name for name, key in read_metric_ids(connection, experiment_id).items()}
    return AggregateRows(_fetch_table(rows, AGGREGATE_FIELDS), names)


def read_metrics_of_trial(
    connection: sqlite3.Connection, experiment_id: int, number: int
) -> dict[str, dict[int, float]]:
    """`{name: {iteration: value}}` of one trial, iterations rising."""
    names = {key: name for name, key in read_metric_ids(connection, experiment_id).items()}
    metrics: dict[str, dict[int, float]] = {}
    rows = connection.execute(
        "SELECT metric_id, iteration, value FROM metrics "
        "WHERE experiment_id = ? AND number = ? ORDER BY metric_id, iteration",
        (experiment_id, number),
    )
    for metric_id, iteration, value in rows:
        curve = metrics.setdefault(names[metric_id], {})
        curve[iteration] = math.nan if value is None else value
    return metrics


def read_curve(
    connection: sqlite3.Connection, experiment_id: int, number: int, metric_id: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Iterations, rising, and values of one metric of one trial."""
    rows = connection.execute(
        "SELECT iteration, value FROM metrics "
        "WHERE experiment_id = ? AND number = ? AND metric_id = ? ORDER BY iteration",
        (experiment_id, number, metric_id),
    )
    table = _fetch_table(rows, [("iteration", "i8"), ("value", "f8")])
    return table["iteration"], table["value"]


def read_first_reports(
    connection: sqlite3.Connection, experiment_id: int, metric_id: int
) -> dict[int, tuple[int, int, float, float]]:
    """Each trial's lowest iteration from 1 on, the attempt that logged it, its start, and when."""
    rows = connection.execute(
        # With min() the other columns are those of the row that has it.
        "SELECT number, iteration, attempt, start_time, logged_at FROM "
        "(SELECT number, min(iteration) AS iteration, logged_at, attempt FROM metrics "
        "WHERE experiment_id = ?1 AND metric_id = ?2 AND iteration >= 1 GROUP BY number) "
        "JOIN attempts USING (number, attempt) "
        "WHERE experiment_id = ?1 AND start_time IS NOT NULL",
        (experiment_id, metric_id),
    )
    return {row[0]: row[1:] for row in rows}


def read_reports(
    connection: sqlite3.Connection, experiment_id: int, metric_id: int, numbers: Iterable[int]
) -> npt.NDArray[np.void]:
    """One metric of some trials with the times at which it was logged, by trial and iteration."""
    rows = (
        (number, *row)
        for number in numbers
        for row in connection.execute(
            "SELECT iteration, value, logged_at FROM metrics "
            "WHERE experiment_id = ? AND number = ? AND metric_id = ? ORDER BY iteration",
            (experiment_id, number, metric_id),
        )
    )
    return _fetch_table(rows, REPORT_FIELDS)


def read_portion(
    connection: sqlite3.Connection, experiment_id: int, after: tuple[int, int, int]
) -> npt.NDArray[np.void]:
    """The next rows of metrics, at most `PORTION`, with `METRIC_FIELDS` as the fields.

    Args:
        connection: The connection.
        experiment_id: The experiment.
        after: Number, metric and iteration of the last row of the portion before.
    """
    rows = connection.execute(
        "SELECT number, metric_id, iteration, value, logged_at, attempt FROM metrics "
        "WHERE experiment_id = ? AND (number, metric_id, iteration) > (?, ?, ?) "
        "ORDER BY number, metric_id, iteration LIMIT ?",
        (experiment_id, *after, PORTION),
    )
    return _fetch_table(rows, METRIC_FIELDS)


def build_metric_rows(
    portions: Iterable[npt.NDArray[np.void]], names: Mapping[int, str]
) -> MetricRows:
    """Join portions into one array for each column."""
    import numpy as np

    table = np.concatenate(list(portions))
    columns = {field: np.ascontiguousarray(table[field]) for field, _ in METRIC_FIELDS}
    return MetricRows(**columns, names=names)


def _fetch_table(
    rows: Iterable[tuple[Any, ...]], fields: list[tuple[str, str]]
) -> npt.NDArray[np.void]:
    import numpy as np  # here, so that who only writes need not load it

    return np.fromiter(rows, dtype=fields)
