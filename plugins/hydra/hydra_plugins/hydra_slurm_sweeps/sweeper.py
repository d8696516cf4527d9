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

#: The keys of rules; the samplers that have names.
RULES = ("asha", "hyperband", "median_stopping")
SAMPLERS = ("random", "model", "optuna", "sobol", "latin_hypercube", "saltelli")

#: What hydra-optuna-sweeper calls the modes.
DIRECTIONS = {"minimize": "min", "maximize": "max"}


class SlurmSweepsSweeper(Sweeper):  # type: ignore[misc] # Hydra's classes are not followed
    """Runs a multirun as one experiment; see `_config`."""

    def __init__(self, params: DictConfig, **told: Any) -> None:
        self._params = params
        self._told = {
            name: OmegaConf.to_object(value)  # which leaves what `_target_` has made an object
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
        from slurm_sweeps.experiment.sweep_file import OF_RUN, build_arguments

        from ._job import LINK, Job
        from ._params import build_space

        hydra = self.config.hydra
        if hydra.launcher.get("_target_") != BASIC_LAUNCHER:
            raise CompactHydraException(
                "the sweeper slurm_sweeps runs the jobs itself: leave hydra/launcher out, and say "
                "what a job gets in hydra.sweeper.slurm or hydra.sweeper.local"
            )
        told = {name: value for name, value in self._told.items() if value is not None}
        params = [f"{key}={_write(value)}" for key, value in self._params.items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        all_of_them = told.keys().isdisjoint(
            ("n_trials", "time_budget_in_sec", "target", "sampler")
        )
        space = build_space(parser.parse_overrides([*params, *arguments]), all_of_them)
        run = {"n_trials": 1 if all_of_them and not space.has_swept else None}
        for overrides in space.list_examples(MOST_COMPOSED):
            self.validate_batch_is_legal([overrides])
        told |= {"name": self._choose_name(told), **_read_goal(told)}
        sampler = _read_sampler(told)
        job = Job(self._task, self.hydra_context, self.config, space, told.get("metric"))
        built = {"sampler": sampler, **build_arguments(told, _at)}
        experiment = ss.Experiment(job, space.template, **built)
        link = experiment.local_dir / experiment.name / LINK
        known = link.is_symlink() and not told.get("overwrite")
        job.sweep_dir = Path(hydra.runtime.cwd, link.readlink() if known else hydra.sweep.dir)
        job.sweep_dir.mkdir(parents=True, exist_ok=True)
        job.singletons = Singleton.get_state()
        OmegaConf.save(self.config, job.sweep_dir / "multirun.yaml")
        log.info(f"Sweep {experiment.name!r}: the jobs' output is in {job.sweep_dir}")
        result = experiment.run(**run | {name: told[name] for name in OF_RUN if name in told})
        _write_best(result, job.sweep_dir, told.get("metric"))
        return result

    def _choose_name(self, told: dict[str, Any]) -> str:
        """Choose the name of a sweep: a new one each time, unless it is one that there is."""
        app = str(self.config.hydra.job.name)
        if "name" in told or told.get("restore") or told.get("overwrite"):
            return str(told.get("name", app))
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


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    """Say of an error which key it is about."""
    try:
        yield
    except (TypeError, ss.SlurmSweepsError) as error:
        raise CompactHydraException(f"hydra.sweeper.{place}: {error}") from error


def _read_goal(told: dict[str, Any]) -> dict[str, Any]:
    """What the sweep is after, for its rule too; of what the job returns `mode` is enough."""
    goal: dict[str, Any] = {name: told[name] for name in ("metric", "mode") if name in told}
    if "direction" in told:
        if "mode" in goal:
            raise CompactHydraException("hydra.sweeper: mode and direction say the same, give one")
        goal["mode"] = _read_direction(told["direction"])
    rules = {name: told[name] for name in RULES if isinstance(told.get(name), dict)}
    of_rules = [rule["metric"] for rule in rules.values() if isinstance(rule.get("metric"), list)]
    if goal or of_rules:
        from ._job import list_names

        modes = goal.get("mode")
        several = isinstance(modes, list) and len(modes)
        own = list_names(several) if several else "value"
        goal.setdefault("metric", of_rules[0] if of_rules else own)
    return {**goal, **{name: {**goal, **rule} for name, rule in rules.items()}}


def _read_direction(direction: Any) -> Any:
    """Make modes of directions: one, or a list of them."""
    if isinstance(direction, list):
        return [_read_direction(each) for each in direction]
    word = getattr(direction, "name", str(direction))  # an Enum's, where the config has one
    if word not in DIRECTIONS:
        raise CompactHydraException(
            f"hydra.sweeper.direction: minimize or maximize, or a list of these; got {word!r}"
        )
    return DIRECTIONS[word]


def _read_sampler(told: dict[str, Any]) -> Any:
    """Put a sampler that is told by its name under that name; return one that is an object."""
    sampler = told.get("sampler")
    name: Any = sampler
    arguments: Any = {}
    if isinstance(sampler, dict) and len(sampler) == 1:
        ((name, arguments),) = sampler.items()
    if isinstance(name, str) and name in SAMPLERS:
        told[name] = arguments
        return None
    if isinstance(sampler, str | dict):
        raise CompactHydraException(
            f"hydra.sweeper.sampler: there is no sampler {name!r}; there are "
            f"{', '.join(SAMPLERS)}, or one of Optuna's by its _target_ "
            "(optuna.samplers.TPESampler)"
        )
    if type(sampler).__module__.startswith("optuna."):
        return ss.samplers.Optuna(sampler)
    return sampler


def _write_best(result: ss.Result, folder: Path, metric: Any) -> None:
    """Write what was best where sweepers of Hydra's do; of several objectives, the front."""
    found: dict[str, Any] = {"name": "slurm_sweeps"}
    with contextlib.suppress(ss.SlurmSweepsError):  # there is no metric, or no trial has one
        if isinstance(metric, list):
            found["solutions"] = [
                {"params": trial.cfg, "values": [trial.last_metrics[name] for name in metric]}
                for trial in result.front()
            ]
        else:
            best = result.best_trial()
            found |= {"best_params": best.cfg, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(found), folder / "optimization_results.yaml")
