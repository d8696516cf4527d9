"""What can be told of a sweep's driver at a moment, and what follows for its trials.

What a killed driver could not write down stays `running` in the database until a restore. Views
show it as interrupted, at the driver's last sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ..storage import rows
from ..storage.database import Database
from ..storage.lease import SILENT_S, build_owner, is_gone
from ..storage.records import AttemptRecord, ExperimentRecord, JobRecord, JobState, TrialRecord
from ..trial import Status

#: A trial with its latest attempt, or an attempt.
Run = TypeVar("Run", TrialRecord, AttemptRecord)


@dataclass(frozen=True, slots=True)
class Sight:
    """What can be told of an experiment's driver at a moment, and what follows for its trials."""

    now: float  # the moment, in seconds since 1970
    is_at_work: bool  # a driver holds the experiment and is there, as `stop` judges it too
    last_sign: float  # when a driver was last known to be alive: now, unless it is gone or silent
    state: str  # as in `Summary`
    begun_at: float  # the latest run; what ran before does not run any more
    slots: int | None  # how many trials run at once at the most; None where that isn't known yet
    silent_s: float | None  # as in `Summary`

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

    def add_slots(self, jobs: Iterable[JobRecord]) -> Sight:
        """Count the slots that other jobs than the driver's lend."""
        lent = [job.slots for job in jobs if job.state in (JobState.LENDING, JobState.LEAVING)]
        return (
            self
            if self.slots is None
            else replace(self, slots=self.slots + sum(filter(None, lent)))
        )


def look_at_driver(record: ExperimentRecord, now: float) -> Sight:
    """Judge whether a driver is at work on an experiment; asks nobody but this host."""
    lease, here, settings = record.lease, build_owner(), record.settings
    is_this = lease is not None and (lease.owner.host, lease.owner.pid) == (here.host, here.pid)
    is_at_work = lease is not None and (is_this or not is_gone(lease, now, here=here))
    is_heard = is_at_work and now - record.updated_at <= SILENT_S
    # One that has given its lease back has said all that it had to say, but for that it runs.
    lost = record.state == "running" or (record.state == "created" and lease is not None)
    state = "interrupted" if lost and not is_at_work else record.state
    last_sign = now if is_heard else min(now, record.updated_at)
    is_silent = state == "interrupted" or (state == "running" and last_sign < now)
    return Sight(
        now=now,
        is_at_work=is_at_work,
        last_sign=last_sign,
        state=state,
        begun_at=settings.get("started_at") or 0.0,
        slots=settings.get("slots"),
        silent_s=now - record.updated_at if is_silent else None,
    )


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
