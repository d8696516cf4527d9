"""What an earlier sweep's trials were and how they went, for a sampler to start from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, UsageTypeError
from ..result import Result
from ..search.search_space import SearchSpace

if TYPE_CHECKING:
    import pandas as pd

#: A trial of an earlier sweep: its cfg, and the metric's last value, None if it has none.
Known = tuple[dict[str, Any], float | None]


def read_warm_start(source: Any, space: SearchSpace, metric: str | None) -> list[Known]:
    """Return the earlier trials that are configurations of this space.

    Args:
        source: A `Result`, or the frame that its `to_dataframe` returns.
        space: The search space.
        metric: The metric of this sweep.

    Raises:
        UsageTypeError: `source` is neither.
        UsageError: None of its trials is a configuration of this space.
    """
    if isinstance(source, Result):
        found = _read_result(source, metric)
    elif hasattr(source, "columns") and hasattr(source, "to_dict"):
        found = _read_frame(source, metric)
    else:
        raise UsageTypeError(
            f"warm_start must be a Result or its to_dataframe(), got {type(source).__name__}"
        )
    known = list(_revive(found, space))
    if not known:
        raise UsageError(
            f"warm_start: none of the trials of {type(source).__name__} is a configuration of this "
            f"search space, {space.template!r}"
        )
    return known


def _read_result(result: Result, metric: str | None) -> Iterator[Known]:
    for trial in result.trials:
        curve = (trial.metrics or {}).get(metric or "", {})
        yield trial.cfg, curve[max(curve)] if curve else None


def _read_frame(frame: pd.DataFrame, metric: str | None) -> Iterator[Known]:
    for row in frame.to_dict("records"):
        cfg: dict[str, Any] = {}
        for column, value in row.items():
            key = str(column).removeprefix("cfg/")
            if key != column and not _is_missing(value):
                _set_nested(cfg, key.split("."), value)
        value = row.get(f"last/{metric}")
        yield cfg, None if value is None else float(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _set_nested(cfg: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        cfg = cfg.setdefault(key, {})
    cfg[keys[-1]] = value.item() if hasattr(value, "item") else value


def _revive(found: Iterator[Known], space: SearchSpace) -> Iterator[Known]:
    for cfg, value in found:
        try:
            units = space.to_units(cfg)
        except UsageError:
            continue  # it was tried elsewhere
        yield space.build(units.__getitem__), value
