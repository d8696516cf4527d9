"""Parameters against the metric, one by one and together as parallel coordinates. Pure.

A parameter is an axis of numbers: logarithmic, categorical, or missing in some trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import format_number, format_value, is_number, shorten, shorten_name
from . import (
    COLORS,
    SCALE,
    SYMBOLS,
    Figure,
    build_empty,
    build_figure,
    build_metric_axis,
    build_scatter,
    escape_text,
    write_numbers,
)
from .data import Floats, Ints, SweepData

#: A parameter with more different values than this that are no numbers is no axis.
MAX_CATEGORIES = 40

#: More axes side by side can't be read.
MAX_COORDINATES = 12

#: Lines of parallel coordinates.
MAX_LINES = 2000

#: Points of all panels together; a browser makes an element of each.
_MAX_POINTS = 9_000

_PANELS_PER_ROW = 3

#: The height of a panel with its labels, and that of the labels, in pixels.
_PANEL_GAP = 62
_PANEL_HEIGHT = 250


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter of all trials."""

    name: str
    # Where each trial stands: the value itself, its logarithm to base 10, or the number of its
    # category; NaN where the trial has no such parameter.
    positions: Floats
    is_log: bool  # whether positions are logarithms
    categories: Sequence[str] | None  # what their numbers mean; None for numbers

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
    axes = (_build_axis(each.name, each.is_log, data.cfgs) for each in data.parameters)
    return [axis for axis in axes if axis is not None]


def _build_axis(name: str, is_log: bool, cfgs: Sequence[Mapping[str, Any]]) -> Axis | None:
    values = [cfg.get(name, _MISSING) for cfg in cfgs]
    there = [value for value in values if value is not _MISSING]
    if not there:
        return None
    if all(is_number(value) for value in there):
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


def _sort_key(value: Any) -> tuple[int, float, str]:
    if is_number(value):
        return (0, float(value), "")
    return (1, 0.0, format_value(value))


def sample_trials(data: SweepData, most: int, kept: int = 100) -> list[int]:
    """Choose trials to show: the `kept` best, and a regular sample of the others; by number."""
    order = data.ranking
    best, rest = order[: min(kept, most)], sorted(order[min(kept, most) :])
    stride = max(1, -(-len(rest) // max(1, most - len(best))))
    return sorted(best + rest[::stride])


def choose_range(values: Floats, mode: str | None, is_log: bool) -> tuple[float, float] | None:
    """Cut off outliers on the bad side, which would press all others into a line.

    Returns:
        The range of the axis; None for all, also where the axis is logarithmic.
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


# --- drawing --------------------------------------------------------------------------------------


def _sort_axes(data: SweepData, order: Sequence[str]) -> list[Axis]:
    """All axes, those that are named in `order` first."""
    place = {name: at for at, name in enumerate(order)}
    return sorted(build_axes(data), key=lambda axis: place.get(axis.name, len(place)))


def draw_parameters(data: SweepData, order: Sequence[str] = ()) -> Figure:
    """Each parameter against the best value of its trial, those named in `order` first."""
    axes = _sort_axes(data, order)
    known = np.flatnonzero(np.isfinite(data.best))
    if not axes or not len(known):
        return build_empty("No parameter varies, or no trial has logged a finite value yet.")
    shown = np.array(sample_trials(data, max(120, _MAX_POINTS // len(axes))))
    rows = -(-len(axes) // _PANELS_PER_ROW)
    columns = min(_PANELS_PER_ROW, len(axes))
    margin = {"l": 64, "r": 20, "t": 34, "b": _PANEL_GAP}
    height = margin["t"] + _PANEL_HEIGHT * rows
    grid = {"rows": rows, "columns": columns, "pattern": "independent"}
    grid |= {"xgap": 0.2, "ygap": _PANEL_GAP / _PANEL_HEIGHT}
    cut = choose_range(data.best, data.mode, data.is_log)
    layout: dict[str, Any] = {}
    traces: list[dict[str, Any]] = []
    for at, axis in enumerate(axes):
        mark = "" if at == 0 else str(at + 1)
        layout[f"xaxis{mark}"] = _build_x(axis)
        layout[f"yaxis{mark}"] = _build_y(data, at, columns, cut)
        traces += _build_points(data, axis, shown, mark)
    return build_figure(traces, height=height, margin=margin, grid=grid, **layout)


def _build_x(axis: Axis) -> dict[str, Any]:
    places, labels = axis.ticks
    # Long labels of categories are turned; two sizes keep them from running into each other.
    title = escape_text(shorten_name(axis.name, 34))
    return {
        "title": {"text": title, "standoff": 4, "font": {"size": 12}},
        "tickvals": write_numbers(places),
        "ticktext": [escape_text(shorten(label, 12)) for label in labels],
        "tickfont": {"size": 10},
        "zeroline": False,
    }


def _build_y(
    data: SweepData, at: int, columns: int, cut: tuple[float, float] | None
) -> dict[str, Any]:
    axis = build_metric_axis(data.metric if at % columns == 0 else "", data.is_log, cut)
    axis |= {"zeroline": False, "tickfont": {"size": 10}}
    if not data.is_log:
        axis["nticks"] = 5
    if at:
        axis["matches"] = "y"
    return axis


def _build_points(data: SweepData, axis: Axis, shown: Ints, mark: str) -> list[dict[str, Any]]:
    """The points of a panel, one trace a status; categories are spread sideways a little."""
    positions = axis.positions
    if axis.categories is not None:
        # The golden ratio spreads them evenly, the same way at each drawing.
        positions = positions + 0.5 * ((np.arange(len(positions)) * 0.618034) % 1.0 - 0.5)
    statuses = np.array(data.statuses)
    groups = {status: shown[statuses[shown] == status] for status in SYMBOLS}
    return [
        build_scatter(
            "markers",
            write_numbers(positions[chosen], 4),
            write_numbers(data.best[chosen]),
            f"trial %{{text}} ({status}): %{{y}}",
            text=[escape_text(data.trials[at].trial_id) for at in chosen.tolist()],
            name=status,
            legendgroup=status,
            showlegend=not mark,
            xaxis=f"x{mark}",
            yaxis=f"y{mark}",
            marker={
                "size": 6,
                "color": COLORS[status],
                "symbol": SYMBOLS[status],
                "opacity": max(0.45, min(0.9, 12 / len(shown) ** 0.5)),
            },
        )
        for status, chosen in groups.items()
        if len(chosen)
    ]


def draw_parallel_coordinates(data: SweepData, order: Sequence[str] = ()) -> Figure:
    """Each trial as a line through its first parameters, coloured by its best value."""
    axes = _sort_axes(data, order)[:MAX_COORDINATES]
    shown = np.array(sample_trials(data, MAX_LINES), dtype=int)
    if not axes or not len(shown):
        return build_empty("No parameter varies, or no trial has logged a finite value yet.")
    good = data.best[shown]
    cut = choose_range(data.best, data.mode, data.is_log)
    if cut is not None:
        good = np.clip(good, *cut)
    color = np.log10(good) if data.is_log else good
    best_last = np.argsort(-color if data.mode == "min" else color, kind="stable")
    shown, color = shown[best_last], color[best_last]
    goal = Axis(data.metric or "", color, data.is_log, None)
    dimensions = [_build_dimension(axis, shown) for axis in axes]
    dimensions.append(_build_dimension(goal, np.arange(len(shown))))
    line = {"color": write_numbers(color), "colorscale": SCALE, "reversescale": data.mode == "min"}
    trace = {"type": "parcoords", "line": line, "dimensions": dimensions, "labelangle": -12}
    return build_figure([trace], margin={"l": 76, "r": 76, "t": 96, "b": 28}, height=460)


def _build_dimension(axis: Axis, shown: Ints) -> dict[str, Any]:
    """One axis; trials without this parameter pass below all others."""
    positions = axis.positions[shown]
    places, labels = axis.ticks
    finite = axis.positions[np.isfinite(axis.positions)]
    low, high = float(finite.min()), float(finite.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    if not np.all(np.isfinite(positions)):
        low -= 0.15 * (high - low)
        positions = np.where(np.isfinite(positions), positions, low)
        places, labels = [low, *places], ["none", *labels]
    return {
        "label": escape_text(shorten_name(axis.name, 22)),
        "values": write_numbers(positions),
        "range": write_numbers([low, high]),
        "tickvals": write_numbers(places),
        "ticktext": [escape_text(shorten(label, 12)) for label in labels],
    }
