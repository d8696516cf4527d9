"""Restored sweeps whose search space, or what may be tried of it, has changed: real ones."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import slurm_sweeps as ss
from search_cases import number_spaces, small_finite, templates, through_json
from slurm_sweeps.search.extension import check_extends
from slurm_sweeps.search.search_space import SearchSpace


def train(cfg: dict[str, Any]) -> float:
    """Report three times; where x is low, fail at first."""
    value = 10 * (cfg["y"] - 0.9) ** 2 + cfg["x"] + cfg.get("m", 0) + cfg["opt"].get("beta", 0)
    if cfg["x"] < 0.2 and ss.attempt() == 1:
        raise ValueError("too low")
    for iteration in (1, 2, 3):
        ss.log({"loss": value + iteration}, iteration)
    return float(value)


SPACE = {
    "x": ss.Uniform(0, 1),
    "y": ss.Uniform(0, 1),
    "opt": ss.Choice([{"name": "a"}, {"name": "b", "k": 2}]),
}
WIDER = SPACE | {"x": ss.Uniform(0, 5)}
MORE = WIDER | {"opt": ss.Choice([{"name": "b", "k": 2}, {"name": "c"}, {"name": "a"}])}
NEW = WIDER | {
    "m": ss.Uniform(0, 1),
    "net": {"width": ss.Integer(1, 8), "act": "relu"},
    "opt": ss.Choice(
        [{"name": "a"}, {"name": "b", "k": 2, "beta": ss.Uniform(0, 1)}, {"name": "c"}]
    ),
}
#: What the new ones were.
VALUES = {"m": 0.25, "net": {"width": 4}, "opt": {"beta": 0.5}}


def run(folder: Path, space: Any, n_trials: int, **kwargs: Any) -> ss.Result:
    kwargs = {"metric": "loss", "mode": "min", "seed": 0, "restore": "auto"} | kwargs
    experiment = ss.Experiment(train, space, "sweep", folder, **kwargs)
    return experiment.run(n_trials, 1, summary_interval_in_sec=60, fail_fast=False)


def test_earlier_trials_stay_in_a_space_that_grows(tmp_path: Path, capfd: Any) -> None:
    rule = ss.ASHA("loss", "min", reduction_factor=2)
    old = {trial.trial_id: trial for trial in run(tmp_path, SPACE, 8, asha=rule).trials}
    assert {trial.cfg["opt"]["name"] for trial in old.values()} == {"a", "b"}
    assert {"failed", "completed"} <= {trial.status.value for trial in old.values()}
    extended = []
    for n_trials, space, changed in (
        (12, WIDER, "extend"),
        (16, MORE, "extend"),
        (20, NEW, VALUES),
        (22, NEW, VALUES),
        (24, NEW, None),
    ):
        capfd.readouterr()
        result = run(tmp_path, space, n_trials, asha=rule, changed_space=changed)
        assert len(result.trials) == n_trials
        assert (verdict := result.verify()), str(verdict)
        extended += [text for text in capfd.readouterr().out.splitlines() if "extended" in text]
        assert verdict.cfgs == n_trials - 4 - 4 * len(extended)  # those drawn from the last space
    assert len(extended) == 3
    assert (
        "after 8 trials: cfg['x'] was Uniform(0.0, 1.0) and is now Uniform(0.0, 5.0)"
        in (extended[0])
    )
    assert "cfg['m'] is new: Uniform(0.0, 1.0); cfg['net'] is new: {" in extended[2]
    assert max(trial.cfg["x"] for trial in result.trials) > 1
    for trial in result.trials[:8]:
        before = old[trial.trial_id]
        opt = before.cfg["opt"] | ({"beta": 0.5} if before.cfg["opt"]["name"] == "b" else {})
        net = {"width": 4, "act": "relu"}
        assert trial.cfg == {**before.cfg, "opt": opt, "m": 0.25, "net": net}
        assert (trial.status, trial.metrics) == (before.status, before.metrics)
    frame = ss.Result("sweep", tmp_path).to_dataframe()
    assert frame["cfg/m"][:16].unique().tolist() == [0.25]
    assert frame["cfg/m"][16:].nunique() == 8
    assert len(result.what_if(ss.ASHA("loss", "min")).stopped) > 0


@pytest.mark.parametrize(
    ("space", "changed", "said"),
    [
        (SPACE | {"x": ss.Uniform(0.1, 2)}, "extend", "cfg['x']: 0.0 is no value of Uniform(0.1"),
        (SPACE | {"x": ss.LogUniform(1e-3, 1)}, "extend", "cfg['x']: 0.0 is no value of LogU"),
        (SPACE | {"opt": ss.Choice([{"name": "a"}])}, "extend", "cfg['opt'] is {'k': 2, 'name"),
        (SPACE | {"x": 0.5}, "extend", "cfg['x'] is 0.0, but here 0.5"),
        ({"x": SPACE["x"], "y": SPACE["y"]}, "extend", "cfg['opt'] is gone, which the earlier"),
        (NEW, "extend", "cfg['m'] is new: say what it was in the earlier trials, by changed_space"),
        (NEW, VALUES | {"m": 3}, "cfg['m']: 3 is no value of Uniform(0.0, 1.0)"),
        (NEW, {"n": 3}, "changed_space names 'n', which is not in cfg: it has 'm', 'net.act'"),
        (SPACE | {"x": ss.Quantized(ss.Uniform(0, 1), 0.5)}, "extend", "to this one: trial "),
        (WIDER, None, 'or with changed_space="extend" where it has only grown'),
    ],
)
def test_what_can_not_be_mapped_is_named(space: Any, changed: Any, said: str, shared: Path) -> None:
    with pytest.raises(ss.UsageError) as caught:
        run(shared, space, 3, changed_space=changed)
    assert said in str(caught.value)
    assert len(run(shared, SPACE, 2).trials) == 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    run(folder, SPACE, 2)
    return folder


def test_only_what_is_restored_can_grow(tmp_path: Path) -> None:
    with pytest.raises(ss.UsageError, match="about an experiment that is restored: pass restore"):
        run(tmp_path, SPACE, 1, changed_space="extend", restore=False)
    with pytest.raises(ss.UsageTypeError, match='must be "extend", or a dict of what new'):
        run(tmp_path, SPACE, 1, changed_space="grow")


@pytest.mark.parametrize("kind", ["Model", "Optuna"])
def test_samplers_learn_from_earlier_trials(kind: str, tmp_path: Path) -> None:
    """What matters is y, which is drawn near its best at once."""
    run(tmp_path, SPACE, 20, sampler=ss.samplers.Random())
    sampler = ss.samplers.Model(random_share=0) if kind == "Model" else ss.samplers.Optuna()
    space = WIDER | {"m": ss.Uniform(0, 1)}
    result = run(tmp_path, space, 26, sampler=sampler, changed_space={"m": 0})
    far = [abs(trial.cfg["y"] - 0.9) for trial in result.trials[20:]]
    assert statistics.mean(far) < 0.25, far


@given(templates(number_spaces | small_finite))
def test_a_space_extends_itself(template: dict[str, Any]) -> None:
    space = SearchSpace({"cfg": template})
    check_extends(through_json(space.describe()), space, {})


def test_another_where_is_told(tmp_path: Path, capfd: Any) -> None:
    """Nothing is said where it is the same, written on other lines."""
    limit = 0.8
    run(tmp_path, SPACE, 4, where=lambda cfg: cfg["x"] < limit)
    said = []
    for where in (
        lambda cfg: (
            cfg["x"] < limit  # as before
        ),
        lambda cfg: cfg["x"] < limit / 8,
        None,
    ):
        capfd.readouterr()
        result = run(tmp_path, SPACE, 5 + len(said), where=where)
        said.append(capfd.readouterr().out)
        assert result.verify(), str(result.verify())
    assert "where has" not in said[0]
    assert "where has changed: it decides about new trials; " in said[1]
    n_above = sum(trial.cfg["x"] >= 0.1 for trial in result.trials[:5])
    assert f"{n_above} of the 5 earlier ones, which it refuses, stay and count" in said[1]
    assert "drawn with a where, and there is none now" in said[2]
