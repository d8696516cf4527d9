"""Learning curves (thinned where there are too many), and the best value so far. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..formats import format_value, shorten
from . import (
    COLORS,
    Array,
    Figure,
    build_axis,
    build_empty,
    build_figure,
    build_metric_axis,
    build_scatter,
    choose_unit,
    escape_text,
    join_lines,
    write_numbers,
)
from .data import Floats, Ints, SweepData
from .parameters import choose_range

#: Points of all curves together; more than these make a browser slow.
MAX_POINTS = 60_000

#: Points of one curve.
MAX_CURVE = 300

#: The best trials are always shown.
KEPT = 50

#: Markers of one status: a browser makes an element of each, and a whole line takes just one.
MAX_MARKERS = 1500

#: A cfg in a hover label has so many lines at the most.
_HOVER_LINES = 12


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of one trial."""

    trial: int  # its position in `SweepData.trials`
    iteration: Ints  # rising
    value: Floats  # as many; NaN where it was no finite number


def compute_curves(data: SweepData) -> list[Curve]:
    """Choose and thin the curves, by trial.

    The best `KEPT` trials are always there; of the others a regular sample, as many as `MAX_POINTS`
    allow.
    """
    numbers = data.reports["number"]
    _, first = np.unique(numbers, return_index=True)
    rows_of_trials = np.split(np.arange(len(numbers)), first)[1:]  # before the first is nothing
    curves = [_thin(data, rows) for rows in rows_of_trials]
    best = set(data.ranking[:KEPT])
    budget = MAX_POINTS - sum(len(curve.value) for curve in curves if curve.trial in best)
    others = [curve for curve in curves if curve.trial not in best]
    points = sum(len(curve.value) for curve in others)
    stride = max(1, -(-points // max(1, budget)))
    shown = best | {curve.trial for curve in others[::stride]}
    return [curve for curve in curves if curve.trial in shown]


def _thin(data: SweepData, rows: Ints) -> Curve:
    """The curve of one trial's reports, by their rows: a regular sample, and the last."""
    stride = max(1, -(-len(rows) // MAX_CURVE))
    chosen = rows[::stride]
    if chosen[-1] != rows[-1]:
        chosen = np.append(chosen, rows[-1])
    reports = data.reports[chosen]
    value = np.where(np.isfinite(reports["value"]), reports["value"], np.nan)
    return Curve(int(reports["number"][0]), reports["iteration"], value)


def draw_learning_curves(data: SweepData) -> Figure:
    """Each trial's metric over its iterations, coloured by status; rungs as dotted lines."""
    curves = compute_curves(data)
    if not curves:
        return build_empty("No trial has logged anything yet.")
    statuses, ranking = data.statuses, data.ranking
    best = ranking[0] if ranking and data.mode else None
    traces: list[dict[str, Any]] = []
    for status in reversed(COLORS):
        chosen = [c for c in curves if statuses[c.trial] == status and c.trial != best]
        traces += _build_traces(data, chosen, status)
    traces += [_build_best(data, curve) for curve in curves if curve.trial == best]
    values = np.concatenate([curve.value for curve in curves])
    cut = choose_range(values, data.mode, data.is_log)
    longest = max(int(curve.iteration[-1]) for curve in curves)
    return build_figure(
        traces,
        xaxis=build_axis("iteration", rangemode="tozero"),
        yaxis=build_metric_axis(data.metric, data.is_log, cut),
        shapes=_build_rungs(data, longest),
    )


def _build_traces(data: SweepData, curves: Sequence[Curve], status: str) -> list[dict[str, Any]]:
    """The curves of a status: lines, and points for those that have one point alone."""
    lines = [curve for curve in curves if len(curve.value) > 1]
    points = [curve for curve in curves if len(curve.value) == 1]
    stride = max(1, -(-len(points) // MAX_MARKERS))
    few = sum(len(curve.value) for curve in lines) <= MAX_MARKERS
    shown = [("lines+markers" if few else "lines", lines), ("markers", points[::stride])]
    color, width = COLORS[status], 1.8 if status == "completed" else 1.2
    return [
        build_scatter(
            mode,
            **_join(data, chosen),
            hover="trial %{text}<br>iteration %{x}: %{y}",
            name=f"{status} ({len(curves)})",
            legendgroup=status,
            showlegend=chosen is lines or not lines,
            opacity=max(0.25, min(0.8, 12 / max(1, len(curves)) ** 0.5)),
            line={"color": color, "width": width},
            marker={"size": 4, "color": color},
        )
        for mode, chosen in shown
        if chosen
    ]


def _join(data: SweepData, curves: Sequence[Curve]) -> dict[str, list[Any]]:
    return join_lines(
        (write_numbers(each.iteration), write_numbers(each.value), data.trials[each.trial].trial_id)
        for each in curves
    )


def _build_best(data: SweepData, curve: Curve) -> dict[str, Any]:
    trial = data.trials[curve.trial]
    items = list(data.cfgs[curve.trial].items())[:_HOVER_LINES]
    lines = (f"{name} = {shorten(format_value(value), 40)}" for name, value in items)
    cfg = "".join(f"<br>{escape_text(line)}" for line in lines)
    trial_id = escape_text(trial.trial_id)
    return build_scatter(
        "lines+markers",
        write_numbers(curve.iteration),
        write_numbers(curve.value),
        f"trial {trial_id} ({trial.status})<br>iteration %{{x}}: %{{y}}{cfg}",
        name=f"the best, {trial_id}",
        line={"color": "#8452c9", "width": 3},
        marker={"size": 5, "color": "#8452c9"},
    )


def _build_rungs(data: SweepData, longest: int) -> list[dict[str, Any]]:
    """Dotted lines where ASHA judges, as far as any trial came."""
    judged_by = data.asha.get("metric")
    is_judged = data.metric in (judged_by if isinstance(judged_by, list) else [judged_by])
    rungs = data.asha.get("rungs", []) if is_judged else []
    shown = [rung for rung in rungs if rung <= longest]
    font = {"size": 10, "color": "#8d939c"}
    label = {"textposition": "start", "textangle": 0, "yanchor": "bottom", "font": font}
    named = {rung: f"rung {rung}" for rung in shown if rung >= longest / 25 or rung == shown[0]}
    return [
        {
            "type": "line",
            "x0": rung,
            "x1": rung,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "layer": "below",
            "line": {"dash": "dot", "width": 1, "color": "#8d939c"},
            "label": {**label, "text": named.get(rung, ""), "xanchor": "left"},
        }
        for rung in shown
    ]


# --- the best value so far ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Each improvement of the best value, and the end."""

    elapsed_s: Floats  # since the first trial began
    iterations: Ints  # how many all trials together had run by then
    value: Floats  # the best so far
    trial: Ints  # the position in `SweepData.trials` of the one that has it


def compute_progress(data: SweepData) -> Progress:
    """Follow the best value in the order in which values were logged.

    Returns:
        Nothing (arrays of length 0) where nobody said what is best or no finite value was logged.
    """
    reports = data.reports[np.argsort(data.reports["logged_at"], kind="stable")]
    sign = -1.0 if data.mode == "max" else 1.0
    counts = np.isfinite(reports["value"]) & ~np.isin(reports["number"], data.infeasible)
    values = np.where(counts, sign * reports["value"], np.inf)
    lowest = np.minimum.accumulate(values)
    at = np.flatnonzero(np.append(np.inf, lowest[:-1]) > lowest)
    if data.mode is None:
        at = at[:0]
    holder = reports["number"][at]
    if len(at) and at[-1] != len(values) - 1:  # the line goes on to the end
        at, holder = np.append(at, len(values) - 1), np.append(holder, holder[-1])
    elapsed_s = np.maximum(0.0, reports["logged_at"][at] - data.begun_at)
    return Progress(elapsed_s, at + 1, sign * lowest[at], holder)


def draw_best_over_time(data: SweepData) -> Figure:
    """The best value so far over wall-clock time, and over the iterations of all trials."""
    progress = compute_progress(data)
    if not len(progress.value):
        return build_empty("No best value: nothing was logged, or nobody said what is best.")
    unit, size = choose_unit(float(progress.elapsed_s[-1]))
    axis = build_metric_axis(f"best {data.metric}", data.is_log)
    return build_figure(
        [
            _build_steps(data, progress, progress.elapsed_s / size),
            _build_steps(data, progress, progress.iterations, xaxis="x2", yaxis="y2"),
        ],
        showlegend=False,
        xaxis=build_axis(unit, domain=[0, 0.48], rangemode="tozero"),
        yaxis=axis,
        xaxis2=build_axis(
            "iterations of all trials", domain=[0.52, 1], anchor="y2", rangemode="tozero"
        ),
        yaxis2={**axis, "title": {}, "matches": "y", "showticklabels": False, "anchor": "x2"},
        height=340,
    )


def _build_steps(data: SweepData, progress: Progress, x: Array, **axes: str) -> dict[str, Any]:
    color = COLORS["completed"]
    return build_scatter(
        "lines+markers",
        write_numbers(x),
        write_numbers(progress.value),
        "%{y} by trial %{text}<br>at %{x}",
        text=[escape_text(data.trials[at].trial_id) for at in progress.trial.tolist()],
        line={"shape": "hv", "width": 2, "color": color},
        marker={"size": 6, "color": color},
        **axes,
    )
