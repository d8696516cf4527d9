"""Weights & Biases, if it is wanted: one run for each trial, logged to by rank 0.

It is off unless asked for, or unless a run is open in this process already.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..running import session


class WandbLog:
    """Where the metrics of a trial go besides the sweep's database.

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
        """Open a run if one is wanted and none is open."""
        if not self._wanted or self._find_run() is not None:
            return
        wandb = import_wandb()
        folder = session.trial_dir()
        defaults = {"name": folder.name, "group": folder.parent.name, "dir": str(folder)}
        self._run = wandb.init(**{**defaults, **self._init_kwargs})

    def log(
        self, metrics: Mapping[str, float], iteration: int, framework_logs: bool = False
    ) -> None:
        """Log to the run, if there is one to log to.

        Args:
            metrics: The metrics.
            iteration: The iteration.
            framework_logs: Whether the framework logs them to W&B by itself: then only on demand.
        """
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
        wandb = sys.modules.get("wandb")
        return None if wandb is None else getattr(wandb, "run", None)


def import_wandb() -> Any:
    """Import wandb.

    Raises:
        ImportError: It is not installed; the message says what to do.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ImportError(
            "log_to_wandb=True needs Weights & Biases: pip install wandb, or leave it out"
        ) from error
