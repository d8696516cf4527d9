"""What a sweep was asked for, what it knows of its trials, what it is told, and what it answers.

Of a trial's reports only what decisions need is kept: how long its iterations take (`Pace`), and a
few values of its learning curve (`ThinCurve`). Both are functions of the stored reports, so that a
sweep that goes on in another process knows the same. Whether going on makes sense is judged by the
first trials that have ended (`Prospects`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..rules.protocol import Decision
from ..trial import Status, TrialError

#: At least this many trials have to fail before the sweep takes it for a rule.
MIN_FAILURES = 3

#: So many errors are kept to see what the first failures have in common.
MAX_FIRST_ERRORS = 100

#: This many names of metrics are kept to tell what was logged instead of the one that is needed.
MAX_NAMES = 20


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


class Pace:
    """Seconds per iteration, from a trial's start to its first report.

    The first report is that of the lowest iteration from 1 on (0 is logged before any training by
    many); every trial has one, however soon it is stopped, so that all are measured alike. Start
    and loading count, as they do for the sweep. Only the first attempt is timed: a later one may
    go on from a checkpoint, and nobody knows from which. Where it logs the first report once more,
    nothing is known: what is known is a function of what is stored.

    Attributes:
        seconds: Seconds per iteration, more than 0; None while unknown.
    """

    __slots__ = ("_iteration", "_started_at", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._iteration: int | None = None
        self._started_at: float | None = None

    def begin(self, attempt: int, now: float) -> None:
        """An attempt, counted from 1, begins at so many seconds on some clock."""
        self._started_at = now if attempt == 1 else None

    def note(self, iteration: int, now: float | None) -> None:
        """The trial has reported.

        Args:
            iteration: 0 or more.
            now: Seconds on the same clock, None if nobody looked.
        """
        if iteration < 1 or (self._iteration is not None and iteration > self._iteration):
            return
        self._iteration, self.seconds = iteration, None
        if self._started_at is not None and now is not None and now > self._started_at:
            self.seconds = (now - self._started_at) / iteration


class ThinCurve:
    """A metric's first value from each power of four on, and its last: O(log n) of n values.

    The powers are the iterations 0, 1, 4, 16, …, which also are the usual rungs. What is kept is a
    function of the stored metrics: an iteration that is logged again replaces its value, and the
    order of the reports does not matter.
    """

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, float]] = {}
        self._last: tuple[int, float] | None = None

    def note(self, iteration: int, value: float) -> bool:
        """Take a value in; say whether it is the first from a power of four on.

        Args:
            iteration: 0 or more.
            value: Any number, NaN and infinities included.
        """
        power = (iteration.bit_length() + 1) // 2
        first = self._first.get(power)
        if first is None or iteration <= first[0]:
            self._first[power] = (iteration, value)
        if self._last is None or iteration >= self._last[0]:
            self._last = (iteration, value)
        return first is None

    def read(self) -> dict[int, float]:
        """Return the values that are kept, by iteration, rising."""
        points = sorted(self._first.values())
        return dict(points if self._last is None else [*points, self._last])


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
        curve: What the sampler is told of the sweep's metric.
        pace: How long its iterations take.
        last_value: The last value of the sweep's metric, None before the first.
        last_iteration: The iteration of the latest report, None before the first.
        told: What it was told to do, if not to go on; this is where that is decided.
        began_at: When its attempt began (seconds on the clock of `Sweep.assign`), None before.
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
    curve: ThinCurve = field(default_factory=ThinCurve)
    pace: Pace = field(default_factory=Pace)
    last_value: float | None = None
    last_iteration: int | None = None
    told: Decision | None = None
    began_at: float | None = None
    resumes_after: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, as the worker or the driver saw it."""

    status: Status
    error: TrialError | None = None
    exit_code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows from a report.

    Args:
        decision: Whether the trial goes on.
        notices: What the user should know, one sentence each.
        reached: Whether this report was the first to reach the target.
        promotable: Whether a paused trial can go on now, in any slot that is free.
    """

    decision: Decision
    notices: tuple[str, ...] = ()
    reached: bool = False
    promotable: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt's end counts as, and what follows from it.

    Args:
        status: What it ended as, given what the trial was told.
        runs_again: Whether the trial is run again by itself.
        fatal: Why the sweep can't go on, None while it can.
    """

    status: Status
    runs_again: bool
    fatal: str | None = None


class Prospects:
    """What speaks for going on.

    Args:
        cfg: What the user asked for.
        needed: The metric that decides which trials are stopped; None where none does.
    """

    def __init__(self, cfg: SweepCfg, needed: str | None) -> None:
        self._n_first = max(MIN_FAILURES, cfg.slots)
        self._fail_fast = cfg.fail_fast
        self._needed = needed
        self._ended = 0
        self._failed = 0
        self._reported = False
        self._saw_needed = False
        self._seen: set[str] = set()
        self._first_errors: list[TrialError] = []

    def note_report(self, metrics: Mapping[str, float]) -> None:
        """Some trial has logged these metrics."""
        self._reported = True
        self._saw_needed = self._saw_needed or self._needed in metrics
        if len(self._seen) < MAX_NAMES:
            self._seen.update(metrics)

    def note_restored(self, trial: TrialState) -> None:
        """There is this trial of an earlier run."""
        worked = trial.status in (Status.COMPLETED, Status.PRUNED)
        self._reported |= worked or trial.last_iteration is not None
        self._saw_needed |= trial.last_value is not None

    def judge(self, trial_id: str, status: Status, error: TrialError | None) -> str | None:
        """Take note of a trial that has ended for good; say why going on makes no sense, if so."""
        if status in (Status.LOST, Status.INTERRUPTED):
            return None
        self._ended += 1
        if status is Status.FAILED:
            self._failed += 1
            if error is not None and len(self._first_errors) < MAX_FIRST_ERRORS:
                self._first_errors.append(error)
        elif status is Status.COMPLETED and self._needed is not None and not self._saw_needed:
            return self._describe_missing(trial_id, self._needed)
        all_failed = self._ended == self._failed == self._n_first and not self._reported
        return self._describe_failures() if self._fail_fast and all_failed else None

    def _describe_missing(self, trial_id: str, needed: str) -> str:
        names = sorted(map(repr, self._seen))
        logged = ", ".join(names[:MAX_NAMES]) or "nothing at all"
        return (
            f"trial {trial_id} is complete and never logged {needed!r}, the metric that "
            f"decides which trials are stopped; it logged {logged}. Log {needed!r}, or name "
            "another metric in ASHA"
        )

    def _describe_failures(self) -> str:
        errors = self._first_errors
        common = Counter((error.type, error.message) for error in errors).most_common(1)
        text = f"the first {self._failed} trials have all failed and none has logged a metric"
        if not common:
            return f"{text}; see their stderr.log"
        (kind, message), shared = common[0]
        example = next(error for error in errors if error.type == kind)
        return (
            f"{text}; {shared} of them with {kind}: {message}. Mend train and begin anew "
            f"(overwrite=True), or pass fail_fast=False to go on regardless\n{example.traceback}"
        ).rstrip()
