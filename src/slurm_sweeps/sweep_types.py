"""What the sweep's state machine works on: settings, trials, what it hears, answers and knows.

Of a trial's reports only what decisions need is kept: how long its iterations take (`Pace`), and a
few values of its learning curve (`ThinCurve`). Both are functions of the stored reports, so that a
sweep that goes on in another process knows the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .checks import Goal
from .rules.feasible import Bound
from .rules.protocol import Decision
from .trial import Status, TrialError


@dataclass(frozen=True, slots=True)
class SweepCfg:
    """What the user asked of a sweep."""

    n_trials: int | None  # in total, restored ones included; None for as many as the sampler has
    goal: Goal | None = None  # what the sweep is after: sampler, target and views go by it
    max_retries: int = 0  # of a trial that failed
    fail_fast: bool = True  # end when the first trials have all failed without any report
    slots: int = 1  # trials at once; "the first trials" are at least this many
    target: float | None = None  # the goal's metric at this value or better is enough
    judged_by: str | tuple[str, ...] | None = None  # what the pruner hears; None is the goal
    goals: tuple[Goal, ...] = ()  # where it is after several, all of them; `goal` is the first
    seed: int = 0  # of which each trial has one of its own
    feasible: Mapping[str, Bound] = field(default_factory=dict)  # by metric
    learns_memory: bool = False  # what runs out of memory is infeasible, and else has failed
    # Whether a cfg may be tried, else another is asked for; None: the sampler sees to that
    allows: Callable[[dict[str, Any]], bool] | None = None

    @property
    def goal_names(self) -> tuple[str, ...]:
        """The metrics that the sweep is after."""
        first = () if self.goal is None else (self.goal.metric,)
        return tuple(goal.metric for goal in self.goals) or first

    @property
    def judged_names(self) -> tuple[str, ...]:
        """The metrics that the pruner hears."""
        named = self.judged_by
        return self.goal_names if named is None else (named,) if isinstance(named, str) else named


@dataclass(slots=True)
class Pace:
    """Seconds per iteration, from a trial's start to its first report.

    The first report is that of the lowest iteration from 1 on (0 is logged before any training by
    many); every trial has one, however soon it is stopped, so that all are measured alike. Start
    and loading count, as they do for the sweep. Only the first attempt is timed: a later one may
    go on from a checkpoint, and nobody knows from which. Where it logs the first report once more,
    nothing is known: what is known is a function of what is stored.
    """

    seconds: float | None = None  # more than 0
    _iteration: int | None = None
    _started_at: float | None = None

    @property
    def first_iteration(self) -> int | None:
        """That of the first report; None before it."""
        return self._iteration

    def begin(self, attempt: int, now: float) -> None:
        """An attempt, counted from 1, begins at so many seconds on some clock."""
        self._started_at = now if attempt == 1 else None

    def note(self, iteration: int, now: float | None) -> None:
        """The trial has reported, at so many seconds on the same clock if somebody looked."""
        if iteration < 1 or (self._iteration is not None and iteration > self._iteration):
            return
        self._iteration, self.seconds = iteration, None
        if self._started_at is not None and now is not None and now > self._started_at:
            self.seconds = (now - self._started_at) / iteration


@dataclass(slots=True)
class ThinCurve:
    """A metric's first value from each power of four on, and its last: O(log n) of n values.

    Of several metrics a value is a tuple. The powers are the iterations 0, 1, 4, 16, …, which also
    are the usual rungs. What is kept is a function of the stored metrics: an iteration that is
    logged again replaces its value, and the order of the reports does not matter.
    """

    _first: dict[int, tuple[int, Any]] = field(default_factory=dict)
    _last: tuple[int, Any] | None = None

    def note(self, iteration: int, value: Any) -> bool:
        """Take a value in, be it NaN; say whether it is the first from a power of four on."""
        power = (iteration.bit_length() + 1) // 2
        first = self._first.get(power)
        if first is None or iteration <= first[0]:
            self._first[power] = (iteration, value)
        if self._last is None or iteration >= self._last[0]:
            self._last = (iteration, value)
        return first is None

    def read(self) -> dict[int, Any]:
        """Return the values that are kept, by iteration, rising."""
        points = sorted(self._first.values())
        return dict(points if self._last is None else [*points, self._last])


@dataclass(slots=True)
class TrialState:
    """A trial that is scheduled or running."""

    number: int  # its position in the sweep, from 0
    trial_id: str
    repetition: int  # how many trials with an equal cfg came before
    cfg: dict[str, Any]
    status: Status = Status.SCHEDULED
    attempt: int = 1
    lost_count: int = 0  # attempts that were lost, or interrupted though nobody asked
    failed_count: int = 0  # attempts that failed
    curve: ThinCurve = field(default_factory=ThinCurve)  # what the sampler is told of the metric
    pace: Pace = field(default_factory=Pace)  # how long its iterations take
    last_iteration: int | None = None  # of the latest report
    n_reports: int = 0  # in this run of the sweep, without the one that comes with the end
    told: Decision | None = None  # what it was told to do, if not to go on
    is_infeasible: bool = False  # it has reported a value beyond its bound
    began_at: float | None = None  # its attempt, on the clock of `Sweep.assign`
    drawn: dict[str, Any] = field(default_factory=dict)  # what it asked for as it ran, by name
    resumes_after: int | None = None  # the iteration at which it was paused, until it reports again
    gathered: tuple[int, dict[str, float]] | None = None  # where several metrics belong together
    is_fresh: bool = True  # whether its attempt has reported nothing yet
    lost_s: float = 0.0  # how long the longest of its attempts took that were lost

    def gather(self, iteration: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Return all that was logged at this iteration, in one report or several in a row."""
        if self.gathered is None or self.gathered[0] != iteration:
            self.gathered = iteration, {}
        self.gathered[1].update(metrics)
        return self.gathered[1]

    @property
    def whole_cfg(self) -> dict[str, Any]:
        """Its configuration, with what it has drawn itself; the id is that of `cfg`."""
        return {**self.cfg, **self.drawn} if self.drawn else self.cfg


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended, as the worker or the driver saw it."""

    status: Status
    error: TrialError | None = None
    exit_code: int | None = None
    signal: int | None = None


class Report(NamedTuple):
    """A stored value of the metric that a sweep is after, or that its trials are judged by."""

    at: float  # when it was logged, in seconds on the clock of `Sweep.assign`
    number: int  # the trial's
    iteration: int
    value: Any  # a float, or of several metrics a tuple


class Turn(NamedTuple):
    """The stored start or end of an attempt."""

    at: float  # as above
    number: int
    attempt: int
    status: Status  # RUNNING: it starts


class Answer(NamedTuple):
    """What follows from a report."""

    decision: Decision
    notices: tuple[str, ...] = ()  # what the user should know, one sentence each
    reached: bool = False  # whether this report was the first to reach the target
    promotable: bool = False  # whether a paused trial can go on now, in any slot that is free


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt's end counts as, given what the trial was told, and what follows."""

    status: Status
    runs_again: bool  # by itself
    notices: tuple[str, ...] = ()  # what the user should know, one sentence each
