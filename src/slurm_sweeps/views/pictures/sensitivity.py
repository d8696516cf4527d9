"""The sensitivity indices of a study, as bars with their 95 % intervals."""

from __future__ import annotations

from ...errors import UsageError
from ...replay.sensitivity import Sensitivity, compute_sensitivity
from ..formats import shorten_name
from . import COLORS, Figure, build_axis, build_empty, build_figure, escape_text, write_numbers
from .data import SweepData


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
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "tickvals": list(range(len(names))),
            "ticktext": names,
            "showgrid": False,
        },
    )
