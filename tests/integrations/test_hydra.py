"""The Hydra sweeper: real apps, run as their users run them, with the real hydra-core."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException

import hydra_plugins.hydra_slurm_sweeps
import slurm_sweeps as ss
from cluster_tools import SlurmCluster
from hydra_plugins.hydra_slurm_sweeps._config import SlurmSweepsConf
from hydra_plugins.hydra_slurm_sweeps._params import build_space
from hydra_plugins.hydra_slurm_sweeps.sweeper import SAMPLERS, _read_goal
from slurm_sweeps.experiment.sweep_file import BUILDS, OF_EXPERIMENT, OF_PROGRAM, OF_RUN
from sweep_scripts import Scripts

DOCS = Path(__file__).parents[2] / "docs"

#: An app with a structured config, a resolver, a config group, logging and pruning.
APP = """
import logging, os
from dataclasses import dataclass, field
import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
import slurm_sweeps as ss

@dataclass
class Model:
    lr: float = 0.1
    width: int = 8
    optimizer: str = "adam"

@dataclass
class Config:
    model: Model
    data: str = "data.txt"
    twice: float = 0.0
    fail: bool = False
    more: dict = field(default_factory=dict)

ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("double", lambda x: 2 * x)
log = logging.getLogger(__name__)

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    job, runtime = HydraConfig.get().job, HydraConfig.get().runtime
    log.info("job %s id %s in %s", job.num, job.id, os.path.basename(os.getcwd()))
    assert open(cfg.data).read() == "beside" and cfg.twice == 2 * cfg.model.lr
    assert isinstance(OmegaConf.to_object(cfg), Config)
    if cfg.fail:
        raise ValueError("as told")
    for epoch in range(1, 5):
        ss.log({"loss": cfg.model.lr / epoch}, epoch)
    return {"loss": cfg.model.lr / 5, "rank": int(os.environ.get("SLURM_PROCID", 0))}

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def app(scripts: Scripts) -> Scripts:
    write_app(scripts.folder)
    return scripts


def write_app(folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    (folder / "data.txt").write_text("beside")
    (folder / "conf" / "kind").mkdir(parents=True)
    (folder / "conf" / "kind" / "small.yaml").write_text("# @package model\nwidth: 4\n")
    (folder / "conf" / "kind" / "large.yaml").write_text("# @package model\nwidth: 400\n")
    (folder / "conf" / "config.yaml").write_text(
        "defaults: [schema, kind: small, _self_]\ntwice: ${double:${model.lr}}\n"
    )


def multirun(app: Scripts, *overrides: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "hydra/sweeper=slurm_sweeps", *overrides],
        cwd=app.folder,
        env=app.env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_a_multirun_that_is_pruned_and_goes_on(app: Scripts) -> None:
    told = [
        "hydra.sweeper.asha={metric:loss,mode:min}",
        "hydra.sweeper.restore=auto",
        "hydra.sweeper.seed=1",
        "hydra.sweeper.max_concurrent_trials=1",
        "model.lr=range(1, 9)",
        "kind=glob(*)",
        "+more.x=[1,'two']",
    ]
    multirun(app, *told, "hydra.sweeper.n_trials=3")
    multirun(app, *told, "hydra.sweeper.n_trials=6")
    result = ss.Result("app", app.folder / "slurm-sweeps")
    assert len(result.trials) == 6
    assert {trial.status for trial in result.trials} == {"completed", "pruned"}
    (folder,) = (app.folder / "multirun").glob("*/*")  # the second went on in the first one's
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set("012345")
    for number, trial in enumerate(result.trials):
        output = folder / str(number)
        assert (output / ".slurm_sweeps").resolve() == trial.path
        assert (trial.path / "output").resolve() == output
        lr, kind = trial.cfg["model.lr"], trial.cfg["kind"]
        assert trial.cfg["more.x"] == [1, "two"]
        config = read_yaml(output / ".hydra" / "config.yaml")
        assert (config["model"]["lr"], config["more"]["x"]) == (lr, [1, "two"])
        assert config["model"]["width"] == {"small": 4, "large": 400}[kind]
        overrides = read_yaml(output / ".hydra" / "overrides.yaml")
        assert overrides == ["+more.x=[1,'two']", f"model.lr={lr}", f"kind={kind}"]
        said = f"job {number} id {trial.trial_id} in {app.folder.name}"
        assert said in (output / "app.log").read_text()
        assert said in (trial.path / "stdout.log").read_text()
        assert not (trial.path / "stderr.log").read_text()
    best = read_yaml(folder / "optimization_results.yaml")
    assert best["best_params"] == result.best_cfg
    assert best["best_value"] == min(trial.cfg["model.lr"] for trial in result.trials) / 5
    again = multirun(app, *told[:-1], "hydra.sweeper.n_trials=6", code=1)
    assert (
        "was begun with another search space: cfg['more.x'] was [1, 'two'] and is gone"
        in again.stderr
    )
    assert "Traceback" not in again.stderr


def test_all_combinations_some_of_which_fail(app: Scripts) -> None:
    there = f"data={app.folder}/data.txt"  # not in its output folder
    told = ["model.optimizer=sgd,'a b'", "fail=false,true", there, "hydra.job.chdir=True"]
    done = multirun(app, *told)
    name = re.search(r"Sweep '(app-[\d_-]+)'", done.stdout)
    assert name is not None
    trials = ss.Result(name[1], app.folder / "slurm-sweeps").trials
    assert [(trial.cfg["model.optimizer"], trial.cfg["fail"]) for trial in trials] == [
        *(("sgd", False), ("sgd", True), ("a b", False), ("a b", True))
    ]
    for number, trial in enumerate(trials):
        assert f"in {number}\n" in (trial.path / "stdout.log").read_text()
        assert trial.status == ("failed" if trial.cfg["fail"] else "completed")
        if trial.error is not None:
            assert (trial.error.type, trial.error.message) == ("ValueError", "as told")
            said = (trial.path / "stderr.log").read_text()
            assert "Error executing job with overrides" in said


def test_the_example_of_the_guide_with_a_sampler_of_optunas(scripts: Scripts) -> None:
    guide = (DOCS / "hydra.md").read_text()
    for language, name in (("python", "app.py"), ("yaml", "config.yaml")):
        block = re.search(rf"```{language}\n# {name}\n(.*?)```", guide, re.DOTALL)
        assert block is not None
        (scripts.folder / name).write_text(block[1])
    multirun(
        scripts, "hydra.sweeper.name=guide",
        "hydra.sweeper.track=[{_target_:slurm_sweeps.track.Optuna,url:study.db}]",
        "hydra.sweeper.sampler={_target_:optuna.samplers.TPESampler,seed:1}",
    )  # fmt: skip
    result = ss.Result("guide", scripts.folder / "slurm-sweeps")
    assert len(result.trials) == 12
    assert "pruned" in {trial.status for trial in result.trials}
    assert {*result.best_cfg} == {"model.lr", "model.width"}
    assert (scripts.folder / "study.db").exists()


def test_several_objectives_as_for_hydra_optuna_sweeper(scripts: Scripts) -> None:
    scripts.write(
        """
        import hydra
        @hydra.main(version_base=None)
        def main(cfg):
            return (cfg.x - 1) ** 2 + cfg.y, cfg.x
        main()
        """,
        "app.py",
    )
    multirun(
        scripts, "hydra.sweeper.direction=[minimize,maximize]", "hydra.sweeper.n_trials=9",
        "hydra.sweeper.sampler={_target_:optuna.samplers.NSGAIISampler,seed:1}",
        "hydra.sweeper.name=front", "+x=interval(-1,3)", "+y=interval(0,1)",
    )  # fmt: skip
    result = ss.Result("front", scripts.folder / "slurm-sweeps")
    assert {trial.status for trial in result.trials} == {"completed"}
    assert [*result.trials[0].last_metrics] == ["value_0", "value_1"]
    (folder,) = (scripts.folder / "multirun").glob("*/*")
    found = read_yaml(folder / "optimization_results.yaml")
    points = [((t.cfg["x"] - 1) ** 2 + t.cfg["y"], t.cfg["x"]) for t in result.trials]
    best = [p for p in points if not any(o[0] < p[0] and o[1] > p[1] for o in points)]
    assert found["name"] == "slurm_sweeps"
    assert [tuple(each["values"]) for each in found["solutions"]] == sorted(best)
    assert [each["params"] for each in found["solutions"]] == [t.cfg for t in result.front()]


@pytest.mark.parametrize(
    ("told", "goal"),
    [
        ({"mode": "max"}, {"metric": "value", "mode": "max"}),
        ({"direction": "maximize"}, {"metric": "value", "mode": "max"}),
        (
            {"direction": ["minimize", "maximize"], "metric": ["loss", "score"]},
            {"metric": ["loss", "score"], "mode": ["min", "max"]},
        ),
        (
            {"asha": {"metric": ["loss", "size"], "mode": "min"}},
            {"metric": ["loss", "size"], "asha": {"metric": ["loss", "size"], "mode": "min"}},
        ),
        ({"asha": {"metric": "loss", "mode": "min"}}, {"asha": {"metric": "loss", "mode": "min"}}),
        (
            {"mode": ["min", "min"], "asha": {"max_t": 9}},
            {
                **{"metric": ["value_0", "value_1"], "mode": ["min", "min"]},
                "asha": {"metric": ["value_0", "value_1"], "mode": ["min", "min"], "max_t": 9},
            },
        ),
    ],
)
def test_what_a_multirun_is_after(told: dict[str, Any], goal: dict[str, Any]) -> None:
    assert _read_goal(told) == goal


def read_space(*overrides: str, all_of_them: bool = False) -> dict[str, Any]:
    parsed = OverridesParser.create().parse_overrides([*overrides])
    return dict(build_space(parsed, all_of_them).template)


@pytest.mark.parametrize(
    ("override", "space"),
    [
        ("x=interval(0, 1)", ss.Uniform(0, 1)),
        ("x=interval(1, 1)", 1.0),
        ("x=int(interval(1, 8))", ss.Integer(1, 8)),
        ("x=tag(int, interval(1, 8))", ss.Integer(1, 8)),
        ("x=tag(log, interval(1e-5, 1))", ss.LogUniform(1e-5, 1)),
        ("x=tag(log, int(interval(1, 8)))", ss.LogInteger(1, 8)),
        ("x=range(1, 9)", ss.Integer(1, 8)),
        ("x=range(3)", ss.Integer(0, 2)),
        ("x=range(9, 1, -2)", ss.Quantized(ss.Integer(3, 9), 2, base="low")),
        ("x=range(-5.5, 5.5, step=0.5)", ss.Quantized(ss.Uniform(-5.5, 5.0), 0.5, base="low")),
        ("x=tag(log, range(1, 9))", ss.LogInteger(1, 8)),
        ("x=shuffle(range(1, 4))", ss.Choice([1, 2, 3])),
        ("x=sort(3, 1, 2)", ss.Choice([1, 2, 3])),
        ("x=choice(a, 'b c', true, [1,2], {k:1})",
         ss.Choice(["a", "b c", True, [1, 2], {"k": 1}])),
        ("+x=1,2", ss.Choice([1, 2])),
        ("x=choice(5)", 5),
        ("x=text", "text"),
    ],
)  # fmt: skip
def test_hydras_grammar_makes_spaces(override: str, space: Any) -> None:
    assert read_space(override) == {"x": space}


def test_a_configuration_is_written_as_it_was_told() -> None:
    told = ["a=1,'1',x", "+b=interval(0,1)", "~c", "d='${e}'", "a=[1],{k: 'v w'},'it''s',null"]
    parsed = OverridesParser.create().parse_overrides(told[:4])
    space = build_space(parsed, all_of_them=False)
    assert space.write({"a": "1", "b": 1e-05, "d": "${e}"}) == [
        *("~c", "d='${e}'", "a='1'", "+b=1e-05")
    ]
    assert space.write({"a": 1, "b": 1.0, "d": "${e}"})[2] == "a=1"
    assert [example[2:] for example in space.list_examples(2)] == [
        *(["a=1", "+b=0.0"], ["a='1'", "+b=1.0"])
    ]


@pytest.mark.parametrize(
    ("override", "all_of_them", "words"),
    [
        ("x=interval(0, 1)", True, "values without end: say how many to draw, hydra.sweeper.n_tr"),
        ("x=shuffle(1, 2)", True, "all combinations are run, in their order: leave shuffle out"),
        ("x=tag(cool, interval(0, 1))", False, "the tag 'cool' means nothing to the sweeper"),
        ("x=tag(log, interval(0, 1))", False, "x=tag(log, interval(0, 1)): LogUniform needs low"),
        ("x=tag(log, range(1, 9, 2))", False, "a range in steps has no logarithmic scale"),
        ("x=tag(log, choice(1, 2))", False, "only intervals, and ranges of which some are drawn"),
        ("x=range(3, 1)", False, "x=range(3, 1) has no value"),
        ("hydra.job.name=a,b", False, "settings of Hydra's own can't be swept"),
    ],
)
def test_what_cant_be_swept_is_said(override: str, all_of_them: bool, words: str) -> None:
    with pytest.raises(CompactHydraException) as caught:
        read_space(override, all_of_them=all_of_them)
    assert words in str(caught.value)


def test_its_version_is_that_of_slurm_sweeps() -> None:
    assert hydra_plugins.hydra_slurm_sweeps.__version__ == ss.__version__


def test_all_that_a_sweep_file_may_say_may_stand_there() -> None:
    of_the_app = {"cfg", *SAMPLERS, "backend", *OF_PROGRAM}
    assert {field.name for field in dataclasses.fields(SlurmSweepsConf)} == {
        *({*OF_EXPERIMENT, *OF_RUN, *BUILDS} - of_the_app),
        *("_target_", "params", "sampler", "direction"),
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.lr=interval(0, 1)"], "has values without end"),
        (["hydra.sweeper.sampler=tpe"], "there is no sampler 'tpe'; there are random, model, "),
        (["hydra.sweeper.slurm={node:2}"], "hydra.sweeper.slurm: slurm has no 'node'"),
        (
            [
                *("hydra.sweeper.n_trials=2", "hydra.sweeper.mode=min"),
                "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler,search_space:{x:[1]}}",
            ],
            "samplers.Optuna(GridSampler(…)) can't work here",
        ),
        (["hydra.sweeper.asha={metric:loss}"], "hydra.sweeper.asha: ASHA"),
        (["hydra.sweeper.direction=up"], "direction: minimize or maximize, or a list of these; go"),
        (
            ["hydra.sweeper.direction=minimize", "hydra.sweeper.mode=min"],
            "mode and direction say the same, give one",
        ),
        (["hydra.launcher._target_=a.Joblib"], "runs the jobs itself: leave hydra/launcher out"),
        (["hydra.sweeper.sampler=model", "hydra.sweeper.n_trials=2"], "needs a metric"),
        (["kind=small,huge"], "Could not find 'kind/huge'"),
    ],
)
def test_errors_are_one_sentence(
    app: Scripts, monkeypatch: pytest.MonkeyPatch, overrides: list[str], words: str
) -> None:
    """In this process: what Hydra shows of an exception of its own kind is its text."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.callbacks import Callbacks
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode

    monkeypatch.chdir(app.folder)
    config = "defaults: [kind: small, _self_]\nmodel: {lr: 1}\n"
    (app.folder / "conf" / "config.yaml").write_text(config)
    with initialize_config_dir(str(app.folder / "conf"), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        assert ConfigStore.instance()
        told = ["hydra/sweeper=slurm_sweeps", *overrides]
        config = hydra.compose_config("config", told, RunMode.MULTIRUN)
        sweeper = Plugins.instance().instantiate_sweeper(
            hydra_context=HydraContext(hydra.config_loader, Callbacks(config)),
            task_function=compose,
            config=config,
        )
        with pytest.raises(CompactHydraException) as caught:
            sweeper.sweep([*config.hydra.overrides.task])
    assert words in str(caught.value)


def test_in_an_allocation_with_jobs_of_two_ranks(cluster: SlurmCluster, tmp_path: Path) -> None:
    write_app(tmp_path)
    command = (
        f"exec {sys.executable} app.py -m hydra/sweeper=slurm_sweeps hydra.sweeper.n_trials=4 "
        "'hydra.sweeper.slurm={nodes:2,ntasks:2}' hydra.sweeper.name=ranks "
        "'hydra.sweeper.asha={metric:loss,mode:min}' 'model.lr=interval(0, 1)'"
    )
    job = cluster.sbatch(command, "-t2", "-N2", "--ntasks-per-node=2", cwd=tmp_path)
    assert cluster.wait_job(job, 90).state == "COMPLETED", cluster.job_output(job)
    result = ss.Result("ranks", tmp_path / "slurm-sweeps")
    assert {trial.status for trial in result.trials} <= {"completed", "pruned"}
    assert len(result.trials) == 4
    for trial in result.trials:
        output = (trial.path / "output").resolve()
        assert "job" in (output / "app.log").read_text()
        assert "job" in (output / "app_rank1.log").read_text()
