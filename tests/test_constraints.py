"""What a sweep may not do: bounds on what trials report; whole sweeps with real processes."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.cli import main
from slurm_sweeps.experiment.sweep_file import read_sweep_file
from slurm_sweeps.rules.feasible import check_feasible, is_infeasible
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Observation, Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Ended
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
