"""Hyper-parameter sweeps with ASHA on a laptop or inside one Slurm allocation, without a server.

    import slurm_sweeps as ss

    def train(cfg):
        for epoch in range(10):
            ss.log({"loss": ...}, epoch)

    if __name__ == "__main__":
        cfg = {"lr": ss.LogUniform(1e-4, 1)}
        result = ss.Experiment(train, cfg, asha=ss.ASHA("loss", "min")).run(n_trials=100)
        print(result.best_trial())

The names below are loaded when they are first used: a trial's process, which only calls `log`, pays
for no pandas and no NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "1.0.0.dev0"

if TYPE_CHECKING:
    from . import samplers
    from .errors import (
        AllocationError,
        ExperimentExistsError,
        ExperimentLockedError,
        ExperimentNotFoundError,
        LaunchError,
        SlurmSweepsError,
        StorageError,
        SweepFailedError,
        SweepStopped,
        TrainError,
        TrialInterrupted,
        TrialPruned,
        UsageError,
        UsageTypeError,
    )
    from .experiment import Experiment
    from .result import Result
    from .rules.asha import ASHA
    from .rules.hyperband import Hyperband
    from .rules.median import MedianStopping
    from .running.session import (
        attempt,
        checkpoint_dir,
        log,
        should_stop,
        trial_dir,
        trial_id,
    )
    from .search.choices import Choice, Grid
    from .search.spaces import (
        Integer,
        LogInteger,
        LogUniform,
        Normal,
        Quantized,
        Uniform,
    )
    from .slurm.config import LocalCfg, SlurmCfg
    from .trial import Status, Trial

_HOMES = {
    "rules.asha": ["ASHA"],
    "errors": [
        "AllocationError",
        "ExperimentExistsError",
        "ExperimentLockedError",
        "ExperimentNotFoundError",
        "LaunchError",
        "SlurmSweepsError",
        "StorageError",
        "SweepFailedError",
        "SweepStopped",
        "TrainError",
        "TrialInterrupted",
        "TrialPruned",
        "UsageError",
        "UsageTypeError",
    ],
    "slurm.config": ["LocalCfg", "SlurmCfg"],
    "running.session": [
        "attempt",
        "checkpoint_dir",
        "log",
        "should_stop",
        "trial_dir",
        "trial_id",
    ],
    "experiment": ["Experiment"],
    "rules.hyperband": ["Hyperband"],
    "rules.median": ["MedianStopping"],
    "result": ["Result"],
    "samplers": ["samplers"],
    "search.choices": ["Choice", "Grid"],
    "search.spaces": ["Integer", "LogInteger", "LogUniform", "Normal", "Quantized", "Uniform"],
    "trial": ["Status", "Trial"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ASHA",
    "AllocationError",
    "Choice",
    "Experiment",
    "ExperimentExistsError",
    "ExperimentLockedError",
    "ExperimentNotFoundError",
    "Grid",
    "Hyperband",
    "Integer",
    "LaunchError",
    "LocalCfg",
    "LogInteger",
    "LogUniform",
    "MedianStopping",
    "Normal",
    "Quantized",
    "Result",
    "SlurmCfg",
    "SlurmSweepsError",
    "Status",
    "StorageError",
    "SweepFailedError",
    "SweepStopped",
    "TrainError",
    "Trial",
    "TrialInterrupted",
    "TrialPruned",
    "Uniform",
    "UsageError",
    "UsageTypeError",
    "attempt",
    "checkpoint_dir",
    "log",
    "samplers",
    "should_stop",
    "trial_dir",
    "trial_id",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "samplers":
        value: Any = importlib.import_module(f"{__name__}.samplers")
    else:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
