"""The best value over time and over the iterations of all trials, and what pruning saved. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...trial import Status
from ..pictures.data import Floats, Ints, SweepData

#: Trials that the pruner has kept from running to their end.
_CUT_SHORT = (Status.PRUNED, Status.PAUSED)


@dataclass(frozen=True, slots=True)
class Progress:
    """Each improvement of the best value, and the end.

    Args:
        elapsed_s: Seconds since the first trial began.
        iterations: How many iterations all trials together had run by then.
        value: The best value so far.
        trial: The position in `SweepData.trials` of the trial that has it.
    """

    elapsed_s: Floats
    iterations: Ints
    value: Floats
    trial: Ints


def compute_progress(data: SweepData) -> Progress:
    """Follow the best value in the order in which values were logged.

    Returns:
        Nothing (arrays of length 0) where nobody said what is best or no finite value was logged.
    """
    order = np.argsort(data.reports["logged_at"], kind="stable")
    reports = data.reports[order]
    values = reports["value"] if data.mode == "min" else -reports["value"]
    values = np.where(np.isfinite(values), values, np.inf)
    lowest = np.minimum.accumulate(values) if len(values) else values
    better = np.append(np.inf, lowest[:-1]) > lowest if len(values) else np.empty(0, dtype=bool)
    at = np.flatnonzero(better)
    if data.mode is None or not len(at):
        nothing = np.empty(0)
        whole = np.empty(0, dtype=np.int64)
        return Progress(nothing, whole, nothing, whole)
    holder = reports["number"][at]
    if at[-1] != len(values) - 1:  # the line goes on to the end
        at, holder = np.append(at, len(values) - 1), np.append(holder, holder[-1])
    sign = 1.0 if data.mode == "min" else -1.0
    elapsed_s = np.maximum(0.0, reports["logged_at"][at] - find_start(data))
    return Progress(elapsed_s, at + 1, sign * lowest[at], holder)


def find_start(data: SweepData) -> float:
    """When the first attempt of all began, seconds since 1970."""
    times = [each.start_time for each in data.attempts if each.start_time is not None]
    return min(times, default=data.created_at)


@dataclass(frozen=True, slots=True)
class Savings:
    """What pruning saved.

    Args:
        run: The iterations that were run.
        full: The iterations that they would have been, had no trial been pruned.
        length: The iterations of a whole trial, as far as it is known.
        saved_s: The time that the pruned trials would have taken further, each at its own pace.
    """

    run: int
    full: int
    length: int
    saved_s: float


def compute_savings(data: SweepData) -> Savings:
    """Estimate what pruning saved.

    A whole trial is taken to be as long as the longest completed one; where none is, as ASHA's
    `max_t`, or the longest of all.
    """
    pruned = np.array([trial.status in _CUT_SHORT for trial in data.trials], dtype=bool)
    completed = np.array([trial.status is Status.COMPLETED for trial in data.trials], dtype=bool)
    run = int(data.iterations.sum())
    asha = data.settings.get("asha") or {}
    longest = int(data.iterations.max(initial=0))
    length = int(data.iterations[completed].max(initial=0)) or max(asha.get("max_t") or 0, longest)
    missing = np.where(pruned, np.maximum(0, length - data.iterations), 0)
    pace_s = np.array([_compute_pace_s(data, at) for at in range(len(data.trials))])
    return Savings(run, run + int(missing.sum()), length, float((missing * pace_s).sum()))


def _compute_pace_s(data: SweepData, at: int) -> float:
    trial, count = data.trials[at], int(data.iterations[at])
    if trial.start_time is None or trial.end_time is None or not count:
        return 0.0
    return max(0.0, trial.end_time - trial.start_time) / count
