"""What the sweep's state machine works on: settings, trials, what it hears, answers and knows.

Of a trial's reports only what decisions need is kept: how long its iterations take (`Pace`), and a
few values of its learning curve (`ThinCurve`). Both are functions of the stored reports, so that a
sweep that goes on in another process knows the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .checks import Goal
from .errors import BEGIN_ANEW, SAID_LAST
from .rules.feasible import Bound
from .rules.protocol import Decision
from .trial import Status, TrialError

#: At least this many trials have to fail before the sweep takes it for a rule.
MIN_FAILURES = 3

#: So many errors are kept to see what the first failures have in common.
MAX_FIRST_ERRORS = 100

#: So many trials of one report must have been stopped at it, and as many not, before it is said.
MIN_SINGLES = 2

#: This many names of metrics are kept to tell what was logged instead of the one that is needed.
MAX_NAMES = 20


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


class PastEvent(NamedTuple):
    """What is stored of an attempt's start or end, or of a report of the sweep's metric."""

    at: float  # seconds on the clock of `Sweep.assign`
    number: int  # the trial's
    status: Status | None  # RUNNING: it started; None: it reported
    attempt: int = 0  # of a start or an end
    iteration: int = 0  # of a report
    value: Any = 0.0  # of several metrics a tuple


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


class Prospects:
    """Whether it makes sense to go on, and what the user is told of trials that go wrong.

    A sweep whose first trials have all failed, or that never hears of the metrics by which trials
    are stopped or chosen, ends with the reason. What only wastes time is said once.
    """

    def __init__(self, cfg: SweepCfg) -> None:
        self._n_first = max(MIN_FAILURES, cfg.slots)
        self._fail_fast = cfg.fail_fast
        self._needed = {names for names in (cfg.judged_names, cfg.goal_names) if names} | {
            (name,) for name in cfg.feasible
        }
        self._ended = 0
        self._failed = 0
        self._reported = False
        self._seen: set[str] = set()
        self._first_errors: list[tuple[str, TrialError]] = []
        self._saw_restart = False
        self._singles: Counter[bool] | None = Counter()  # trials of one report; whether cut short

    def note_report(self, metrics: Mapping[str, float]) -> None:
        """Some trial has logged these metrics."""
        self._reported = True
        if self._needed:
            self._needed = {n for n in self._needed if not all(each in metrics for each in n)}
        if len(self._seen) < MAX_NAMES:
            self._seen.update(metrics)

    def note_restored(self, trial: TrialState) -> None:
        """There is this trial of an earlier run."""
        worked = trial.status in (Status.COMPLETED, Status.PRUNED)
        self._reported |= worked or trial.last_iteration is not None

    def judge(self, trial_id: str, status: Status, error: TrialError | None) -> str | None:
        """Take note of a trial that has ended for good; say why going on makes no sense, if so."""
        if status in (Status.LOST, Status.INTERRUPTED):
            return None
        self._ended += 1
        if status is Status.FAILED:
            self._failed += 1
            if error is not None and len(self._first_errors) < MAX_FIRST_ERRORS:
                self._first_errors.append((trial_id, error))
        elif status is Status.COMPLETED and self._needed:
            return self._describe_missing(trial_id, min(self._needed))
        all_failed = self._ended == self._failed == self._n_first and not self._reported
        return self._describe_failures() if self._fail_fast and all_failed else None

    def note_resumption(self, trial: TrialState, iteration: int) -> tuple[str, ...]:
        """Say it if a trial that was paused does not go on where it was."""
        paused_at, trial.resumes_after = trial.resumes_after, None
        if paused_at is None or iteration > paused_at or self._saw_restart:
            return ()
        self._saw_restart = True
        return (
            f"trial {trial.trial_id} was paused at iteration {paused_at} and began again at "
            f"iteration {iteration}: with promote=True, train should save its state in "
            "ss.checkpoint_dir() and go on from there, else paused work is done twice",
        )

    def note_single_report(self, trial: TrialState, status: Status) -> tuple[str, ...]:
        """Say it, once, if trials report once, and some are stopped with nothing left to stop."""
        if self._singles is None or trial.attempt > 1 or trial.n_reports == 0:
            return ()
        if trial.n_reports > 1:
            self._singles = None
            return ()
        self._singles[status.is_cut_short] += status.is_cut_short or status is Status.COMPLETED
        whole, cut = self._singles[False], self._singles[True]
        if min(whole, cut) < MIN_SINGLES:
            return ()
        self._singles = None
        return (
            f"each trial logs once, and {cut} of {whole + cut} were stopped at that, so that what "
            "train does after its ss.log is not run there: let train return the value instead of "
            "logging it (return {'loss': loss}), or leave the pruner out and pass metric= and "
            "mode= to the experiment",
        )

    def _describe_missing(self, trial_id: str, missing: tuple[str, ...]) -> str:
        names = sorted(map(repr, self._seen))
        logged = ", ".join(names[:MAX_NAMES]) or "nothing at all"
        if len(missing) > 1:
            wanted = " and ".join(map(repr, missing))
            return (
                f"trial {trial_id} is complete and never logged {wanted} at one iteration, which "
                f"together decide which trials are stopped or best; it logged {logged}. Log them "
                "with one ss.log, or leave one out of the experiment's metric"
            )
        (needed,) = missing
        return (
            f"trial {trial_id} is complete and never logged {needed!r}, the metric that "
            f"decides which trials are stopped or best; it logged {logged}. Log {needed!r}, or "
            "name another metric in ASHA or the experiment"
        )

    def _describe_failures(self) -> str:
        errors = self._first_errors
        common = Counter(error.kind for _, error in errors).most_common(1)
        have = "trial has" if self._failed == 1 else f"{self._failed} trials have all"
        text = f"the first {have} failed and none has logged a metric"
        if not common:
            return f"{text}; see their stderr.log"
        kind, shared = common[0]
        trial_id, example = next(each for each in errors if each[1].kind == kind)
        said = str(example).partition(SAID_LAST)[0]
        advice = "Mend train and go on with restore=True, which runs them again, or pass"
        if BEGIN_ANEW in said:  # it says itself what to mend
            advice = "Or pass"
        return (
            f"{text}; {shared} of them with {said} (trial {trial_id}). {advice} fail_fast=False to "
            f"go on regardless\n{example.traceback}"
        ).rstrip()
