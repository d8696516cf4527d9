"""The front of several objectives: each trial by two of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ...checks import Goal
from ..ranking import choose_front
from . import (
    COLORS,
    SYMBOLS,
    Figure,
    build_axis,
    build_empty,
    build_figure,
    build_scatter,
    escape_text,
    write_numbers,
)
from .data import Ints, SweepData

#: Points beside the front; a browser makes an element of each.
MAX_POINTS = 5000

#: The colour of the front.
FRONT = "#8452c9"


def compute_front(data: SweepData) -> list[int]:
    """Return the positions of the trials on the front, in the order of the first objective."""
    points = np.column_stack(
        [data.last[g.metric] for g in data.objectives if g.metric in data.last]
    )
    if points.shape[1] < len(data.objectives):
        return []
    known = set(np.flatnonzero(np.isfinite(points).all(axis=1)).tolist()) - set(data.infeasible)
    return list(choose_front({at: tuple(points[at].tolist()) for at in known}, data.objectives))


def draw_front(data: SweepData) -> Figure:
    """Each trial at its last values of two objectives, coloured by status, and the front.

    With two objectives the front is a line. With more, buttons choose which two are drawn, and the
    front's trials are marked.
    """
    front = compute_front(data) if data.objectives and data.last else []
    if not front:
        return build_empty(
            "No front: the sweep has one metric, or no trial has all of its metrics."
        )
    pairs = list(combinations(data.objectives, 2))
    drawn = [_draw_pair(data, front, pair) for pair in pairs]
    traces = [{**trace, "visible": at == 0} for at, traces in enumerate(drawn) for trace in traces]
    first, second = pairs[0]
    layout: dict[str, Any] = {}
    if len(pairs) > 1:
        layout["updatemenus"] = [_build_menu(pairs, [len(each) for each in drawn])]
    return build_figure(
        traces,
        xaxis=build_axis(escape_text(first.metric)),
        yaxis=build_axis(escape_text(second.metric)),
        **layout,
    )


def _build_menu(pairs: Sequence[tuple[Goal, Goal]], counts: Sequence[int]) -> dict[str, Any]:
    """A button for each two objectives, which shows their traces alone."""
    owner = np.repeat(np.arange(len(pairs)), counts)
    buttons = [
        {
            "label": escape_text(f"{x.metric}, {y.metric}"),
            "method": "update",
            "args": [
                {"visible": (owner == at).tolist()},
                {
                    "xaxis.title.text": escape_text(x.metric),
                    "yaxis.title.text": escape_text(y.metric),
                },
            ],
        }
        for at, (x, y) in enumerate(pairs)
    ]
    return {"type": "dropdown", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1.15}


def _draw_pair(
    data: SweepData, front: Sequence[int], pair: tuple[Goal, Goal]
) -> list[dict[str, Any]]:
    statuses = np.array(data.statuses)
    stride = max(1, -(-len(statuses) // MAX_POINTS))
    shown = np.arange(len(statuses))[::stride]
    traces = [
        _build_points(data, shown[statuses[shown] == status], pair, status)
        for status in SYMBOLS
        if (statuses[shown] == status).any()
    ]
    x, y = (data.last[goal.metric][front] for goal in pair)
    is_line = len(data.objectives) == 2
    line = build_scatter(
        "lines+markers" if is_line else "markers",
        write_numbers(x),
        write_numbers(y),
        "trial %{text}, on the front<br>%{x}, %{y}",
        text=[escape_text(data.trials[at].trial_id) for at in front],
        name=f"the front ({len(front)})",
        line={"color": FRONT, "width": 2},
        marker={"size": 10, "color": FRONT, "symbol": "circle-open", "line": {"width": 2}},
    )
    return [*traces, line]


def _build_points(
    data: SweepData, chosen: Ints, pair: tuple[Goal, Goal], status: str
) -> dict[str, Any]:
    x, y = (data.last[goal.metric][chosen] for goal in pair)
    return build_scatter(
        "markers",
        write_numbers(x),
        write_numbers(y),
        f"trial %{{text}} ({status})<br>%{{x}}, %{{y}}",
        text=[escape_text(data.trials[at].trial_id) for at in chosen.tolist()],
        name=f"{status} ({len(chosen)})",
        marker={"size": 6, "color": COLORS[status], "symbol": SYMBOLS[status], "opacity": 0.7},
    )
