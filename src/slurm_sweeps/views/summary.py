"""What views show of a sweep: a summary read in a few short queries, and rows of its trials.

Whatever the size of the sweep, a summary reads only as many trials as are shown; the counts are
made by SQLite. All of it is read in one snapshot of some milliseconds, since a reader holds up the
writer.

What a killed driver could not write down stays `running` in the database until a restore. Views
show it as interrupted, at the driver's last sign of life: see `look_at_driver`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import Goal
from ..errors import OUT_OF_MEMORY, SAID_LAST, UsageError
from ..storage import rows
from ..storage.database import Database
from ..storage.jobs import read_jobs
from ..storage.layout import Layout
from ..storage.lease import SILENT_S, build_owner, is_gone
from ..storage.records import (
    Aggregate,
    AttemptRecord,
    ExperimentRecord,
    JobRecord,
    JobState,
    TrialRecord,
)
from ..trial import Status, flatten_cfg
from .formats import clean, format_age, format_number, list_parameters
from .front import list_objectives, read_front

if TYPE_CHECKING:
    from .compare import Runs

#: What an attempt used: memory in MiB, CPU time in seconds.
USAGE = ("memory_mb", "cpu_s", "gpu_memory_mb")

#: What rows tell of a trial's run beside what they have fields for.
_MORE = ("number", "attempt", "slot", "host", "gpus", "start_time", "end_time", *USAGE)

#: What a trial is chosen by: its best value, or its last one.
SCOPES = ("best", "last")

#: So many of the latest failed trials are grouped by their reason; so many in the end.
_FAILURES, _FAILURES_AT_END = 50, 1000

#: A trial with its latest attempt, or an attempt.
Run = TypeVar("Run", TrialRecord, AttemptRecord)


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
class Best:
    """The best value so far; of several runs of a configuration their mean, and the best trial."""

    trial_id: str
    value: float
    iteration: int
    runs: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """A trial as the table shows it.

    Args:
        iteration: Its latest iteration, None before its first report.
        runtime_s: How long it has run by now, all of its attempts together.
        best: Its best value of the sweep's metric; None if it is infeasible.
        cfg: Its cfg, nested keys joined by dots.
        metrics: The last value of each metric.
        more: What else is known, by name; times in seconds since 1970.
    """

    trial_id: str
    status: Status
    iteration: int | None
    runtime_s: float | None
    best: float | None
    cfg: Mapping[str, Any]
    metrics: Mapping[str, float]
    more: Mapping[str, Any] = field(default_factory=dict)

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
    """A sweep at one moment.

    Args:
        name: The experiment.
        state: What its driver said last: created, running, completed, stopped or failed; or
            interrupted, where it is gone without a word.
        ended_by: What has ended it before all trials were done; None where nothing has.
        silent_s: For how long nothing was heard of its driver, where it is gone, or that is too
            long; else None.
        counts: How many trials have each status.
        out_of_memory: How many of them ran out of memory, of each status.
        n_trials: How many there are to be; None where that isn't known yet.
        n_runs: How many drivers have worked on it, one after the other.
        slots: How many run at once; None where that isn't known yet.
        jobs: What the Slurm jobs are to it that have had a part in it.
        started_at: When this run began, in seconds since 1970.
        ended_at: When it ended; None while it runs.
        done_before: How many trials were done when this run began.
        metric: The sweep's metric.
        mode: "min" or "max".
        best: The best value so far; None where there are several objectives.
        objectives: Where the sweep is after several metrics, all of them; `metric` is the first.
        front: The trials that no other one dominates, see `read_front`.
        parameters: The names of what varies in the cfg.
        metrics: The names of all metrics.
        rows: The best trials, then the running ones.
        failures: The latest failures by reason: that of the newest, then those of most trials.
        again: What runs it again, where its settings say so.
    """

    name: str
    state: str
    ended_by: str | None = None
    silent_s: float | None = None
    counts: Mapping[Status, int] = field(default_factory=dict)
    out_of_memory: Mapping[Status, int] = field(default_factory=dict)
    n_trials: int | None = None
    n_runs: int = 1
    slots: int | None = None
    jobs: Sequence[JobState] = ()
    started_at: float | None = None
    ended_at: float | None = None
    done_before: int = 0
    metric: str | None = None
    mode: str | None = None
    best: Best | None = None
    objectives: Sequence[Goal] = ()
    front: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    parameters: Sequence[str] = ()
    metrics: Sequence[str] = ()
    rows: Sequence[Row] = ()
    failures: Sequence[Failure] = ()
    again: str | None = None

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
        metric, mode = settings.get("metric"), settings.get("mode")
        ranking = []
        objectives = list_objectives(settings)
        front = read_front(database, record.id, objectives)
        if not objectives and metric is not None and mode is not None:
            most, repeat = max(1, n_rows), settings.get("repeat")
            ranking = read_ranking(database, record.id, metric, mode, most, repeat=repeat)
        best = [trial for trial, _ in ranking] or [
            trial
            for number in islice(front, n_rows)
            if (trial := rows.read_trial(database, record.id, number)) is not None
        ]
        shown = _choose_shown(database, record.id, best, n_rows)
        jobs = read_jobs(database, record.id)
        alone = JobState.DRIVING, JobState.GONE  # one job after the other is nothing to tell
        is_shared = any(job.can_drive or job.state not in alone for job in jobs)
        sight = add_slots(look_at_driver(record, now), jobs)
        found = _read_few_rows(database, record, shown, sight)
        space = list_parameters(settings.get("space"), (row.cfg for row in found))
        return Summary(
            name=record.name,
            state=sight.state,
            ended_by=settings.get("ended_by"),
            silent_s=_compute_silence(record, sight),
            counts=sight.settle_counts(rows.count_trials(database, record.id)),
            out_of_memory=rows.count_errors(database, record.id, OUT_OF_MEMORY),
            n_trials=settings.get("n_trials"),
            n_runs=rows.count_driver_runs(database, record.id),
            slots=sight.slots,
            jobs=[job.state for job in jobs] if is_shared else (),
            started_at=settings.get("started_at"),
            ended_at=_find_end(database, record, sight),
            done_before=settings.get("done_before", 0),
            metric=metric,
            mode=mode,
            best=ranking[0][1] if ranking else None,
            objectives=objectives,
            front=front,
            parameters=[each.name for each in space],
            metrics=list(rows.read_metric_ids(database, record.id)),
            rows=found,
            failures=find_failures(database, record.id, layout, is_over=not sight.is_at_work),
            again=settings.get("again"),
        )


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be told of an experiment's driver at a moment, and what follows for its trials.

    Args:
        now: The moment, in seconds since 1970.
        is_at_work: Whether a driver holds the experiment and is there, as `stop` judges it too.
        last_sign: When a driver was last known to be alive: now, unless it is gone or silent.
        state: As in `Summary`.
        begun_at: When the latest run began; what ran before does not run any more.
        slots: How many trials run at once at the most; None where that isn't known yet.
    """

    now: float
    is_at_work: bool
    last_sign: float
    state: str
    begun_at: float
    slots: int | None

    def settle(self, run: Run) -> Run:
        """What a driver that is gone has left running is interrupted, at its last sign of life."""
        start = run.start_time
        if run.status is not Status.RUNNING or start is None:
            return run
        if not self.is_at_work:
            return replace(run, status=Status.INTERRUPTED, end_time=max(start, self.last_sign))
        return replace(run, status=Status.INTERRUPTED) if start < self.begun_at else run

    def settle_row(self, row: rows.TrialRow) -> rows.TrialRow:
        """The same for a trial's row of a table."""
        number, trial_id, status, start, end, memory_mb, cpu_s, gpu_memory_mb, cfg = row
        if status != Status.RUNNING.value:
            return row
        run = AttemptRecord(number, status=Status.RUNNING, start_time=start, end_time=end)
        settled = self.settle(run)
        status, end = settled.status.value, settled.end_time
        return number, trial_id, status, start, end, memory_mb, cpu_s, gpu_memory_mb, cfg

    def settle_counts(self, counts: Mapping[Status, int]) -> dict[Status, int]:
        """The same for the numbers of trials; no more than the slots have room for do run."""
        settled = dict(counts)
        running = settled.pop(Status.RUNNING, 0)
        most = running if self.slots is None else min(running, self.slots)
        runs = most if self.is_at_work else 0
        for status, count in ((Status.RUNNING, runs), (Status.INTERRUPTED, running - runs)):
            if count:
                settled[status] = settled.get(status, 0) + count
        return settled


def look_at_driver(record: ExperimentRecord, now: float) -> Sight:
    """Judge whether a driver is at work on an experiment; asks nobody but this host."""
    lease, here, settings = record.lease, build_owner(), record.settings
    is_this = lease is not None and (lease.owner.host, lease.owner.pid) == (here.host, here.pid)
    is_at_work = lease is not None and (is_this or not is_gone(lease, now, here=here))
    is_heard = is_at_work and now - record.updated_at <= SILENT_S
    # One that has given its lease back has said all that it had to say, but for that it runs.
    lost = record.state == "running" or (record.state == "created" and lease is not None)
    return Sight(
        now=now,
        is_at_work=is_at_work,
        last_sign=now if is_heard else min(now, record.updated_at),
        state="interrupted" if lost and not is_at_work else record.state,
        begun_at=settings.get("started_at") or 0.0,
        slots=settings.get("slots"),
    )


def add_slots(sight: Sight, jobs: Iterable[JobRecord]) -> Sight:
    """Count the slots that other jobs than the driver's lend."""
    lent = [job.slots for job in jobs if job.state in (JobState.LENDING, JobState.LEAVING)]
    return (
        sight
        if sight.slots is None
        else replace(sight, slots=sight.slots + sum(filter(None, lent)))
    )


def _compute_silence(record: ExperimentRecord, sight: Sight) -> float | None:
    """For how long nothing was heard of a driver that should be at work, if that is long."""
    is_long = sight.state == "running" and sight.last_sign < sight.now
    return sight.now - record.updated_at if is_long or sight.state == "interrupted" else None


def _find_end(database: Database, record: ExperimentRecord, sight: Sight) -> float | None:
    """When a run that is over ended: with its last trial, whoever holds the lease later."""
    if sight.state in ("created", "running"):
        return None
    if sight.state == "interrupted":
        return sight.last_sign
    return rows.read_last_end(database, record.id) or record.updated_at


def read_runs(
    database: Database, experiment: ExperimentRecord, now: float, number: int | None = None
) -> list[AttemptRecord]:
    """Read the attempts of one trial or of all, by trial and attempt.

    What a driver that is gone has left running is interrupted: at its last sign of life or, where a
    later attempt followed, at the last report before that one began.
    """
    sight = look_at_driver(experiment, now)
    found = rows.read_attempts(database, experiment.id, number)
    followers = {(each.number, each.attempt - 1): each for each in found}
    closed = []
    for each in found:
        start, follower = each.start_time, followers.get((each.number, each.attempt))
        if each.status is Status.RUNNING and start is not None and follower is not None:
            until = follower.start_time or now
            end = max(start, _find_last_report(database, experiment.id, each.number, until))
            each = replace(each, status=Status.INTERRUPTED, end_time=end)
        closed.append(sight.settle(each))
    return closed


def _find_last_report(database: Database, experiment_id: int, number: int, until: float) -> float:
    """When a trial logged last before a time; 0 if it never did."""
    names = rows.read_metric_ids(database, experiment_id)
    times = [
        time
        for name in names
        for table in rows.read_reports(database, experiment_id, name, [number])
        for time in table["logged_at"].tolist()
    ]
    return max((time for time in times if time <= until), default=0.0)


def read_ranking(
    database: Database,
    experiment_id: int,
    metric: str,
    mode: str,
    limit: int,
    scope: str = "best",
    completed_only: bool = False,
    repeat: Mapping[str, Any] | None = None,
) -> list[tuple[TrialRecord, Best]]:
    """Read the trials with the best finite values of a metric, the best first.

    Args:
        repeat: What the settings say of the `Repeat`, if there is one: configurations are ranked
            then, and of each its best trial is returned, with the mean of its runs.
        scope: "best" goes by each trial's best value, "last" by its last one.
        completed_only: Leave out all but completed trials.

    Raises:
        UsageError: `scope` is neither.
    """
    if scope not in SCOPES:
        raise UsageError(f"scope must be 'best' or 'last', got {scope!r}")
    if repeat is not None:
        found = read_configurations(
            database, experiment_id, metric, mode, repeat, scope, completed_only
        )
        return [
            (each.best[0], Best(each.best[0].trial_id, each.mean, each.best[2], each.n))
            for each in found[:limit]
        ]
    return _read_best_trials(database, experiment_id, metric, mode, limit, scope, completed_only)


def read_configurations(
    database: Database,
    experiment_id: int,
    metric: str,
    mode: str,
    repeat: Mapping[str, Any],
    scope: str = "best",
    completed_only: bool = False,
) -> list[Runs]:
    """Read and rank configurations of several runs; see `read_ranking` for the arguments."""
    from .compare import rank_configurations  # only sweeps with a Repeat need it

    count = sum(rows.count_trials(database, experiment_id).values())
    found = _read_best_trials(database, experiment_id, metric, mode, count, scope, completed_only)
    return rank_configurations(
        ((trial, best.value, best.iteration) for trial, best in found), repeat, mode
    )


def _read_best_trials(
    database: Database,
    experiment_id: int,
    metric: str,
    mode: str,
    limit: int,
    scope: str,
    completed_only: bool,
) -> list[tuple[TrialRecord, Best]]:
    ranking, by_last = [], scope == "last"
    statuses = [Status.COMPLETED] if completed_only else None
    for aggregate in rows.read_best(
        database, experiment_id, metric, mode, limit, by_last=by_last, statuses=statuses
    ):
        trial = rows.read_trial(database, experiment_id, aggregate.number)
        last = aggregate.last_value, aggregate.last_iteration
        found = last if by_last else get_best(aggregate, mode)
        if trial is not None and found is not None:
            ranking.append((trial, Best(trial.trial_id, *found)))
    return ranking


def get_best(aggregate: Aggregate, mode: str | None) -> tuple[float, int] | None:
    """The better extreme of a metric and its iteration, None where nobody knows which is better."""
    value, iteration = {
        "min": (aggregate.min_value, aggregate.min_iteration),
        "max": (aggregate.max_value, aggregate.max_iteration),
    }.get(mode or "", (None, None))
    return None if value is None or iteration is None else (value, iteration)


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
    metric, mode = experiment.settings.get("metric"), experiment.settings.get("mode")
    objectives = list_objectives(experiment.settings)
    if objectives or metric is None or mode is None:
        place = {n: at for at, n in enumerate(read_front(database, experiment.id, objectives))}
        numbers = numbers[::-1] if reverse else numbers
        return sorted(numbers, key=lambda number: place.get(number, len(place)))
    best = rows.read_known_values(database, experiment.id, metric, mode)
    known = [number for number in numbers if number in best]
    known.sort(key=best.__getitem__, reverse=reverse != (mode == "max"))
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


def compute_runtime_s(
    trial: TrialRecord, last_sign: float, earlier: Mapping[int, float]
) -> float | None:
    """How long a trial ran, or has run by its driver's last sign of life, in all of its attempts.

    Args:
        earlier: How long those before the latest ran, of `read_earlier_s`.
    """
    before_s = earlier.get(trial.number)
    if trial.start_time is None:
        return before_s
    if trial.end_time is not None:
        return trial.end_time - trial.start_time + (before_s or 0.0)
    if trial.status is not Status.RUNNING:
        return before_s
    return max(0.0, last_sign - trial.start_time) + (before_s or 0.0)


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
