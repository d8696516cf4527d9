"""Configurations of several runs: who is given the next, who is stopped, what the sampler hears."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.race import FACTOR, Race, build_pruner, build_sampler
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Observation, Problem, bind_sampler
from slurm_sweeps.search.repeat import find_repeats
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, SweepCfg, TrialState
from slurm_sweeps.trial import Status, split_cfg

SPACES: dict[str, dict[str, Any]] = {
    "continuous": {"x": ss.Uniform(0, 1), "seed": ss.Repeat(3)},
    "nested": {"opt": {"seed": ss.Repeat(["a", "b"])}, "x": ss.Choice([(1,), 2])},
    "grid": {"x": ss.Grid([1, 2, 3]), "seed": ss.Repeat([11, 22])},
}


class Heard:
    """A sampler that keeps what it is told."""

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.told: dict[int, Observation] = {}

    def ask(self, now: float) -> Any:
        return self._sampler.ask(now)

    def tell(self, trial: Observation) -> None:
        self.told[trial.number] = trial
        self._sampler.tell(trial)


def build(
    space: str = "continuous", n_trials: int = 30, rule: Any = None
) -> tuple[Any, Any, Heard]:
    repeats = find_repeats(SearchSpace(SPACES[space]))
    assert repeats is not None
    race = Race(repeats.path, repeats.values, 1)
    heard = Heard(bind_sampler(None, Problem(repeats.space, 1, "loss", "min")))
    sampler = build_sampler(heard, race, repeats)
    pruner = build_pruner(race, None if rule is None else rule.build_pruner())
    cfg = SweepCfg(n_trials, Goal("loss", "min"), slots=2)
    return Sweep(cfg, sampler, pruner), race, heard


def play(sweep: Any, value: Any, steps: int = 1000) -> list[dict[str, Any]]:
    """Run trials one after the other; `value(cfg, iteration)` is what each reports."""
    cfgs = []
    while len(cfgs) < steps and (trial := sweep.assign(0.0)) is not None:
        cfgs.append(trial.cfg)
        run(sweep, trial, value)
    return cfgs


def run(sweep: Any, trial: Any, value: Any, n: int = 4) -> Decision:
    for iteration in range(1, n + 1):
        metrics = {"loss": value(trial.cfg, iteration)}
        decision = sweep.report(trial.number, iteration, metrics).decision
        if decision is not Decision.GO_ON:
            sweep.end(trial.number, Ended(Status.PRUNED))
            return decision
    sweep.end(trial.number, Ended(Status.COMPLETED))
    return Decision.GO_ON


def test_those_that_lead_are_run_again_and_the_sampler_hears_of_each_once() -> None:
    sweep, _, heard = build()
    cfgs = play(sweep, lambda cfg, _: cfg["x"] + 0.01 * cfg["seed"])
    assert len(cfgs) == 30  # n_trials counts trials
    runs: dict[float, list[int]] = {}
    for cfg in cfgs:
        runs.setdefault(cfg["x"], []).append(cfg["seed"])
    assert all(seeds == [0, 1, 2][: len(seeds)] for seeds in runs.values())
    counts = {k: sum(len(seeds) >= k for seeds in runs.values()) for k in (1, 2, 3)}
    assert counts[2] >= math.ceil(counts[1] / FACTOR) - 1
    assert 0 < counts[3] < counts[2] < counts[1]
    assert len(runs[min(runs)]) == 3
    assert [told.cfg["seed"] for told in heard.told.values()] == [0] * len(runs)
    assert list(heard.told) == list(range(len(runs)))
    (best,) = (told for told in heard.told.values() if told.cfg["x"] == min(runs))
    assert best.value == pytest.approx(min(runs) + 0.01)


def test_a_grid_ends_when_nobody_leads_any_more() -> None:
    sweep = build("grid", 6)[0]
    first = [sweep.assign(0.0) for _ in range(3)]
    assert sweep.assign(0.0) is None  # until one has ended
    assert [trial.cfg["seed"] for trial in first] == [11] * 3
    for trial in first:
        run(sweep, trial, lambda cfg, _: cfg["x"])
    assert not sweep.is_done
    cfgs = play(sweep, lambda cfg, _: cfg["x"])
    assert cfgs == [{"x": 1, "seed": 22}]
    assert sweep.is_done


def test_a_rung_compares_means() -> None:
    sweep, race, _ = build(rule=ss.ASHA("loss", "min", 2, max_t=4))
    cfgs = [sweep.assign(0.0) for _ in range(4)]
    for trial, value in zip(cfgs, [0.4, 0.5, 0.6, 0.7], strict=True):
        run(sweep, trial, lambda _cfg, _i, value=value: value)
    again = sweep.assign(0.0)
    assert again.cfg == {**cfgs[0].cfg, "seed": 1}
    # By itself 0.55 is behind two of the four others; what is judged is (0.4 + 0.55) / 2.
    assert sweep.report(again.number, 1, {"loss": 0.55}).decision is Decision.GO_ON
    assert sweep.report(again.number, 1, {"loss": 0.8}).decision is Decision.PRUNE
    sweep.end(again.number, Ended(Status.PRUNED))
    assert not race.leads(race.find(0))


def test_what_was_given_without_leading_is_found() -> None:
    race = Race("seed", (0, 1, 2), 1, counts_at=2)
    for number, (x, seed) in enumerate([(0.1, 0), (0.2, 0), (0.1, 1), (0.2, 1), (0.1, 2)]):
        race.note(number, {"x": x, "seed": seed})
    race.forget_given()
    assert race.give(0)
    assert race.give(1)
    assert not race.give(4)  # the third before the second
    race.forget_given()
    for number in (0, 1):
        race.give(number)
        race.note_value(number, 1, 0.1 + number)
    assert not race.leads(race.find(0))  # no run counts yet
    race.note_value(0, 2, 0.5)
    race.note_value(1, 2, 0.0)
    race.note_value(1, 3, -9.0)  # beyond: all are compared at the same resource
    assert not race.give(2)
    assert race.give(3)


@pytest.mark.parametrize("status", [Status.FAILED, Status.INFEASIBLE, Status.PRUNED, Status.LOST])
def test_what_has_not_completed_is_not_run_again(status: Status) -> None:
    sweep, race, _ = build(n_trials=2)
    trial = sweep.assign(0.0)
    sweep.report(trial.number, 1, {"loss": 0.0})
    race.note_status(trial.number, status)
    assert not race.leads(race.find(trial.number))


def copy_state(trial: TrialState) -> TrialState:
    copied = TrialState(trial.number, trial.trial_id, trial.repetition, trial.cfg)
    copied.status, copied.attempt = trial.status, trial.attempt
    copied.last_iteration, copied.curve = trial.last_iteration, trial.curve
    return copied


@settings(max_examples=20, deadline=None)
@given(
    space=st.sampled_from(list(SPACES)),
    rule=st.sampled_from([None, ss.ASHA("loss", "min", 2, max_t=4)]),
    noise=st.lists(st.integers(0, 5), min_size=6, max_size=6),
    stop=st.integers(1, 12),
)
def test_restored_after_any_trial_it_goes_on_as_undisturbed(
    space: str, rule: Any, noise: list[int], stop: int
) -> None:
    def value(cfg: dict[str, Any], iteration: int) -> float:
        flat = repr(cfg)
        return noise[sum(map(ord, flat)) % 6] + iteration % 2

    undisturbed = play(build(space, 16, rule)[0], value)
    assert play(build(space, 16, rule)[0], value) == undisturbed
    sweep = build(space, 16, rule)[0]
    begun, seen, reports = play_and_keep(sweep, value, stop)
    again, race, _ = build(space, 16, rule)
    for state in seen:
        race.note(state.number, state.cfg)
    for number, iteration, reported in sorted(reports, key=lambda each: each[1]):
        again._pruner.report(number, iteration, reported)
    again.restore([copy_state(state) for state in seen], [])
    assert begun + play(again, value) == undisturbed
    repeats = find_repeats(SearchSpace(SPACES[space]))
    assert repeats is not None
    runs: dict[str, list[Any]] = {}
    for cfg in undisturbed:
        key, seed = split_cfg(cfg, repeats.path)
        runs.setdefault(key, []).append(seed)
    # None is given its next value before the one before; a space with an end is drawn from again.
    for seeds in runs.values():
        assert list(dict.fromkeys(seeds)) == list(repeats.values)[: len(set(seeds))]


def play_and_keep(sweep: Any, value: Any, steps: int) -> tuple[list[Any], list[Any], list[Any]]:
    begun, seen, reports = [], [], []
    while len(begun) < steps and (trial := sweep.assign(0.0)) is not None:
        begun.append(trial.cfg)
        seen.append(trial)
        run(sweep, trial, value)
        for iteration in range(1, (trial.last_iteration or 0) + 1):
            reports.append((trial.number, iteration, value(trial.cfg, iteration)))
    return begun, seen, reports


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"a": ss.Repeat(2), "b": ss.Repeat(3)}, "cfg has 2 Repeats"),
        ({"a": ss.Choice([1, {"seed": ss.Repeat(2)}])}, "can't lie in an option"),
        ({"a": ss.Grid([1, {"seed": ss.Repeat(2)}])}, "can't lie in an option"),
        ({"a": [ss.Repeat(2)]}, "must be a value of cfg"),
        ({"a.b": ss.Repeat(2)}, "must be a value of cfg"),
        ({1: ss.Repeat(2)}, "must be a value of cfg"),
    ],
)
def test_where_no_repeat_can_be_is_said(cfg: dict[Any, Any], said: str) -> None:
    with pytest.raises(ss.UsageError, match=said):
        find_repeats(SearchSpace(cfg))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (0, "n >= 2|2 or more"),
        (1, "n >= 2|2 or more"),
        (True, "how many runs"),
        ("12", "how many runs"),
        (2.0, "how many runs"),
        ([7], "two or more"),
        ([7, 7], "two or more"),
        ([ss.Uniform(0, 1), 2], "numbers or texts"),
        ([True, False], "numbers or texts"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: Any, said: str) -> None:
    with pytest.raises((ss.UsageError, ss.UsageTypeError), match=said):
        ss.Repeat(options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "nobody says by what"),
        ({"metric": ["a", "b"], "mode": "min"}, "name one"),
        ({"metric": "a", "mode": "min", "asha": ss.ASHA("b", "min")}, "goes by another"),
        ({"metric": "a", "mode": "min", "keep": ss.Keep(1)}, "leave it out"),
        ({"metric": "a", "mode": "min", "points_to_evaluate": [{"seed": 2}]}, "but here 0"),
    ],
)
def test_an_experiment_says_what_it_can_not_do_with_a_repeat(
    arguments: dict[str, Any], said: str, tmp_path: Any
) -> None:
    cfg = {"x": ss.Uniform(0, 1), "seed": ss.Repeat(3)}
    with pytest.raises(ss.UsageError, match=said):
        ss.Experiment(print, cfg, local_dir=tmp_path, **arguments)
    experiment = ss.Experiment(print, cfg, local_dir=tmp_path, metric="a", mode="min")
    with pytest.raises(ss.UsageError, match="one lucky run"):
        experiment.run(3, target=0.1)
