"""The sweep's state machine: events in, decisions out.

`Sweep` decides which trial a free slot gets, whether a trial that reported goes on, and what
follows when one has ended. It does no I/O and reads no clock of its own: the live driver and the
simulator feed the same object, so what runs on a cluster can be tried on paper with any number of
slots.

Invariants: a trial runs once at a time; every change of status is one that `trial.TRANSITIONS`
allows; trials that must be run again come before new ones; and the same events give the same
decisions, also after `restore` in another process.

Of a trial's reports only what decisions need is kept: how long its iterations take (`Pace`), and a
few values of its learning curve (`ThinCurve`). Both are functions of the stored reports, so that a
sweep that goes on in another process knows the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from .checks import Goal
from .errors import OUT_OF_MEMORY, UsageError
from .race import RacingPruner, RacingSampler
from .rules.asha import AshaPruner
from .rules.feasible import Bound, is_infeasible
from .rules.protocol import Decision, PromotingPruner, Pruner
from .samplers import Observation, Sampler, StudyingSampler, SuggestingSampler
from .timing import Times, WaitingLine
from .trial import TRANSITIONS, Status, TrialError, compute_trial_id

#: A lost trial is started again this often; then the fault is taken to be its own.
MAX_LOST = 3

#: At least this many trials have to fail before the sweep takes it for a rule.
MIN_FAILURES = 3

#: So many errors are kept to see what the first failures have in common.
MAX_FIRST_ERRORS = 100

#: So many trials of one report must have been stopped at it, and as many not, before it is said.
MIN_SINGLES = 2

#: So often a sampler that does not know what is allowed is asked for a trial.
MAX_ASKS = 1000

#: Rules that may doubt themselves.
DOUBTING = AshaPruner, RacingPruner

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


def build_reader(names: tuple[str, ...]) -> Callable[[Mapping[str, float]], Any]:
    """Return what reads a metric of a report, or a tuple of several; None if one is missing."""
    if len(names) == 1:
        return lambda metrics, name=names[0]: metrics.get(name)  # type: ignore[misc] # the default
    read = itemgetter(*names) if names else None
    return lambda metrics: read(metrics) if read and metrics.keys() >= set(names) else None


class Prospects:
    """What speaks for going on; the metrics that trials are stopped or chosen by are needed."""

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
        self._first_errors: list[TrialError] = []

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
                self._first_errors.append(error)
        elif status is Status.COMPLETED and self._needed:
            return self._describe_missing(trial_id, min(self._needed))
        all_failed = self._ended == self._failed == self._n_first and not self._reported
        return self._describe_failures() if self._fail_fast and all_failed else None

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
        common = Counter((error.type, error.message) for error in errors).most_common(1)
        have = "trial has" if self._failed == 1 else f"{self._failed} trials have all"
        text = f"the first {have} failed and none has logged a metric"
        if not common:
            return f"{text}; see their stderr.log"
        (kind, message), shared = common[0]
        example = next(e for e in errors if (e.type, e.message) == (kind, message))
        return (
            f"{text}; {shared} of them with {kind}: {message}. Mend train and "
            "go on with restore=True, which runs them again, or pass fail_fast=False to go on "
            f"regardless\n{example.traceback}"
        ).rstrip()


class Sweep:
    """See the module's docstring.

    Args:
        cfg: What the user asked for.
        sampler: Draws configurations.
        pruner: Stops trials; None lets all run to their end.
        first: The configurations of the first trials; the sampler is asked for the others.
        complete: Makes a configuration of a part of one that somebody adds, for the trial of a
            number; raises UsageError if it is no part of any.

    Attributes:
        student: The sampler, if it learns; it does so when asked unless its `studies_apart` is set.
        fatal: Why the sweep can't go on, None while it can.
        running: The running trials by number.
        drawn: How many trials there are by now, whatever their status.
    """

    def __init__(
        self,
        cfg: SweepCfg,
        sampler: Sampler,
        pruner: Pruner | None = None,
        first: Sequence[dict[str, Any]] = (),
        complete: Callable[[Any, int], dict[str, Any]] | None = None,
    ) -> None:
        self.cfg = cfg
        self._complete = complete
        self.fatal: str | None = None
        self._sampler = sampler
        self.student = sampler if isinstance(sampler, StudyingSampler) else None
        self._first = first
        self._pruner = pruner
        self._read_goal = build_reader(cfg.goal_names)
        self._read_judged = build_reader(cfg.judged_names)
        self._gathers = max(len(cfg.goal_names), len(cfg.judged_names)) > 1
        self._promoter = pruner if isinstance(pruner, PromotingPruner) else None
        self._paused: dict[int, TrialState] = {}
        self.drawn = 0
        self._exhausted = False
        self._stopping = False
        self.running: dict[int, TrialState] = {}
        self._waiting: WaitingLine[TrialState] = WaitingLine()
        self._times = Times(resumes=self._promoter is not None)
        self._repetitions: dict[bytes, int] = {}
        self._saw_restart = False
        self._has_reached = False
        self._singles: Counter[bool] | None = Counter()  # trials of one report; whether cut short
        self._prospects = Prospects(cfg)

    @property
    def is_done(self) -> bool:
        """Whether nothing runs and nothing will be started any more."""
        return not self.running and not self.count_startable(1)

    def count_startable(self, limit: int) -> int:
        """How many trials could be assigned now, as far as that is known; at most `limit`."""
        if self._stopping or self.fatal:
            return 0
        promotable = int(self._find_promotable() is not None)  # there may be more: ask again then
        return min(limit, len(self._waiting) + promotable + self._count_new(limit))

    def _count_new(self, limit: int) -> int:
        total = limit if self.cfg.n_trials is None else self.cfg.n_trials - self.drawn
        return 0 if self._exhausted else max(0, total)

    # --- a slot is free -----------------------------------------------------------------------

    def assign(
        self, now: float, clock: Callable[[], float] | None = None, left_s: float = math.inf
    ) -> TrialState | None:
        """Give a free slot its next trial, which is running from now on; None if there is none.

        There may be one later where the sampler awaits a study that is made apart: ask again then.

        Args:
            now: Seconds on some clock.
            clock: That clock, where time goes on while the sampler thinks: the trial begins only
                then. None in simulated time.
            left_s: For how long the slot is there: of the trials that wait the first one that
                comes to something by then, in the order of a slot that stays.
        """
        if self._stopping or self.fatal:
            return None
        trial = self._waiting.pop(left_s) or self._promote(left_s) or self._draw(now, left_s)
        if trial is None:
            return None
        self._move(trial, Status.RUNNING)
        trial.told = None
        trial.is_fresh = True
        trial.began_at = now if clock is None else clock()
        trial.pace.begin(trial.attempt, trial.began_at)
        self.running[trial.number] = trial
        self._tell_sampler(trial)
        return trial

    def _find_promotable(self) -> TrialState | None:
        number = None if self._promoter is None else self._promoter.find_promotable()
        return self._paused.get(number) if isinstance(number, int) else None

    def find_need(self) -> float:
        """Return how many seconds a slot must have left so that some trial comes to something.

        Infinite if there is none to be started.
        """
        if not self.count_startable(1):
            return math.inf
        trial = self._find_promotable()
        promotable_s = math.inf if trial is None else self._estimate(trial)
        new_s = self._times.estimate_new() if self._count_new(1) else math.inf
        return min(self._waiting.find_least(), promotable_s, new_s)

    def _estimate(self, trial: TrialState) -> float:
        return self._times.estimate(trial.pace.seconds, trial.lost_s)

    @property
    def minds_ends(self) -> bool:
        """Whether trials need the time to their end, where that is known; else to a report."""
        return self._times.tells_ends

    def may_end(self, trial: TrialState, now: float, within_s: float) -> bool:
        """Whether a running trial should end by itself within so many seconds, as far as is known.

        Nothing is, of one that goes on from a checkpoint.
        """
        if trial.began_at is None or (trial.attempt > 1 and self._times.resumes):
            return False
        return self._times.may_end(now - trial.began_at, trial.lost_s, within_s)

    def _promote(self, left_s: float) -> TrialState | None:
        """Let a paused trial go on that has come to be among the best."""
        trial = self._find_promotable()
        if trial is None or self._promoter is None or self._estimate(trial) > left_s:
            return None
        self._promoter.promote(trial.number)
        del self._paused[trial.number]
        self._move(trial, Status.SCHEDULED)
        trial.attempt += 1
        trial.resumes_after = trial.last_iteration
        return trial

    def _draw(self, now: float, left_s: float = math.inf) -> TrialState | None:
        if not self._count_new(1) or self._times.estimate_new() > left_s:
            return None
        is_first = self.drawn < len(self._first)
        student = self.student
        if student and student.studies_apart and student.awaits_study and not is_first:
            return None
        cfg = self._first[self.drawn] if is_first else self._ask(now)
        if cfg is None:
            self._exhausted = True
            return None
        return self._create(cfg)

    def _create(self, cfg: dict[str, Any]) -> TrialState:
        trial_id = compute_trial_id(cfg)
        repetition = self._count_repetition(trial_id)
        if repetition:
            trial_id = compute_trial_id(cfg, repetition)
        trial = TrialState(self.drawn, trial_id, repetition, cfg)
        self.drawn += 1
        return trial

    def _ask(self, now: float) -> dict[str, Any] | None:
        for _ in range(MAX_ASKS):
            cfg = self._sampler.ask(now)
            if cfg is None or self.cfg.allows is None or self.cfg.allows(cfg):
                return cfg
        name = type(self._sampler).__name__
        self.fatal = (
            f"where refuses what the sampler {name} proposes, {MAX_ASKS} times in a row, the last "
            f"of which was {cfg!r}: mend one of them"
        )
        return None

    def _count_repetition(self, first_id: str) -> int:
        """Count a trial; return how many before it had a cfg whose first id this is."""
        key = bytes.fromhex(first_id)  # takes half the memory
        repetition = self._repetitions.get(key, 0)
        self._repetitions[key] = repetition + 1
        return repetition

    # --- a trial reported ---------------------------------------------------------------------

    def report(
        self,
        number: int,
        iteration: int,
        metrics: Mapping[str, float],
        now: float | None = None,
        is_last: bool = False,
    ) -> Answer:
        """Take a running trial's report; say whether it goes on, and what else follows.

        Without `now`, seconds on the clock of `assign`, it stays unknown how long iterations take.
        The last report comes with the end: pruner and sampler hear it, and nothing is left to stop.
        Of a trial that is infeasible neither hears any more: it sets no bar for others.
        """
        trial = self.running[number]
        if trial.is_fresh and iteration >= 1:  # 0 is logged before any training by many
            self._note_first_report(trial, iteration, now)
        trial.last_iteration = iteration
        notices = () if trial.resumes_after is None else self._watch_resumption(trial, iteration)
        decision, reached = Decision.GO_ON, False
        if self._gathers:
            metrics = trial.gather(iteration, metrics)
        self._prospects.note_report(metrics)
        goal = self.cfg.goal
        if goal is not None and goal.metric in metrics:
            trial.pace.note(iteration, now)
        if self.cfg.feasible and (trial.is_infeasible or is_infeasible(self.cfg.feasible, metrics)):
            trial.is_infeasible, decision = True, Decision.PRUNE
        elif goal is not None and (value := self._read_goal(metrics)) is not None:
            if trial.curve.note(iteration, value):
                self._tell_sampler(trial)
            reached = self._reaches_target(goal, value)
        judged = None if self._pruner is None else self._read_judged(metrics)
        if self._pruner is not None and judged is not None and not trial.is_infeasible:
            decision = self._pruner.report(number, iteration, judged)
            notices += self._pop_doubt()
        if not is_last:
            trial.n_reports += 1
            self._decide(trial, decision)
        promotable = not self._stopping and self._find_promotable() is not None
        return Answer(trial.told or Decision.GO_ON, notices, reached, promotable)

    def _note_first_report(self, trial: TrialState, iteration: int, now: float | None) -> None:
        """Learn from an attempt's first report how long that takes, and whether trials resume."""
        trial.is_fresh = False
        if now is not None and trial.began_at is not None:
            self._times.note_first_report(now - trial.began_at)
        before = trial.pace.first_iteration or trial.last_iteration or math.inf
        if trial.attempt > 1 and iteration > before and not self._times.resumes:
            self._times.resumes = True
            waiting, self._waiting = self._waiting, WaitingLine()
            for each in waiting:
                self._wait(each)

    def _wait(self, trial: TrialState) -> None:
        self._waiting.append(trial, self._estimate(trial))

    def _decide(self, trial: TrialState, decision: Decision) -> None:
        """Keep the gravest that a trial was told: it may report on before it leaves."""
        if trial.told is Decision.PRUNE or decision is Decision.PRUNE:
            trial.told = Decision.PRUNE
        elif trial.told is Decision.PAUSE or decision is Decision.PAUSE:
            trial.told = Decision.PAUSE
        elif self._stopping:
            trial.told = Decision.STOP

    def _reaches_target(self, goal: Goal, value: float) -> bool:
        """Whether this value is the first that is as good as the target."""
        target = self.cfg.target
        if target is None or self._has_reached or not math.isfinite(value):
            return False
        self._has_reached = goal.sign * value <= goal.sign * target
        return self._has_reached

    def _watch_resumption(self, trial: TrialState, iteration: int) -> tuple[str, ...]:
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

    def _pop_doubt(self) -> tuple[str, ...]:
        """Pass on what the pruner has to say of its own rule."""
        pruner = self._pruner
        doubt = pruner.pop_doubt() if isinstance(pruner, DOUBTING) else None
        return () if doubt is None else (doubt,)

    # --- a trial ended ------------------------------------------------------------------------

    def end(self, number: int, ended: Ended, now: float | None = None) -> Outcome:
        """Take note that a running trial's attempt ended; say what it counts as.

        Without `now`, seconds on the clock of `assign`, it stays unknown how long trials take.
        """
        trial = self.running.pop(number)
        status = self._judge(trial, ended)
        if now is not None and trial.began_at is not None:
            self._note_span(trial, status, now - trial.began_at)
        self._move(trial, status)
        self._tell_sampler(trial)
        self._exhausted &= not isinstance(self._sampler, RacingSampler)  # somebody may lead now
        if status is Status.PAUSED and self._promoter is not None:
            self._paused[number] = trial
            self._promoter.pause(number)
        runs_again = self._runs_again(trial, status)
        if runs_again:
            self._move(trial, Status.SCHEDULED)
            trial.attempt += 1
            self._wait(trial)
        else:
            self.fatal = self._prospects.judge(trial.trial_id, status, ended.error) or self.fatal
        return Outcome(status, runs_again, self._watch_single_reports(trial, status))

    def _note_span(self, trial: TrialState, status: Status, seconds: float) -> None:
        """Learn how long an attempt took."""
        if status in (Status.LOST, Status.INTERRUPTED):
            self._times.note_loss(seconds)
            trial.lost_s = max(trial.lost_s, seconds)
        elif status is not Status.FAILED:
            self._times.note_end(seconds, trial.last_iteration or 0)

    def _watch_single_reports(self, trial: TrialState, status: Status) -> tuple[str, ...]:
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

    def _judge(self, trial: TrialState, ended: Ended) -> Status:
        """Say what an end means, given what the trial was told: told to leave, it was not lost."""
        if self._is_too_large(ended):
            return Status.INFEASIBLE
        if trial.is_infeasible:  # however it left: to try it again would tell the same
            return Status.INFEASIBLE
        leaving = ended.status in (Status.LOST, Status.INTERRUPTED, Status.PRUNED)
        if leaving and trial.told is Decision.PRUNE:
            return Status.PRUNED
        if leaving and trial.told is Decision.PAUSE:
            return Status.PAUSED
        if ended.status is Status.LOST and (self._stopping or trial.told is Decision.STOP):
            return Status.INTERRUPTED
        return ended.status

    def _is_too_large(self, ended: Ended) -> bool:
        """Whether a trial has run out of memory, and that is to be learned from."""
        is_out = ended.error is not None and ended.error.type == OUT_OF_MEMORY
        return self.cfg.learns_memory and is_out and ended.status in (Status.FAILED, Status.LOST)

    def _runs_again(self, trial: TrialState, status: Status) -> bool:
        if status is Status.FAILED:
            trial.failed_count += 1
            return trial.failed_count <= self.cfg.max_retries
        if status is Status.INTERRUPTED and not self._stopping and trial.told is Decision.STOP:
            return True
        if status is Status.LOST or (status is Status.INTERRUPTED and not self._stopping):
            trial.lost_count += 1
            return trial.lost_count <= MAX_LOST
        return False

    def suggest(self, number: int, ask: Mapping[str, Any]) -> Any:
        """Draw a value for a running trial; the same again where it has asked for it before.

        Args:
            number: The trial's.
            ask: The arguments of `SuggestingSampler.suggest`.

        Raises:
            TypeError, ValueError: The sampler can't draw it.
        """
        trial, name = self.running[number], ask["name"]
        if not isinstance(self._sampler, SuggestingSampler):
            raise TypeError(f"{type(self._sampler).__name__} draws whole configurations")
        if name not in trial.drawn:
            trial.drawn[name] = self._sampler.suggest(number, trial.drawn, **ask)
        return trial.drawn[name]

    def prune(self, number: int) -> None:
        """Let a running trial go, as someone asked."""
        self.running[number].told = Decision.PRUNE

    def add(self, part: Any) -> TrialState:
        """Put a configuration next to start, as someone asked.

        It takes the place of one that would be drawn, or comes on top if none would be any more.

        Args:
            part: Of a configuration; what it leaves open is drawn.

        Raises:
            UsageError: It is no part of any configuration, or can't be added now.
        """
        if self._stopping or self.fatal:
            raise UsageError("the sweep is about to end")
        if self._complete is None or self.drawn < len(self._first):
            raise UsageError("points_to_evaluate begin first: add it when all of them have begun")
        trial = self._create(self._complete(part, self.drawn))
        self._waiting.appendleft(trial, self._estimate(trial))
        return trial

    def interrupt(self, number: int) -> None:
        """Let a running trial go whose place is taken away: it is run again, and has lost nothing.

        What it was told before still counts.
        """
        trial = self.running[number]
        trial.told = trial.told or Decision.STOP

    # --- the driver was told to stop; a sweep goes on in another process ----------------------

    def stop(self) -> None:
        """Start nothing from now on, and tell every trial that reports to leave."""
        self._stopping = True

    def restore(
        self,
        trials: Iterable[TrialState],
        unfinished: Iterable[int],
        logged: Iterable[str] = (),
        past: Iterable[PastEvent] = (),
        named_from: float = math.inf,
    ) -> None:
        """Take up trials of an earlier run, in the order of their numbers, before any event.

        The pruner is brought up by its own replay of the stored metrics.

        Args:
            trials: All trials of the experiment, with status, attempt and last value.
            unfinished: The numbers of those to run (again) before new ones are drawn. A failed
                trial that has retries left is none that failed for good, and is run again too.
            logged: The metrics that any of them has ever logged.
            past: What happened to them, in its order, for a sampler whose proposals depend on that;
                without it the sampler is told of each trial once.
            named_from: From this number on, trials have the ids that their cfgs are given today.
        """
        again = set(unfinished)
        if names := dict.fromkeys(logged, math.nan):
            self._prospects.note_report(names)
        trials = list(trials)
        retold = self._retell({trial.number: trial for trial in trials}, past)
        for trial in trials:
            self._draw_up_to(trial.number)
            is_known = not trial.repetition and trial.number >= named_from
            self._count_repetition(trial.trial_id if is_known else compute_trial_id(trial.cfg))
            self.drawn = max(self.drawn, trial.number + 1)
            if trial.number not in retold:
                self._tell_sampler(trial)
            self._prospects.note_restored(trial)
            if trial.number in again or self._has_retries_left(trial):
                self._schedule_again(trial)
            elif trial.status is Status.PAUSED and self._promoter is not None:
                self._paused[trial.number] = trial
                self._promoter.pause(trial.number)

    def _draw_up_to(self, number: int) -> None:
        """Draw again those that had begun before this trial, and of which nothing was stored."""
        while self.drawn < number and (trial := self._draw(0.0)) is not None:
            self._wait(trial)

    def _retell(
        self, trials: Mapping[int, TrialState], past: Iterable[PastEvent]
    ) -> Collection[int]:
        """Tell the sampler of trials what it was told while they ran; return their numbers."""
        then: dict[int, TrialState] = {}
        for event in past:
            now = trials[event.number]
            fresh = TrialState(now.number, now.trial_id, now.repetition, now.cfg, drawn=now.drawn)
            trial = then.setdefault(event.number, fresh)
            if event.status is None:
                trial.pace.note(event.iteration, event.at)
                if not trial.curve.note(event.iteration, event.value):
                    continue
            else:
                trial.status = event.status
                if event.status is Status.RUNNING:
                    trial.pace.begin(event.attempt, event.at)
            self._tell_sampler(trial)
        return then.keys()

    def _has_retries_left(self, trial: TrialState) -> bool:
        failed = trial.status is Status.FAILED
        return failed and 0 < trial.failed_count <= self.cfg.max_retries

    def _schedule_again(self, trial: TrialState) -> None:
        if trial.status is Status.RUNNING:  # its driver died and could not say so
            self._move(trial, Status.INTERRUPTED)
        if trial.status is not Status.SCHEDULED:
            self._move(trial, Status.SCHEDULED)
            trial.attempt += 1
        self._wait(trial)

    # --- the sampler learns, in another thread perhaps -----------------------------------------

    def study_failed(self, error: Exception) -> str:
        """Take note that what `plan_study` gave, or what was made of it, has raised.

        From now on the sampler draws at random; if it has no `draw_at_random()`, the sweep can't
        go on, and `fatal` says so. What is returned tells the user.
        """
        name = type(self._sampler).__name__
        text = f"the sampler {name} could not learn: {type(error).__name__}: {error}"
        draw_at_random = getattr(self._sampler, "draw_at_random", None)
        if draw_at_random is None:
            self.fatal = (
                f"{text}. Mend it, or choose another sampler; restore=True goes on from here"
            )
            return self.fatal
        draw_at_random()
        return f"{text}; it draws at random from now on"

    # --- helpers ------------------------------------------------------------------------------

    def _move(self, trial: TrialState, status: Status) -> None:
        if status not in TRANSITIONS[trial.status]:
            raise RuntimeError(
                f"trial {trial.trial_id}: {trial.status} can't become {status}; this is a bug"
            )
        trial.status = status

    def _tell_sampler(self, trial: TrialState) -> None:
        curve = trial.curve.read()
        points: Mapping[int, tuple[float, ...]] = {}
        if self.cfg.goals:
            points, curve = curve, {at: point[0] for at, point in curve.items()}
        iteration, value = next(reversed(curve.items()), (None, None))
        self._sampler.tell(
            Observation(
                trial.number,
                trial.whole_cfg,
                trial.status,
                iteration,
                value,
                curve,
                trial.pace.seconds,
                points,
            )
        )
