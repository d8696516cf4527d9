"""What failed, grouped by why. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...storage.records import TrialRecord
from ...trial import Status
from ..formats import clean, shorten
from ..pictures.data import SweepData

#: What takes part: trials that ended, and not by themselves nor by the pruner.
_FAILED = (Status.FAILED, Status.LOST)

#: Messages that agree in so many characters are taken for the same.
_KEY_CHARS = 40


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Trials that failed alike.

    Args:
        status: "failed" or "lost".
        reason: The error's type and message, of the latest trial.
        trial_ids: All of them, by number.
        traceback: Of the latest trial; may be empty.
    """

    status: str
    reason: str
    trial_ids: Sequence[str]
    traceback: str


def group_failures(data: SweepData) -> list[FailureGroup]:
    """Group the failed and the lost trials, the largest group first."""
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in data.trials:
        if trial.status in _FAILED:
            key = (trial.status.value, _describe(trial)[:_KEY_CHARS])
            groups.setdefault(key, []).append(trial)
    found = [
        FailureGroup(
            status,
            shorten(_describe(trials[-1]), 300),
            [trial.trial_id for trial in trials],
            trials[-1].error.traceback if trials[-1].error else "",
        )
        for (status, _), trials in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group.trial_ids))


def _describe(trial: TrialRecord) -> str:
    if trial.error is None:
        return "no reason was told"
    return clean(f"{trial.error.type}: {trial.error.message}")
