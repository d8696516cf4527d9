"""The sweep's state machine: events in, decisions out.

`Sweep` decides which trial a free slot gets, whether a trial that reported goes on, and what
follows when one has ended. It does no I/O and reads no clock of its own: the live driver and the
simulator feed the same object, so what runs on a cluster can be tried on paper with any number of
slots.

Invariants: a trial runs once at a time; every change of status is one that `trial.TRANSITIONS`
allows; trials that must be run again come before new ones; and the same events give the same
decisions, also after `restore` in another process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from .checks import Goal
from .errors import OUT_OF_MEMORY, UsageError
from .prospects import Prospects
from .rules.feasible import is_infeasible
from .rules.protocol import Decision, DoubtingPruner, PromotingPruner, Pruner
from .samplers import Observation, Sampler, StudyingSampler, SuggestingSampler
from .sweep_types import Answer, Ended, Outcome, Report, SweepCfg, TrialState, Turn
from .timing import Times, WaitingLine
from .trial import TRANSITIONS, Status, compute_trial_id

#: A lost trial is started again this often; then the fault is taken to be its own.
MAX_LOST = 3

#: So often a sampler that does not know what is allowed is asked for a trial.
MAX_ASKS = 1000


def build_reader(names: tuple[str, ...]) -> Callable[[Mapping[str, float]], Any]:
    """Return what reads a metric of a report, or a tuple of several; None if one is missing."""
    if len(names) == 1:
        return lambda metrics, name=names[0]: metrics.get(name)  # type: ignore[misc] # the default
    read = itemgetter(*names) if names else None
    return lambda metrics: read(metrics) if read and metrics.keys() >= set(names) else None


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
        self._doubter = pruner if isinstance(pruner, DoubtingPruner) else None
        self._paused: dict[int, TrialState] = {}
        self.drawn = 0
        self._exhausted = False
        self._stopping = False
        self.running: dict[int, TrialState] = {}
        self._waiting: WaitingLine[TrialState] = WaitingLine()
        self._times = Times(resumes=self._promoter is not None)
        self._repetitions: dict[bytes, int] = {}
        self._has_reached = False
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
        notices: tuple[str, ...] = ()
        if trial.resumes_after is not None:
            notices = self._prospects.note_resumption(trial, iteration)
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
            if self._doubter is not None and (doubt := self._doubter.pop_doubt()) is not None:
                notices += (doubt,)
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
        if getattr(self._sampler, "asks_again", False):
            self._exhausted = False
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
        return Outcome(status, runs_again, self._prospects.note_single_report(trial, status))

    def _note_span(self, trial: TrialState, status: Status, seconds: float) -> None:
        """Learn how long an attempt took."""
        if status in (Status.LOST, Status.INTERRUPTED):
            self._times.note_loss(seconds)
            trial.lost_s = max(trial.lost_s, seconds)
        elif status is not Status.FAILED:
            self._times.note_end(seconds, trial.last_iteration or 0)

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

        `ask` are the arguments of `SuggestingSampler.suggest`.

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
        past: Iterable[Report | Turn] = (),
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
        self, trials: Mapping[int, TrialState], past: Iterable[Report | Turn]
    ) -> Collection[int]:
        """Tell the sampler of trials what it was told while they ran; return their numbers."""
        then: dict[int, TrialState] = {}
        for event in past:
            now = trials[event.number]
            fresh = TrialState(now.number, now.trial_id, now.repetition, now.cfg, drawn=now.drawn)
            trial = then.setdefault(event.number, fresh)
            if isinstance(event, Report):
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
