"""The trials of a sweep as rows, chosen and sorted as someone asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import UsageError
from ..storage.database import Database
from ..storage.records import Aggregate, ExperimentRecord
from ..storage.rows import read_aggregates, read_best, read_metric_ids, read_trials
from ..trial import Status
from .summary import Row, build_row


def read_rows(
    database: Database,
    experiment: ExperimentRecord,
    statuses: Iterable[Status] | None,
    now: float,
) -> list[Row]:
    """Read the trials of an experiment, by number.

    Args:
        database: The database.
        experiment: The experiment.
        statuses: Only trials of these statuses; None for all.
        now: The time, seconds since 1970.
    """
    metric, mode = experiment.settings.get("metric"), experiment.settings.get("mode")
    known: dict[int, dict[str, Aggregate]] = {}
    for name in read_metric_ids(database, experiment.id):
        for aggregate in read_aggregates(database, experiment.id, name):
            known.setdefault(aggregate.number, {})[name] = aggregate
    best = read_best(database, experiment.id, metric, mode) if metric and mode else []
    first = best[0].number if best else None
    return [
        build_row(trial, known.get(trial.number, {}), metric, mode, now, trial.number == first)
        for trial in read_trials(database, experiment.id, statuses=statuses)
    ]


def sort_rows(
    rows: Sequence[Row], column: str | None, reverse: bool, mode: str | None
) -> list[Row]:
    """Sort trials by a column; those that have no value there come last.

    Args:
        rows: The trials.
        column: Its name; None for the best first where it is known what is best, else by number.
        reverse: The largest first (for the best: the worst first).
        mode: "min" or "max".

    Raises:
        UsageError: No trial has such a column.
    """
    if column is None and mode is None:
        return sorted(rows, key=lambda row: int(row.more["number"]), reverse=reverse)
    name = column or "best"
    if name == "best" and mode == "max":
        reverse = not reverse
    get = _choose_getter(name, rows)
    known = [row for row in rows if _is_known(get(row))]
    rest = [row for row in rows if not _is_known(get(row))]
    return [*sorted(known, key=lambda row: _build_key(get(row)), reverse=reverse), *rest]


def _choose_getter(name: str, rows: Sequence[Row]) -> Callable[[Row], Any]:
    fixed: dict[str, Callable[[Row], Any]] = {
        "best": lambda row: row.best,
        "trial": lambda row: row.trial_id,
        "status": lambda row: row.status.value,
        "iter": lambda row: row.iteration,
        "time": lambda row: row.runtime_s,
    }
    if name in fixed:
        return fixed[name]
    if not rows or any(name in row.cfg for row in rows):
        return lambda row: row.cfg.get(name)
    if any(name in row.metrics for row in rows):
        return lambda row: row.metrics.get(name)
    if name in rows[0].more:
        return lambda row: row.more.get(name)
    raise UsageError(f"there is no column {name!r}; there are: {', '.join(list_columns(rows))}")


def list_columns(rows: Sequence[Row]) -> list[str]:
    """The names by which trials can be sorted and columns be chosen."""
    names = dict.fromkeys(["trial", "status", "iter", "time", "best"])
    for part in ("metrics", "cfg", "more"):
        for row in rows:
            names.update(dict.fromkeys(getattr(row, part)))
    return list(names)


def check_columns(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Raise UsageError if a column is asked for that no trial has."""
    known = list_columns(rows)
    for name in columns:
        if rows and name not in known:
            raise UsageError(f"there is no column {name!r}; there are: {', '.join(known)}")


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _build_key(value: Any) -> tuple[int, float, str]:
    """Numbers before texts: a column of a Choice may hold both."""
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, str(value))
