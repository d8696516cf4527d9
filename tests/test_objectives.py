"""Sweeps of several objectives: whole ones with real processes, and what samplers make of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.cli import main
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Observation, Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import SweepCfg
from slurm_sweeps.trial import Status

METRICS = {"metric": ["loss", "latency_ms"], "mode": ["min", "max"]}
GOALS = (Goal("loss", "min"), Goal("latency_ms", "max"))
SPACE = {"x": ss.Uniform(0, 1), "y": ss.Uniform(0, 1)}
ASHA = ss.ASHA(["loss", "latency_ms"], ["min", "max"], reduction_factor=2, max_t=4)


def build(tmp_path: Path, **kwargs: Any) -> ss.Experiment:
    kwargs = {"name": "e", "local_dir": tmp_path, "seed": 0} | kwargs
    return ss.Experiment(train, SPACE, **kwargs)


def run(experiment: ss.Experiment, n_trials: int, **kwargs: Any) -> ss.Result:
    return experiment.run(n_trials, summary_interval_in_sec=60, **kwargs)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def train(cfg: dict[str, Any]) -> None:
    """The better x is for the one, the worse for the other; y is bad for both."""
    for epoch in (1, 2, 3, 4):
        ss.log({"latency_ms": cfg["x"] - cfg["y"]}, epoch)
        ss.log({"loss": cfg["x"] + cfg["y"] + 1 / epoch}, epoch)  # both belong to the same report


def get_point(trial: ss.Trial) -> tuple[float, float]:
    last = trial.last_metrics
    return last["loss"], -last["latency_ms"]


def find_front(trials: list[ss.Trial]) -> list[ss.Trial]:
    points = {trial.trial_id: get_point(trial) for trial in trials}
    front = [
        trial
        for trial in trials
        if not any(
            all(a <= b for a, b in zip(p, points[trial.trial_id], strict=True))
            and p != points[trial.trial_id]
            for p in points.values()
        )
    ]
    return sorted(front, key=get_point)


def test_a_sweep_of_two_objectives(tmp_path: Path) -> None:
    """Restored it decides as if undisturbed; all views know its front."""
    run(build(tmp_path, pruner=ASHA), 8, max_concurrent_trials=1)
    again = build(tmp_path, pruner=ASHA, restore=True, seed=None)
    result = run(again, 16, max_concurrent_trials=1)
    undisturbed = run(build(tmp_path, pruner=ASHA, name="f"), 16, max_concurrent_trials=1)
    trials = result.trials
    assert [trial.status for trial in trials] == [t.status for t in undisturbed.trials]
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}

    front = result.front()
    assert front == find_front(trials)
    assert [trial.value for trial in front] == [get_point(trial)[0] for trial in front]
    completed = [trial for trial in trials if trial.status is Status.COMPLETED]
    assert result.front(completed_only=True) == find_front(completed)
    with pytest.raises(
        ss.UsageError, match=r"no one trial is the best: Result.front\(\) has those"
    ):
        result.best_trial()
    assert result.best_trial("latency_ms").cfg["x"] > 0  # by its own mode
    assert {"best/loss", "best/latency_ms"} <= set(result.to_dataframe().columns)

    arguments = ["e", "--local-dir", tmp_path]
    shown = call("show", *arguments)
    assert f"front of {len(front)} trials: loss {front[0].value:.4g}"[:30] in shown
    marked = [line.split()[1] for line in shown.splitlines() if line.startswith("* ")]
    assert marked == [trial.trial_id for trial in front]
    described = json.loads(call("show", *arguments, "--json"))
    assert described["best"] is None
    assert [each["number"] for each in described["front"]] == [trial.number for trial in front]
    assert f"front of {len(front)}" in call("list", "--local-dir", tmp_path)
    refused = CliRunner().invoke(main, ["best", "e", "--local-dir", str(tmp_path)])
    assert "no one trial is the best" in refused.output
    page = result.report(tmp_path / "report.html").read_text()
    assert "<h2>The front</h2>" in page
    (line,) = [trace for trace in result.plot_front().data if trace.mode == "lines+markers"]
    assert list(line.text) == [trial.trial_id for trial in front]
    assert list(line.x) == pytest.approx([get_point(trial)[0] for trial in front], rel=1e-4)


def train_three(cfg: dict[str, Any]) -> dict[str, float]:
    return {"a": cfg["x"], "b": cfg["y"], "c": -cfg["x"] - cfg["y"]}


def test_three_objectives_are_drawn_two_at_a_time(tmp_path: Path) -> None:
    """A final value of each is enough; all are on the front."""
    experiment = ss.Experiment(
        train_three, SPACE, "e", tmp_path, seed=0, metric=["a", "b", "c"], mode="min"
    )
    result = run(experiment, 5)
    assert len(result.front()) == 5
    assert [trial.value for trial in result.front()] == sorted(t.cfg["x"] for t in result.trials)
    figure = result.plot_front()
    assert [each.label for each in figure.layout.updatemenus[0].buttons] == ["a, b", "a, c", "b, c"]
    for at, button in enumerate(figure.layout.updatemenus[0].buttons):
        visible = [
            trace
            for trace, is_shown in zip(figure.data, button.args[0]["visible"], strict=True)
            if is_shown
        ]
        assert [trace.mode for trace in visible] == ["markers", "markers"], at
        assert len(visible[1].x) == 5


def test_a_front_without_trials_that_count(tmp_path: Path) -> None:
    """NaN in one objective, and what is infeasible, are on no front."""
    experiment = build(tmp_path, **METRICS, feasible={"latency_ms": ss.AtLeast(5)})
    result = run(experiment, 3)
    assert result.front() == []
    assert "no trial that is feasible has a value yet" in call("show", "e", "--local-dir", tmp_path)
    assert "No front" in result.report(tmp_path / "report.html").read_text()


def test_front_of_a_sweep_of_one_metric(tmp_path: Path) -> None:
    result = run(build(tmp_path, metric="loss", mode="min"), 1)
    with pytest.raises(ss.UsageError, match=r"has no several objectives: best_trial\(\) has the"):
        result.front()


def train_apart(cfg: dict[str, Any]) -> dict[str, float]:
    ss.log({"loss": cfg["x"]}, 1)
    return {"latency_ms": 1.0}


def test_objectives_that_are_never_logged_together(tmp_path: Path) -> None:
    experiment = ss.Experiment(train_apart, SPACE, "e", tmp_path, **METRICS)
    with pytest.raises(
        ss.SweepFailedError, match="never logged 'loss' and 'latency_ms' at one iteration"
    ):
        run(experiment, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": ["min", "max"]}, "mode=['min', 'max'] needs a metric"),
        ({"metric": ["loss", "b"], "mode": ["min"]}, "mode must be one word for all metrics"),
        (
            {"metric": ["loss", "b"], "mode": "max", "asha": ss.ASHA("loss", "min")},
            "contradicts ASHA(metric='loss', mode='min'",
        ),
        ({**METRICS, "keep": ss.Keep(best=2)}, "goes by one metric, and there are ['loss', "),
    ],
)
def test_objectives_that_make_no_sense(tmp_path: Path, arguments: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build(tmp_path, **arguments)
    assert words in str(caught.value)


def test_a_target_is_of_one_metric(tmp_path: Path) -> None:
    with pytest.raises(ss.UsageError, match=r"target=0.1 is of one metric, and the experiment has"):
        run(build(tmp_path, **METRICS), 3, target=0.1)


def test_a_pruner_of_one_metric_beside_two_objectives() -> None:
    """It hears its own, the sampler hears both at once."""
    plan = ss.ASHA("loss", "min", reduction_factor=2, max_t=8)
    cfg = SweepCfg(9, GOALS[0], judged_by="loss", goals=GOALS)
    problem = Problem(SearchSpace(SPACE), 1, "loss", "min", goals=GOALS)
    sampler = bind_sampler(None, problem)
    told: list[Observation] = []
    sampler.tell = told.append  # type: ignore[method-assign] # to look at
    sweep = Sweep(cfg, sampler, plan.build_pruner())
    for loss, decision in ((1.0, Decision.GO_ON), (2.0, Decision.PRUNE)):
        trial = sweep.assign(0.0)
        assert trial is not None
        assert sweep.report(trial.number, 1, {"loss": loss}).decision is decision
        assert told[-1].points == {}
        sweep.report(trial.number, 1, {"latency_ms": 5.0})
        assert told[-1].points == {1: (loss, 5.0)}
        assert (told[-1].value, told[-1].curve) == (loss, {1: loss})


def test_the_example(tmp_path: Path) -> None:
    """As it is; what it prints is the front."""
    pytest.importorskip("sklearn")
    script = Path(__file__).parents[1] / "examples" / "two_objectives.py"
    env = {**os.environ, "SLURM_SWEEPS_DIR": str(tmp_path)}
    command = [sys.executable, str(script), "4"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.split("weights  error  cfg")[-1].splitlines()
    front = ss.Result("two-objectives", tmp_path).front()
    assert [int(line.split()[0]) for line in lines] == [
        int(trial.metrics["weights"][max(trial.metrics["weights"])])
        for trial in front
        if trial.metrics
    ]
    assert front


# --- samplers -------------------------------------------------------------------------------------


def build_plans() -> dict[str, Any]:
    optuna = pytest.importorskip("optuna")
    return {
        "model": ss.samplers.Model(),
        "tpe": ss.samplers.Optuna(),
        "nsga2": ss.samplers.Optuna(optuna.samplers.NSGAIISampler(population_size=20, seed=1)),
    }


@pytest.mark.parametrize("name", ["model", "tpe", "nsga2"])
def test_samplers_come_to_the_front(name: str) -> None:
    """y is bad for both objectives; x is a matter of choice, and is chosen widely."""
    sampler: Any = bind_sampler(
        build_plans()[name], Problem(SearchSpace(SPACE), 1, "loss", "min", True, GOALS)
    )
    cfgs = []
    n = 240 if name == "nsga2" else 80  # which goes by generations, and costs nothing
    for number in range(n):
        cfg = sampler.ask(0.0)
        cfgs.append(cfg)
        point = (cfg["x"] + cfg["y"], cfg["x"] - cfg["y"])
        status = Status.COMPLETED
        if number % 10 == 9:  # one that diverges, one that fails
            point, status = (math.nan, math.nan), (Status.COMPLETED, Status.FAILED)[number % 20 > 9]
        sampler.tell(Observation(number, cfg, status, 1, point[0], {1: point[0]}, None, {1: point}))
    late = cfgs[n // 2 :]
    assert sum(cfg["y"] < 0.25 for cfg in late) > 0.4 * len(late)  # at random 0.25
    assert sum(cfg["x"] < 0.3 for cfg in late) > 0.07 * len(late)
    assert sum(cfg["x"] > 0.7 for cfg in late) > 0.07 * len(late)


@pytest.mark.parametrize("name", ["model", "tpe"])
def test_a_warm_start_with_two_objectives(tmp_path: Path, name: str) -> None:
    """And a sweep that goes on."""
    earlier = run(build(tmp_path, pruner=ASHA), 15)  # enough for a first fit
    plan = build_plans()[name]
    warm = {"warm_start": earlier, "sampler": plan, "pruner": ASHA, "name": "g"}
    assert len(run(build(tmp_path, **warm), 2).trials) == 2
    result = run(build(tmp_path, **warm, restore=True), 4)
    assert result.front() == find_front(result.trials)
