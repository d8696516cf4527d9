"""What runs in a trial's process: a job of a multirun, with all that Hydra does around one.

The job runs where the multirun was started, as jobs of Hydra's do, or in its output folder with
`hydra.job.chdir=True`; the trial's folder has its logs and checkpoints. A link leads from each of
the two to the other.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import slurm_sweeps as ss
from slurm_sweeps.running.session import get_context

from ._params import Space

#: In an experiment's folder: the folder of its multirun, where a restored one goes on.
LINK = "multirun"
#: In a trial's folder: its output folder; and in that one: the trial's.
OUTPUT_LINK, TRIAL_LINK = "output", ".slurm_sweeps"


class Job:
    """The `train` of a multirun.

    Args:
        task: The app.
        context: Hydra's, with the loader of configs and the callbacks.
        config: That of the multirun.
        space: Makes overrides of a cfg.
        metric: What the values that the app returns are called: a name, a list of names, or None.

    Attributes:
        sweep_dir: Where the jobs' output folders are.
        singletons: The state of Hydra and OmegaConf in the driver: the store of configs, resolvers.
    """

    sweep_dir: Path
    singletons: Any

    def __init__(
        self,
        task: TaskFunction,
        context: HydraContext,
        config: DictConfig,
        space: Space,
        metric: Any,
    ) -> None:
        self._task = task
        self._context = context
        self._config = config
        self._space = space
        self._metric = metric
        self._left: Exception | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be as in the driver, once for all trials of a host."""
        Singleton.set_state(state["singletons"])
        setup_globals()
        vars(self).update(state)

    def __call__(self, cfg: dict[str, Any]) -> Any:
        """Run the job of a configuration; return what it has returned, as metrics.

        Raises:
            TrialPruned, TrialInterrupted: As `ss.log`, where the app has let them pass.
            Exception: What the app has raised.
        """
        os.chdir(self._config.hydra.runtime.cwd)
        done = run_job(
            task_function=self._run,
            config=self._compose(cfg),
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=self._context,
        )
        if self._left is not None:
            raise self._left
        return _name_values(done.return_value, self._metric)

    def _compose(self, cfg: dict[str, Any]) -> DictConfig:
        place = get_context()
        config = self._context.config_loader.load_sweep_config(self._config, self._space.write(cfg))
        with open_dict(config):
            hydra = config.hydra
            hydra.job.num = place.number
            hydra.job.id = place.trial_id
            hydra.sweep.dir = str(self.sweep_dir)
            link = place.directory / OUTPUT_LINK
            if link.is_symlink():  # of an earlier attempt
                hydra.sweep.dir, hydra.sweep.subdir = os.path.split(link.readlink())
            if place.rank:  # else all ranks write the same files
                hydra.output_subdir = None
                hydra.job.name = f"{hydra.job.name}_rank{place.rank}"
        return config

    def _run(self, config: DictConfig) -> Any:
        """Run the app; that it is to leave is no failure for Hydra to tell of."""
        place, output = get_context(), Path(HydraConfig.get().runtime.output_dir)
        if place.rank == 0:
            _link(place.directory.parent / LINK, self.sweep_dir)
            _link(place.directory / OUTPUT_LINK, output)
            _link(output / TRIAL_LINK, place.directory)
        try:
            return self._task(config)
        except (ss.TrialPruned, ss.TrialInterrupted) as error:
            self._left = error
            return None


def _link(path: Path, target: Path) -> None:
    with contextlib.suppress(OSError):  # it is there, or the file system has no links
        path.symlink_to(target, target_is_directory=True)


def list_names(count: int) -> list[str]:
    """Name the values of a tuple for which the user has no names."""
    return [f"value_{i}" for i in range(count)]


def _name_values(returned: Any, metric: Any) -> Any:
    """Give the values of a tuple names, and make Python's dict of OmegaConf's."""
    if OmegaConf.is_config(returned):
        returned = OmegaConf.to_container(returned)
    if not isinstance(returned, tuple | list) or not returned:
        return returned
    names = metric if isinstance(metric, list | tuple) else list_names(len(returned))
    if len(names) != len(returned):
        raise ss.UsageError(
            f"the job returned {len(returned)} values, and hydra.sweeper.metric names {len(names)}"
        )
    return dict(zip(names, returned, strict=True))
