"""Checks of what a user passes in, shared by the spaces and the schedulers.

Each takes `owner` (what the value belongs to, as the user wrote it) and `name`, so that the
message says where to look.
"""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

from .errors import UsageError, UsageTypeError


def check_real(owner: str, name: str, value: Any) -> float:
    """Return `value` as a float, exactly as large.

    Raises:
        UsageTypeError: It is not a real number (a bool and a str are none).
        UsageError: It is NaN or infinite.
    """
    number = _to_float(value)
    if number is None:
        raise UsageTypeError(
            f"{owner}: {name} must be a number, got {value!r} ({type(value).__name__})"
        )
    if not math.isfinite(number):
        raise UsageError(f"{owner}: {name} must be finite, got {value!r}")
    return number


def _to_float(value: Any) -> float | None:
    if isinstance(value, (bool, str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def check_integer(owner: str, name: str, value: Any) -> int:
    """Return `value` as an int; 1e3 and 4.0 are taken for the integers that they are.

    Raises:
        UsageTypeError: It is not an integer.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageTypeError(
            f"{owner}: {name} must be an integer, got {value!r} ({type(value).__name__})"
        ) from None


def check_seed(owner: str, seed: Any) -> int | None:
    """Return a seed as an int, or None where none was given.

    Raises:
        UsageTypeError: It is not an integer.
        UsageError: It is negative.
    """
    if seed is None:
        return None
    number = check_integer(owner, "seed", seed)
    if number < 0:
        raise UsageError(f"{owner}: seed must be 0 or more, or None, got {seed!r}")
    return number


def check_order(owner: str, low: float, high: float) -> None:
    """Raise a UsageError unless `low < high`."""
    if low >= high:
        raise UsageError(f"{owner} needs low < high, got low={low!r}, high={high!r}")


def check_goal(owner: str, metric: Any, mode: Any) -> None:
    """Check what a pruner goes by.

    Raises:
        UsageTypeError: `metric` is no string.
        UsageError: `metric` is empty, or `mode` is neither "min" nor "max".
    """
    if not isinstance(metric, str):
        raise UsageTypeError(
            f"{owner}: metric must be the name of a metric, got {metric!r} "
            f"({type(metric).__name__})"
        )
    if not metric:
        raise UsageError(f"{owner}: metric must be the name of a metric, got {metric!r}")
    if mode not in ("min", "max"):
        raise UsageError(f'{owner}: mode must be "min" or "max", got {mode!r}')


def check_reduction_factor(owner: str, reduction_factor: Any) -> float:
    """Return the reduction factor, as an int if it is whole.

    Raises:
        UsageTypeError: It is not a real number.
        UsageError: It is below 2.
    """
    number = check_real(owner, "reduction_factor", reduction_factor)
    if number < 2:
        raise UsageError(f"{owner}: reduction_factor must be 2 or more, got {reduction_factor!r}")
    return int(number) if number.is_integer() else number


def as_fraction(number: float) -> Fraction:
    """Return the decimal that was written: 2.1 is 21/10, not the float next to it."""
    return Fraction(repr(number))
