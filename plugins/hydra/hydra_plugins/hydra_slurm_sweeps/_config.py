"""What may stand under `hydra.sweeper`, as Hydra reads it.

Hydra runs modules that it scans without their place in `sys.modules`, which dataclasses look for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class SlurmSweepsConf:
    """The keys under `hydra.sweeper`: those of a sweep file, but for its program and its space.

    Null leaves it to `ss.Experiment` and its `run`.
    """

    _target_: str = "hydra_plugins.hydra_slurm_sweeps.sweeper.SlurmSweepsSweeper"
    #: What is swept, written as on the command line, which wins: `{lr: "interval(1e-5, 1e-1)"}`.
    params: dict[str, Any] = field(default_factory=dict)
    #: How many configurations to draw; null for all combinations of what can be counted.
    n_trials: Any = None
    #: The metric's name, "min" or "max"; of the value that the job returns, `mode` is enough. Lists
    #: for several objectives. `direction`: "minimize" or "maximize", as other sweepers have it.
    metric: Any = None
    mode: Any = None
    direction: Any = None
    #: Arguments of `ss.ASHA`, `ss.Hyperband`, `ss.MedianStopping`: `{metric: loss, mode: min}`.
    asha: Any = None
    hyperband: Any = None
    median_stopping: Any = None
    #: "random", "model", "optuna", `{random: {quasi: true}}`, `{sobol: {n: 64}}` or another design
    #: with its size, or an object by its `_target_`.
    sampler: Any = None
    #: Arguments of `ss.SlurmCfg`, `ss.LocalCfg`, `ss.Keep`.
    slurm: Any = None
    local: Any = None
    keep: Any = None
    #: Of the experiment. The name is the app's, and the time unless restore or overwrite is said.
    name: Any = None
    local_dir: Any = None
    restore: Any = None
    changed_space: Any = None
    overwrite: Any = None
    seed: Any = None
    points_to_evaluate: Any = None
    snapshot: Any = None
    feasible: Any = None
    #: Of its run.
    max_concurrent_trials: Any = None
    max_retries: Any = None
    fail_fast: Any = None
    max_trial_sec: Any = None
    max_silence_sec: Any = None
    out_of_memory: Any = None
    grace_period_in_sec: Any = None
    time_budget_in_sec: Any = None
    target: Any = None
    report: Any = None
    track: Any = None
    on_end: Any = None
    join: Any = None
    summary_interval_in_sec: Any = None
    nr_of_rows_in_summary: Any = None
    summarize_cfg_and_metrics: Any = None


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="slurm_sweeps",
    node=SlurmSweepsConf,
    provider="hydra_slurm_sweeps",
)
