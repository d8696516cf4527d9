"""What all callbacks share: which metrics are reported, and Weights & Biases beside the sweep."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, UsageTypeError
from ..running import session


def find_class(name: str, remedy: str) -> Any:
    """Return a class of a library, by its whole name.

    Raises:
        ImportError: The library is not installed; the remedy is what its callback needs then.
    """
    library, (module, _, own) = name.partition(".")[0], name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), own)
    except ModuleNotFoundError as error:
        if error.name != library:  # it is there, but something that it needs is not
            raise
        raise ImportError(f"slurm_sweeps.integrations.{library} needs {remedy}") from error


def check_names(metrics: str | Sequence[str]) -> list[str]:
    """Return the names of the metrics to report.

    Raises:
        UsageTypeError: It is no name and no list of names.
        UsageError: The list is empty.
    """
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageTypeError(f"metrics must be a name or a list of names; got {metrics!r}")
    if not names:
        raise UsageError(f"metrics={metrics!r}: name at least one metric to report")
    return list(names)


def pick_metrics(
    names: Sequence[str], available: Mapping[str, Any], where: str
) -> dict[str, float]:
    """Pick metrics by name, tensors turned into numbers.

    Raises:
        UsageError: One is missing; `where` tells in the message how metrics get there.
    """
    missing = [name for name in names if name not in available]
    if missing:
        raise UsageError(
            f"metric {missing[0]!r} is not among those {where} by the end of the validation: "
            f"{sorted(available)}"
        )
    values = ((name, available[name]) for name in names)
    return {name: value.item() if hasattr(value, "item") else value for name, value in values}


class WandbLog:
    """Weights & Biases, if it is wanted: one run for each trial, logged to by rank 0.

    Args:
        wanted: True opens a run if none is open; False logs nothing; None logs if a run is open.
        init_kwargs: For `wandb.init`, over the defaults: the trial's id as name, the experiment's
            name as group, the trial's folder.
    """

    def __init__(self, wanted: bool | None, init_kwargs: Mapping[str, Any] | None) -> None:
        if wanted not in (True, False, None):
            raise UsageError(f"log_to_wandb must be True, False or None; got {wanted!r}")
        if init_kwargs is not None and not wanted:
            raise UsageError(
                f"wandb_init_kwargs={dict(init_kwargs)!r} has no effect without log_to_wandb=True"
            )
        self._wanted = wanted
        self._init_kwargs = dict(init_kwargs or {})
        self._run: Any = None

    def open(self) -> None:
        """Open a run if one is wanted and none is open.

        Raises:
            ImportError: wandb is not installed; the message says what to do.
        """
        if not self._wanted or self._find_run() is not None:
            return
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError(
                "log_to_wandb=True needs Weights & Biases: pip install wandb, or leave it out"
            ) from error
        folder = session.trial_dir()
        defaults = {"name": folder.name, "group": folder.parent.name, "dir": str(folder)}
        self._run = wandb.init(**{**defaults, **self._init_kwargs})

    def log(
        self, metrics: Mapping[str, float], iteration: int, framework_logs: bool = False
    ) -> None:
        """Log to the run, if there is one; only on demand where the framework logs by itself."""
        wanted = not framework_logs if self._wanted is None else self._wanted
        run = self._find_run() if wanted else None
        if run is not None:
            run.log({**metrics, "iteration": iteration})

    def close(self) -> None:
        """Finish the run that `open` has opened."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _find_run(self) -> Any:
        return getattr(sys.modules.get("wandb"), "run", None)


class Reporting:
    """What a callback is made with; it says what that means. It stands before a library's class."""

    def __init__(
        self,
        metrics: str | Sequence[str],
        log_to_wandb: bool | None = None,
        wandb_init_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.metrics = check_names(metrics)
        self._wandb = WandbLog(log_to_wandb, wandb_init_kwargs)
