"""Aggregates: what is known of a metric of a trial without reading its rows.

Invariant: a row of `aggregates` equals what recomputing it from `metrics` gives. Two ways keep it:

- What only appends (every iteration beyond the last one stored, in rising order) is summed up in
  Python and merged by one upsert. That is the way of every undisturbed trial, and its cost does
  not depend on how long the curve is.
- All else (an iteration logged again by a retry, or out of order) is recomputed from the rows,
  once for each transaction that holds such a report.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .records import Aggregate

#: (experiment_id, number, metric_id, iteration, value, logged_at, attempt)
MetricRow = tuple[int, int, int, int, float, float, int]

#: (iteration, value), one after the other.
Points = list[tuple[int, float]]

#: What `build_aggregate` makes a record of.
AGGREGATE_COLUMNS = (
    "number, count, last_iteration, last_value, min_value, min_iteration, max_value, max_iteration"
)

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


def _summarize(points: Points) -> tuple[float | int | None, ...]:
    """Return all columns of `aggregates` but the key, of points whose iterations rise."""
    finite = [(value, iteration) for iteration, value in points if math.isfinite(value)]
    lowest = min(finite, default=(None, None))
    highest = max(finite, key=lambda each: (each[0], -each[1]), default=(None, None))
    return (len(points), points[0][0], *points[-1], *lowest, *highest)


def update_aggregates(
    connection: sqlite3.Connection, experiment_id: int, rows: Iterable[MetricRow]
) -> None:
    """Bring the aggregates up to date with rows that stand in `metrics` already."""
    curves: dict[tuple[int, int], Points] = {}
    for _, number, metric_id, iteration, value, _, _ in rows:
        curves.setdefault((number, metric_id), []).append((iteration, value))
    for (number, metric_id), points in curves.items():
        merged = 0
        if all(before < after for (before, _), (after, _) in itertools.pairwise(points)):
            row = experiment_id, metric_id, number, *_summarize(points)
            merged = connection.execute(_UPSERT, row).rowcount
        if not merged:
            keys = {"experiment": experiment_id, "number": number, "metric": metric_id}
            connection.execute(_RECOMPUTE, keys)


_WRONG = """
    WITH curves AS (
        SELECT number, metric_id, count(*) AS count, min(iteration) AS first,
            max(iteration) AS last, min(CASE WHEN abs(value) < 9e999 THEN value END) AS low,
            max(CASE WHEN abs(value) < 9e999 THEN value END) AS high
        FROM metrics WHERE experiment_id = ?1 GROUP BY number, metric_id
    )
    SELECT trial_id, name FROM curves
    JOIN metric_names ON metric_names.id = curves.metric_id
    JOIN trials ON trials.experiment_id = ?1 AND trials.number = curves.number
    LEFT JOIN aggregates AS kept ON kept.experiment_id = ?1
        AND kept.number = curves.number AND kept.metric_id = curves.metric_id
    WHERE kept.count IS NOT curves.count OR kept.first_iteration IS NOT first
        OR kept.last_iteration IS NOT last OR kept.min_value IS NOT low
        OR kept.max_value IS NOT high
    ORDER BY curves.number, name
"""


def list_wrong(
    fetch: Callable[[str, Sequence[Any]], list[Any]], experiment_id: int
) -> list[tuple[str, str]]:
    """List trials (their ids) and metrics whose aggregates are not those of their reports."""
    return [tuple(row) for row in fetch(_WRONG, [experiment_id])]


def build_aggregate(row: Sequence[Any]) -> Aggregate:
    """Make the record of `AGGREGATE_COLUMNS`; NULL for the last value was NaN."""
    number, count, last, last_value, *extremes = row
    return Aggregate(number, count, last, math.nan if last_value is None else last_value, *extremes)
