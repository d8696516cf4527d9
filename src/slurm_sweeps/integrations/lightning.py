"""Report to the sweep from a Lightning `Trainer`.

    from slurm_sweeps.integrations.lightning import SlurmSweepsCallback

    trainer = Trainer(callbacks=[SlurmSweepsCallback("val_loss")], ...)

Works with `lightning` and with `pytorch_lightning`, whichever the script has imported. Lightning
finds the trial's ranks, address and port in the environment by itself; it needs no plugin.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from typing import Any

from ..running import session
from ._callbacks import Reporting, pick_metrics

#: The two packages that Lightning comes in; an object of one is none of the other.
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


def find_bases() -> tuple[type, ...]:
    """Return the `Callback` classes of the Lightnings in use, else of one that is installed.

    Raises:
        ImportError: Neither is installed; the message says what to do.
    """
    used = [sys.modules[name] for name in PACKAGES if sys.modules.get(name) is not None]
    for name in () if used else PACKAGES:
        try:
            used.append(importlib.import_module(name))
            break
        except ModuleNotFoundError as error:
            if not name.startswith(str(error.name)):  # Lightning is there, but something it needs
                raise
    if not used:
        raise ImportError(
            "slurm_sweeps.integrations.lightning needs Lightning 2: pip install lightning"
        )
    return tuple(module.Callback for module in used)


class _Hooks(Reporting):
    """What the callback adds to Lightning's own `Callback`; see `SlurmSweepsCallback`."""

    _validations = 0
    _term_handler: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Move behind all other callbacks: once `log` has raised, none of them gets its turn."""
        others = [callback for callback in trainer.callbacks if callback is not self]
        trainer.callbacks = [*others, self]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the W&B run, and remember who handles TERM before Lightning does."""
        self._term_handler = signal.getsignal(signal.SIGTERM)
        if trainer.is_global_zero:
            self._wandb.open()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Keep Lightning from ending a trial by TERM in the middle of an epoch.

        Slurm sends TERM to every rank of a job that ends, each at its own time. The driver gets it
        too, and has all ranks leave at the same report; Lightning's own way (a broadcast from
        inside the signal handler, then an exception) can leave ranks waiting for each other.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if session.is_in_trial() and in_main_thread and self._term_handler is not None:
            signal.signal(signal.SIGTERM, self._term_handler)

    on_sanity_check_start = on_train_start

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Count, before a checkpoint that belongs to this validation is written."""
        self._validations += counts(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report, on every rank of a trial of several: there `log` is a collective call.

        Ranks that Lightning itself has started are one trial, for which its rank 0 speaks.
        """
        if not counts(trainer):
            return
        values = pick_metrics(self.metrics, trainer.callback_metrics, "logged by the module")
        by_epoch = validates_once_an_epoch(trainer)
        iteration = int(trainer.current_epoch) + 1 if by_epoch else self._validations
        if trainer.is_global_zero:
            has_logger = any(type(each).__name__ == "WandbLogger" for each in trainer.loggers)
            self._wandb.log(values, iteration, framework_logs=has_logger)
        if trainer.is_global_zero or session.world_size() > 1:
            session.log(values, iteration)

    def on_fit_end(self, trainer: Any, pl_module: Any, exception: Any = None) -> None:
        """Close the W&B run that was opened here."""
        self._wandb.close()

    on_exception = on_fit_end

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the number of validations so far."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stopped."""
        self._validations = state_dict["validations"]


class SlurmSweepsCallback(_Hooks, *find_bases()):  # type: ignore[misc] # bases known at run time
    """Reports metrics after each validation, and ends the trial when the sweep says so.

    The iteration is the number of epochs trained, from 1; where a trainer validates several times
    in an epoch, or by batches, it is the number of validations. Sanity checks and
    `trainer.validate()` are not reported. It acts after all other callbacks, but for what runs at
    the end of the training epoch: give a ModelCheckpoint `save_on_train_epoch_end=False`, so that
    the checkpoint of an epoch is there when its report is made.

    Args:
        metrics: Name or names to report, as the module logs them. Rank 0's values count, so log
            with `sync_dist=True` where they should be those of all ranks.
        log_to_wandb: True logs them to Weights & Biases too, in a run of the trial's own. None
            does so if a run is open already (not counting a WandbLogger of the trainer's, which
            logs by itself). False never does.
        wandb_init_kwargs: Arguments for `wandb.init`, with `log_to_wandb=True`.

    Raises:
        UsageError: An argument makes no sense; or, at the first validation, a metric is missing.
    """


def counts(trainer: Any) -> bool:
    """Tell whether the validation that a trainer is at is one of training."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def validates_once_an_epoch(trainer: Any) -> bool:
    """Tell whether a trainer validates at the end of epochs only."""
    every, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if every is None or not isinstance(batches, int | float):
        return False
    return bool(batches >= trainer.num_training_batches)


def __getattr__(name: str) -> Any:
    if name == "ParallelSlurmEnvironment":  # of version 0.1
        raise ImportError(
            f"{name} was in version 0.1 only: leave it out, Lightning finds a trial's ranks by "
            "itself; Trainer(callbacks=[SlurmSweepsCallback(...)]) reports its metrics"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SlurmSweepsCallback"]
