"""Which trials a restored sweep runs again. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..trial import Status
from .records import Request, TrialRecord

#: What is run again when an experiment is restored, without anyone asking for it.
UNFINISHED = frozenset({Status.SCHEDULED, Status.RUNNING, Status.LOST, Status.INTERRUPTED})


def find_unfinished(trials: Iterable[TrialRecord], requests: Sequence[Request]) -> list[int]:
    """Choose the trials to run again: the unfinished, and the failed ones that were marked.

    Args:
        trials: All trials of the experiment.
        requests: What was ever asked of its driver. A mark counts until the trial is run again:
            it must be younger than the trial's end.

    Returns:
        The trials' numbers, in the order of `trials`.
    """
    marked = {each.argument: each.created_at for each in requests if each.kind == "retry"}
    return [
        trial.number
        for trial in trials
        if trial.status in UNFINISHED
        or (
            trial.status is Status.FAILED
            and marked.get(trial.trial_id, -1.0) >= (trial.end_time or 0.0)
        )
    ]
