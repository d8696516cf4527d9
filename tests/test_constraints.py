"""What a sweep may not do: `where`, and bounds on what trials report; also with real processes."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.cli import main
from slurm_sweeps.experiment.sweep_file import read_sweep_file
from slurm_sweeps.rules.feasible import check_feasible, is_infeasible
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import NumberedSampler, Observation, Problem, bind_sampler
from slurm_sweeps.search.draws import check_where, fill_points
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, SweepCfg, TrialState
from slurm_sweeps.trial import Status
from sweep_cases import COMPLETED, FAILED, INTERRUPTED, LOST, build_sweep, start

SPACE = {"x": ss.Uniform(0, 1)}


def build(tmp_path: Path, train: Any, cfg: Any = None, **kwargs: Any) -> ss.Experiment:
    kwargs = {"name": "e", "local_dir": tmp_path, "seed": 0} | kwargs
    return ss.Experiment(train, SPACE if cfg is None else cfg, **kwargs)


def run(experiment: ss.Experiment, n_trials: int | None, **kwargs: Any) -> ss.Result:
    return experiment.run(n_trials, summary_interval_in_sec=60, **kwargs)


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "value", "is_within"),
    [
        (ss.AtMost(2), 2.0, True),
        (ss.AtMost(2), 2.1, False),
        (ss.AtMost(2), -math.inf, True),
        (ss.AtMost(2), math.inf, False),
        (ss.AtMost(2), math.nan, True),
        (ss.AtLeast(2), 2.0, True),
        (ss.AtLeast(2), 1.9, False),
        (ss.AtLeast(2), math.nan, True),
    ],
)
def test_what_is_within_a_bound(bound: Any, value: float, is_within: bool) -> None:
    assert is_infeasible({"a": bound}, {"a": value}) is not is_within
    assert not is_infeasible({"a": bound}, {"b": value})


@pytest.mark.parametrize(
    ("build_it", "words"),
    [
        (lambda: ss.AtMost("24"), "AtMost: limit must be a number, got '24'"),
        (lambda: ss.AtLeast(math.inf), "AtLeast: limit must be finite, got inf"),
        (lambda: check_feasible({"a": 24}), "such as {'memory_gb': ss.AtMost(24)}, got {'a': 24}"),
        (lambda: check_feasible([ss.AtMost(1)]), "feasible must be a dict of bounds"),
        (lambda: check_feasible({"": ss.AtMost(1)}), "a metric must have a name"),
    ],
)
def test_bounds_that_make_no_sense(build_it: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build_it()
    assert words in str(caught.value)


@pytest.mark.parametrize("how", [COMPLETED, FAILED, LOST, INTERRUPTED, Ended(Status.PRUNED)])
def test_who_is_beyond_a_bound_is_infeasible_however_it_left(how: Ended) -> None:
    sweep = build_sweep(asha=True, max_retries=3, feasible={"gb": ss.AtMost(2)}, target=0.0)
    trial = start(sweep)
    assert sweep.report(trial.number, 1, {"loss": 1.0, "gb": 2.0}).decision is Decision.GO_ON
    answer = sweep.report(trial.number, 2, {"loss": -1.0, "gb": 2.5})
    assert (answer.decision, answer.reached) == (Decision.PRUNE, False)
    assert sweep.report(trial.number, 3, {"loss": -1.0}) == answer  # until it has left
    outcome = sweep.end(trial.number, how)
    assert (outcome.status, outcome.runs_again) == (Status.INFEASIBLE, False)


def test_the_value_that_comes_with_the_end_counts_too() -> None:
    sweep = build_sweep(feasible={"gb": ss.AtMost(2)})
    trial = start(sweep)
    sweep.report(trial.number, 1, {"gb": 3.0}, is_last=True)
    assert sweep.end(trial.number, COMPLETED).status is Status.INFEASIBLE


def test_an_infeasible_trial_sets_no_bar_for_others() -> None:
    sweep = build_sweep(asha=True, feasible={"gb": ss.AtMost(2)})
    for _ in range(2):
        sweep.report(start(sweep).number, 1, {"loss": 0.1, "gb": 3.0})
    good, bad = start(sweep), start(sweep)
    assert sweep.report(good.number, 1, {"loss": 1.0, "gb": 1.0}).decision is Decision.GO_ON
    assert sweep.report(bad.number, 1, {"loss": 2.0, "gb": 1.0}).decision is Decision.PRUNE
    assert sweep.end(bad.number, Ended(Status.PRUNED)).status is Status.PRUNED


def test_a_bound_on_what_is_never_logged_is_told() -> None:
    sweep = build_sweep(feasible={"gb": ss.AtMost(2)}, goal=Goal("loss", "min"))
    trial = start(sweep)
    sweep.report(trial.number, 1, {"loss": 0.1})
    sweep.end(trial.number, COMPLETED)
    assert "never logged 'gb'" in str(sweep.fatal)


@pytest.mark.parametrize("kind", ["Model", "Optuna"])
def test_samplers_avoid_what_is_infeasible(kind: str) -> None:
    """The larger x is, the better, but what is larger than 0.5 is infeasible."""
    pytest.importorskip({"Model": "sklearn", "Optuna": "optuna"}[kind])
    problem = Problem(SearchSpace(SPACE | {"y": ss.Uniform(0, 1)}), 1, "loss", "min", True)
    sampler: Any = bind_sampler(getattr(ss.samplers, kind)(), problem)
    proposed = []
    for number in range(100):
        cfg = sampler.ask(0.0)
        proposed.append(cfg["x"])
        status = Status.COMPLETED if cfg["x"] <= 0.5 else Status.INFEASIBLE
        sampler.tell(Observation(number, cfg, status, 1, -cfg["x"], {1: -cfg["x"]}))
    assert sum(x > 0.7 for x in proposed[20:]) < 16  # of 80; at random 24
    assert sum(0.25 < x <= 0.5 for x in proposed[20:]) > 24  # where the best are; at random 20


def train_memory(cfg: dict[str, Any]) -> None:
    """The larger, the better, and the more memory it takes."""
    for epoch in (1, 2):
        ss.log({"loss": 1 - cfg["x"] / 2 + 1 / epoch, "memory_gb": 30 * cfg["x"]}, epoch)


def test_a_sweep_with_a_bound(tmp_path: Path) -> None:
    """Restored with a bound that it did not have, what was beyond it is infeasible as well."""
    goal = {"metric": "loss", "mode": "min"}
    run(build(tmp_path, train_memory, **goal), 6)
    bound = {"memory_gb": ss.AtMost(15)}
    result = run(build(tmp_path, train_memory, feasible=bound, restore=True, **goal), 16)
    trials = result.trials
    beyond = {trial.trial_id for trial in trials if trial.cfg["x"] > 0.5}
    assert {t.trial_id for t in trials if t.status is Status.INFEASIBLE} == beyond
    assert Counter(len(t.metrics["loss"]) for t in trials[6:]) == {
        1: sum(t.trial_id in beyond for t in trials[6:]),
        2: sum(t.trial_id not in beyond for t in trials[6:]),
    }
    best = max((t for t in trials if t.trial_id not in beyond), key=lambda t: t.cfg["x"])
    assert result.best_trial() == best
    assert result.best_trial(scope="last") == best
    assert len(result.best_trials(99)) == 16 - len(beyond)

    arguments = ["e", "--local-dir", str(tmp_path)]
    shown = CliRunner().invoke(main, ["show", *arguments]).output
    assert f"{len(beyond)} infeasible" in shown
    described = json.loads(CliRunner().invoke(main, ["show", *arguments, "--json"]).output)
    assert described["best"]["trial_id"] == best.trial_id
    assert described["counts"]["infeasible"] == len(beyond)
    listed = CliRunner().invoke(main, ["show", *arguments, "--status", "infeasible"]).output
    assert all(trial_id in listed for trial_id in beyond)
    page = result.report(tmp_path / "report.html").read_text()
    assert f"{len(beyond)} infeasible" in page
    assert "at most 15" in page


def test_a_sweep_in_which_all_are_infeasible(tmp_path: Path) -> None:
    bound = {"memory_gb": ss.AtLeast(31)}
    result = run(build(tmp_path, train_memory, metric="loss", mode="min", feasible=bound), 3)
    with pytest.raises(ss.UsageError, match=r"no feasible trial of .* has logged a finite value"):
        result.best_trial()
    shown = CliRunner().invoke(main, ["show", "e", "--local-dir", str(tmp_path)]).output
    assert "no trial that is feasible has a value yet" in shown
    assert result.report(tmp_path / "report.html").exists()


def test_bounds_in_a_sweep_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "command: python train.py\nname: e\nfeasible: {gb: {at_most: 24}, acc: {at_least: 0.5}}\n"
        "cfg: {}\n"
    )
    experiment, _ = read_sweep_file(file, tmp_path)
    assert experiment._search.feasible == {"gb": ss.AtMost(24), "acc": ss.AtLeast(0.5)}
    file.write_text("command: python train.py\nname: e\nfeasible: {gb: {up_to: 24}}\ncfg: {}\n")
    with pytest.raises(ss.UsageError, match="feasible must be a dict of bounds"):
        read_sweep_file(file, tmp_path)


# --- where ----------------------------------------------------------------------------------------

NUMBERS = {"x": ss.Uniform(0, 1), "n": ss.LogInteger(1, 100)}
OPTIONS = {
    "a": ss.Integer(1, 6),
    "b": ss.Choice([{"kind": "u", "c": ss.Integer(1, 6)}, {"kind": "v"}]),
}
GRIDS = {"a": ss.Grid([1, 2, 3]), "b": ss.Grid([1, 2, 3]), "x": ss.Uniform(0, 1)}
POINTS = {"a": ss.Grid([1, 2, 3]), "b": ss.Grid([1, 2, 3])}


def is_small(cfg: dict[str, Any]) -> bool:
    return cfg["x"] * cfg["n"] < 1


def fits_option(cfg: dict[str, Any]) -> bool:
    return cfg["a"] < cfg["b"].get("c", 3)


def is_below(cfg: dict[str, Any]) -> bool:
    return cfg["a"] < cfg["b"] and cfg.get("x", 0.1) < 0.25


class Steps:
    """A sampler of a user's own, which knows of no `where`."""

    def bind(self, problem: Any) -> Steps:
        self.space, self.number = problem.space, 0
        return self

    def ask(self, now: float) -> Any:  # noqa: ARG002 - the protocol's
        self.number += 1
        return self.space.sample(np.random.default_rng(self.number))

    def tell(self, trial: Observation) -> None:
        self.number = max(self.number, trial.number + 1)


SEARCHES = {
    "random": (ss.samplers.Random, NUMBERS, is_small),
    "quasi": (lambda: ss.samplers.Random(quasi=True), NUMBERS, is_small),
    "options": (ss.samplers.Random, OPTIONS, fits_option),
    "model": (lambda: ss.samplers.Model(n_startup=5), NUMBERS, is_small),
    "model of options": (lambda: ss.samplers.Model(n_startup=5), OPTIONS, fits_option),
    "optuna": (ss.samplers.Optuna, NUMBERS, is_small),
    "grid": (ss.samplers.Grid, GRIDS, is_below),
    "own": (Steps, NUMBERS, is_small),
}


def draw(name: str, n: int, known: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Run a sweep of n trials, one after the other, after those that are known."""
    build_plan, template, where = SEARCHES[name]
    if name == "optuna":
        pytest.importorskip("optuna")
    space = SearchSpace(template, where)
    problem = Problem(space, 1, "loss", "min", True)
    sampler: Any = bind_sampler(build_plan(), problem)
    allows = None if isinstance(sampler, NumberedSampler) else space.allows
    sweep = Sweep(SweepCfg(n, Goal("loss", "min"), allows=allows), sampler)
    cfgs = []
    past = [TrialState(at, "", 0, cfg, Status.COMPLETED) for at, cfg in enumerate(known or ())]
    for state in past:
        state.curve.note(1, get_loss(state.cfg))
    sweep.restore(past, ())
    while (trial := sweep.assign(0.0)) is not None:
        cfgs.append(trial.cfg)
        sweep.report(trial.number, 1, {"loss": get_loss(trial.cfg)})
        sweep.end(trial.number, COMPLETED)
    return cfgs


def get_loss(cfg: dict[str, Any]) -> float:
    return float(cfg["a"]) if "a" in cfg else (cfg["x"] - 0.3) ** 2


@pytest.mark.parametrize("name", SEARCHES)
def test_no_sampler_proposes_what_is_refused(name: str) -> None:
    """And each does the same each time, and as it would have where the sweep goes on."""
    cfgs = draw(name, 12)
    assert len(cfgs) == (3 if name == "grid" else 12)
    assert all(SEARCHES[name][2](cfg) for cfg in cfgs)
    assert draw(name, 12) == cfgs
    if name != "own":  # which does not keep to that rule where it is asked twice
        known = len(cfgs) // 2
        assert draw(name, 12, cfgs[:known]) == cfgs[known:]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.sets(st.integers(0, 15), min_size=1), st.integers())
def test_all_points_that_are_allowed_come_before_one_comes_again(
    n_a: int, n_b: int, chosen: set[int], seed: int
) -> None:
    template = {"a": ss.Integer(0, n_a), "b": ss.Choice([*range(n_b)])}
    allowed = {at % ((n_a + 1) * n_b) for at in chosen}
    space = SearchSpace(template, lambda cfg: cfg["a"] * n_b + cfg["b"] in allowed)
    sampler: Any = bind_sampler(None, Problem(space, abs(seed)))
    for _ in range(2):
        asked = [sampler.ask(0.0) for _ in allowed]
        assert {cfg["a"] * n_b + cfg["b"] for cfg in asked} == allowed


def test_points_to_evaluate_must_be_allowed() -> None:
    space = SearchSpace(NUMBERS, is_small)
    (filled,) = fill_points([{"n": 50}], space, 0)
    assert filled["n"] == 50
    assert filled["x"] < 0.02
    with pytest.raises(ss.UsageError, match=r"points_to_evaluate\[0\] = .* where refuses"):
        fill_points([{"x": 0.5, "n": 50}], space, 0)


@pytest.mark.parametrize(
    ("template", "where", "words"),
    [
        (NUMBERS, "x < 1", "where must be a function that takes a configuration"),
        (NUMBERS, lambda _: False, "where refuses all of 10,000 configurations that were drawn"),
        (NUMBERS, lambda cfg: cfg["y"] > 1, "where raised KeyError: 'y', for the configuration {"),
    ],
)
def test_a_where_that_makes_no_sense(tmp_path: Path, template: Any, where: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build(tmp_path, train_memory, template, where=where)
    assert words in str(caught.value)


def test_a_where_that_allows_little_is_told_with_the_rate() -> None:
    said = check_where(SearchSpace(SPACE, lambda cfg: cfg["x"] < 0.002))
    assert said is not None
    assert said.startswith("where allows 2") or said.startswith("where allows 1")
    assert "of 10,000 configurations that were drawn at random (0." in said
    assert check_where(SearchSpace(SPACE, lambda cfg: cfg["x"] < 0.1)) is None
    assert check_where(SearchSpace(SPACE)) is None


def test_a_grid_of_which_nothing_is_allowed() -> None:
    space = SearchSpace({"a": ss.Grid([1, 2])}, lambda cfg: cfg["a"] > 2)
    with pytest.raises(ss.UsageError, match="where refuses all of the 2 points of the grid"):
        bind_sampler(None, Problem(space, 0))


def test_a_sampler_that_only_proposes_what_is_refused() -> None:
    sampler = bind_sampler(Steps(), Problem(SearchSpace(SPACE), 0))
    sweep = Sweep(SweepCfg(3, allows=lambda cfg: cfg["x"] > 1), sampler)
    assert sweep.assign(0.0) is None
    assert "where refuses what the sampler Steps proposes, 1000 times in a row" in str(sweep.fatal)


def test_a_sweep_of_a_grid_with_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    limit = 3  # of a closure, which stays in this process
    experiment = build(tmp_path, train_sum, POINTS, where=lambda cfg: cfg["a"] + cfg["b"] <= limit)
    result = run(experiment, None)
    assert sorted((t.cfg["a"], t.cfg["b"]) for t in result.trials) == [(1, 1), (1, 2), (2, 1)]
    assert {trial.status for trial in result.trials} == {Status.COMPLETED}
    out = capfd.readouterr().out
    assert "where refuses 6 of the 9 points of the grids in cfg, so that 3 are run" in out
    assert "3 of 3 done" in out


def train_sum(cfg: dict[str, Any]) -> dict[str, float]:
    return {"loss": cfg["a"] + cfg["b"]}
