"""Parameters as numbers on axes: logarithmic, categorical, or missing. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import format_number, format_value, shorten
from ..pictures.data import Floats, SweepData

#: A parameter with more different values than this that are no numbers is no axis.
MAX_CATEGORIES = 40


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter of all trials.

    Args:
        name: The parameter.
        positions: Where each trial stands: the value itself, its logarithm to base 10, or the
            number of its category; NaN where the trial has no such parameter.
        is_log: Whether positions are logarithms.
        categories: What the numbers of categories mean; None for numbers.
    """

    name: str
    positions: Floats
    is_log: bool
    categories: Sequence[str] | None

    @property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Positions to label, and the labels: powers of ten, categories, or round numbers."""
        if self.categories is not None:
            labels = [shorten(label, 20) for label in self.categories]
            return [float(at) for at in range(len(labels))], labels
        finite = self.positions[np.isfinite(self.positions)]
        if not len(finite):
            return [], []
        low, high = float(finite.min()), float(finite.max())
        if not self.is_log:
            places = _choose_round(low, high)
            if np.all(finite == np.round(finite)):  # whole numbers have nothing in between
                places = [place for place in places if place == round(place)]
            return places, [format_number(place) for place in places]
        powers = [float(p) for p in range(math.floor(low), math.ceil(high) + 1)]
        inside = [p for p in powers if low - 0.05 <= p <= high + 0.05]
        if len(inside) < 2:
            inside = sorted({low, high})
        return inside, [format_number(float(f"{10**p:.4g}")) for p in inside]


def _choose_round(low: float, high: float) -> list[float]:
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    return [round(at * step, 12) for at in range(first, math.floor(high / step) + 1)]


def build_axes(data: SweepData) -> list[Axis]:
    """Make an axis of each parameter whose values differ, in the order of the search space.

    Parameters with too many different values that are no numbers are left out.
    """
    axes = []
    for parameter in data.parameters:
        axis = _build_axis(parameter.name, parameter.is_log, data.cfgs)
        if axis is not None:
            axes.append(axis)
    return axes


def _build_axis(name: str, is_log: bool, cfgs: Sequence[Mapping[str, Any]]) -> Axis | None:
    values = [cfg.get(name, _MISSING) for cfg in cfgs]
    there = [value for value in values if value is not _MISSING]
    if not there:
        return None
    if all(_is_number(value) for value in there):
        positions = np.array([math.nan if v is _MISSING else float(v) for v in values])
        finite = positions[np.isfinite(positions)]
        is_log = is_log and bool(np.all(finite > 0))
        return Axis(name, np.log10(positions) if is_log else positions, is_log, None)
    keys = [None if v is _MISSING else json.dumps(v, sort_keys=True, default=str) for v in values]
    different = {key: value for key, value in zip(keys, values, strict=True) if key is not None}
    if len(different) > MAX_CATEGORIES:
        return None
    order = sorted(different, key=lambda key: _sort_key(different[key]))
    place = {key: float(at) for at, key in enumerate(order)}
    positions = np.array([math.nan if key is None else place[key] for key in keys])
    return Axis(name, positions, False, [format_value(different[key]) for key in order])


_MISSING = object()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _sort_key(value: Any) -> tuple[int, float, str]:
    if _is_number(value):
        return (0, float(value), "")
    return (1, 0.0, format_value(value))


def sample_trials(data: SweepData, most: int, kept: int = 100) -> list[int]:
    """Choose trials to show: the best, and a regular sample of the others; by number.

    Args:
        data: The sweep.
        most: How many at the most.
        kept: How many of the best are always there.
    """
    order = data.order_by_best().tolist()
    best, rest = order[: min(kept, most)], sorted(order[min(kept, most) :])
    stride = max(1, -(-len(rest) // max(1, most - len(best))))
    return sorted(best + rest[::stride])


def choose_range(values: Floats, mode: str | None, is_log: bool) -> tuple[float, float] | None:
    """Cut off outliers on the bad side, which would press all others into a line.

    Args:
        values: What is shown, NaN for missing.
        mode: "min" or "max"; None cuts nothing.
        is_log: Whether the axis is logarithmic; then nothing is cut either.

    Returns:
        The range of the axis, None for all.
    """
    finite = values[np.isfinite(values)]
    if mode is None or is_log or len(finite) < 10:
        return None
    low, q1, q3, high = (float(v) for v in np.quantile(finite, [0.0, 0.25, 0.75, 1.0]))
    reach = 4 * (q3 - q1)
    if mode == "min" and reach > 0 and high > q3 + reach:
        high = q3 + reach
    elif mode == "max" and reach > 0 and low < q1 - reach:
        low = q1 - reach
    else:
        return None
    pad = 0.05 * (high - low)
    return low - pad, high + pad
