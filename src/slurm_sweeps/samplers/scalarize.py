"""Several objectives as one, by weights drawn at random: the augmented Chebyshev norm.

ParEGO's way (Knowles 2006, doi 10.1109/TEVC.2005.851274): whoever learns one number learns another
weighted norm of the objectives with each fit, and so comes to all parts of the front. Objectives
count by their rank among all that is known, so that neither scale nor outliers matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import Goal

#: What the sum of the weighted objectives counts beside the largest of them.
SHARE_OF_SUM = 0.05


def scalarize(
    curves: Sequence[Mapping[int, tuple[float, ...]]],
    goals: Sequence[Goal],
    rng: np.random.Generator,
) -> list[dict[int, float]]:
    """Return curves of one number, lower is better, of curves of points; weights are drawn.

    A point that is not finite becomes NaN.
    """
    points = np.array([point for curve in curves for point in curve.values()])
    points = points.reshape(-1, len(goals)) * [goal.sign for goal in goals]
    finite = np.isfinite(points).all(axis=1)
    weights = rng.dirichlet(np.ones(len(goals)))
    norms = np.full(len(points), math.nan)
    if finite.any():
        weighed = weights * np.column_stack([_rank(column) for column in points[finite].T])
        norms[finite] = weighed.max(axis=1) + SHARE_OF_SUM * weighed.sum(axis=1)
    values = iter(norms.tolist())
    return [{at: next(values) for at in curve} for curve in curves]


def _rank(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return each value's place among all, from 0 to 1."""
    levels, place = np.unique(values, return_inverse=True)
    ranked: np.ndarray[Any, Any] = place / max(1, len(levels) - 1)
    return ranked
