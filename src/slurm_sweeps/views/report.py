"""The report: one HTML file that shows a whole sweep and needs nothing beside it.

The page is the template `report.html`, filled by jinja2, which escapes all that is not marked as
HTML: names, values and errors come from users and trials, a database perhaps from a stranger. Only
our own style and script and plotly's are marked. What the script draws is JSON, in which `<` and
`&` are written as escapes, so that nothing in it ends a script element.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import StorageError, UsageError
from ..replay.sensitivity import Sensitivity, is_study
from ..storage.records import TrialRecord
from ..trial import Status
from .compare import compare, format_row
from .formats import (
    clean,
    format_number,
    format_provenance,
    format_span,
    format_value,
    format_yaml,
    is_number,
    list_constants,
    shorten,
)
from .pictures import COLORS, Figure, write_numbers
from .pictures.curves import MAX_POINTS, draw_best_over_time, draw_learning_curves
from .pictures.data import SweepData
from .pictures.front import compute_front, draw_front
from .pictures.importance import (
    compute_importance,
    draw_importance,
    draw_sensitivity,
    read_sensitivity,
)
from .pictures.parameters import MAX_COORDINATES, draw_parallel_coordinates, draw_parameters
from .pictures.slots import compute_occupation, draw_slots
from .summary import USAGE, describe_error

#: Each picture by itself, as `Result.plot_…` shows it.
PICTURES: dict[str, Callable[[SweepData], Figure]] = {
    "learning_curves": draw_learning_curves,
    "best_over_time": draw_best_over_time,
    "parameters": draw_parameters,
    "parallel_coordinates": draw_parallel_coordinates,
    "importance": lambda data: draw_importance(compute_importance(data)),
    "sensitivity": lambda data: draw_sensitivity(read_sensitivity(data)),
    "front": draw_front,
    "slots": lambda data: draw_slots(compute_occupation(data)),
}

#: A page of a running sweep loads itself again after so many seconds.
REFRESH_S = 60

#: Digits of numbers in the table: more than are shown, so that what the page's script rounds again
#: is rounded right.
_DIGITS = 8

#: Configurations that are compared by their runs.
MAX_COMPARED = 10

#: Cfg keys in the table; those that vary come first.
_MAX_CFG = 60


def check_installed(*modules: str) -> None:
    """Raise UsageError if a module is missing, by default of those that a report is made with."""
    for module in modules or ("plotly", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise UsageError(
                f"reports and pictures need {module}: pip install 'slurm-sweeps[report]' (this "
                "also brings scikit-learn, for the importance of parameters)"
            )


def write_report(data: SweepData, folder: Path, path: Path) -> None:
    """Write the page of a sweep, at once: a browser that loads it never sees half of it.

    What is no file, such as a pipe or /dev/null, is written into, and a link stays one.

    Raises:
        StorageError: The file can't be written.
    """
    page, path = _build_page(data, folder), path.resolve()
    try:
        if path.exists() and not path.is_file():
            path.write_text(page, encoding="utf-8")
            return
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


def read_plotly_js() -> str:
    """plotly's script for browsers, as its Python package ships it."""
    return resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8")


def _build_page(data: SweepData, folder: Path) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = lambda value: format_number(float(value))
    environment.filters["moment"] = _format_moment
    environment.filters["span"] = format_span
    environment.filters["reason"] = lambda trial: shorten(clean(describe_error(trial)), 300)
    importance, occupation = compute_importance(data), compute_occupation(data)
    sensitivity = _compute_sensitivity(data)
    figures = {
        "curves": draw_learning_curves(data),
        "progress": draw_best_over_time(data),
        "importance": draw_importance(importance),
        "parallel": draw_parallel_coordinates(data, importance.names),
        "parameters": draw_parameters(data, importance.names),
        **({"front": draw_front(data)} if data.objectives else {}),
        **({"sensitivity": draw_sensitivity(sensitivity)} if sensitivity else {}),
        "slots": draw_slots(occupation),
    }
    ranking = data.ranking
    front = compute_front(data) if data.objectives else []
    configurations = data.configurations[:MAX_COMPARED]
    compared = compare(configurations, data.metric or "") if configurations else None
    counts = {status: data.statuses.count(status.value) for status in Status}
    return environment.from_string(_read("report.html")).render(
        data=data,
        ranking=ranking,
        front=front,
        compared=compared,
        compared_cells=[format_row(row) for row in compared.rows] if compared else [],
        winner_yaml=format_yaml(json.loads(data.trials[ranking[0]].cfg_json)) if ranking else "",
        done=sum(count for status, count in counts.items() if status.is_done),
        broken=sum(count for status, count in counts.items() if status.is_broken),
        told=", ".join(f"{count} {status}" for status, count in counts.items() if count),
        savings=compute_savings(data),
        occupation=occupation,
        importance=importance,
        sensitivity=sensitivity,
        failures=group_failures(data),
        setup=_build_setup(data),
        run=data.driver_runs[-1] if data.driver_runs else None,
        folder=folder,
        figures={name: _pack_figure(figure) for name, figure in figures.items()},
        table=build_table(data, ranking),
        refresh_s=REFRESH_S,
        max_points=MAX_POINTS,
        max_coordinates=MAX_COORDINATES,
        css=Markup(_read("report.css")),
        script=Markup(_read("report.js")),
        plotly=Markup(read_plotly_js()),
    )


def _compute_sensitivity(data: SweepData) -> Sensitivity | str:
    """The indices of a study, or why there are none yet; empty where it is no study."""
    if not is_study(data.experiment.settings):
        return ""
    try:
        return read_sensitivity(data)
    except UsageError as error:
        return str(error)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _format_moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _pack_figure(figure: Mapping[str, Any]) -> dict[str, Any]:
    """Write repeated hover texts of a figure once: `[text, how often, text, …]`.

    A curve has its trial's id at each point, which would be half of the page. The page's script
    unpacks them.
    """
    return {"layout": figure["layout"], "data": [_pack_trace(trace) for trace in figure["data"]]}


def _pack_trace(trace: Mapping[str, Any]) -> dict[str, Any]:
    texts = trace.get("text")
    if not isinstance(texts, list) or trace.get("mode") == "markers":
        return dict(trace)
    packed = [part for text, run in groupby(texts) for part in (text, sum(1 for _ in run))]
    return {**{key: value for key, value in trace.items() if key != "text"}, "packed": packed}


# --- what pruning saved ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Savings:
    """What pruning saved."""

    run: int  # the iterations that were run
    full: int  # what they would have been, had no trial been pruned
    saved_s: float  # the time that the pruned trials would have taken further, each at its own pace


def compute_savings(data: SweepData) -> Savings:
    """Estimate what pruning saved.

    A whole trial is taken to be as long as the longest completed one; where none is, as ASHA's
    `max_t`, or the longest of all.
    """
    pruned = np.array([trial.status.is_cut_short for trial in data.trials], dtype=bool)
    completed = np.array([trial.status is Status.COMPLETED for trial in data.trials], dtype=bool)
    run = int(data.iterations.sum())
    longest = int(data.iterations.max(initial=0))
    known = int(data.iterations[completed].max(initial=0))
    length = known or max(data.asha.get("max_t") or 0, longest)
    missing = np.where(pruned, np.maximum(0, length - data.iterations), 0)
    runtimes_s = np.array([runtime_s or 0.0 for runtime_s in data.runtimes_s])
    pace_s = np.zeros(len(data.trials))
    np.divide(runtimes_s, data.iterations, out=pace_s, where=data.iterations > 0)
    return Savings(run, run + int(missing.sum()), float((missing * pace_s).sum()))


# --- what failed ----------------------------------------------------------------------------------


def group_failures(data: SweepData) -> list[list[TrialRecord]]:
    """Group the failed and the lost trials that failed alike, the largest group first."""
    groups: dict[tuple[str, object], list[TrialRecord]] = {}
    for trial in data.trials:
        if trial.status.is_broken:
            key = (trial.status.value, trial.error and trial.error.kind)
            groups.setdefault(key, []).append(trial)
    return sorted(groups.values(), key=lambda trials: -len(trials))


# --- the table of trials, and how it was set up ---------------------------------------------------


def build_table(data: SweepData, ranking: Sequence[int]) -> dict[str, Any]:
    """Make the columns, and the rows with the best first, for the page's script.

    Returns:
        `columns` (name, whether it holds numbers), `rows` (lists of cells), `best` (the best
        trial's id) and `colors` (of each status).
    """
    columns: list[tuple[str, Sequence[Any]]] = [
        ("trial", [trial.trial_id for trial in data.trials]),
        ("status", data.statuses),
        ("iterations", write_numbers(data.iterations)),
        ("seconds", write_numbers(data.runtimes_s, _DIGITS)),
    ]
    if data.metric is not None and data.mode is not None:
        at_iteration = [at if at >= 0 else None for at in data.best_iteration.tolist()]
        columns.append((f"best {data.metric}", write_numbers(data.best, _DIGITS)))
        columns.append(("at iteration", at_iteration))
    columns += [(name, _build_cfg(data, name)) for name in _choose_cfg(data)]
    columns += [(f"last {name}", write_numbers(last, _DIGITS)) for name, last in data.last.items()]
    columns.append(("host", [trial.host for trial in data.trials]))
    columns.append(("attempt", [trial.attempt for trial in data.trials]))
    for name in USAGE:
        used = [getattr(trial, name) for trial in data.trials]
        if any(value is not None for value in used):
            columns.append((name, [None if value is None else round(value, 1) for value in used]))
    order = dict.fromkeys([*(ranking if data.mode else ()), *range(len(data.trials))])
    return {
        "columns": [{"name": name, "number": _are_numbers(values)} for name, values in columns],
        "rows": [[values[at] for _, values in columns] for at in order],
        "best": data.trials[ranking[0]].trial_id if data.mode and ranking else None,
        "colors": COLORS,
    }


def _choose_cfg(data: SweepData) -> list[str]:
    """The keys that vary; where none does (no space was given), all there are."""
    varying = [parameter.name for parameter in data.parameters]
    names = varying or list(dict.fromkeys(name for cfg in data.cfgs for name in cfg))
    return names[:_MAX_CFG]


def _build_cfg(data: SweepData, name: str) -> list[Any]:
    values = [cfg.get(name) for cfg in data.cfgs]
    if _are_numbers(values):
        return write_numbers(values, _DIGITS)
    return [format_value(cfg[name]) if name in cfg else None for cfg in data.cfgs]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(value is None or is_number(value) for value in values)


def _build_setup(data: SweepData) -> dict[str, Mapping[str, str]]:
    """The space, the settings and the versions, as names and values."""
    settings = {
        key: format_value(value)
        for key, value in data.experiment.settings.items()
        if key not in ("space", "version", "started_at", "done_before") and value is not None
    }
    versions = {"slurm-sweeps": __version__}
    if data.experiment.settings.get("version") != __version__:
        versions["slurm-sweeps of the sweep"] = str(data.experiment.settings.get("version"))
    return {
        "search space": {parameter.name: parameter.text for parameter in data.parameters},
        "constants": list_constants(data.experiment.settings.get("space")),
        "settings": {"begun": _format_moment(data.begun_at), **settings},
        "code": _build_code(data),
        "versions": versions,
    }


def _build_code(data: SweepData) -> dict[str, str]:
    """Of what code the sweep ran, and where; of all drivers where there were several."""
    if not data.driver_runs:
        return {}
    told = data.driver_runs[-1].told
    git = told.get("git") or {}
    shown = {**told, **{f"git {name}": value for name, value in git.items()}}
    several = data.driver_runs if len(data.driver_runs) > 1 else ()
    return {
        **{
            name: format_value(value)
            for name, value in shown.items()
            if name not in ("git", "packages") and value not in (None, [])
        },
        **{
            f"run {number}": f"{_format_moment(run.started_at)}: {format_provenance(run.told)}"
            for number, run in enumerate(several, 1)
        },
    }
