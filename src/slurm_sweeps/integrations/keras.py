"""Report to the sweep from Keras.

from slurm_sweeps.integrations.keras import SlurmSweepsCallback

model.fit(..., callbacks=[..., SlurmSweepsCallback("val_loss")])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..running import session
from ._callbacks import Reporting, find_class, pick_metrics

Callback: Any = find_class("keras.callbacks.Callback", "Keras 3: pip install keras, and a backend")


class SlurmSweepsCallback(Reporting, Callback):  # type: ignore[misc] # known at run time
    """Reports metrics after each epoch, and ends the trial when the sweep says so.

    The iteration is the number of the epoch, from 1; with `initial_epoch` it goes on from there.
    Put it behind all other callbacks, so that the checkpoint of an epoch is there when its report
    is made: once the trial is to end, none of those after it gets its turn.

    Args:
        metrics: Name or names to report, as Keras has them (`"val_loss"`).
        log_to_wandb: True logs them to Weights & Biases too, in a run of the trial's own. None
            does so if a run is open already. False never does.
        wandb_init_kwargs: Arguments for `wandb.init`, with `log_to_wandb=True`.

    Raises:
        UsageError: An argument makes no sense; or, at the end of an epoch, a metric is missing.
    """

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Open the W&B run."""
        self._wandb.open()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report."""
        values = pick_metrics(self.metrics, logs or {}, "computed")
        self._wandb.log(values, epoch + 1)
        session.log(values, epoch + 1)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Close the W&B run that was opened here."""
        self._wandb.close()


__all__ = ["SlurmSweepsCallback"]
