"""Parameters: against the metric, together as parallel coordinates, and their importance. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..formats import format_number, shorten, shorten_name
from ..plots.parameters import (
    Axis,
    build_axes,
    choose_range,
    sample_trials,
)
from .data import SweepData
from .importance import Importance
from .style import (
    COLORS,
    SCALE,
    SYMBOLS,
    Figure,
    build_empty,
    build_layout,
    build_metric_axis,
)
from .style import write_numbers as numbers

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


def sort_axes(axes: Sequence[Axis], importance: Importance | None) -> list[Axis]:
    """The axes by importance, where that is known, else as they are."""
    place = {name: at for at, name in enumerate(importance.names if importance else ())}
    return sorted(axes, key=lambda axis: place.get(axis.name, len(place)))


def draw_parameters(data: SweepData, importance: Importance | None = None) -> Figure:
    """Each parameter against the best value of its trial, the most important first."""
    axes = sort_axes(build_axes(data), importance)
    known = np.flatnonzero(np.isfinite(data.best))
    if not axes or not len(known):
        return build_empty("No parameter varies, or no trial has logged a finite value yet.")
    shown = np.array(sample_trials(data, max(120, _MAX_POINTS // len(axes))))
    rows = -(-len(axes) // _PANELS_PER_ROW)
    columns = min(_PANELS_PER_ROW, len(axes))
    margin = {"l": 64, "r": 20, "t": 34, "b": 6}
    height = margin["t"] + margin["b"] + _PANEL_HEIGHT * rows
    layout = build_layout(height=height, margin=margin)
    cut = choose_range(data.best, data.mode, data.is_log)
    traces: list[dict[str, Any]] = []
    for at, axis in enumerate(axes):
        mark = "" if at == 0 else str(at + 1)
        row, column = divmod(at, columns)
        layout[f"xaxis{mark}"] = _build_x(axis, column, columns, mark)
        layout[f"yaxis{mark}"] = _build_y(data, row, rows, column, mark, cut)
        traces += _build_points(data, axis, shown, mark, is_first=at == 0)
    return {"data": traces, "layout": layout}


def _build_x(axis: Axis, column: int, columns: int, mark: str) -> dict[str, Any]:
    gap = 0.07
    width = (1 - gap * (columns - 1)) / columns
    places, labels = axis.ticks
    # Long labels of categories are turned; two sizes keep them from running into each other.
    return {
        "title": {"text": shorten_name(axis.name, 34), "standoff": 4, "font": {"size": 12}},
        "domain": [column * (width + gap), column * (width + gap) + width],
        "anchor": f"y{mark}",
        "tickvals": numbers(places),
        "ticktext": [shorten(label, 12) for label in labels],
        "tickfont": {"size": 10},
        "zeroline": False,
    }


def _build_y(
    data: SweepData,
    row: int,
    rows: int,
    column: int,
    mark: str,
    cut: tuple[float, float] | None,
) -> dict[str, Any]:
    inner = _PANEL_HEIGHT * rows  # pixels between the margins, see `draw_parameters`
    gap = _PANEL_GAP / inner
    height = 1 / rows - gap
    top = 1 - row * (height + gap)
    axis = build_metric_axis(
        data.metric if column == 0 else "", data.is_log, domain=[max(0.0, top - height), top]
    )
    axis |= {"anchor": f"x{mark}", "zeroline": False, "tickfont": {"size": 10}, "nticks": 5}
    if data.is_log:
        axis.pop("nticks")
    if mark:
        axis["matches"] = "y"
    if cut is not None:
        axis["range"] = list(cut)
    return axis


def _build_points(
    data: SweepData, axis: Axis, shown: Any, mark: str, is_first: bool
) -> list[dict[str, Any]]:
    """The points of a panel, one trace a status; categories are spread sideways a little."""
    positions = axis.positions[shown]
    if axis.categories is not None:
        # The golden ratio spreads them evenly, the same way at each drawing.
        positions = positions + 0.5 * ((shown * 0.618034) % 1.0 - 0.5)
    statuses = np.array(data.statuses)[shown]
    traces = []
    for status in SYMBOLS:
        chosen = shown[statuses == status]
        if not len(chosen):
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": status,
                "legendgroup": status,
                "showlegend": is_first,
                "xaxis": f"x{mark}",
                "yaxis": f"y{mark}",
                "x": numbers(positions[statuses == status], 4),
                "y": numbers(data.best[chosen]),
                "text": [data.trials[at].trial_id for at in chosen.tolist()],
                "marker": {
                    "size": 6,
                    "color": COLORS[status],
                    "symbol": SYMBOLS[status],
                    "opacity": max(0.45, min(0.9, 12 / len(shown) ** 0.5)),
                },
                "hovertemplate": f"trial %{{text}} ({status}): %{{y}}<extra></extra>",
            }
        )
    return traces


def draw_parallel_coordinates(data: SweepData, importance: Importance | None = None) -> Figure:
    """Each trial as a line through its parameters, coloured by its best value."""
    axes = sort_axes(build_axes(data), importance)[:MAX_COORDINATES]
    shown = np.array(sample_trials(data, MAX_LINES), dtype=int)
    if not axes or not len(shown):
        return build_empty("No parameter varies, or no trial has logged a finite value yet.")
    good = data.best[shown]
    cut = choose_range(data.best, data.mode, data.is_log)
    if cut is not None:
        good = np.clip(good, *cut)
    is_log = data.is_log
    color = np.log10(good) if is_log else good
    best_last = np.argsort(-color if data.mode == "min" else color, kind="stable")
    shown, color = shown[best_last], color[best_last]
    dimensions = [_build_dimension(axis, shown) for axis in axes]
    dimensions.append(_build_goal(data, color, is_log))
    line = {
        "color": numbers(color),
        "colorscale": SCALE,
        "reversescale": data.mode == "min",
    }
    trace = {"type": "parcoords", "line": line, "dimensions": dimensions, "labelangle": -12}
    return {
        "data": [trace],
        "layout": build_layout(margin={"l": 76, "r": 76, "t": 96, "b": 28}, height=460),
    }


def _build_dimension(axis: Axis, shown: Any) -> dict[str, Any]:
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
        "label": shorten_name(axis.name, 22),
        "values": numbers(positions),
        "range": numbers([low, high]),
        "tickvals": numbers(places),
        "ticktext": [shorten(label, 12) for label in labels],
    }


def _build_goal(data: SweepData, color: Any, is_log: bool) -> dict[str, Any]:
    low, high = float(color.min()), float(color.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    axis = Axis(data.metric or "", np.array([low, high]), is_log, None)
    places, labels = axis.ticks
    if math.isclose(low, high) or not places:
        places, labels = [low], [format_number(10**low if is_log else low)]
    return {
        "label": shorten_name(data.metric or "", 22),
        "values": numbers(color),
        "range": numbers([low, high]),
        "tickvals": numbers(places),
        "ticktext": labels,
    }


def draw_importance(importance: Importance) -> Figure:
    """The share of each parameter as a bar, the most important at the top."""
    if not importance.names:
        return build_empty(f"{importance.reason[:1].upper()}{importance.reason[1:]}.")
    names = [shorten_name(name, 40) for name in importance.names]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": numbers(np.array(importance.shares) * 100, 3),
        "y": list(range(len(names))),
        "text": [f"{share:.0%}" for share in importance.shares],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": COLORS["completed"]},
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    layout = build_layout(
        height=90 + 24 * len(names),
        xaxis={"title": {"text": "share of the importance, %"}, "rangemode": "tozero"},
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "showgrid": False,
        },
        margin={"l": 64, "r": 48, "t": 12, "b": 48},
    )
    return {"data": [bars], "layout": layout}
