"""Learning curves, and the best value so far. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..formats import format_value, shorten
from ..plots.curves import Curve, Curves, compute_curves
from ..plots.parameters import choose_range
from ..plots.progress import Progress, compute_progress
from .data import SweepData
from .style import (
    COLORS,
    Figure,
    build_empty,
    build_layout,
    build_metric_axis,
    choose_unit,
)
from .style import write_numbers as numbers

#: The statuses from the one drawn first, lowest, to the one on top.
LAYERS = ("scheduled", "lost", "interrupted", "pruned", "paused", "failed", "running", "completed")

#: Markers of one status: a browser makes an element of each, and a whole line takes just one.
MAX_MARKERS = 1500

#: A cfg in a hover label has so many lines at the most.
_HOVER_LINES = 12


def draw_learning_curves(data: SweepData) -> Figure:
    """Each trial's metric over its iterations, coloured by status; rungs as dotted lines."""
    curves = compute_curves(data)
    if not curves.curves:
        return build_empty("No trial has logged anything yet.")
    statuses = data.statuses
    order = data.order_by_best()
    best = int(order[0]) if len(order) and data.mode else None
    traces: list[dict[str, Any]] = []
    for status in LAYERS:
        chosen = [c for c in curves.curves if statuses[c.trial] == status and c.trial != best]
        traces += _build_traces(data, chosen, status)
    top = [curve for curve in curves.curves if curve.trial == best]
    if top:
        traces.append(_build_best(data, top[0]))
    values = np.concatenate([curve.value for curve in curves.curves])
    longest = max(int(curve.iteration[-1]) for curve in curves.curves)
    layout = build_layout(
        xaxis={"title": {"text": "iteration"}, "rangemode": "tozero"},
        yaxis=build_metric_axis(data.metric, data.is_log),
        **_build_rungs(curves, longest),
    )
    cut = choose_range(values, data.mode, data.is_log)
    if cut is not None:
        layout["yaxis"]["range"] = list(cut)
    return {"data": traces, "layout": layout}


def _build_traces(data: SweepData, curves: Sequence[Curve], status: str) -> list[dict[str, Any]]:
    """The curves of a status: lines, and points for those that have one point alone."""
    lines = [curve for curve in curves if len(curve.value) > 1]
    points = [curve for curve in curves if len(curve.value) == 1]
    stride = max(1, -(-len(points) // MAX_MARKERS))
    few = sum(len(curve.value) for curve in lines) <= MAX_MARKERS
    name = f"{status} ({len(curves)})"
    faint = max(0.25, min(0.8, 12 / max(1, len(curves)) ** 0.5))
    traces: list[dict[str, Any]] = []
    for shown, mode in (
        (lines, "lines+markers" if few else "lines"),
        (points[::stride], "markers"),
    ):
        if shown:
            style = {"mode": mode, "name": name, "legendgroup": status, "opacity": faint}
            traces.append(_build_trace(data, shown, status, style | {"showlegend": not traces}))
    return traces


def _build_trace(
    data: SweepData, curves: Sequence[Curve], status: str, style: dict[str, Any]
) -> dict[str, Any]:
    """Many curves as one line with gaps: one trace each would be slow."""
    x: list[Any] = []
    y: list[Any] = []
    ids: list[Any] = []
    for curve in curves:
        x += [*numbers(curve.iteration), None]
        y += [*numbers(curve.value), None]
        ids += [data.trials[curve.trial].trial_id] * len(curve.value) + [None]
    return {
        "type": "scatter",
        **style,
        "x": x,
        "y": y,
        "text": ids,
        "line": {"color": COLORS[status], "width": 1.8 if status == "completed" else 1.2},
        "marker": {"size": 4, "color": COLORS[status]},
        "hovertemplate": "trial %{text}<br>iteration %{x}: %{y}<extra></extra>",
    }


def _build_best(data: SweepData, curve: Curve) -> dict[str, Any]:
    trial = data.trials[curve.trial]
    items = list(data.cfgs[curve.trial].items())[:_HOVER_LINES]
    cfg = "".join(f"<br>{name} = {shorten(format_value(value), 40)}" for name, value in items)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"the best, {trial.trial_id}",
        "x": numbers(curve.iteration),
        "y": numbers(curve.value),
        "line": {"color": "#8452c9", "width": 3},
        "marker": {"size": 5, "color": "#8452c9"},
        "hovertemplate": f"trial {trial.trial_id} ({trial.status})<br>"
        f"iteration %{{x}}: %{{y}}{cfg}<extra></extra>",
    }


def _build_rungs(curves: Curves, longest: int) -> dict[str, Any]:
    """Dotted lines where ASHA judges, as far as any trial came."""
    shown = [rung for rung in curves.rungs if rung <= longest]
    lines = [
        {
            "type": "line",
            "xref": "x",
            "yref": "paper",
            "x0": rung,
            "x1": rung,
            "y0": 0,
            "y1": 1,
            "layer": "below",
            "line": {"dash": "dot", "width": 1, "color": "#8d939c"},
        }
        for rung in shown
    ]
    notes = [
        {
            "text": f"rung {rung}",
            "x": rung,
            "y": 0,
            "yref": "paper",
            "yanchor": "bottom",
            "xanchor": "left",
            "showarrow": False,
            "font": {"size": 10},
            "opacity": 0.75,
        }
        for rung in shown
        if rung >= longest / 25 or rung == shown[0]
    ]
    return {"shapes": lines, "annotations": notes}


def draw_best_over_time(data: SweepData) -> Figure:
    """The best value so far over wall-clock time, and over the iterations of all trials."""
    progress = compute_progress(data)
    if not len(progress.value):
        return build_empty("No best value: nothing was logged, or nobody said what is best.")
    unit, size = choose_unit(float(progress.elapsed_s[-1]))
    left = _build_steps(data, progress, progress.elapsed_s / size)
    right = _build_steps(data, progress, progress.iterations) | {"xaxis": "x2", "yaxis": "y2"}
    axis = build_metric_axis(f"best {data.metric}", data.is_log)
    layout = build_layout(
        showlegend=False,
        xaxis={"title": {"text": unit}, "domain": [0, 0.48], "rangemode": "tozero"},
        yaxis=axis,
        xaxis2={
            "title": {"text": "iterations of all trials"},
            "domain": [0.52, 1],
            "anchor": "y2",
            "rangemode": "tozero",
        },
        yaxis2={**axis, "title": {}, "matches": "y", "showticklabels": False, "anchor": "x2"},
        height=340,
    )
    return {"data": [left, right], "layout": layout}


def _build_steps(data: SweepData, progress: Progress, x: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(x),
        "y": numbers(progress.value),
        "text": [data.trials[at].trial_id for at in progress.trial.tolist()],
        "line": {"shape": "hv", "width": 2, "color": COLORS["completed"]},
        "marker": {"size": 6, "color": COLORS["completed"]},
        "hovertemplate": "%{y} by trial %{text}<br>at %{x}<extra></extra>",
    }
