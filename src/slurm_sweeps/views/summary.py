"""What views show of a sweep: a summary read in a few short queries, and rows of its trials.

Whatever the size of the sweep, a summary reads only as many trials as are shown; the counts are
made by SQLite. All of it is read in one snapshot of some milliseconds, since a reader holds up the
writer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..checks import Goal
from ..errors import OUT_OF_MEMORY, SAID_LAST, UsageError
from ..storage import rows
from ..storage.database import Database
from ..storage.jobs import read_jobs
from ..storage.layout import Layout
from ..storage.records import Aggregate, ExperimentRecord, JobState, TrialRecord
from ..trial import Status, flatten_cfg
from .formats import clean, format_age, format_number, list_parameters
from .ranking import Best, get_best, list_goals, read_front, read_ranking
from .sight import Sight, compute_runtime_s, look_at_driver

#: What an attempt used: memory in MiB, CPU time in seconds.
USAGE = ("memory_mb", "cpu_s", "gpu_memory_mb")

#: What rows tell of a trial's run beside what they have fields for.
_MORE = ("number", "attempt", "slot", "host", "gpus", "start_time", "end_time", *USAGE)

#: So many of the latest failed trials are grouped by their reason; so many in the end.
_FAILURES, _FAILURES_AT_END = 50, 1000

#: What is said of so many jobs, in this order.
_SAID = {
    JobState.DRIVING: ("drives", "drive"),
    JobState.LENDING: ("lends", "lend"),
    JobState.WAITING: ("waits", "wait"),
    JobState.LEAVING: ("is leaving", "are leaving"),
    JobState.RELEASED: ("was released", "were released"),
    JobState.REFUSED: ("was refused", "were refused"),
    JobState.GONE: ("has gone", "have gone"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A trial as the table shows it."""

    trial_id: str
    status: Status
    iteration: int | None  # the latest; None before its first report
    runtime_s: float | None  # by now, all of its attempts together
    best: float | None  # its best value of the sweep's metric; None if it is infeasible
    cfg: Mapping[str, Any]  # nested keys joined by dots
    metrics: Mapping[str, float]  # the last value of each
    more: Mapping[str, Any] = field(default_factory=dict)  # what else is known; seconds since 1970

    @property
    def columns(self) -> dict[str, Any]:
        """What is known, by the name of its column; a key of the cfg hides a metric of its name."""
        fixed = {
            "trial": self.trial_id,
            "status": self.status.value,
            "iter": self.iteration,
            "time": self.runtime_s,
            "best": self.best,
        }
        return {**fixed, **self.more, **self.metrics, **self.cfg, **fixed}


@dataclass(frozen=True, slots=True)
class Failure:
    """The newest of the failures of one reason, and how many there are among the latest."""

    trial_id: str
    text: str
    log: Path
    count: int = 1

    @property
    def title(self) -> str:
        """It in a line."""
        alike = f" ({self.count} alike)" if self.count > 1 else ""
        first = self.text.partition(SAID_LAST)[0].partition("\n")[0]
        return clean(f"trial {self.trial_id}{alike}: {first}")


@dataclass(frozen=True, slots=True)
class Summary:
    """A sweep at one moment."""

    name: str
    # What its driver said last: created, running, completed, stopped or failed; or interrupted,
    # where it is gone without a word.
    state: str
    ended_by: str | None = None  # before all trials were done
    # For how long nothing was heard of its driver, where it is gone, or that is too long.
    silent_s: float | None = None
    counts: Mapping[Status, int] = field(default_factory=dict)  # how many trials
    out_of_memory: Mapping[Status, int] = field(default_factory=dict)  # how many of these
    n_trials: int | None = None  # how many there are to be; None where that isn't known yet
    n_runs: int = 1  # how many drivers have worked on it, one after the other
    slots: int | None = None  # how many trials run at once; None where that isn't known yet
    jobs: Sequence[JobState] = ()  # what the Slurm jobs are to it that have had a part in it
    started_at: float | None = None  # when this run began, in seconds since 1970
    ended_at: float | None = None  # when it ended; None while it runs
    done_before: int = 0  # how many trials were done when this run began
    metric: str | None = None  # the first of several
    mode: str | None = None
    best: Best | None = None  # the best value so far; None where there are several objectives
    objectives: Sequence[Goal] = ()  # where the sweep is after several metrics
    front: Mapping[int, tuple[float, ...]] = field(default_factory=dict)  # see `read_front`
    parameters: Sequence[str] = ()  # the names of what varies in the cfg
    metrics: Sequence[str] = ()  # the names of all
    rows: Sequence[Row] = ()  # the best trials, then the running ones
    failures: Sequence[Failure] = ()  # the latest by reason: the newest, then those of most trials
    again: str | None = None  # what runs it again, where its settings say so

    @property
    def done(self) -> int:
        """How many trials are done."""
        return sum(count for status, count in self.counts.items() if status.is_done)

    @property
    def running(self) -> int:
        """How many trials run."""
        return self.counts.get(Status.RUNNING, 0)

    @property
    def is_over(self) -> bool:
        """Whether its driver has ended, as far as it could say so."""
        return self.state not in ("created", "running")

    @property
    def is_at_work(self) -> bool:
        """Whether its driver is there, and was heard of lately."""
        return not self.is_over and self.silent_s is None

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


def format_state(summary: Summary) -> str:
    """The state, what has ended the sweep, and whether its driver still gives a sign of life."""
    if summary.silent_s is None:
        why = f" ({summary.ended_by})" if summary.is_over and summary.ended_by else ""
        return clean(f"{summary.state}{why}")
    but = "" if summary.is_over else "but "
    age = format_age(summary.silent_s)
    return f"{clean(summary.state)}, {but}its driver was last heard of {age} ago"


def format_share(summary: Summary) -> str:
    """How many trials are done of how many."""
    if not summary.n_trials:
        return f"{summary.done} done"
    percent = 100 * summary.done // summary.n_trials
    return f"{summary.done} of {summary.n_trials} done ({percent}%)"


def format_jobs(states: Iterable[JobState]) -> str:
    """Say what a sweep's jobs are at: `1 drives, 5 lend, 2 have gone`."""
    counts = Counter(states)
    said = ((counts[state], *words) for state, words in _SAID.items())
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in said if count)


def describe_lack(summary: Summary) -> str | None:
    """Why no best value is known though trials are done; None where there is no reason."""
    metric, names = summary.metric, summary.metrics
    if summary.best is not None or summary.front or not summary.done:
        return None
    if summary.counts.get(Status.INFEASIBLE):
        return "no trial that is feasible has a value yet"
    if metric in names:
        return f"all values of {metric} are NaN or infinite"
    if names or not summary.counts.get(Status.COMPLETED):
        return None
    how = 'train reports with ss.log({"loss": 0.1}, iteration), a program by its metrics'
    return f"nothing was logged: {how}"


def format_front(summary: Summary) -> str | None:
    """How large the front is, and from where to where it goes; None where there is none."""
    if not summary.front:
        return None
    sides = [
        f"{goal.metric} {format_number(min(values))} to {format_number(max(values))}"
        for goal, values in zip(
            summary.objectives, zip(*summary.front.values(), strict=True), strict=True
        )
    ]
    count = len(summary.front)
    return clean(f"front of {count} trial{'s' * (count > 1)}: {', '.join(sides)}")


def read_summary(database: Database, layout: Layout, n_rows: int, now: float) -> Summary:
    """Read what a live view shows, with `n_rows` trials at the most.

    Raises:
        ExperimentNotFoundError: There is no such experiment.
        StorageError: The database can't be read.
    """
    with database.reading():
        record = database.experiment(layout.name)
        settings = record.settings
        ranking, goals = [], list_goals(settings)
        objectives = goals if len(goals) > 1 else ()
        front = read_front(database, record.id, objectives)
        if len(goals) == 1:
            ranking = read_ranking(database, record, goals[0], max(1, n_rows))
        best = [trial for trial, _ in ranking] or [
            trial
            for number in islice(front, n_rows)
            if (trial := rows.read_trial(database, record.id, number)) is not None
        ]
        shown = _choose_shown(database, record.id, best, n_rows)
        jobs = read_jobs(database, record.id)
        alone = JobState.DRIVING, JobState.GONE  # one job after the other is nothing to tell
        is_shared = any(job.can_drive or job.state not in alone for job in jobs)
        sight = look_at_driver(record, now).add_slots(jobs)
        found = _read_few_rows(database, record, shown, sight)
        space = list_parameters(settings.get("space"), (row.cfg for row in found))
        return Summary(
            name=record.name,
            state=sight.state,
            ended_by=settings.get("ended_by"),
            silent_s=sight.silent_s,
            counts=sight.settle_counts(rows.count_trials(database, record.id)),
            out_of_memory=rows.count_errors(database, record.id, OUT_OF_MEMORY),
            n_trials=settings.get("n_trials"),
            n_runs=rows.count_driver_runs(database, record.id),
            slots=sight.slots,
            jobs=[job.state for job in jobs] if is_shared else (),
            started_at=settings.get("started_at"),
            ended_at=_find_end(database, record, sight),
            done_before=settings.get("done_before", 0),
            metric=settings.get("metric"),
            mode=settings.get("mode"),
            best=ranking[0][1] if ranking else None,
            objectives=objectives,
            front=front,
            parameters=[each.name for each in space],
            metrics=list(rows.read_metric_ids(database, record.id)),
            rows=found,
            failures=find_failures(database, record.id, layout, is_over=not sight.is_at_work),
            again=settings.get("again"),
        )


def _find_end(database: Database, record: ExperimentRecord, sight: Sight) -> float | None:
    """When a run that is over ended: with its last trial, whoever holds the lease later."""
    if sight.state in ("created", "running"):
        return None
    if sight.state == "interrupted":
        return sight.last_sign
    return rows.read_last_end(database, record.id) or record.updated_at


def _choose_shown(
    database: Database, experiment_id: int, best: Sequence[TrialRecord], n_rows: int
) -> list[TrialRecord]:
    """The best trials, then the running ones; each group gets at least half the rows it needs."""
    numbers = {trial.number for trial in best}
    most = n_rows + len(best)
    running = rows.read_trials(database, experiment_id, statuses=[Status.RUNNING], limit=most)
    running = [trial for trial in running if trial.number not in numbers]
    n_best = max(n_rows - len(running), n_rows - n_rows // 2)
    chosen = [*best[:n_best], *running]
    if not best:
        newest = rows.read_trials(database, experiment_id, newest_first=True, limit=n_rows)
        numbers = {trial.number for trial in running}
        chosen += [trial for trial in newest if trial.number not in numbers]
    return chosen[:n_rows]


def read_rows(
    database: Database, experiment: ExperimentRecord, statuses: Iterable[Status] | None, now: float
) -> list[Row]:
    """Read the trials of an experiment, or those of some statuses, by number."""
    settings, sight = experiment.settings, look_at_driver(experiment, now)
    chosen = set(Status if statuses is None else statuses)
    known: dict[int, dict[str, Aggregate]] = {}
    for name in rows.read_metric_ids(database, experiment.id):
        for aggregate in rows.read_aggregates(database, experiment.id, name):
            known.setdefault(aggregate.number, {})[name] = aggregate
    earlier = rows.read_earlier_s(database, experiment.id)
    # What is stored as running may be interrupted.
    stored = None if statuses is None else chosen | {Status.RUNNING}
    trials = rows.read_trials(database, experiment.id, statuses=stored)
    return [
        _build_row(trial, known.get(trial.number, {}), settings, sight, earlier)
        for trial in map(sight.settle, trials)
        if trial.status in chosen
    ]


def read_first_rows(
    database: Database,
    experiment: ExperimentRecord,
    statuses: Iterable[Status] | None,
    now: float,
    limit: int,
    reverse: bool = False,
) -> tuple[list[Row], int]:
    """Read the best trials, or the first where nobody said what is best; and count all of them.

    With `reverse` the worst first, or the last; those without a value are the last in any case.
    """
    sight = look_at_driver(experiment, now)
    chosen = set(Status if statuses is None else statuses)
    running = rows.read_trials(database, experiment.id, statuses=[Status.RUNNING])
    settled = {trial.number: sight.settle(trial).status for trial in running}
    numbers = [
        number
        for number, status, _ in rows.read_statuses(database, experiment.id)
        if settled.get(number, status) in chosen
    ]
    first = _sort_numbers(database, experiment, numbers, reverse)[:limit]
    trials = filter(None, (rows.read_trial(database, experiment.id, each) for each in first))
    return _read_few_rows(database, experiment, list(trials), sight), len(numbers)


def _read_few_rows(
    database: Database, experiment: ExperimentRecord, trials: Sequence[TrialRecord], sight: Sight
) -> list[Row]:
    """Read what is told of some trials, one by one."""
    key, settings = experiment.id, experiment.settings
    earlier: dict[int, float] = {}
    for trial in trials:
        if trial.attempt > 1:
            earlier |= rows.read_earlier_s(database, key, trial.number)
    known = [rows.read_aggregates_of_trial(database, key, trial.number) for trial in trials]
    return [
        _build_row(sight.settle(trial), each, settings, sight, earlier)
        for trial, each in zip(trials, known, strict=True)
    ]


def _sort_numbers(
    database: Database, experiment: ExperimentRecord, numbers: list[int], reverse: bool
) -> list[int]:
    """Sort trials as `read_first_rows` gives them."""
    goals = list_goals(experiment.settings)
    if len(goals) != 1:
        place = {n: at for at, n in enumerate(read_front(database, experiment.id, goals))}
        numbers = numbers[::-1] if reverse else numbers
        return sorted(numbers, key=lambda number: place.get(number, len(place)))
    best = rows.read_known_values(database, experiment.id, *goals[0])
    known = [number for number in numbers if number in best]
    known.sort(key=best.__getitem__, reverse=reverse != (goals[0].mode == "max"))
    return known + [number for number in numbers if number not in best]


def _build_row(
    trial: TrialRecord,
    aggregates: Mapping[str, Aggregate],
    settings: Mapping[str, Any],
    sight: Sight,
    earlier: Mapping[int, float],
) -> Row:
    own = aggregates.get(settings.get("metric") or "")
    best = None if own is None else get_best(own, settings.get("mode"))
    return Row(
        trial_id=trial.trial_id,
        status=trial.status,
        iteration=max((each.last_iteration for each in aggregates.values()), default=None),
        runtime_s=compute_runtime_s(trial, sight.last_sign, earlier),
        best=None if best is None or trial.status is Status.INFEASIBLE else best[0],
        cfg=flatten_cfg(json.loads(trial.cfg_json)),
        metrics={name: each.last_value for name, each in aggregates.items()},
        more={
            **{name: getattr(trial, name) for name in _MORE},
            "error": None if trial.error is None else str(trial.error),
        },
    )


def find_failures(database: Database, key: int, layout: Layout, is_over: bool) -> list[Failure]:
    """Group the latest failures by their reason: that of the newest, then those of most trials."""
    broken = [status for status in Status if status.is_broken]
    limit = _FAILURES_AT_END if is_over else _FAILURES
    failed = rows.read_trials(database, key, statuses=broken, newest_first=True, limit=limit)
    found: dict[object, Failure] = {}
    for trial in sorted(failed, key=lambda trial: -(trial.end_time or 0.0)):
        text, kind = describe_error(trial), trial.error and trial.error.kind
        log = layout.trial(trial.trial_id).stderr()
        newest = found.setdefault(kind, Failure(trial.trial_id, text, log, 0))
        found[kind] = replace(newest, count=newest.count + 1)
    reasons = list(found.values())
    return [*reasons[:1], *sorted(reasons[1:], key=lambda each: -each.count)]


def describe_error(trial: TrialRecord) -> str:
    """Why a trial failed or was lost, as it was said."""
    return "no reason was told" if trial.error is None else str(trial.error)


def sort_rows(trials: Sequence[Row], column: str, reverse: bool, mode: str | None) -> list[Row]:
    """Sort trials, given by number, by a column; those that have no value there come last.

    By "best" the best come first, with `reverse` the worst; by others the least, or the largest.

    Raises:
        UsageError: No trial has such a column.
    """
    check_columns([column], trials)
    if column == "best" and mode == "max":
        reverse = not reverse
    keys = [(_build_key(row.columns.get(column)), row) for row in trials]
    known = [(key, row) for key, row in keys if key is not None]
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    return [row for _, row in known] + [row for key, row in keys if key is None]


def _build_key(value: Any) -> tuple[int, float, str] | None:
    """Numbers before texts: a column of a Choice may hold both. None for what has no place."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, str(value))


def check_columns(columns: Sequence[str], trials: Sequence[Row]) -> None:
    """Raise UsageError if a column is asked for that no trial has."""
    known = dict.fromkeys(name for row in trials for name in row.columns)
    for name in columns:
        if trials and name not in known:
            raise UsageError(f"there is no column {name!r}; there are: {', '.join(known)}")
