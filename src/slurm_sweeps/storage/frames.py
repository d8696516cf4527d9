"""Frames: what was read from the database, as pandas has it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..trial import Status, flatten_cfg
from .rows import TrialRow

#: A structured array of some of the fields that `rows.py` names.
Table = npt.NDArray[np.void]


def build_trials_frame(
    trials: Sequence[TrialRow],
    aggregates: Mapping[str, Table],
    modes: Mapping[str, str],
    now: float,
) -> pd.DataFrame:
    """Tabulate trials; `Result.to_dataframe` names the columns.

    Args:
        aggregates: Their `AGGREGATE_FIELDS`, by the metric's name.
        modes: "min" or "max" for the metrics where it is known which is best.
        now: Until when trials run that have no end, seconds since 1970.
    """
    keys = np.array([trial[0] for trial in trials], dtype="i8")
    return pd.DataFrame(
        _build_head(trials, now)
        | {"iterations": _count_iterations(keys, aggregates)}
        | _build_usage(trials)
        | _build_cfg_columns([trial[-1] for trial in trials])
        | _build_metric_columns(keys, aggregates, modes)
    )


def _build_head(trials: Sequence[TrialRow], now: float) -> dict[str, Any]:
    start = np.array([trial[3] for trial in trials], dtype=float)
    end = np.array([trial[4] for trial in trials], dtype=float)
    statuses = np.array([trial[2] for trial in trials], dtype=object)
    runs = statuses == Status.RUNNING.value
    return {
        "trial_id": np.array([trial[1] for trial in trials], dtype=object),
        "status": statuses,
        "start_time": _build_times(start),
        "end_time": _build_times(end),
        "runtime": pd.to_timedelta(np.where(runs, now, end) - start, unit="s"),
    }


def _build_usage(trials: Sequence[TrialRow]) -> dict[str, npt.NDArray[np.float64]]:
    places = {"memory_mb": 5, "cpu_sec": 6, "gpu_memory_mb": 7}
    return {name: np.array([t[at] for t in trials], dtype=float) for name, at in places.items()}


def _build_times(seconds: npt.NDArray[np.float64]) -> pd.DatetimeIndex:
    # Through whole microseconds: a float of nanoseconds since 1970 is off by some hundred of them.
    known = np.isfinite(seconds)
    microseconds = np.round(np.where(known, seconds, 0.0) * 1e6).astype("i8")
    times = microseconds.view("M8[us]")
    times[~known] = np.datetime64("NaT", "us")
    return pd.DatetimeIndex(times).tz_localize("UTC")


def _build_cfg_columns(cfgs: Sequence[str]) -> dict[str, list[Any]]:
    """A column for each key that any cfg has, None where another one has it not."""
    columns: dict[str, list[Any]] = {}
    for row, cfg in enumerate(json.loads(f"[{','.join(cfgs)}]")):
        for key, value in flatten_cfg(cfg, "cfg/").items():
            column = columns.get(key)
            if column is None:
                column = columns[key] = [None] * len(cfgs)
            column[row] = value
    return columns


def _count_iterations(
    numbers: npt.NDArray[np.int64], aggregates: Mapping[str, Table]
) -> npt.NDArray[np.int64]:
    """How many iterations each trial has logged of the metric that it has logged most often."""
    iterations = np.zeros(len(numbers), dtype="i8")
    for table in aggregates.values():
        rows = np.searchsorted(numbers, table["number"])
        iterations[rows] = np.maximum(iterations[rows], table["count"])
    return iterations


def _build_metric_columns(
    numbers: npt.NDArray[np.int64], aggregates: Mapping[str, Table], modes: Mapping[str, str]
) -> dict[str, npt.NDArray[np.float64]]:
    columns: dict[str, npt.NDArray[np.float64]] = {}
    for name, table in aggregates.items():
        rows = np.searchsorted(numbers, table["number"])
        best = {"best": modes[name]} if name in modes else {}
        for kind, field in {"last": "last", **best, "min": "min", "max": "max"}.items():
            columns[f"{kind}/{name}"] = values = np.full(len(numbers), np.nan)
            values[rows] = table[field]
    return columns


def build_metrics_frame(
    table: Table, metric_names: Mapping[int, str], trial_ids: Mapping[int, str]
) -> pd.DataFrame:
    """Tabulate rows of `METRIC_FIELDS`; `Result.metrics_dataframe` names the columns."""
    return pd.DataFrame(
        {
            "trial_id": _look_up(table["number"], trial_ids),
            "iteration": np.ascontiguousarray(table["iteration"]),
            "metric": _look_up(table["metric_id"], metric_names),
            "value": np.ascontiguousarray(table["value"]),
            "logged_at": _build_times(table["logged_at"]),
        }
    )


def _look_up(
    keys: npt.NDArray[np.int64], words: Mapping[int, str]
) -> pd.api.extensions.ExtensionArray:
    # Only the few words become pandas' strings: with all the rows that took most of the time.
    known = pd.Series(list(words.values()), dtype=pd.Series([""]).dtype)
    places = np.zeros(max(words, default=-1) + 1, dtype="i8")
    places[list(words)] = np.arange(len(words))
    return known.array.take(places[keys])
