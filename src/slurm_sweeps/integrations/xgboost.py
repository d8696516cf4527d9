"""Report to the sweep from XGBoost.

from slurm_sweeps.integrations.xgboost import SlurmSweepsCallback

xgboost.train(..., evals=[(valid, "valid")], callbacks=[SlurmSweepsCallback("valid-rmse")])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..running import session
from ._callbacks import check_names, find_class, pick_metrics

TrainingCallback: Any = find_class(
    "xgboost.callback.TrainingCallback", "XGBoost: pip install xgboost"
)


class SlurmSweepsCallback(TrainingCallback):  # type: ignore[misc] # known at run time
    """Reports metrics after each boosting round, and ends the trial when the sweep says so.

    The iteration is the number of rounds that the model has, those before `xgb_model=` included.

    Args:
        metrics: Name or names to report, as XGBoost prints them: `"<data>-<metric>"`, such as
            `"validation_0-logloss"`. Of `xgboost.cv` it is the mean.

    Raises:
        UsageError: The name makes no sense; or, after a round, a metric is missing.
    """

    def __init__(self, metrics: str | Sequence[str]) -> None:
        super().__init__()
        self.metrics = check_names(metrics)

    def after_iteration(
        self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Sequence[Any]]]
    ) -> bool:
        """Report, and go on."""
        available = {
            f"{data}-{metric}": history[-1]
            for data, curves in evals_log.items()
            for metric, history in curves.items()
        }
        means = {name: v[0] if isinstance(v, tuple) else v for name, v in available.items()}
        count = getattr(model, "num_boosted_rounds", None)  # which cross-validation has not
        iteration = epoch + 1 if count is None else int(count())
        session.log(pick_metrics(self.metrics, means, "evaluated"), iteration)
        return False


__all__ = ["SlurmSweepsCallback"]
