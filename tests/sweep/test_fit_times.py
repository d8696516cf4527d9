"""What the model proposes follows from the order of events, however long its fits take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Problem, forest
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, Report, SweepCfg, TrialState, Turn
from slurm_sweeps.trial import Status

SPACES: dict[str, dict[str, Any]] = {
    "continuous": {"x": ss.Uniform(0, 1), "y": ss.LogUniform(1e-3, 1)},
    "finite": {"x": ss.Integer(0, 4), "y": ss.Choice([1, 2, {"z": ss.Integer(1, 3)}])},
    "mixed": {"x": ss.Choice([0, ss.Uniform(0, 1)]), "y": ss.Integer(0, 2)},
}


def build(space: str, repeatable: bool, first: int, promote: bool) -> Sweep:
    """Make a sweep with a model that begins early, and points to be tried first."""
    space_ = SearchSpace(SPACES[space])
    problem = Problem(space_, 3, "loss", "min", repeatable)
    pruner = ss.ASHA("loss", "min", reduction_factor=2, promote=promote).build_pruner()
    sampler = ss.samplers.Model(n_startup=2).bind(problem)
    return Sweep(SweepCfg(16, Goal("loss", "min")), sampler, pruner, [{"x": 0, "y": 1}] * first)


def judge(number: int, iteration: int) -> float:
    """What a trial logs: another order of the trials at each iteration."""
    return (number * 7 + iteration * iteration * 5) % 11 / iteration


class Live:
    """A sweep whose fits end when they like; keeps what happened, in its order.

    Attributes:
        past: The events as they are stored.
        cfgs: What was proposed, by trial.
    """

    def __init__(self, sweep: Sweep, slots: int) -> None:
        assert sweep.student is not None
        self.sweep, self.student, self.slots = sweep, sweep.student, slots
        self.student.studies_apart = True
        self.study: Any = None
        self.past: list[Report | Turn] = []
        self.cfgs: dict[int, dict[str, Any]] = {}
        self.settle()

    def settle(self) -> None:
        """Give free slots what can be had, and begin a fit where none is made."""
        while len(self.sweep.running) < self.slots:
            now = float(len(self.past))
            trial = self.sweep.assign(now)
            if trial is None:
                break
            self.cfgs[trial.number] = trial.cfg
            self.past.append(Turn(now, trial.number, trial.attempt, Status.RUNNING))
        self.study = self.study or self.student.plan_study()

    def end_fit(self) -> None:
        self.student.learn(self.study())
        self.study = None
        self.settle()

    def step(self, trial: TrialState, ends: bool) -> None:
        """Let a running trial report, or end."""
        now, number = float(len(self.past)), trial.number
        ends = ends or trial.told is not None
        if ends:
            how = {Decision.PRUNE: Status.PRUNED, Decision.PAUSE: Status.PAUSED}
            status = how.get(trial.told, Status.COMPLETED)  # type: ignore[arg-type] # may be None
            self.past.append(Turn(now, number, trial.attempt, status))
            self.sweep.end(number, Ended(Status.PRUNED if trial.told else status))
        else:
            iteration = (trial.last_iteration or 0) + 1
            value = judge(number, iteration)
            self.past.append(Report(now, number, iteration, value))
            self.sweep.report(number, iteration, {"loss": value}, now)
        self.settle()


def replay(sweep: Sweep, past: Iterable[Report | Turn]) -> dict[int, dict[str, Any]]:
    """Have the events again, each fit made where it is needed; return what was proposed."""
    cfgs = {}
    for event in past:
        if isinstance(event, Report):
            sweep.report(event.number, event.iteration, {"loss": event.value}, event.at)
        elif event.status is Status.RUNNING:
            trial = sweep.assign(event.at)
            assert trial is not None
            assert trial.number == event.number
            cfgs[trial.number] = trial.cfg
        else:
            told = sweep.running[event.number].told
            sweep.end(event.number, Ended(Status.PRUNED if told else event.status))
    return cfgs


def restore(sweep: Sweep, live: Live, past: list[Report | Turn]) -> None:
    """Take up in another process what was stored, and what ran then."""
    states: dict[int, TrialState] = {}
    for event in past:
        fresh = TrialState(event.number, str(event.number), 0, live.cfgs[event.number])
        state = states.setdefault(event.number, fresh)
        if isinstance(event, Report):
            state.last_iteration = event.iteration
            state.curve.note(event.iteration, event.value)
            state.pace.note(event.iteration, event.at)
            sweep._pruner.report(event.number, event.iteration, event.value)  # type: ignore[union-attr] # there is one
        else:
            state.status, state.attempt = event.status, event.attempt
            if event.status is Status.RUNNING:
                state.pace.begin(event.attempt, event.at)
    running = [number for number, state in states.items() if state.status is Status.RUNNING]
    trials = [states[number] for number in sorted(states)]
    sweep.restore(trials, sorted(running), logged=["loss"], past=past)
    for _ in running:
        assert sweep.assign(0.0).number in running  # type: ignore[union-attr] # they come first


@settings(max_examples=8, deadline=None)
@given(
    data=st.data(),
    space=st.sampled_from(sorted(SPACES)),
    slots=st.integers(1, 4),
    repeatable=st.booleans(),
    first=st.integers(0, 4),
)
def test_proposals_follow_from_the_order_of_events(
    data: st.DataObject, space: str, slots: int, repeatable: bool, first: int
) -> None:
    promote = data.draw(st.booleans(), "promote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest, "N_TREES", 4)  # quick ones
        patch.setattr(forest, "N_CANDIDATES", 60)
        live = Live(build(space, repeatable, first, promote), slots)
        for _ in range(data.draw(st.integers(10, 100), "steps")):
            running = sorted(live.sweep.running)
            if (live.study and data.draw(st.integers(0, 3)) == 0) or not running:
                if live.sweep.is_done or live.study is None:
                    break
                live.end_fit()
            else:
                number = data.draw(st.sampled_from(running))
                live.step(live.sweep.running[number], data.draw(st.integers(0, 3)) == 0)
        assert replay(build(space, repeatable, first, promote), live.past) == live.cfgs

        # What is run again is timed anew; of several, nobody knows in which order they would have.
        if not repeatable or slots > 1:
            return
        cut = data.draw(st.integers(0, len(live.past)), "cut")
        restored = build(space, repeatable, first, promote)
        restore(restored, live, live.past[:cut])
        for number, cfg in replay(restored, live.past[cut:]).items():
            assert cfg == live.cfgs[number]
