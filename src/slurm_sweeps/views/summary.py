"""Summary: what a live view shows of a sweep, read from its database in a few short queries.

Whatever the size of the sweep, only as many trials are read as are shown; the counts are made by
SQLite. All of it is read in one snapshot of some milliseconds, since a reader holds up the writer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..storage.database import Database
from ..storage.layout import Layout
from ..storage.lease import SILENT_S
from ..storage.records import Aggregate, ExperimentRecord, TrialRecord
from ..storage.rows import (
    count_trials,
    read_aggregates_of_trial,
    read_best,
    read_metric_ids,
    read_trial,
    read_trials,
)
from ..trial import Status, flatten_cfg
from .formats import clean
from .space import list_parameters

#: Statuses after which no further attempt follows by itself, as far as a progress bar is concerned.
DONE = (Status.COMPLETED, Status.PRUNED, Status.PAUSED, Status.FAILED, Status.LOST)

#: Among so many of the latest failed trials the newest failure is looked for.
_FAILURES = 50


@dataclass(frozen=True, slots=True)
class Best:
    """The best value so far."""

    trial_id: str
    value: float
    iteration: int


@dataclass(frozen=True, slots=True)
class Row:
    """A trial as the table shows it.

    Args:
        iteration: Its latest iteration, None before its first report.
        runtime_s: How long its latest attempt ran, or runs by now.
        best: Its best value of the sweep's metric.
        cfg: Its cfg, nested keys joined by dots.
        metrics: The last value of each metric.
        is_best: Whether it holds the best value of the sweep.
        more: What else is known, by name: see `describe_run`.
    """

    trial_id: str
    status: Status
    iteration: int | None
    runtime_s: float | None
    best: float | None
    cfg: Mapping[str, Any]
    metrics: Mapping[str, float]
    is_best: bool
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """The newest failure."""

    trial_id: str
    line: str
    log: Path


@dataclass(frozen=True, slots=True)
class Summary:
    """A sweep at one moment.

    Args:
        name: The experiment.
        state: What its driver said last: created, running, completed, stopped or failed.
        silent_s: For how long nothing was heard of its driver, where that is too long; else None.
        counts: How many trials have each status.
        n_trials: How many there are to be; None where that isn't known yet.
        slots: How many run at once; None where that isn't known yet.
        started_at: When this run began, in seconds since 1970.
        ended_at: When it ended; None while it runs.
        done_before: How many trials were done when this run began.
        metric: The sweep's metric.
        mode: "min" or "max".
        best: The best value so far.
        parameters: The names of what varies in the cfg.
        metrics: The names of all metrics.
        rows: The best trials, then the running ones.
        failure: The newest failure.
    """

    name: str
    state: str
    silent_s: float | None = None
    counts: Mapping[Status, int] = field(default_factory=dict)
    n_trials: int | None = None
    slots: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    done_before: int = 0
    metric: str | None = None
    mode: str | None = None
    best: Best | None = None
    parameters: Sequence[str] = ()
    metrics: Sequence[str] = ()
    rows: Sequence[Row] = ()
    failure: Failure | None = None

    @property
    def done(self) -> int:
        """How many trials are done."""
        return sum(self.counts.get(status, 0) for status in DONE)

    @property
    def running(self) -> int:
        """How many trials run."""
        return self.counts.get(Status.RUNNING, 0)

    @property
    def is_over(self) -> bool:
        """Whether its driver has ended, as far as it could say so."""
        return self.state not in ("created", "running")

    def compute_elapsed_s(self, now: float) -> float | None:
        """How long this run has taken by `now`, in seconds."""
        if self.started_at is None:
            return None
        return max(0.0, (now if self.ended_at is None else self.ended_at) - self.started_at)

    def compute_left_s(self, now: float) -> float | None:
        """Estimate how long it still takes, if trials end as often as up to now."""
        elapsed_s, gained = self.compute_elapsed_s(now), self.done - self.done_before
        if elapsed_s is None or self.n_trials is None or gained < 1 or self.is_over:
            return None
        return elapsed_s / gained * max(0, self.n_trials - self.done)


def read_summary(database: Database, layout: Layout, n_rows: int, now: float) -> Summary:
    """Read what a live view shows.

    Args:
        database: The database.
        layout: The experiment's.
        n_rows: How many trials at the most.
        now: The time, seconds since 1970.

    Raises:
        ExperimentNotFoundError: There is no such experiment.
        StorageError: The database can't be read.
    """
    with database.reading():
        record = database.experiment(layout.name)
        settings = record.settings
        metric, mode = settings.get("metric"), settings.get("mode")
        ranking = []
        if metric is not None and mode is not None:
            ranking = read_best(database, record.id, metric, mode, max(1, n_rows))
        return Summary(
            name=record.name,
            state=record.state,
            silent_s=compute_silence(record, now),
            counts=count_trials(database, record.id),
            n_trials=settings.get("n_trials"),
            slots=settings.get("slots"),
            started_at=settings.get("started_at"),
            ended_at=None if record.state in ("created", "running") else record.updated_at,
            done_before=settings.get("done_before", 0),
            metric=metric,
            mode=mode,
            best=_find_best(database, record.id, mode, ranking),
            parameters=[each.name for each in list_parameters(settings.get("space"))],
            metrics=list(read_metric_ids(database, record.id)),
            rows=_read_rows(database, record.id, metric, mode, ranking, n_rows, now),
            failure=_find_failure(database, record.id, layout),
        )


def compute_silence(record: ExperimentRecord, now: float) -> float | None:
    """For how long nothing was heard of a driver that should be at work, if that is long."""
    silent_s = now - record.updated_at
    if record.state != "running":
        return None
    return silent_s if record.lease is None or silent_s > SILENT_S else None


def get_best_value(aggregate: Aggregate, mode: str | None) -> float | None:
    """The better extreme of a metric, None where it has none or nobody knows which is better."""
    return {"min": aggregate.min_value, "max": aggregate.max_value}.get(mode or "")


def _find_best(
    database: Database, experiment_id: int, mode: str | None, ranking: Sequence[Aggregate]
) -> Best | None:
    if not ranking:
        return None
    first = ranking[0]
    value = get_best_value(first, mode)
    iteration = first.min_iteration if mode == "min" else first.max_iteration
    trial = read_trial(database, experiment_id, first.number)
    if trial is None or value is None or iteration is None:
        return None
    return Best(trial.trial_id, value, iteration)


def _read_rows(
    database: Database,
    experiment_id: int,
    metric: str | None,
    mode: str | None,
    ranking: Sequence[Aggregate],
    n_rows: int,
    now: float,
) -> list[Row]:
    """The best trials, then the running ones; each group gets at least half the rows it needs."""
    best = {aggregate.number: aggregate for aggregate in ranking}
    running = read_trials(
        database, experiment_id, statuses=[Status.RUNNING], limit=n_rows + len(best)
    )
    running = [trial for trial in running if trial.number not in best]
    n_best = max(n_rows - len(running), n_rows - n_rows // 2)
    shown = [read_trial(database, experiment_id, number) for number in list(best)[:n_best]]
    chosen = [trial for trial in shown if trial is not None]
    chosen += running[: n_rows - len(chosen)]
    if not best:
        taken = {trial.number for trial in chosen}
        newest = read_trials(database, experiment_id, newest_first=True, limit=n_rows)
        rest = [trial for trial in newest if trial.number not in taken]
        chosen += rest[: n_rows - len(chosen)]
    first = next(iter(best), None)
    return [
        build_row(
            trial,
            read_aggregates_of_trial(database, experiment_id, trial.number),
            metric,
            mode,
            now,
            is_best=trial.number == first,
        )
        for trial in chosen
    ]


def build_row(
    trial: TrialRecord,
    aggregates: Mapping[str, Aggregate],
    metric: str | None,
    mode: str | None,
    now: float,
    is_best: bool = False,
) -> Row:
    """Make the row of a trial from what is stored of it."""
    own = None if metric is None else aggregates.get(metric)
    return Row(
        trial_id=trial.trial_id,
        status=trial.status,
        iteration=max((each.last_iteration for each in aggregates.values()), default=None),
        runtime_s=compute_runtime_s(trial, now),
        best=None if own is None else get_best_value(own, mode),
        cfg=flatten_cfg(json.loads(trial.cfg_json)),
        metrics={name: each.last_value for name, each in aggregates.items()},
        is_best=is_best,
        more=describe_run(trial),
    )


def describe_run(trial: TrialRecord) -> dict[str, Any]:
    """What a table may show of a trial beside its cfg and metrics; times in seconds since 1970."""
    return {
        "number": trial.number,
        "attempt": trial.attempt,
        "slot": trial.slot,
        "host": trial.host,
        "gpus": trial.gpus,
        "start_time": trial.start_time,
        "end_time": trial.end_time,
        "error": None if trial.error is None else f"{trial.error.type}: {trial.error.message}",
    }


def compute_runtime_s(trial: TrialRecord, now: float) -> float | None:
    """How long the latest attempt of a trial ran, or runs by `now`; None if that isn't known."""
    if trial.start_time is None:
        return None
    if trial.end_time is not None:
        return trial.end_time - trial.start_time
    return max(0.0, now - trial.start_time) if trial.status is Status.RUNNING else None


def _find_failure(database: Database, experiment_id: int, layout: Layout) -> Failure | None:
    failed = read_trials(
        database,
        experiment_id,
        statuses=[Status.FAILED, Status.LOST],
        newest_first=True,
        limit=_FAILURES,
    )
    if not failed:
        return None
    return describe_failure(max(failed, key=lambda trial: trial.end_time or 0.0), layout)


def describe_failure(trial: TrialRecord, layout: Layout) -> Failure:
    """Say in a line why a trial failed or was lost, and where more is to be read."""
    error = trial.error
    line = "no reason was told" if error is None else f"{error.type}: {error.message}"
    return Failure(trial.trial_id, clean(line.rstrip(": ")), layout.trial(trial.trial_id).stderr())
