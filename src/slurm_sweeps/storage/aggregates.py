"""Aggregates: what is known of a metric of a trial without reading its rows.

Invariant: a row of `aggregates` equals what recomputing it from `metrics` gives. Two ways keep it:

- What only appends (every iteration beyond the last one stored, in rising order) is folded in
  Python and merged by one upsert. That is the way of every undisturbed trial, and its cost does
  not depend on how long the curve is.
- All else (an iteration logged again by a retry, or out of order) is recomputed from the rows,
  once for each transaction that holds such a report.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from .records import Aggregate, ReportRecord

#: (experiment_id, number, metric_id, iteration, value, logged_at, attempt)
MetricRow = tuple[int, int, int, int, float, float, int]

#: (number, metric_id)
Curve = tuple[int, int]

#: count, first iteration, last iteration and value, min value and iteration, max value and
#: iteration; the order of the columns.
Fold = list[float | int | None]

_COUNT, _FIRST, _LAST, _LAST_VALUE, _MIN, _MIN_AT, _MAX, _MAX_AT = range(8)

#: What `build_aggregate` makes a record of.
AGGREGATE_COLUMNS = (
    "number, count, last_iteration, last_value, min_value, min_iteration, max_value, max_iteration"
)

_INFINITY = math.inf

_UPSERT = """
    INSERT INTO aggregates AS old
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (experiment_id, metric_id, number) DO UPDATE SET
        count = old.count + excluded.count,
        last_iteration = excluded.last_iteration,
        last_value = excluded.last_value,
        min_iteration = CASE WHEN old.min_value IS NULL OR excluded.min_value < old.min_value
            THEN excluded.min_iteration ELSE old.min_iteration END,
        min_value = CASE WHEN old.min_value IS NULL OR excluded.min_value < old.min_value
            THEN excluded.min_value ELSE old.min_value END,
        max_iteration = CASE WHEN old.max_value IS NULL OR excluded.max_value > old.max_value
            THEN excluded.max_iteration ELSE old.max_iteration END,
        max_value = CASE WHEN old.max_value IS NULL OR excluded.max_value > old.max_value
            THEN excluded.max_value ELSE old.max_value END
    WHERE excluded.first_iteration > old.last_iteration
"""

# 9e999 is how SQL writes infinity.
_RECOMPUTE = """
    WITH curve AS (
        SELECT iteration, value, CASE WHEN abs(value) < 9e999 THEN value END AS finite
        FROM metrics WHERE experiment_id = :experiment AND number = :number AND metric_id = :metric
    ),
    bounds AS (
        SELECT count(*) AS count, min(iteration) AS first, max(iteration) AS last,
            min(finite) AS low, max(finite) AS high
        FROM curve
    )
    INSERT OR REPLACE INTO aggregates
    SELECT :experiment, :metric, :number, count,
        first, last, (SELECT value FROM curve WHERE iteration = last),
        low, (SELECT min(iteration) FROM curve WHERE finite = low),
        high, (SELECT min(iteration) FROM curve WHERE finite = high)
    FROM bounds WHERE count > 0
"""


def build_rows(
    experiment_id: int, reports: Iterable[ReportRecord], metric_ids: dict[str, int]
) -> list[MetricRow]:
    """Spread reports into rows of `metrics`, in the order of the reports."""
    return [
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


def fold_rows(rows: Iterable[MetricRow]) -> tuple[dict[Curve, Fold], set[Curve]]:
    """Sum up the rows of each curve.

    Returns:
        The fold of each curve whose iterations rise strictly, and the other curves.
    """
    folds: dict[Curve, Fold] = {}
    unordered: set[Curve] = set()
    for _, number, metric_id, iteration, value, _, _ in rows:
        curve = number, metric_id
        fold = folds.get(curve)
        if fold is None:
            folds[curve] = _start_fold(iteration, value)
        elif iteration > fold[_LAST]:  # type: ignore[operator] # this field is never None
            _extend_fold(fold, iteration, value)
        else:
            unordered.add(curve)
    for curve in unordered:
        del folds[curve]
    return folds, unordered


def _start_fold(iteration: int, value: float) -> Fold:
    if -_INFINITY < value < _INFINITY:  # False for NaN too
        return [1, iteration, iteration, value, value, iteration, value, iteration]
    return [1, iteration, iteration, value, None, None, None, None]


def _extend_fold(fold: Fold, iteration: int, value: float) -> None:
    fold[_COUNT] += 1  # type: ignore[operator] # this field is never None
    fold[_LAST] = iteration
    fold[_LAST_VALUE] = value
    if not -_INFINITY < value < _INFINITY:
        return
    lowest, highest = fold[_MIN], fold[_MAX]
    if lowest is None or value < lowest:
        fold[_MIN], fold[_MIN_AT] = value, iteration
    if highest is None or value > highest:
        fold[_MAX], fold[_MAX_AT] = value, iteration


def update_aggregates(
    connection: sqlite3.Connection, experiment_id: int, rows: Iterable[MetricRow]
) -> None:
    """Bring the aggregates up to date with rows that stand in `metrics` already."""
    folds, stale = fold_rows(rows)
    execute = connection.execute
    for (number, metric_id), fold in folds.items():
        merged = execute(_UPSERT, (experiment_id, metric_id, number, *fold)).rowcount
        if not merged:
            stale.add((number, metric_id))
    for number, metric_id in stale:
        keys = {"experiment": experiment_id, "number": number, "metric": metric_id}
        execute(_RECOMPUTE, keys)


def build_aggregate(row: Sequence[Any]) -> Aggregate:
    """Make the record of `AGGREGATE_COLUMNS`; NULL for the last value was NaN."""
    number, count, last, last_value, *extremes = row
    return Aggregate(number, count, last, math.nan if last_value is None else last_value, *extremes)
