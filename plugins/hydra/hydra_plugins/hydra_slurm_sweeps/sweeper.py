"""The sweeper: an experiment made of what a multirun says.

Hydra loads this module in every app, also in those that don't sweep: it imports nothing large.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

import slurm_sweeps as ss

from . import _config as _config  # tells Hydra of the sweeper

log = logging.getLogger(__name__)

#: The only launcher that may be configured: Hydra's default, of which nothing is used.
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"

#: So many configurations are composed before anything is started, to see that they can be.
MOST_COMPOSED = 50


OF_RUN = (
    *("n_trials", "max_concurrent_trials", "max_retries", "fail_fast", "grace_period_in_sec"),
    *("time_budget_in_sec", "target", "summary_interval_in_sec", "report"),
)
OF_EXPERIMENT = ("seed", "local_dir", "overwrite", "points_to_evaluate", "restore")


class SlurmSweepsSweeper(Sweeper):  # type: ignore[misc] # Hydra's classes are not followed
    """Runs a multirun as one experiment; see `_config`."""

    def __init__(self, params: DictConfig, **told: Any) -> None:
        self._params = params
        self._told = {
            name: OmegaConf.to_container(value, resolve=True)
            if OmegaConf.is_config(value)
            else value
            for name, value in told.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra hands over."""
        self.hydra_context = hydra_context
        self.config = config
        self._task = task_function

    def sweep(self, arguments: list[str]) -> ss.Result:
        """Run a multirun.

        Args:
            arguments: The overrides of the command line, without those of Hydra's own settings.

        Raises:
            CompactHydraException: Something makes no sense, or the sweep has failed.
        """
        with _short():
            return self._sweep(arguments)

    def _sweep(self, arguments: list[str]) -> ss.Result:
        from ._job import LINK, Job
        from ._params import build_space

        hydra = self.config.hydra
        if hydra.launcher.get("_target_") != BASIC_LAUNCHER:
            raise CompactHydraException(
                "the sweeper slurm_sweeps runs the jobs itself: leave hydra/launcher out, and say "
                "what a job gets in hydra.sweeper.slurm or hydra.sweeper.local"
            )
        told = self._told
        params = [f"{key}={_write(value)}" for key, value in self._params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        sampler = _choose_sampler(told["sampler"])
        ends = [told[name] for name in ("n_trials", "time_budget_in_sec", "target")]
        all_of_them = ends == [None] * 3 and told["sampler"] in (None, "grid")
        space = build_space(parser.parse_overrides([*params, *arguments]), all_of_them)
        if all_of_them and not space.has_swept:
            told = {**told, "n_trials": 1}
        for overrides in space.list_examples(MOST_COMPOSED):
            self.validate_batch_is_legal([overrides])
        goal = _read_goal(told)
        job = Job(self._task, self.hydra_context, self.config, space, goal.get("metric"))
        experiment = ss.Experiment(
            job,
            space.template,
            name=self._name,
            sampler=sampler,
            **goal,
            **_build_rules(told, goal),
            **{name: told[name] for name in OF_EXPERIMENT},
        )
        link = experiment.local_dir / experiment.name / LINK
        known = link.is_symlink() and not told["overwrite"]
        job.sweep_dir = Path(hydra.runtime.cwd, link.readlink() if known else hydra.sweep.dir)
        job.sweep_dir.mkdir(parents=True, exist_ok=True)
        job.singletons = Singleton.get_state()
        OmegaConf.save(self.config, job.sweep_dir / "multirun.yaml")
        log.info(f"Sweep {experiment.name!r}: the jobs' output is in {job.sweep_dir}")
        result = experiment.run(**{name: told[name] for name in OF_RUN})
        _write_best(result, job.sweep_dir)
        return result

    @property
    def _name(self) -> str:
        told, app = self._told, str(self.config.hydra.job.name)
        if told["name"] is not None or told["restore"] or told["overwrite"]:
            return str(told["name"] or app)
        return f"{app}-{datetime.now():%Y-%m-%d_%H-%M-%S}"


@contextlib.contextmanager
def _short() -> Iterator[None]:
    """Have Hydra show errors of ours as the sentence that they are."""
    try:
        yield
    except ss.SlurmSweepsError as error:
        raise CompactHydraException(str(error)) from error


def _write(value: Any) -> str:
    """Write a value of `params` as on the command line."""
    if isinstance(value, str):
        return value
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    from ._params import format_value

    return format_value(value)


def _build(name: str, kind: Any, told: Any) -> Any:
    """Make an object of its arguments under `hydra.sweeper.<name>`."""
    if not isinstance(told, dict):
        return told
    try:
        return kind(**told)
    except (TypeError, ss.UsageError) as error:
        raise CompactHydraException(f"hydra.sweeper.{name}: {error}") from error


def _build_rules(told: dict[str, Any], goal: dict[str, Any]) -> dict[str, Any]:
    rules = {
        name: _build(name, kind, {**goal, **told[name]} if isinstance(told[name], dict) else None)
        for name, kind in (
            ("asha", ss.ASHA),
            ("hyperband", ss.Hyperband),
            ("median_stopping", ss.MedianStopping),
        )
        if told[name] is not None
    }
    if len(rules) > 1:
        raise CompactHydraException(f"hydra.sweeper: say one of {', '.join(rules)}")
    return {
        "pruner": next(iter(rules.values()), None),
        "slurm_cfg": _build("slurm", ss.SlurmCfg, told["slurm"]),
        "local_cfg": _build("local", ss.LocalCfg, told["local"]),
    }


def _read_goal(told: dict[str, Any]) -> dict[str, Any]:
    """What the sweep is after, if that is said apart from its rule."""
    metric, mode = told["metric"], told["mode"]
    if metric is None and mode is None:
        return {}
    return {"metric": "value" if metric is None else metric, "mode": mode}


def _choose_sampler(told: Any) -> Any:
    kinds = {
        "random": ss.samplers.Random,
        "model": ss.samplers.Model,
        "optuna": ss.samplers.Optuna,
        "grid": ss.samplers.Grid,
    }
    name: Any = told
    arguments: Any = {}
    if isinstance(told, dict) and len(told) == 1:
        ((name, arguments),) = told.items()
    if isinstance(name, str) and name in kinds:
        return _build(f"sampler.{name}", kinds[name], arguments or {})
    if isinstance(told, str | dict):
        raise CompactHydraException(
            f"hydra.sweeper.sampler: there is no sampler {name!r}; there are {', '.join(kinds)}, "
            "or one of Optuna's by its _target_ (optuna.samplers.TPESampler)"
        )
    if type(told).__module__.startswith("optuna."):
        return ss.samplers.Optuna(told)
    return told


def _write_best(result: ss.Result, folder: Path) -> None:
    """Write what was best where sweepers of Hydra's do."""
    with contextlib.suppress(ss.SlurmSweepsError):  # there is no metric, or no trial has one
        best = result.best_trial()
        found = {"name": "slurm_sweeps", "best_params": best.cfg, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(found), folder / "optimization_results.yaml")
