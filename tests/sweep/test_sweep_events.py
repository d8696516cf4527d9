"""The sweep's state machine under any events: what always holds, and that it can be resumed."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, TrialState
from slurm_sweeps.trial import TRANSITIONS, Status
from sweep_cases import (
    COMPLETED,
    INTERRUPTED,
    LOST,
    TEMPLATES,
    UNFINISHED,
    build_sweep,
    start,
)


def store(trial: TrialState) -> TrialState:
    """What a database keeps of a trial, and hands to a later process."""
    kept = ("number", "trial_id", "repetition", "cfg", "status", "attempt")
    fields = {name: copy.deepcopy(getattr(trial, name)) for name in kept}
    return TrialState(**fields, last_iteration=trial.last_iteration)


class SweepMachine(RuleBasedStateMachine):
    """Any slots, any reports, any ends, any restores: the invariants hold and it ends."""

    @initialize(
        template=st.sampled_from(sorted(TEMPLATES)),
        rule=st.sampled_from([{}, {"asha": True}, {"asha": True, "promote": True}]),
        n_trials=st.integers(1, 8),
        slots=st.integers(1, 4),
        max_retries=st.integers(0, 2),
        fail_fast=st.booleans(),
    )
    def begin(self, template: str, rule: dict[str, Any], slots: int, **cfg: Any) -> None:
        self.build = lambda: build_sweep(template, slots=slots, **rule, **cfg)
        self.sweep = self.build()
        self.slots: list[TrialState | None] = [None] * slots
        self.trials: dict[int, TrialState] = {}
        self.reports: list[tuple[int, int, float]] = []
        self.stopped = False

    def busy(self) -> list[TrialState]:
        return [trial for trial in self.slots if trial is not None]

    def free_slot(self, trial: TrialState) -> None:
        self.slots[self.slots.index(trial)] = None

    @precondition(lambda self: None in self.slots)
    @rule()
    def assign(self) -> None:
        slot = self.slots.index(None)
        before = self.sweep.drawn
        trial = self.sweep.assign(0.0)
        assert (trial is None) or not (self.stopped or self.sweep.fatal)
        if trial is None:
            return
        assert trial not in self.busy()
        assert trial.number <= before
        self.slots[slot] = self.trials[trial.number] = trial

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), value=st.floats(), named=st.booleans())
    def report(self, data: st.DataObject, value: float, named: bool) -> None:
        trial = data.draw(st.sampled_from(self.busy()))
        iteration = (trial.last_iteration or 0) + data.draw(st.integers(1, 3))
        told = trial.told
        if named:
            self.reports.append((trial.number, iteration, value))
        answer = self.sweep.report(trial.number, iteration, {"loss" if named else "x": value})
        decision = answer.decision
        assert not (answer.promotable and self.stopped)
        if told is Decision.PRUNE:
            assert decision is Decision.PRUNE
        elif told is Decision.PAUSE:
            assert decision in (Decision.PAUSE, Decision.PRUNE)
        elif self.stopped:
            assert decision is not Decision.GO_ON

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        trial = data.draw(st.sampled_from(self.busy()))
        status = data.draw(st.sampled_from(sorted(TRANSITIONS[Status.RUNNING])))
        attempt = trial.attempt
        outcome = self.sweep.end(trial.number, Ended(status))
        self.free_slot(trial)
        assert outcome.status in TRANSITIONS[Status.RUNNING]
        if outcome.runs_again:
            assert (trial.status, trial.attempt) == (Status.SCHEDULED, attempt + 1)
        else:
            assert trial.status is outcome.status

    @rule()
    def stop(self) -> None:
        self.sweep.stop()
        self.stopped = True

    @rule()
    def restore(self) -> None:
        """The driver is killed; another one goes on from what was stored."""
        stored = [store(self.trials[number]) for number in sorted(self.trials)]
        sweep = self.build()
        again = [trial.number for trial in stored if trial.status in UNFINISHED]
        sweep.restore(stored, again)
        for report in self.reports:
            if sweep._pruner is not None:
                sweep._pruner.report(*report)
        assert sweep.drawn == self.sweep.drawn
        self.sweep, self.stopped = sweep, False
        self.slots = [None] * len(self.slots)
        # What is unfinished runs first, and is started one attempt further if it had begun.
        for number in again[: len(self.slots)]:
            self.assign()
            assert self.trials[number] in self.busy()

    @invariant()
    def hold(self) -> None:
        if not hasattr(self, "sweep"):
            return
        running = self.sweep.running
        assert {trial.number for trial in self.busy()} == set(running)
        assert all(trial.status is Status.RUNNING for trial in self.busy())
        assert sorted(self.trials) == list(range(self.sweep.drawn))
        assert len({trial.trial_id for trial in self.trials.values()}) == len(self.trials)
        if self.sweep.cfg.n_trials is not None:
            assert self.sweep.drawn <= self.sweep.cfg.n_trials

    def teardown(self) -> None:
        """Whatever was before: trials that now complete bring every sweep to its end."""
        if not hasattr(self, "sweep"):
            return
        for _ in range(100):
            if None in self.slots:
                self.assign()
            for trial in self.busy()[:1]:
                self.sweep.report(trial.number, (trial.last_iteration or 0) + 1, {"loss": 1.0})
                self.sweep.end(trial.number, COMPLETED)
                self.free_slot(trial)
            if self.sweep.is_done:
                break
        assert self.sweep.is_done
        assert not self.sweep.running


SweepMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyEvents = SweepMachine.TestCase


def compute_value(number: int, iteration: int) -> float:
    """A made-up learning curve."""
    return ((number * 7919 + 13) % 101) / iteration


def play(sweep: Sweep, slots: int, n_events: int | None = None) -> list[Any]:
    """Run a sweep, four reports a trial, slot after slot; return the decisions in order."""
    busy: dict[int, TrialState] = {}
    log: list[Any] = []
    while not sweep.is_done:
        for slot in range(slots):
            if n_events is not None and len(log) >= n_events:
                return log
            trial = busy.get(slot)
            if trial is None:
                trial = sweep.assign(0.0)
                if trial is None:
                    continue
                busy[slot] = trial
                log.append(("start", trial.number, trial.cfg, trial.trial_id))
                continue
            iteration = (trial.last_iteration or 0) + 1
            value = compute_value(trial.number, iteration)
            decision = sweep.report(trial.number, iteration, {"loss": value}).decision
            log.append(("report", trial.number, iteration, decision))
            if decision is Decision.PRUNE or iteration == 4:
                pruned = decision is Decision.PRUNE
                sweep.end(trial.number, Ended(Status.PRUNED if pruned else Status.COMPLETED))
                del busy[slot]
    return log


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_the_same_events_give_the_same_decisions(template: str) -> None:
    logs = [play(build_sweep(template, asha=True, n_trials=20), slots=3) for _ in range(2)]
    assert logs[0] == logs[1]
    other = play(build_sweep(template, asha=True, n_trials=20, seed=2), slots=3)
    assert (other == logs[0]) == (template == "constant")


@given(
    st.sampled_from(sorted(TEMPLATES)),
    st.integers(1, 4),
    st.lists(st.integers(1, 30), max_size=4),
    st.sampled_from([0, 7, math.inf]),
)
def test_interrupted_and_restored_it_draws_what_it_would_have(
    template: str, slots: int, interruptions: list[int], named_from: float
) -> None:
    undisturbed = play(build_sweep(template, asha=True, n_trials=20), slots)
    starts = [entry for entry in undisturbed if entry[0] == "start"]

    trials: dict[int, TrialState] = {}
    stored: list[TrialState] = []
    for n_events in [*interruptions, None]:
        sweep = build_sweep(template, asha=True, n_trials=20)
        again = [trial.number for trial in stored if trial.status in UNFINISHED]
        sweep.restore(stored, again, named_from=named_from)
        for trial in stored:
            for iteration in range(1, (trial.last_iteration or 0) + 1):
                sweep._pruner.report(
                    trial.number, iteration, compute_value(trial.number, iteration)
                )
        for name, number, cfg, trial_id in (
            e for e in play_and_keep(sweep, slots, n_events, trials)
        ):
            assert (name, number, cfg, trial_id) in starts
        stored = [store(trials[number]) for number in sorted(trials)]
    assert sorted(trials) == [number for _, number, _, _ in starts]
    assert all(trial.status in (Status.COMPLETED, Status.PRUNED) for trial in stored)


def play_and_keep(
    sweep: Sweep, slots: int, n_events: int | None, trials: dict[int, TrialState]
) -> list[Any]:
    """Play, and note every trial's state as a database would; return the starts."""
    assign = sweep.assign

    def note(now: float) -> TrialState | None:
        trial = assign(now)
        if trial is not None:
            trials[trial.number] = trial
        return trial

    sweep.assign = note  # type: ignore[method-assign] # listens, and changes nothing
    return [entry for entry in play(sweep, slots, n_events) if entry[0] == "start"]


@given(st.integers(1, 60))
def test_restored_the_pruner_judges_as_before(n_events: int) -> None:
    sweep = build_sweep(asha=True, n_trials=20)
    trials: dict[int, TrialState] = {}
    play_and_keep(sweep, 3, n_events, trials)
    running = sorted(sweep.running)

    restored = build_sweep(asha=True, n_trials=20)
    restored.restore([store(trials[number]) for number in sorted(trials)], running)
    for number in sorted(trials):
        for iteration in range(1, (trials[number].last_iteration or 0) + 1):
            restored._pruner.report(number, iteration, compute_value(number, iteration))
    for number in running:
        assert start(restored).number == number
    for number in running:
        iteration = (trials[number].last_iteration or 0) + 1
        report = (number, iteration, {"loss": compute_value(number, iteration)})
        assert restored.report(*report) == sweep.report(*report)


def test_a_trial_whose_place_is_taken_away_loses_nothing() -> None:
    sweep = build_sweep(n_trials=2)
    first, second = start(sweep), start(sweep)
    for end in (LOST, INTERRUPTED, LOST, INTERRUPTED, LOST):  # more often than it may be lost
        sweep.interrupt(first.number)
        assert sweep.report(first.number, 1, {"loss": 1.0}).decision is Decision.STOP
        outcome = sweep.end(first.number, end)
        assert (outcome.status, outcome.runs_again) == (Status.INTERRUPTED, True)
        assert start(sweep) is first
    assert (first.lost_count, first.attempt) == (0, 6)
    sweep.interrupt(second.number)  # one that ends by itself all the same has ended
    assert sweep.end(second.number, COMPLETED).status is Status.COMPLETED
    assert sweep.end(first.number, INTERRUPTED).runs_again
    assert first.lost_count == 1  # nobody had asked for that
    assert start(sweep) is first
    sweep.interrupt(first.number)
    sweep.prune(first.number)
    assert sweep.end(first.number, INTERRUPTED).status is Status.PRUNED
