"""What an earlier sweep's trials were and how they went, for a sampler to start from.

A `Result` has each cfg as it was. A frame has not: pandas makes floats of integers, and NaN of
None, in a column in which another trial has no value. What they were is told by the constants that
this sweep's template has at that place (options among them); the spaces of numbers take 3.0 for 3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, UsageTypeError, say_count
from ..result import Result
from ..search.search_space import SearchSpace, join_path, nest
from ..search.spaces import Space
from ..search.tree import Leaf
from ..trial import Status, compute_trial_id

if TYPE_CHECKING:
    import pandas as pd

#: A trial of an earlier sweep: its cfg, and the metric's last value, None if it has none or is
#: infeasible.
#: Of several metrics it is a tuple.
Known = tuple[dict[str, Any], Any]

#: What a cfg may have been, the likeliest first, and the metric's last value.
_Found = tuple[list[dict[str, Any]], Any]


def read_warm_start(
    source: Any,
    space: SearchSpace,
    metrics: tuple[str, ...],
    tell: Callable[[str], object] = warnings.warn,
) -> list[Known]:
    """Return the earlier trials that are configurations of this space.

    Args:
        source: A `Result`, or the frame that its `to_dataframe` returns.
        metrics: The metric of this sweep, or several.
        tell: Told in a sentence if some of the trials are no such configurations.

    Raises:
        UsageTypeError: `source` is neither.
        UsageError: None of its trials is a configuration of this space.
    """
    if isinstance(source, Result):
        found = list(_read_result(source, metrics))
    elif hasattr(source, "columns") and hasattr(source, "to_dict"):
        found = list(_read_frame(source, metrics, space.template))
    else:
        raise UsageTypeError(
            f"warm_start must be a Result or its to_dataframe(), got {type(source).__name__}"
        )
    known: list[Known] = []
    refusals: list[UsageError] = []
    for cfgs, value in found:
        try:
            units = _read_units(cfgs, space)
        except UsageError as error:  # it was tried elsewhere
            refusals.append(error)
        else:
            known.append((space.build(units.__getitem__), value))
    if not known:
        raise UsageError(
            f"warm_start: none of the trials of {type(source).__name__} is a configuration of this "
            f"search space, {space.template!r}"
        )
    if refusals:
        tell(
            f"warm_start: {len(refusals)} of {len(found)} trials are no configurations of this "
            f"search space and are left out: {refusals[0]}"
        )
    return known


#: A trial of another sweep with one of these has been tried.
TRIED = (Status.COMPLETED, Status.PRUNED, Status.INFEASIBLE)


def read_skipped(
    results: Any, space: SearchSpace, tell: Callable[[str], object]
) -> dict[str, dict[str, Any]]:
    """Return the configurations of this space that other sweeps have tried, by their ids.

    Args:
        tell: Told in a sentence what is skipped.

    Raises:
        UsageTypeError: `results` is no list of `Result`.
    """
    if not isinstance(results, list | tuple) or not all(isinstance(r, Result) for r in results):
        raise UsageTypeError(
            f"skip must be a list of Results, [ss.Result('older')]; got {results!r}"
        )
    found: dict[str, dict[str, Any]] = {}
    others = 0
    for trial in (trial for result in results for trial in result.trials):
        if trial.status in TRIED:
            try:
                cfg = space.build(space.to_units(trial.cfg).__getitem__)
            except UsageError:  # it was tried elsewhere
                others += 1
            else:
                found[compute_trial_id(cfg)] = cfg
    other = f"; {say_count(others, 'trial is', 'trials are')} of another search space"
    other *= bool(others)
    tell(f"skip: {len(found)} configurations were tried before and are not run again{other}")
    return found


def _read_units(cfgs: list[dict[str, Any]], space: SearchSpace) -> dict[Leaf, float]:
    """Read the first of the cfgs that is one of the space, or raise the error of the first."""
    errors = []
    for cfg in cfgs:
        try:
            return space.to_units(cfg)
        except UsageError as error:
            errors.append(error)
    raise errors[0]


def _read_result(result: Result, metrics: tuple[str, ...]) -> Iterator[_Found]:
    for trial in result.trials:
        curves = [(trial.metrics or {}).get(name, {}) for name in metrics]
        last = [curve[max(curve)] if curve else None for curve in curves]
        yield [trial.cfg], _choose_value(last, trial.status is Status.INFEASIBLE)


def _choose_value(last: list[float | None], is_infeasible: bool) -> Any:
    """The value of a metric, of several a tuple; None if one is missing or does not count."""
    if is_infeasible or not last or None in last:
        return None
    return last[0] if len(last) == 1 else tuple(last)


def _read_frame(
    frame: pd.DataFrame, metrics: tuple[str, ...], template: Mapping[str, Any]
) -> Iterator[_Found]:
    constants: dict[str, list[Any]] = {}
    for path, constant in _walk_constants(template):
        constants.setdefault(path, []).append(constant)
    for row in frame.to_dict("records"):
        cells = {
            str(column).removeprefix("cfg/"): value
            for column, value in row.items()
            if str(column).startswith("cfg/")
        }
        present = {path: value for path, value in cells.items() if not _is_missing(value)}
        nones = {path: None for path in cells if any(c is None for c in constants.get(path, ()))}
        restored = {
            path: _restore(value, constants.get(path, ())) for path, value in present.items()
        }
        last = [row.get(f"last/{name}") for name in metrics]
        numbers = [None if value is None else float(value) for value in last]
        value = _choose_value(numbers, row.get("status") == Status.INFEASIBLE)
        choices = (nones | restored, restored, present)
        yield [nest(each) for each in choices], value


def _walk_constants(template: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All constants of a template, those in options among them, by the names of their columns."""
    if isinstance(template, Space):
        for option in template.options or ():
            yield from _walk_constants(option, path)
    elif isinstance(template, Mapping) and template:
        for key, value in template.items():
            yield from _walk_constants(value, join_path(path, str(key)))
    else:
        yield path, template


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _restore(value: Any, constants: list[Any] | tuple[()]) -> Any:
    """The constant that a float stands for, if there is one; else the value as Python has it."""
    if isinstance(value, float):
        same = (each for each in constants if type(each) is int and each == value)
        return next(same, value)
    return value.item() if hasattr(value, "item") else value
