"""Hyper-parameter sweeps with ASHA on a laptop or a Slurm cluster, without a server.

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
import re
from typing import Any

__version__ = "1.0.0rc1"

with open(f"{__path__[0]}/__init__.pyi", encoding="utf-8") as _stub:
    #: The module that each public name is loaded from, as the stub beside this file lists them.
    _HOMES = {
        name: home for home, name in re.findall(r"from (\.\S*) import (\w+) as", _stub.read())
    }

#: Names of version 0.1, and what took their place.
_GONE = {
    "SlurmBackend": "pass Experiment(..., slurm_cfg=ss.SlurmCfg(nodes=..., ntasks=..., args=...))",
    "Backend": "leave it out: where there is no Slurm, trials run on this machine",
    "Database": "ss.Result(name, local_dir).to_dataframe() reads what a sweep has stored",
    "Logger": "train reports with ss.log(metrics, iteration)",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - a list, read from the stub


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if name in _GONE:  # an ImportError, since `from ... import` hides what an AttributeError says
        raise ImportError(f"slurm_sweeps.{name} was in version 0.1 only: {_GONE[name]}")
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if home == ".":
        value: Any = importlib.import_module(f".{name}", __name__)
    else:
        value = getattr(importlib.import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
