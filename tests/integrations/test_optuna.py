"""Objectives in the shape of Optuna's documentation, as sweeps: real processes, the real Optuna."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

import slurm_sweeps as ss
from cluster_tools import SlurmCluster
from sweep_scripts import Scripts

DOCS = Path(__file__).parents[2] / "docs"

#: Every kind of suggestion, some of them conditional.
KINDS = """
import optuna
import slurm_sweeps as ss

def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    assert trial.suggest_float("x", -10, 10) == x == trial.params["x"]
    trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    trial.suggest_float("drop", 0.0, 0.5, step=0.1)
    trial.suggest_int("n", 1, 9, step=2)
    trial.suggest_int("width", 4, 128, log=True)
    trial.suggest_uniform("old", 0, 1)
    trial.suggest_loguniform("older", 1, 8)
    trial.suggest_discrete_uniform("oldest", 0.5, 2.5, 0.5)
    if trial.suggest_categorical("kind", ["svm", "forest", None, 3]) == "svm":
        for i in range(trial.suggest_int("layers", 1, 2)):
            trial.suggest_int(f"units_{i}", 4, 128)
    trial.set_user_attr("number", trial.number)
    return (x - 2) ** 2

if __name__ == "__main__":
    study = ss.from_optuna(objective, "minimize", name="kinds", seed=1, restore="auto")
    study.run(n_trials=30, max_concurrent_trials=1, report=True)
"""


def test_each_kind_of_suggestion_is_drawn_and_learnt_from(scripts: Scripts) -> None:
    done = scripts.run(KINDS)
    trials = ss.Result("kinds", scripts.folder / "slurm-sweeps").trials
    assert len(trials) == 30
    for number, trial in enumerate(trials):
        cfg = dict(trial.cfg)
        assert yaml.safe_load((trial.path / "cfg.yml").read_text()) == cfg
        assert json.loads((trial.path / "user_attrs.json").read_text()) == {"number": number}
        assert trial.value == (cfg.pop("x") - 2) ** 2
        assert 1e-5 <= cfg.pop("lr") <= 1e-1
        assert round(cfg.pop("drop"), 6) in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        assert cfg.pop("n") in (1, 3, 5, 7, 9)
        assert type(cfg["width"]) is int
        assert 4 <= cfg.pop("width") <= 128
        assert 0 <= cfg.pop("old") <= 1 <= cfg.pop("older") <= 8
        assert cfg.pop("oldest") in (0.5, 1.0, 1.5, 2.0, 2.5)
        kind = cfg.pop("kind")
        layers = cfg.pop("layers") if kind == "svm" else 0
        assert {*cfg} == {f"units_{i}" for i in range(layers)}
    assert {"svm"} < {trial.cfg["kind"] for trial in trials} <= {"svm", "forest", None, 3}
    distances = [abs(trial.cfg["x"] - 2) for trial in trials]
    assert statistics.median(distances[20:]) < statistics.median(distances[:10]) / 2
    assert "kind" in done.stdout
    assert "units_0" in (scripts.folder / "slurm-sweeps/kinds/report.html").read_text()


WAITS = """
import os, sys, time
import slurm_sweeps as ss

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    y = trial.suggest_int("y", 0, 10**6)
    trial.report(x, 0)
    here = ss.script_dir()
    (here / f"drawn-{trial.number}-{ss.attempt()}").write_text(repr((x, y)))
    while trial.number == 2 and not (here / "go").exists():
        time.sleep(0.01)
    z = trial.suggest_categorical("z", ["a", "b"])
    return x + y

if __name__ == "__main__":
    study = ss.from_optuna(objective, "maximize", name="waits", restore="auto")
    study.run(n_trials=12, max_concurrent_trials=1)
"""


def test_after_a_kill_a_trial_draws_the_same_and_the_sampler_knows_the_others(
    scripts: Scripts,
) -> None:
    with scripts.start(WAITS) as process:
        (drawn,) = scripts.wait_for_file("drawn-2-1")
        process.kill()
    scripts.wait_until_gone(30)
    (scripts.folder / "go").touch()
    scripts.run(WAITS)
    assert drawn.read_text() == (scripts.folder / "drawn-2-2").read_text()
    trials = ss.Result("waits", scripts.folder / "slurm-sweeps").trials
    assert len({trial.trial_id for trial in trials}) == 12
    verb = str(Path(sys.executable).with_name("slurm-sweeps"))
    export = [verb, "export", "waits", "--to", "optuna", "-o", "study.db"]
    subprocess.run(export, cwd=scripts.folder, check=True, timeout=60)
    study = optuna.load_study(study_name="waits", storage=f"sqlite:///{scripts.folder}/study.db")
    assert [each.user_attrs["cfg/x"] for each in study.trials] == [t.cfg["x"] for t in trials]
    for trial in trials:
        assert trial.status == "completed"
        assert {*trial.cfg} == {"x", "y", "z"}
        assert trial.value == max(trial.metrics["value"].values())


def test_the_example_of_the_guide_runs(scripts: Scripts) -> None:
    block = re.search(
        r"```python\n(# study.py\n.*?)```", (DOCS / "optuna.md").read_text(), re.DOTALL
    )
    assert block is not None
    done = scripts.run(block[1])
    trials = ss.Result("study", scripts.folder / "slurm-sweeps").trials
    assert len(trials) == 40
    assert {trial.status for trial in trials} == {"completed", "pruned"}
    assert "layers" in done.stdout


WRONG = """
import optuna
import slurm_sweeps as ss

def objective(trial):
    x = trial.suggest_categorical("case", range(7))
    y = {0: lambda: trial.suggest_float("y", 1, 0), 1: lambda: trial.suggest_int("y", 1, "2"),
         2: lambda: trial.suggest_categorical("y", [object()]), 3: lambda: trial.study,
         4: lambda: 1, 5: lambda: 1, 6: lambda: 1}[x]()
    if x == 4:
        raise optuna.TrialPruned("by myself")
    if x == 5:
        return 1.0, 2.0
    if x == 6:
        return None
    return y

if __name__ == "__main__":
    study = ss.from_optuna(objective, name="wrong", sampler=optuna.samplers.RandomSampler(seed=1))
    study.run(n_trials=40, fail_fast=False)
"""


def test_what_cant_be_done_is_said_by_the_trial(scripts: Scripts) -> None:
    scripts.run(WRONG)
    trials = ss.Result("wrong", scripts.folder / "slurm-sweeps").trials
    ends: dict[Any, str] = {}
    for trial in trials:
        ends[trial.cfg["case"]] = trial.error.message if trial.error else trial.status.value
    said = {
        0: "'y' can't be drawn: ",
        1: "'y' can't be drawn: ",
        2: "choices are None, bool, int, float or str",
        3: "the study is the experiment, in the driver: read it with ss.Result",
        4: "pruned",
        5: "the objective returned 2 values, and from_optuna knows directions of 1: give",
        6: "metric 'value' must be a real number, not builtins.NoneType",
    }
    assert {*ends} == {*said}
    for case, words in said.items():
        assert words in ends[case], case


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"direction": "min"}, 'direction is "minimize" or "maximize", or a list, got \'min\''),
        ({"study_name": "a"}, "instead of study_name there is name="),
        ({"storage": "sqlite:///a.db"}, "instead of storage there is local_dir="),
        ({"directions": ["minimize"]}, "instead of directions there is direction="),
        ({"cfg": {}}, "instead of cfg there is what the objective's trial.suggest_"),
        ({"pruner": optuna.pruners.MedianPruner()}, "pruner=MedianPruner() of Optuna can't be"),
        ({"objective": 3}, "needs an objective(trial), got 3"),
        ({"asha": ss.ASHA("value", "max")}, "mode='min' contradicts ASHA"),
    ],
)
def test_what_cant_be_taken_over_is_said(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((ss.UsageError, ss.UsageTypeError)) as caught:
        ss.from_optuna(**{"objective": lambda _: 0.0, **arguments})
    assert words in str(caught.value)


def test_in_an_allocation(cluster: SlurmCluster, tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(KINDS.replace("max_concurrent_trials=1, report=True", ""))
    job = cluster.sbatch(f"exec {sys.executable} sweep.py", "-t2", "-n4", cwd=tmp_path)
    assert cluster.wait_job(job, 90).state == "COMPLETED", cluster.job_output(job)
    trials = ss.Result("kinds", tmp_path / "slurm-sweeps").trials
    assert len(trials) == 30
    assert all({"x", "kind", "oldest"} <= trial.cfg.keys() for trial in trials)


SEVERAL = """
import slurm_sweeps as ss

def objective(trial):
    x, y = trial.suggest_float("x", 0, 5), trial.suggest_float("y", 0, 3)
    values = 4 * x**2 + 4 * y**2, -((x - 5) ** 2) - (y - 5) ** 2
    for step in (1, 2, 3):
        ss.log(dict(zip(("value_0", "value_1"), values)), step)
    return values

if __name__ == "__main__":
    rule = ss.ASHA(["value_0", "value_1"], ["min", "max"], reduction_factor=2)
    study = ss.from_optuna(
        objective, ["minimize", "maximize"], name="several", seed=1, restore="auto", asha=rule
    )
    study.run(n_trials=12)
    study.run(n_trials=16)
"""


def test_several_objectives(scripts: Scripts) -> None:
    scripts.run(SEVERAL)
    result = ss.Result("several", scripts.folder / "slurm-sweeps")
    assert len(result.trials) == 16
    assert {trial.status.value for trial in result.trials} == {"completed", "pruned"}
    front = result.front()
    points = [[m[max(m)] for m in (t.metrics or {}).values()] for t in front]
    assert len(front) > 1
    assert points == sorted(points)  # each is better in one, and worse in the other
    with pytest.raises(ss.UsageError, match="as many names are needed as directions, got metric="):
        ss.from_optuna(lambda _: 1, ["minimize"] * 2, metric="loss")
