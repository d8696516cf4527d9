"""Report to the sweep from a Hugging Face `Trainer`.

from slurm_sweeps.integrations.transformers import SlurmSweepsCallback

trainer = Trainer(callbacks=[SlurmSweepsCallback("eval_loss")], ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..running import session
from ._callbacks import Reporting, find_class, pick_metrics

_NEEDED = "Transformers and Accelerate: pip install 'transformers[torch]'"
TrainerCallback: Any = find_class("transformers.TrainerCallback", _NEEDED)


class SlurmSweepsCallback(Reporting, TrainerCallback):  # type: ignore[misc] # known at run time
    """Reports metrics after each evaluation, and ends the trial when the sweep says so.

    The iteration is the number of the evaluation, from 1; with `eval_strategy="epoch"` that is the
    number of epochs trained. Reported is as late as can be, when the checkpoint that belongs to an
    evaluation has been written. Evaluations outside of `train()` are not reported.

    Args:
        metrics: Name or names to report, as the trainer has them (`"eval_loss"`).
        log_to_wandb: True logs them to Weights & Biases too, in a run of the trial's own. None
            does so if a run is open already (not that of `report_to="wandb"`, which logs by
            itself). False never does.
        wandb_init_kwargs: Arguments for `wandb.init`, with `log_to_wandb=True`.

    Raises:
        UsageError: An argument makes no sense; or, at the first evaluation, a metric is missing.
    """

    _training = False
    _waiting: tuple[dict[str, float], int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the W&B run."""
        self._training = True
        if state.is_world_process_zero:
            self._wandb.open()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """Take the metrics down; a checkpoint may follow before they are reported."""
        if self._training:
            values = pick_metrics(self.metrics, metrics, "computed")
            by_epoch = args.eval_strategy == "epoch"
            number = state.epoch if by_epoch else max(1, state.global_step / state.eval_steps)
            self._waiting = values, round(number)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report what waits, and close the W&B run that was opened here."""
        self.report(args, state, control)
        self._training = False
        self._wandb.close()

    def report(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report what waits, on every rank: in a trial of several, `log` is a collective call."""
        if self._waiting is None:
            return
        (values, iteration), self._waiting = self._waiting, None
        if state.is_world_process_zero:
            self._wandb.log(values, iteration, framework_logs="wandb" in args.report_to)
        if state.is_world_process_zero or session.world_size() > 1:
            session.log(values, iteration)

    on_save = report
    on_step_begin = on_epoch_begin = report  # no checkpoint was to be written


__all__ = ["SlurmSweepsCallback"]
