"""What a sweep knows of a trial, what it is told of an attempt's end, and what was asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..rules.protocol import Decision
from ..search.pace import Pace
from ..search.thin_curve import ThinCurve
from ..trial import Status, TrialError


@dataclass(slots=True)
class TrialState:
    """A trial that is scheduled or running.

    Args:
        number: Its position in the sweep, from 0.
        trial_id: Its id.
        repetition: How many trials with an equal cfg came before.
        cfg: Its configuration.
        status: What it is at.
        attempt: Which run this is, from 1.
        lost_count: How many attempts were lost (or interrupted though nobody asked).
        failed_count: How many attempts failed.
        slot: Where it runs.
        curve: What the sampler is told of the sweep's metric.
        pace: How long its iterations take.
        last_value: The last value of the sweep's metric, None before the first.
        last_iteration: The iteration of the latest report, None before the first.
        told: What it was told to do by the latest decision, if not to go on.
        resumes_after: The iteration at which it was paused, until it has reported again.
    """

    number: int
    trial_id: str
    repetition: int
    cfg: dict[str, Any]
    status: Status = Status.SCHEDULED
    attempt: int = 1
    lost_count: int = 0
    failed_count: int = 0
    slot: int | None = None
    curve: ThinCurve = field(default_factory=ThinCurve)
    pace: Pace = field(default_factory=Pace)
    last_value: float | None = None
    last_iteration: int | None = None
    told: Decision | None = None
    resumes_after: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, as the worker or the driver saw it."""

    status: Status
    error: TrialError | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt's end counts as, and whether the trial is run again by itself."""

    status: Status
    runs_again: bool


@dataclass(frozen=True, slots=True)
class SweepCfg:
    """What the user asked of a sweep.

    Args:
        n_trials: How many trials there are to be in total, restored ones included; None for as
            many as the sampler has.
        metric: The metric that the pruner and the sampler go by.
        max_retries: How often a failed trial is started again.
        fail_fast: End the sweep when the first trials have all failed without any report.
        slots: How many trials can run at once; "the first trials" are at least this many.
        target: The sweep has what it is after when the metric is at this value or better.
        lower_is_better: Which is better.
    """

    n_trials: int | None
    metric: str | None = None
    max_retries: int = 0
    fail_fast: bool = True
    slots: int = 1
    target: float | None = None
    lower_is_better: bool = True
