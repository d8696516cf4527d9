"""Which parameters mattered: permutation importance of a random forest; a study's indices, as bars.

A random forest (scikit-learn) learns to tell a trial's rank from its parameters; a parameter
matters as much as the forest's predictions suffer when its values are shuffled among the trials.
Ranks, so that a few runaway losses don't decide. Source: Breiman, "Random Forests" (2001), section
10; the method is scikit-learn's `permutation_importance`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from ...replay.sensitivity import Sensitivity, compute_sensitivity
from ..formats import shorten_name
from . import COLORS, Figure, build_axis, build_empty, build_figure, escape_text, write_numbers
from .data import Floats, Ints, SweepData
from .parameters import Axis, build_axes

#: With fewer trials nothing can be said.
MIN_TRIALS = 30

#: More trials than these only cost time.
MAX_TRIALS = 2000

#: A forest that explains less than this has learnt next to nothing.
MIN_SCORE = 0.1


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance of each parameter."""

    names: Sequence[str] = ()  # the most important first
    shares: Sequence[float] = ()  # these add up to 1, or all are 0
    score: float = 0.0  # how much of the ranks' variance the forest explains for trials unseen
    reason: str = ""  # why nothing can be said, or what to take into account


def compute_importance(data: SweepData) -> Importance:
    """Estimate what mattered, from the trials with a finite value."""
    axes = [axis for axis in build_axes(data) if len(np.unique(axis.positions)) > 1]
    known = np.flatnonzero(np.isfinite(data.best))
    reason = ""
    if not axes:
        reason = "no parameter varies"
    elif len(known) < MIN_TRIALS:
        reason = f"too few trials: {len(known)} of {MIN_TRIALS} that are needed have a value"
    elif importlib.util.find_spec("sklearn") is None:
        reason = "this needs scikit-learn: pip install 'slurm-sweeps[report]'"
    elif len(np.unique(data.best[known])) < 2:
        reason = "all trials have the same value"
    if reason:
        return Importance(reason=reason)
    if len(known) > MAX_TRIALS:
        known = np.sort(np.random.default_rng(0).choice(known, MAX_TRIALS, replace=False))
    return _measure(axes, known, data.best[known])


def _measure(axes: Sequence[Axis], known: Ints, best: Floats) -> Importance:
    from scipy.stats import rankdata  # comes with scikit-learn
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    table = np.stack([axis.positions[known] for axis in axes], axis=1)
    table[~np.isfinite(table)] = np.nan  # how the forest is told that a parameter is missing
    ranks = rankdata(best, method="dense")
    forest = RandomForestRegressor(
        n_estimators=200, min_samples_leaf=3, oob_score=True, random_state=0, max_features=0.6
    )
    forest.fit(table, ranks)
    drop = permutation_importance(forest, table, ranks, n_repeats=5, random_state=0)
    means = np.maximum(0.0, drop.importances_mean)
    shares = means / means.sum() if means.sum() > 0 else means
    order = np.argsort(-shares, kind="stable")
    score = float(forest.oob_score_)
    reason = "" if score >= MIN_SCORE else "the parameters explain next to nothing of the result"
    names = [axes[at].name for at in order]
    return Importance(names, [float(shares[at]) for at in order], score, reason)


def draw_importance(importance: Importance) -> Figure:
    """The share of each parameter as a bar, the most important at the top."""
    if not importance.names:
        return build_empty(f"{importance.reason[:1].upper()}{importance.reason[1:]}.")
    names = [escape_text(shorten_name(name, 40)) for name in importance.names]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": write_numbers(np.array(importance.shares) * 100, 3),
        "y": list(range(len(names))),
        "text": [f"{share:.0%}" for share in importance.shares],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": COLORS["completed"]},
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    return build_figure(
        [bars],
        height=90 + 24 * len(names),
        xaxis=build_axis("share of the importance, %", rangemode="tozero"),
        yaxis=_build_names_axis(names),
        margin={"l": 64, "r": 48, "t": 12, "b": 48},
    )


def _build_names_axis(names: list[str]) -> dict[str, Any]:
    """An axis of bars, one for each parameter, the first at the top."""
    return {
        "autorange": "reversed",
        "automargin": True,
        "tickvals": list(range(len(names))),
        "ticktext": names,
        "showgrid": False,
    }


def read_sensitivity(data: SweepData) -> Sensitivity:
    """Estimate the indices of the metric that the pictures are about.

    Raises:
        UsageError: They can't be said, or nothing was logged.
    """
    if data.metric is None:
        raise UsageError("nothing was logged yet")
    if data.metric not in data.last:
        raise UsageError(f"{data.metric!r} was not logged; logged are {list(data.last)!r}")
    settings, values = data.experiment.settings, data.last[data.metric]
    return compute_sensitivity(settings, data.trials, data.metric, values)


def draw_sensitivity(found: Sensitivity | str) -> Figure:
    """The indices of each parameter, in the order of the cfg; or why there are none."""
    if isinstance(found, str):
        return build_empty(escape_text(f"{found[:1].upper()}{found[1:]}."))
    names = [escape_text(shorten_name(name, 40)) for name in found.indices]
    each = list(found.indices.values())
    bars: list[tuple[str, str, list[float | None], list[float | None]]] = [
        ("first-order", "completed", [i.first for i in each], [i.first_conf for i in each]),
        ("total", "pruned", [i.total for i in each], [i.total_conf for i in each]),
    ]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": write_numbers(values, 4),
            "y": list(range(len(names))),
            "error_x": {"array": write_numbers(widths, 4), "color": COLORS["interrupted"]},
            "marker": {"color": COLORS[color]},
            "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
        }
        for name, color, values, widths in bars
        if None not in values
    ]
    return build_figure(
        traces,
        height=110 + 44 * len(names),
        barmode="group",
        xaxis=build_axis("share of the variance"),
        yaxis=_build_names_axis(names),
    )
