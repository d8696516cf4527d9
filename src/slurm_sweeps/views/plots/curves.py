"""Learning curves: which are shown, thinned where there are too many. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..pictures.data import Floats, Ints, SweepData

#: Points of all curves together; more than these make a browser slow.
MAX_POINTS = 60_000

#: Points of one curve.
MAX_CURVE = 300

#: The best trials are always shown.
KEPT = 50


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of one trial.

    Args:
        trial: The trial's position in `SweepData.trials`.
        iteration: Rising.
        value: As many; NaN where it was no finite number.
    """

    trial: int
    iteration: Ints
    value: Floats


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of a sweep.

    Args:
        curves: By trial.
        total: How many trials have a curve, those that are not shown included.
        rungs: The iterations at which trials are judged.
    """

    curves: Sequence[Curve]
    total: int
    rungs: Sequence[int]


def compute_curves(data: SweepData) -> Curves:
    """Choose and thin the curves.

    The best `KEPT` trials are always there; of the others a regular sample, as many as `MAX_POINTS`
    allow.
    """
    numbers = data.reports["number"]
    present, first = np.unique(numbers, return_index=True)
    ends = np.append(first, len(numbers))[1:]
    curves = [
        _thin(data, int(number), int(begin), int(end))
        for number, begin, end in zip(present, first, ends, strict=True)
    ]
    best = set(data.order_by_best()[:KEPT].tolist())
    budget = MAX_POINTS - sum(len(curve.value) for curve in curves if curve.trial in best)
    others = [curve for curve in curves if curve.trial not in best]
    points = sum(len(curve.value) for curve in others)
    stride = max(1, -(-points // max(1, budget)))
    shown = best | {curve.trial for curve in others[::stride]}
    asha = data.settings.get("asha") or {}
    rungs = asha.get("rungs", []) if data.metric == asha.get("metric") else []
    return Curves([curve for curve in curves if curve.trial in shown], len(curves), rungs)


def _thin(data: SweepData, number: int, begin: int, end: int) -> Curve:
    stride = max(1, -(-(end - begin) // MAX_CURVE))
    at = np.arange(begin, end, stride)
    if at[-1] != end - 1:
        at = np.append(at, end - 1)
    value = data.reports["value"][at].copy()
    value[~np.isfinite(value)] = np.nan
    return Curve(number, data.reports["iteration"][at], value)
