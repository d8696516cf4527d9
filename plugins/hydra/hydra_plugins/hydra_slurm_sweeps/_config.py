"""What may stand under `hydra.sweeper`, as Hydra reads it.

Hydra runs modules that it scans without their place in `sys.modules`, which dataclasses look for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from hydra.core.config_store import ConfigStore


@dataclass
class SlurmSweepsConf:
    """The keys under `hydra.sweeper`; their names are those of `ss.Experiment` and its `run`."""

    _target_: str = "hydra_plugins.hydra_slurm_sweeps.sweeper.SlurmSweepsSweeper"
    #: What is swept, written as on the command line, which wins: `{lr: "interval(1e-5, 1e-1)"}`.
    params: dict[str, Any] = field(default_factory=dict)
    #: How many configurations to draw; None for all combinations of what can be counted.
    n_trials: Optional[int] = None  # noqa: UP045 - OmegaConf reads it
    #: The metric's name and "min" or "max"; of the value that the job returns, `mode` is enough.
    metric: Any = None
    mode: Optional[str] = None  # noqa: UP045
    #: Arguments of `ss.ASHA`, `ss.Hyperband`, `ss.MedianStopping`: `{metric: loss, mode: min}`.
    asha: Any = None
    hyperband: Any = None
    median_stopping: Any = None
    #: "random", "model", "optuna", one of these with its arguments, or an object by `_target_`.
    sampler: Any = None
    seed: Optional[int] = None  # noqa: UP045
    #: None is the app's name, with the time unless `restore` or `overwrite` is said.
    name: Optional[str] = None  # noqa: UP045
    local_dir: Optional[str] = None  # noqa: UP045
    #: True, False, or "auto": go on with what there is of this name.
    restore: Any = False
    overwrite: bool = False
    points_to_evaluate: list[Any] = field(default_factory=list)
    #: Arguments of `ss.SlurmCfg` and `ss.LocalCfg`.
    slurm: Any = None
    local: Any = None
    #: Those of `run`.
    max_concurrent_trials: Optional[int] = None  # noqa: UP045
    max_retries: int = 0
    fail_fast: bool = True
    grace_period_in_sec: float = 60.0
    time_budget_in_sec: Optional[float] = None  # noqa: UP045
    target: Optional[float] = None  # noqa: UP045
    summary_interval_in_sec: float = 5.0
    report: bool = False


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="slurm_sweeps",
    node=SlurmSweepsConf,
    provider="hydra_slurm_sweeps",
)
