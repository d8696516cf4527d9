"""Slots over time: a Gantt chart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..plots.occupation import Occupation, Stretch
from .style import (
    COLORS,
    Figure,
    build_empty,
    build_layout,
    choose_unit,
)
from .style import write_numbers as numbers

#: Up to so many attempts each is a bar; more are drawn as lines, which a browser draws faster.
MAX_BARS = 6000

#: The height of a slot's row in pixels: the most, the least, and that of all of them together.
_ROW, _LEAST_ROW, _ALL_ROWS = 26, 5, 900


def draw_slots(occupation: Occupation) -> Figure:
    """Which slot ran what when; gaps are idle time."""
    if not occupation.stretches:
        return build_empty("No trial has started yet.")
    unit, size = choose_unit(occupation.end_s)
    count = len(occupation.labels)
    row = max(_LEAST_ROW, min(_ROW, _ALL_ROWS // count))
    as_bars = len(occupation.stretches) <= MAX_BARS
    traces = []
    for status, color in COLORS.items():
        chosen = [stretch for stretch in occupation.stretches if stretch.status == status]
        if chosen:
            build = _build_bars if as_bars else _build_lines
            traces.append(build(chosen, status, color, size, row))
    step = max(1, -(-count * 14 // (row * count)))
    layout = build_layout(
        height=110 + row * count,
        barmode="overlay",
        bargap=0.15 if row > 8 else 0.0,
        xaxis={
            "title": {"text": unit},
            "range": [0, 1.01 * occupation.end_s / size],
            "zeroline": False,
        },
        yaxis={
            "title": {"text": "slot"},
            "range": [count - 0.5, -0.5],
            "tickvals": list(range(0, count, step)),
            "ticktext": list(occupation.labels[::step]),
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
    )
    return {"data": traces, "layout": layout}


def _build_bars(
    stretches: Sequence[Stretch], status: str, color: str, size: float, row: int
) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"{status} ({len(stretches)})",
        "y": [stretch.slot for stretch in stretches],
        "base": numbers([stretch.begin_s / size for stretch in stretches], 6),
        "x": numbers([(stretch.end_s - stretch.begin_s) / size for stretch in stretches], 6),
        "text": [_describe(stretch) for stretch in stretches],
        "textposition": "none",
        # The seam that parts two trials of the same colour.
        "marker": {"color": color, "line": {"color": "rgba(128,128,128,0.9)", "width": 0.5}},
        "hovertemplate": f"%{{text}} ({status})<extra></extra>",
    }


def _build_lines(
    stretches: Sequence[Stretch], status: str, color: str, size: float, row: int
) -> dict[str, Any]:
    x: list[Any] = []
    y: list[Any] = []
    text: list[Any] = []
    for stretch in stretches:
        x += [*numbers([stretch.begin_s / size, stretch.end_s / size], 6), None]
        y += [stretch.slot, stretch.slot, None]
        text += [stretch.trial_id, stretch.trial_id, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{status} ({len(stretches)})",
        "x": x,
        "y": y,
        "text": text,
        "line": {"color": color, "width": max(2, round(row * 0.8))},
        "hovertemplate": f"trial %{{text}} ({status})<extra></extra>",
    }


def _describe(stretch: Stretch) -> str:
    again = f", attempt {stretch.attempt}" if stretch.attempt > 1 else ""
    return f"trial {stretch.trial_id}{again}, {stretch.end_s - stretch.begin_s:.4g} s"
