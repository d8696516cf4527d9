"""The pictures of a sweep: for each, what is to be seen in it as data, and its drawing. Pure.

A figure is a plotly figure as a plain dict of `data` and `layout`, made without plotly: a notebook
makes a `plotly.graph_objects.Figure` of one, the report writes it as JSON. No colour of text, grid
or background is set: those come from the template of the page or the notebook. plotly reads texts
as a kind of HTML, so all that users wrote goes through `escape_text`.

Here is what the pictures share: colours and shapes, axes, and numbers short enough for a page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy.typing as npt

from ..formats import clean

Array = npt.NDArray[Any]
Figure = dict[str, Any]

#: The colour of each status, and its shape for who sees none, in the order of legends (curves are
#: drawn the other way round, the first on top). The palette is Okabe and Ito's ("Color Universal
#: Design", 2008), which the colour-blind can tell apart, in tones that stand out on white and on
#: black.
_LOOKS = {
    "completed": ("#2f86d6", "circle"),
    "running": ("#009e73", "star"),
    "failed": ("#d5504a", "x"),
    "paused": ("#56b4e9", "triangle-up"),
    "pruned": ("#e69f00", "triangle-down"),
    "infeasible": ("#9a6a3a", "hexagon"),
    "interrupted": ("#8d939c", "square"),
    "lost": ("#cc79a7", "diamond"),
    "scheduled": ("#8d939c", "circle-open"),
}
COLORS = {status: color for status, (color, _) in _LOOKS.items()}
SYMBOLS = {status: symbol for status, (_, symbol) in _LOOKS.items()}

#: From bad to good; legible for the colour-blind, and in grey. (Viridis, without its dark end,
#: which would vanish on black, and its bright end, which would on white.)
SCALE = [[0.0, "#c8b45a"], [0.35, "#5fa878"], [0.7, "#2a7f9e"], [1.0, "#6a4fb3"]]

#: Figures are drawn this high, in pixels.
HEIGHT = 420


def build_figure(traces: list[dict[str, Any]], **layout: Any) -> Figure:
    """A figure in the layout that all begin with."""
    common = {
        "height": HEIGHT,
        "margin": {"l": 64, "r": 20, "t": 28, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    }
    return {"data": traces, "layout": {**common, **layout}}


def build_scatter(mode: str, x: list[Any], y: list[Any], hover: str, **more: Any) -> dict[str, Any]:
    """A trace of points or lines."""
    return {
        "type": "scatter",
        "mode": mode,
        "x": x,
        "y": y,
        "hovertemplate": f"{hover}<extra></extra>",
        **more,
    }


def write_numbers(values: Sequence[float | None] | Array, digits: int = 5) -> list[Any]:
    """Numbers for JSON: floats with few digits; None, NaN and infinities as null."""
    listed = values if isinstance(values, Sequence) else values.tolist()
    return [_write_number(value, digits) for value in listed]


def _write_number(value: float | None, digits: int) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def join_lines(lines: Iterable[tuple[list[Any], list[Any], str]]) -> dict[str, list[Any]]:
    """Many lines (x, y, and what their points say) as one with gaps: a trace each is slow."""
    joined: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for x, y, text in lines:
        joined["x"] += [*x, None]
        joined["y"] += [*y, None]
        joined["text"] += [*[escape_text(text)] * len(x), None]
    return joined


def escape_text(text: str) -> str:
    """A foreign text as plotly shows it literally: no tags, no templates of hover labels."""
    return escape(clean(text), quote=False).replace("%{", "%&#123;")


def build_axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title of our own words."""
    return {"title": {"text": title}, **more}


def build_metric_axis(
    name: str | None, is_log: bool, cut: tuple[float, float] | None = None
) -> dict[str, Any]:
    """The axis of the metric; `cut` is the range to show, None for all."""
    axis = build_axis(escape_text(name or ""), type="log" if is_log else "linear")
    if is_log:
        axis |= {"dtick": 1, "exponentformat": "power"}
    return axis if cut is None else axis | {"range": list(cut)}


def choose_unit(seconds: float) -> tuple[str, float]:
    """The unit for a time axis of such a length: its name and its seconds."""
    for name, size in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 3 * size:
            return name, size
    return "seconds", 1.0


def build_empty(text: str) -> Figure:
    """A figure that says why there is nothing to be seen."""
    note = {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    hidden = {"visible": False}
    return build_figure([], height=120, annotations=[note], xaxis=hidden, yaxis=hidden)
