"""The sweep's state machine: events in, decisions out.

`Sweep` decides which trial a free slot gets, whether a trial that reported goes on, and what
follows when one has ended. Each answer carries all that follows from its event (`Answer`,
`Outcome`), so that nobody has to ask. It does no I/O and reads no clock of its own: the live driver
and the simulator feed the same object, so what runs on a cluster can be tried on paper with any
number of slots.

Invariants: a trial runs once at a time; every change of status is one that `trial.TRANSITIONS`
allows; trials that must be run again come before new ones; and the same events
give the same decisions, also after `restore` in another process.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..rules.asha import AshaPruner
from ..rules.protocol import Decision, PromotingPruner, Pruner
from ..samplers import Observation, Sampler, StudyingSampler
from ..trial import TRANSITIONS, Status, compute_trial_id
from .state import Answer, Ended, Outcome, Prospects, SweepCfg, TrialState

#: A lost trial is started again this often; then the fault is taken to be its own.
MAX_LOST = 3

#: Most reports have no other answer than one of these.
_PLAIN = {decision: Answer(decision) for decision in Decision}


class Sweep:
    """See the module's docstring.

    Args:
        cfg: What the user asked for.
        sampler: Draws configurations.
        pruner: Stops trials; None lets all run to their end.
        first: The configurations of the first trials; the sampler is asked for the others.

    Attributes:
        fatal: Why the sweep can't go on, None while it can.
        counts: How many trials have which status.
    """

    def __init__(
        self,
        cfg: SweepCfg,
        sampler: Sampler,
        pruner: Pruner | None = None,
        first: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.cfg = cfg
        self.fatal: str | None = None
        self.counts: Counter[Status] = Counter()
        self._sampler = sampler
        self._first = first
        self._pruner = pruner
        self._promoter = pruner if isinstance(pruner, PromotingPruner) else None
        self._paused: dict[int, TrialState] = {}
        self._drawn = 0
        self._exhausted = False
        self._stopping = False
        self._running: dict[int, TrialState] = {}
        self._waiting: deque[TrialState] = deque()
        self._repetitions: dict[bytes, int] = {}
        self._saw_restart = False
        self._has_reached = False
        self._prospects = Prospects(cfg, None if pruner is None else cfg.metric)

    @property
    def running(self) -> Mapping[int, TrialState]:
        """The running trials by number."""
        return self._running

    @property
    def drawn(self) -> int:
        """How many trials there are by now, whatever their status."""
        return self._drawn

    @property
    def is_done(self) -> bool:
        """Whether nothing runs and nothing will be started any more."""
        return not self._running and not self._has_more()

    def _has_more(self) -> bool:
        if self._stopping or self.fatal:
            return False
        return bool(self._waiting) or self._may_draw() or self._find_promotable() is not None

    def _may_draw(self) -> bool:
        total = self.cfg.n_trials
        return not self._exhausted and (total is None or self._drawn < total)

    def count_startable(self, limit: int) -> int:
        """How many trials could be assigned now, as far as that is known; at most `limit`."""
        if self._stopping or self.fatal:
            return 0
        total = self.cfg.n_trials
        new = limit if total is None else max(0, total - self._drawn)
        promotable = int(self._find_promotable() is not None)  # there may be more: ask again then
        return min(limit, len(self._waiting) + promotable + (0 if self._exhausted else new))

    # --- a slot is free -----------------------------------------------------------------------

    def assign(self, now: float, clock: Callable[[], float] | None = None) -> TrialState | None:
        """Give a free slot its next trial, which is running from now on; None if there is none.

        Args:
            now: Seconds on some clock.
            clock: That clock, where time goes on while the sampler thinks: the trial begins only
                then. None in simulated time.
        """
        if self._stopping or self.fatal:
            return None
        trial = self._waiting.popleft() if self._waiting else self._promote() or self._draw(now)
        if trial is None:
            return None
        self._move(trial, Status.RUNNING)
        trial.told = None
        trial.began_at = now if clock is None else clock()
        trial.pace.begin(trial.attempt, trial.began_at)
        self._running[trial.number] = trial
        self._tell_sampler(trial)
        return trial

    def _find_promotable(self) -> TrialState | None:
        number = None if self._promoter is None else self._promoter.find_promotable()
        return self._paused.get(number) if isinstance(number, int) else None

    def _promote(self) -> TrialState | None:
        """Let a paused trial go on that has come to be among the best."""
        trial = self._find_promotable()
        if trial is None or self._promoter is None:
            return None
        self._promoter.promote(trial.number)
        del self._paused[trial.number]
        self._move(trial, Status.SCHEDULED)
        trial.attempt += 1
        trial.resumes_after = trial.last_iteration
        return trial

    def _draw(self, now: float) -> TrialState | None:
        if not self._may_draw():
            return None
        is_first = self._drawn < len(self._first)
        cfg = self._first[self._drawn] if is_first else self._sampler.ask(now)
        if cfg is None:
            self._exhausted = True
            return None
        trial_id = compute_trial_id(cfg)
        repetition = self._count_repetition(trial_id)
        if repetition:
            trial_id = compute_trial_id(cfg, repetition)
        trial = TrialState(self._drawn, trial_id, repetition, cfg)
        self._drawn += 1
        self.counts[Status.SCHEDULED] += 1
        return trial

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
    ) -> Answer:
        """Take a running trial's report; say whether it goes on, and what else follows.

        Args:
            number: The trial.
            iteration: 0 or more.
            metrics: What it logged there.
            now: Seconds on the clock of `assign`; None leaves unknown how long iterations take.
        """
        trial = self._running[number]
        self._prospects.note_report(metrics)
        trial.last_iteration = iteration
        notices = () if trial.resumes_after is None else self._watch_resumption(trial, iteration)
        decision, reached = Decision.GO_ON, False
        metric = self.cfg.metric
        if metric is not None and metric in metrics:
            trial.last_value = metrics[metric]
            trial.pace.note(iteration, now)
            if trial.curve.note(iteration, trial.last_value):
                self._tell_sampler(trial)
            reached = self._reaches_target(trial.last_value)
            if self._pruner is not None:
                decision = self._pruner.report(number, iteration, trial.last_value)
                notices += self._pop_doubt()
        self._decide(trial, decision)
        promotable = not self._stopping and self._find_promotable() is not None
        if notices or reached or promotable:
            said = trial.told or Decision.GO_ON
            return Answer(said, notices, reached, promotable)
        return _PLAIN[trial.told or Decision.GO_ON]

    def _decide(self, trial: TrialState, decision: Decision) -> None:
        """Keep the gravest that a trial was told: it may report on before it leaves."""
        if trial.told is Decision.PRUNE or decision is Decision.PRUNE:
            trial.told = Decision.PRUNE
        elif trial.told is Decision.PAUSE or decision is Decision.PAUSE:
            trial.told = Decision.PAUSE
        elif self._stopping:
            trial.told = Decision.STOP

    def _reaches_target(self, value: float) -> bool:
        """Whether this value is the first that is as good as the target."""
        target = self.cfg.target
        if target is None or self._has_reached or not math.isfinite(value):
            return False
        self._has_reached = value <= target if self.cfg.lower_is_better else value >= target
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
        doubt = self._pruner.pop_doubt() if isinstance(self._pruner, AshaPruner) else None
        return () if doubt is None else (doubt,)

    # --- a trial ended ------------------------------------------------------------------------

    def end(self, number: int, ended: Ended) -> Outcome:
        """Take note that a running trial's attempt ended; say what it counts as."""
        trial = self._running.pop(number)
        status = self._judge(trial, ended)
        self._move(trial, status)
        self._tell_sampler(trial)
        if status is Status.PAUSED and self._promoter is not None:
            self._paused[number] = trial
            self._promoter.pause(number)
        runs_again = self._runs_again(trial, status)
        if runs_again:
            self._move(trial, Status.SCHEDULED)
            trial.attempt += 1
            self._waiting.append(trial)
        else:
            self.fatal = self._prospects.judge(trial.trial_id, status, ended.error) or self.fatal
        return Outcome(status, runs_again, self.fatal)

    def _judge(self, trial: TrialState, ended: Ended) -> Status:
        """Say what an end means, given what the trial was told: told to leave, it was not lost."""
        leaving = ended.status in (Status.LOST, Status.INTERRUPTED, Status.PRUNED)
        if leaving and trial.told is Decision.PRUNE:
            return Status.PRUNED
        if leaving and trial.told is Decision.PAUSE:
            return Status.PAUSED
        if ended.status is Status.LOST and self._stopping:
            return Status.INTERRUPTED
        return ended.status

    def _runs_again(self, trial: TrialState, status: Status) -> bool:
        if status is Status.FAILED:
            trial.failed_count += 1
            return trial.failed_count <= self.cfg.max_retries
        if status is Status.LOST or (status is Status.INTERRUPTED and not self._stopping):
            trial.lost_count += 1
            return trial.lost_count <= MAX_LOST
        return False

    def prune(self, number: int) -> bool:
        """Let a running trial go, as someone asked; False if it doesn't run."""
        trial = self._running.get(number)
        if trial is None:
            return False
        trial.told = Decision.PRUNE
        return True

    # --- the driver was told to stop; a sweep goes on in another process ----------------------

    def stop(self) -> None:
        """Start nothing from now on, and tell every trial that reports to leave."""
        self._stopping = True

    def restore(
        self,
        trials: Iterable[TrialState],
        unfinished: Iterable[int],
        has_reported: bool = False,
    ) -> None:
        """Take up trials of an earlier run, in the order of their numbers, before any event.

        The pruner is brought up by its own replay of the stored metrics.

        Args:
            trials: All trials of the experiment, with status, attempt and last value.
            unfinished: The numbers of those to run (again) before new ones are drawn. A failed
                trial that has retries left is none that failed for good, and is run again too.
            has_reported: Whether any of them has ever logged a metric, be it another than the
                sweep's.
        """
        again = set(unfinished)
        if has_reported:
            self._prospects.note_report({})
        for trial in trials:
            self._count_repetition(compute_trial_id(trial.cfg))
            self._drawn = trial.number + 1
            self.counts[trial.status] += 1
            self._tell_sampler(trial)
            self._prospects.note_restored(trial)
            if trial.number in again or self._has_retries_left(trial):
                self._schedule_again(trial)
            elif trial.status is Status.PAUSED and self._promoter is not None:
                self._paused[trial.number] = trial
                self._promoter.pause(trial.number)

    def _has_retries_left(self, trial: TrialState) -> bool:
        failed = trial.status is Status.FAILED
        return failed and 0 < trial.failed_count <= self.cfg.max_retries

    def _schedule_again(self, trial: TrialState) -> None:
        if trial.status is Status.RUNNING:  # its driver died and could not say so
            self._move(trial, Status.INTERRUPTED)
        if trial.status is not Status.SCHEDULED:
            self._move(trial, Status.SCHEDULED)
            trial.attempt += 1
        self._waiting.append(trial)

    # --- the sampler learns, in another thread perhaps -----------------------------------------

    @property
    def student(self) -> StudyingSampler | None:
        """The sampler, if it learns; it does so when asked unless its `studies_apart` is set."""
        return self._sampler if isinstance(self._sampler, StudyingSampler) else None

    def study_failed(self, error: Exception) -> str:
        """Take note that what `plan_study` gave, or what was made of it, has raised.

        From now on the sampler draws at random; if it has no `draw_at_random()`, the sweep can't
        go on, and `fatal` says so.

        Returns:
            One sentence for the user: which sampler, what it raised, and what follows.
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
        self.counts[trial.status] -= 1
        self.counts[status] += 1
        trial.status = status

    def _tell_sampler(self, trial: TrialState) -> None:
        curve = trial.curve.read()
        iteration, value = next(reversed(curve.items()), (None, None))
        self._sampler.tell(
            Observation(
                trial.number,
                trial.cfg,
                trial.status,
                iteration,
                value,
                curve,
                trial.pace.seconds,
            )
        )
