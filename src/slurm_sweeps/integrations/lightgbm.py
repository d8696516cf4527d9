"""Report to the sweep from LightGBM.

from slurm_sweeps.integrations.lightgbm import SlurmSweepsCallback

lightgbm.train(..., valid_sets=[valid], callbacks=[SlurmSweepsCallback("valid_0-l2")])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..running import session
from ._callbacks import check_names, pick_metrics


class SlurmSweepsCallback:
    """Reports metrics after each boosting round, and ends the trial when the sweep says so.

    The iteration is the number of rounds that the model has, those of `init_model=` included.

    Args:
        metrics: Name or names to report, `"<data>-<metric>"`, such as `"valid_0-l2"`; of
            `lightgbm.cv` it is the mean.

    Raises:
        UsageError: The name makes no sense; or, after a round, a metric is missing.
    """

    #: LightGBM's: after its record of evaluations, and before it may stop early.
    order = 25
    before_iteration = False

    def __init__(self, metrics: str | Sequence[str]) -> None:
        self.metrics = check_names(metrics)

    def __call__(self, env: Any) -> None:
        """Report."""
        results = env.evaluation_result_list or []
        available = {f"{data}-{metric}": value for data, metric, value, *_ in results}
        session.log(pick_metrics(self.metrics, available, "evaluated"), env.iteration + 1)


__all__ = ["SlurmSweepsCallback"]
