"""The table of trials of the report, as JSON for its script. Pure."""

from __future__ import annotations

from typing import Any

from .formats import format_value
from .pictures.data import SweepData
from .pictures.style import COLORS
from .pictures.style import write_numbers as numbers
from .summary import compute_runtime_s

#: More than are shown, so that what the page's script rounds again is rounded right.
_DIGITS = 8

#: Cfg keys that are shown; those that vary come first.
MAX_CFG = 60


def build_table(data: SweepData) -> dict[str, Any]:
    """Make the columns, and the rows with the best first.

    Returns:
        `columns` (name, whether it holds numbers), `rows` (lists of cells), `best` (the best
        trial's id) and `colors` (of each status).
    """
    runtimes = [compute_runtime_s(trial, data.now) for trial in data.trials]
    columns: list[tuple[str, bool, list[Any]]] = [
        ("trial", False, [trial.trial_id for trial in data.trials]),
        ("status", False, data.statuses),
        ("iterations", True, [int(count) for count in data.iterations]),
        ("seconds", True, [None if each is None else round(each, 1) for each in runtimes]),
    ]
    if data.metric is not None and data.mode is not None:
        columns.append((f"best {data.metric}", True, numbers(data.best, _DIGITS)))
        columns.append(
            ("at iteration", True, [at if at >= 0 else None for at in data.best_iteration.tolist()])
        )
    columns += [_build_cfg(data, name) for name in _choose_cfg(data)]
    columns += [
        (f"last {name}", True, numbers(values, _DIGITS)) for name, values in data.last.items()
    ]
    columns.append(("host", False, [trial.host for trial in data.trials]))
    columns.append(("attempt", True, [trial.attempt for trial in data.trials]))
    order = data.order_by_best().tolist() if data.mode else []
    order += [at for at in range(len(data.trials)) if at not in set(order)]
    best = data.trials[order[0]].trial_id if data.mode and len(data.order_by_best()) else None
    cells = [values for _, _, values in columns]
    return {
        "columns": [{"name": name, "number": is_number} for name, is_number, _ in columns],
        "rows": [[values[at] for values in cells] for at in order],
        "best": best,
        "colors": COLORS,
    }


def _choose_cfg(data: SweepData) -> list[str]:
    """The keys that vary; where none does (no space was given), all there are."""
    varying = [parameter.name for parameter in data.parameters]
    names = varying or list(dict.fromkeys(name for cfg in data.cfgs for name in cfg))
    return names[:MAX_CFG]


def _build_cfg(data: SweepData, name: str) -> tuple[str, bool, list[Any]]:
    values = [cfg.get(name) for cfg in data.cfgs]
    is_number = all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        for value in values
    )
    if is_number:
        return name, True, [_shorten(value) for value in values]
    return name, False, [format_value(cfg[name]) if name in cfg else None for cfg in data.cfgs]


def _shorten(value: float | None) -> float | int | None:
    if value is None or isinstance(value, int):
        return value
    return numbers([value], _DIGITS)[0]  # type: ignore[no-any-return] # a float, or None for NaN
