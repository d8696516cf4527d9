"""The page of the report, put together and written to a file."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from ..errors import StorageError, UsageError
from . import report_sections as sections
from .pictures.curves import draw_best_over_time, draw_learning_curves
from .pictures.data import SweepData
from .pictures.importance import Importance, compute_importance
from .pictures.parameters import (
    MAX_COORDINATES,
    draw_importance,
    draw_parallel_coordinates,
    draw_parameters,
)
from .pictures.slots import draw_slots
from .pictures.style import Figure
from .plots.curves import MAX_POINTS
from .plots.failures import group_failures
from .plots.occupation import compute_occupation
from .plots.progress import compute_savings
from .report_table import build_table

#: A page of a running sweep loads itself again after so many seconds.
REFRESH_S = 60

MISSING_PLOTLY = (
    "the report needs plotly: pip install 'slurm-sweeps[report]' (this also brings scikit-learn, "
    "for the importance of parameters)"
)


def check_plotly() -> None:
    """Raise UsageError if plotly is not installed; the message says what to install."""
    if importlib.util.find_spec("plotly") is None:
        raise UsageError(MISSING_PLOTLY)


def read_plotly_js() -> str:
    """plotly's script for browsers, as its Python package ships it; see `check_plotly`."""
    check_plotly()
    return resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8")


def build_page(
    data: SweepData, yaml: str, folder: str, versions: Mapping[str, str], plotly_js: str
) -> str:
    """Put the page together.

    Args:
        data: The sweep.
        yaml: The best trial's cfg as YAML.
        folder: The experiment's folder, for the paths of logs.
        versions: Versions to tell, by name.
        plotly_js: plotly's script.
    """
    importance = compute_importance(data)
    occupation = compute_occupation(data)
    figures: dict[str, Figure] = {
        "curves": draw_learning_curves(data),
        "progress": draw_best_over_time(data),
        "importance": draw_importance(importance),
        "parallel": draw_parallel_coordinates(data, importance),
        "parameters": draw_parameters(data, importance),
        "slots": draw_slots(occupation),
    }
    running = data.state == "running"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(data.now))
    subtitle = f"{data.state}, as of {when}"
    if running:
        subtitle += f"; this page loads itself again every {REFRESH_S} s"
    return _read("report.html").substitute(
        refresh=f'<meta http-equiv="refresh" content="{REFRESH_S}">' if running else "",
        title=escape(f"{data.name} · slurm-sweeps"),
        css=_read_text("report.css"),
        name=escape(data.name),
        subtitle=escape(subtitle),
        tiles=sections.build_tiles(data, compute_savings(data), occupation),
        sections=_build_sections(data, importance, yaml, folder, versions),
        footer=escape("made by " + ", ".join(f"{k} {v}" for k, v in versions.items())),
        figures=sections.dump_json(
            {name: sections.pack_figure(figure) for name, figure in figures.items()}
        ),
        table=sections.dump_json(build_table(data)),
        plotly=plotly_js,
        script=_read_text("report.js"),
    )


def _build_sections(
    data: SweepData,
    importance: Importance,
    yaml: str,
    folder: str,
    versions: Mapping[str, str],
) -> str:
    figure, section = sections.build_figure, sections.build_section
    curves = "One line a trial; dotted: the rungs, where trials are judged and pruned."
    if len(data.reports) > MAX_POINTS:
        curves += " Not all trials are drawn: the best, and a regular sample of the others."
    axes = "Drag along an axis to pick trials, drag a name to move its axis."
    if len(data.parameters) > MAX_COORDINATES:
        axes += f" The {MAX_COORDINATES} most important of {len(data.parameters)} parameters."
    idle = "One row a slot, one bar an attempt at a trial; gaps are idle time."
    return "".join(
        [
            sections.build_winner(data, yaml),
            section("Learning curves", curves, figure("curves")),
            section("The best value so far", "", figure("progress")),
            section(
                "What mattered",
                sections.build_importance_text(importance),
                figure("importance"),
            ),
            section("Each parameter against the metric", "", figure("parameters")),
            section("All parameters together", axes, figure("parallel")),
            sections.build_failures(group_failures(data), folder),
            section("Slots over time", idle, figure("slots")),
            sections.build_trials(),
            sections.build_settings(data, versions),
        ]
    )


def build_yaml(data: SweepData) -> str:
    """The best trial's cfg as YAML; empty where there is none."""
    import yaml

    order = data.order_by_best()
    if not len(order):
        return ""
    cfg = json.loads(data.trials[int(order[0])].cfg_json)
    text: str = yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True)
    return text.rstrip()


def write_page(page: str, path: Path) -> None:
    """Write the file at once, so that a browser that loads it never sees half of it."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(page)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise StorageError(f"the report {path} can't be written: {error}") from error


def _read_text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _read(name: str) -> Template:
    return Template(_read_text(name))
