"""Designs and sensitivity indices: known functions, SALib's own answers, and what can't be said."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_sweeps as ss
from frameworks import require_module
from search_cases import number_spaces, small_finite, through_json
from slurm_sweeps.cli import main
from slurm_sweeps.replay.sensitivity import Sensitivity, compute_sensitivity
from slurm_sweeps.samplers import Observation, Problem
from slurm_sweeps.samplers.designs import describe_units
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.trial import Status, canonical_json, compute_trial_id
from sweep_scripts import Scripts

#: Ishigami and Homma (1990), with a = 7 and b = 0.1: first-order and total indices.
FIRST = {"x": 0.3139, "y": 0.4424, "z": 0.0}
TOTAL = {"x": 0.5576, "y": 0.4424, "z": 0.2437}

ANGLE = ss.Uniform(-math.pi, math.pi)
ANGLES = {"x": ANGLE, "y": ANGLE, "z": ANGLE}


def ishigami(cfg: dict[str, Any]) -> float:
    x, y, z = cfg["x"], cfg["y"], cfg["z"]
    return float(math.sin(x) + 7 * math.sin(y) ** 2 + 0.1 * z**4 * math.sin(x))


def run_all(plan: Any, template: dict[str, Any], seed: int = 0) -> list[dict[str, Any]]:
    sampler = plan.bind(Problem(SearchSpace(template), seed))
    return [sampler.ask(0.0) for _ in range(sampler.n_left)]


def study(
    plan: Any,
    template: dict[str, Any],
    function: Callable[[dict[str, Any]], float],
    status: Callable[[int], Status] = lambda _: Status.COMPLETED,
) -> Sensitivity:
    """Play a study: each point once, in the design's order."""
    cfgs = run_all(plan, template)
    trials = [
        TrialRecord(n, compute_trial_id(cfg), 0, canonical_json(cfg), status=status(n))
        for n, cfg in enumerate(cfgs)
    ]
    arguments = {name: getattr(plan, name) for name in type(plan).__dataclass_fields__}
    draws = {"sampler": type(plan).__name__, "arguments": arguments, "points": 0}
    told = {"space": SearchSpace(template).describe(), "seed": 0, "draws": draws}
    return compute_sensitivity(
        json.loads(json.dumps(told)), trials, "f", np.array([function(cfg) for cfg in cfgs])
    )


def test_the_indices_of_a_known_function() -> None:
    found = study(ss.samplers.Saltelli(1024, second_order=True), ANGLES, ishigami)
    assert {name: each.first for name, each in found.indices.items()} == pytest.approx(
        FIRST, abs=0.03
    )
    assert {name: each.total for name, each in found.indices.items()} == pytest.approx(
        TOTAL, abs=0.03
    )
    pairs = {names: index for names, (index, _) in found.pairs.items()}
    together = {("x", "y"): 0.0, ("x", "z"): 0.2437, ("y", "z"): 0.0}
    assert pairs == pytest.approx(together, abs=0.08)
    assert (found.n_used, found.n_all, found.missing) == (1024, 1024, {})


@pytest.mark.parametrize("kind", [ss.samplers.Sobol, ss.samplers.LatinHypercube])
def test_first_order_indices_of_points_that_are_spread(kind: Any) -> None:
    found = study(kind(1024), ANGLES, ishigami)
    assert {name: each.first for name, each in found.indices.items()} == pytest.approx(
        FIRST, abs=0.05
    )
    assert all(each.total is None for each in found.indices.values())
    assert "Total indices need samplers.Saltelli." in str(found)


def test_spaces_of_all_kinds_are_mapped() -> None:
    template = {
        "lr": ss.LogUniform(1e-4, 1.0),
        "n": ss.Integer(1, 4),
        "deep": {"q": ss.Quantized(ss.Uniform(0, 1), 0.25), "opt": ss.Choice(["a", "b"])},
        "normal": ss.Normal(0, 1),
    }
    # Variances: of log10(lr) over four decades 16/12, of n 15/12, of the options 1/4, of normal 1.
    found = study(
        ss.samplers.Saltelli(1024),
        template,
        lambda cfg: math.log10(cfg["lr"]) + cfg["n"] + (cfg["deep"]["opt"] == "b") + cfg["normal"],
    )
    shares = np.array([16 / 12, 15 / 12, 0.0, 0.25, 1.0])
    expected = dict(
        zip(("lr", "n", "deep.q", "deep.opt", "normal"), shares / shares.sum(), strict=True)
    )
    for kind in ("first", "total"):  # which are the same, as nothing acts together
        values = {name: getattr(each, kind) for name, each in found.indices.items()}
        assert values == pytest.approx(expected, abs=0.04)


def test_a_hole_takes_its_base_point_with_it() -> None:
    plan = ss.samplers.Saltelli(64)
    broken = {7: Status.FAILED, 8: Status.FAILED, 93: Status.PRUNED}
    found = study(plan, ANGLES, ishigami, lambda n: broken.get(n, Status.COMPLETED))
    assert (found.n_used, found.n_all) == (62, 64)
    assert found.missing == {"failed": 2, "pruned": 1}
    assert "62 of 64 base points" in str(found)
    assert "run a study without a pruner" in str(found)
    space = SearchSpace(ANGLES)
    rows = np.array([ishigami(cfg) for cfg in run_all(plan, ANGLES)]).reshape(64, 5)
    whole = np.delete(rows, [1, 93 // 5], axis=0).ravel()
    its = require_module("SALib.analyze.sobol").analyze(
        describe_units(space), whole, calc_second_order=False, num_resamples=200, seed=1
    )
    assert [each.first for each in found.indices.values()] == its["S1"].tolist()
    assert [each.total_conf for each in found.indices.values()] == its["ST_conf"].tolist()


@pytest.mark.parametrize(
    ("plan", "template", "function", "n_done", "message"),
    [
        (ss.samplers.Saltelli(16), ANGLES, ishigami, 39, r"7 of 16 base points .* 8 are needed"),
        (ss.samplers.Sobol(128), ANGLES, ishigami, 63, "63 completed trials .* 64 are needed"),
        (ss.samplers.Sobol(64), ANGLES, lambda _: 1.5, 64, r"is 1\.5 in all trials"),
        (ss.samplers.Sobol(64), ANGLES, lambda _: math.nan, 64, "0 completed trials"),
        (
            ss.samplers.Sobol(64),
            {"opt": ss.Choice([{"m": ANGLE}, "adam"])},
            lambda _: 1.0,
            64,
            "not spaces within an option",
        ),
        (ss.samplers.Grid(), {"g": ss.Grid([1, 2])}, lambda _: 1.0, 2, "no fair sample"),
    ],
)
def test_what_can_not_be_said(
    plan: Any, template: Any, function: Any, n_done: int, message: str
) -> None:
    def status(number: int) -> Status:
        return Status.COMPLETED if number < n_done else Status.FAILED

    with pytest.raises(ss.UsageError, match=message):
        study(plan, template, function, status)


# --- designs --------------------------------------------------------------------------------------

PLANS = st.sampled_from(
    [ss.samplers.Sobol, ss.samplers.LatinHypercube, ss.samplers.Saltelli]
).flatmap(lambda kind: st.integers(1, 12).map(kind))
SPACES = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(small_finite, number_spaces), min_size=1, max_size=4
)


@settings(max_examples=50)
@given(PLANS, SPACES, st.integers(0, 3), st.data())
def test_a_design_goes_on_whichever_of_its_points_were_run(
    plan: Any, template: dict[str, Any], seed: int, data: st.DataObject
) -> None:
    cfgs = [canonical_json(cfg) for cfg in run_all(plan, template, seed)]
    assert len({*cfgs}) == len(cfgs)
    space = SearchSpace(template)
    resumed = plan.bind(Problem(space, seed))
    done = data.draw(st.sets(st.integers(0, len(cfgs) - 1)))
    for number, at in enumerate(sorted(done)):
        cfg = space.revive(through_json(json.loads(cfgs[at])))
        for status in (Status.RUNNING, Status.FAILED):
            resumed.tell(Observation(number, cfg, status))
    rest = [canonical_json(resumed.ask(0.0)) for _ in range(resumed.n_left)]
    assert rest == [cfg for at, cfg in enumerate(cfgs) if at not in done]
    assert resumed.ask(0.0) is None


@pytest.mark.parametrize("kind", [ss.samplers.Sobol, ss.samplers.Saltelli])
def test_a_larger_design_begins_with_the_smaller(kind: Any) -> None:
    small, large = run_all(kind(16), ANGLES), run_all(kind(64), ANGLES)
    assert large[: len(small)] == small


def test_a_latin_hypercube_has_a_point_in_each_part_of_each_axis() -> None:
    cfgs = run_all(ss.samplers.LatinHypercube(50), {"x": ss.Uniform(0, 1), "y": ss.Uniform(0, 1)})
    for name in ("x", "y"):
        assert {int(cfg[name] * 50) for cfg in cfgs} == {*range(50)}


@pytest.mark.parametrize(
    ("plan", "template", "where", "message"),
    [
        (ss.samplers.Sobol(8), {"a": 1}, None, r"samplers.Sobol\(n=8\) needs spaces in the cfg"),
        (ss.samplers.Sobol(8), ANGLES, lambda cfg: cfg["x"] > 9, "refuses all of the 8 points"),
        (ss.samplers.Saltelli(8), ANGLES, lambda cfg: cfg["x"] > 0, "can't be used with where"),
        (
            ss.samplers.Saltelli(8),
            {"opt": ss.Choice([{"m": ANGLE}, "adam"])},
            None,
            r"cfg\['opt.m'\] lies in an option",
        ),
    ],
)
def test_what_a_design_can_not_be_of(plan: Any, template: Any, where: Any, message: str) -> None:
    with pytest.raises(ss.UsageError, match=message):
        plan.bind(Problem(SearchSpace(template, where), 0))


@pytest.mark.parametrize(
    ("kind", "module", "library"),
    [
        (ss.samplers.Sobol, "scipy.stats", r"SciPy .*slurm-sweeps\[model\]"),
        (ss.samplers.LatinHypercube, "scipy.stats", r"SciPy .*slurm-sweeps\[model\]"),
        (ss.samplers.Saltelli, "SALib.sample.sobol", r"SALib .*slurm-sweeps\[sensitivity\]"),
    ],
)
def test_a_design_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, kind: Any, module: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ss.UsageError, match=f"n=8.* needs {library}"):
        kind(8).bind(Problem(SearchSpace(ANGLES), 0))


# --- real sweeps ----------------------------------------------------------------------------------

SWEEPS = """
import math
import sys
import slurm_sweeps as ss

def train(cfg):
    x, y, z = cfg["x"], cfg["y"], cfg["z"]
    if x > 3.12:
        raise ValueError("too far")
    return math.sin(x) + 7 * math.sin(y) ** 2 + 0.1 * z**4 * math.sin(x)

if __name__ == "__main__":
    angle = ss.Uniform(-math.pi, math.pi)
    space = {"x": angle, "y": angle, "z": angle}
    def run(name, sampler, n_trials=1, **arguments):
        ss.Experiment(
            train, space, name=name, sampler=sampler, seed=3, restore="auto", **arguments
        ).run(n_trials)
    run("saltelli", ss.samplers.Saltelli(16))
    run("saltelli", ss.samplers.Saltelli(64), None)
    run("sobol", ss.samplers.Sobol(70), 9, points_to_evaluate=[{"x": 0.5}])
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    scripts = Scripts(tmp_path_factory.mktemp("studies"))
    done = scripts.run(SWEEPS)
    return scripts.folder / "slurm-sweeps", done.stdout


def test_a_study_that_went_on_has_the_points_of_its_design(swept: tuple[Path, str]) -> None:
    result = ss.Result("saltelli", swept[0])
    trials = result.trials
    assert [trial.cfg for trial in trials] == run_all(ss.samplers.Saltelli(64), ANGLES, 3)
    assert result.verify()
    found = result.sensitivity()
    n_failed = sum(trial.status is Status.FAILED for trial in trials)
    assert n_failed > 0
    assert found.missing == {"failed": n_failed}
    for name, each in found.indices.items():
        assert each.total is not None
        assert each.first == pytest.approx(FIRST[name], abs=0.3)
        assert each.total == pytest.approx(TOTAL[name], abs=0.3)
    values = [t.metrics["value"][1] if t.status == "completed" else math.nan for t in trials]  # type: ignore[index]
    rows = np.array(values).reshape(64, 5)
    whole = rows[np.isfinite(rows).all(axis=1)]
    assert found.n_used == len(whole) < 64
    its = require_module("SALib.analyze.sobol").analyze(
        describe_units(SearchSpace(ANGLES)),
        whole.ravel(),
        calc_second_order=False,
        num_resamples=200,
        seed=1,
    )
    assert [each.total for each in found.indices.values()] == its["ST"].tolist()
    names = [bar.name for bar in result.plot_sensitivity().data]
    assert names == ["first-order", "total"]


def test_without_salib_there_is_one_sentence(
    swept: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "SALib.analyze.sobol", None)
    monkeypatch.setitem(sys.modules, "SALib.analyze.rbd_fast", None)
    result = ss.Result("saltelli", swept[0])
    for ask in (result.plot_sensitivity, result.sensitivity):
        with pytest.raises(ss.UsageError, match=r"pip install 'slurm-sweeps\[sensitivity\]'") as e:
            ask()
        assert e.value.__cause__ is None
        assert len(traceback.extract_tb(e.value.__traceback__)) < 4


def test_a_study_of_points_that_are_spread(swept: tuple[Path, str], tmp_path: Path) -> None:
    folder, printed = swept
    assert "a Sobol sequence is balanced where n is a power of two" in printed
    assert "has 70 points, which are all run: n_trials=9 is not" in printed
    result = ss.Result("sobol", folder)
    trials = result.trials
    assert len(trials) == 71  # the user's own comes first, and is no part of the sample
    assert trials[0].cfg["x"] == 0.5
    found = result.sensitivity("value")
    sample = [t for t in trials[1:] if t.status is Status.COMPLETED]
    assert (found.method, found.n_used, found.n_all) == ("RBD-FAST", len(sample), 70)
    space = SearchSpace(ANGLES)
    units = [space.to_units(t.cfg) for t in sample]
    rows = np.array([[u[leaf] for leaf in space.leaves] for u in units])
    values = np.array([t.metrics["value"][1] for t in sample])  # type: ignore[index]
    its = require_module("SALib.analyze.rbd_fast").analyze(
        describe_units(space), rows, values, num_resamples=200, seed=1
    )
    assert [each.first for each in found.indices.values()] == [*map(float, its["S1"])]
    with pytest.raises(ss.UsageError, match="'loss' was not logged; logged are"):
        result.sensitivity("loss")
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Sensitivity</h2>" in page
    assert "Total indices need samplers.Saltelli." in page
    told = CliRunner().invoke(main, ["sensitivity", "sobol", "--json", "--local-dir", str(folder)])
    assert json.loads(told.output)["indices"]["y"]["first"] == found.indices["y"].first
