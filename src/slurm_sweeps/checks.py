"""Checks of what a user passes in: one answer to the same value wherever it is asked for.

Any integral number is an integer (NumPy's are), and nothing else is: no bool, no 4.0. A flag is
True or False (NumPy's are), and nothing else is: no 1, no "no".

Each takes `owner` (what the value belongs to, as the user wrote it) and `name`, so that the
message says where to look: in a UsageTypeError what is of a wrong type, in a UsageError what is out
of its range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral, Real
from typing import Any, NamedTuple

from .errors import UsageError, UsageTypeError

#: Thirty years. Waiting for much more overflows what the system's calls take.
MOST_SECONDS = 10**9


def check_integer(owner: str, name: str, value: Any, least: int | None = None) -> int:
    """Return `value` as an int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise _build_type_error(owner, name, "an integer", value)
    number = int(value)
    if least is not None and number < least:
        raise UsageError(f"{owner}: {name} must be {least} or more, got {value!r}")
    return number


def check_real(
    owner: str, name: str, value: Any, least: float | None = None, most: float | None = None
) -> float:
    """Return `value` as a float; NaN and infinities are refused."""
    number = _to_float(value)
    if number is None:
        raise _build_type_error(owner, name, "a number", value)
    if not math.isfinite(number):
        raise UsageError(f"{owner}: {name} must be finite, got {value!r}")
    if (least is not None and number < least) or (most is not None and number > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise UsageError(f"{owner}: {name} must be {bounds}, got {value!r}")
    return number


def _to_float(value: Any) -> float | None:
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def check_seconds(owner: str, name: str, value: Any, least: float = 0) -> float:
    """Return `value` as a float: seconds, from `least` to `MOST_SECONDS`."""
    number = check_real(owner, name, value)
    if not least <= number <= MOST_SECONDS:
        raise UsageError(
            f"{owner}: {name} must be a number of seconds from {least} to {MOST_SECONDS:,}, got "
            f"{value!r}"
        )
    return number


def is_flag(value: Any) -> bool:
    """Tell whether `value` is True or False, be they NumPy's."""
    kind = type(value)  # not asked of NumPy, which need not be loaded for that
    return kind is bool or (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_"))


def check_flag(owner: str, name: str, value: Any) -> bool:
    """Return `value` as a bool."""
    if not is_flag(value):
        raise _build_type_error(owner, name, "True or False", value)
    return bool(value)


def check_seed(owner: str, seed: Any) -> int | None:
    """Return a seed as an int, or None where none was given."""
    return None if seed is None else check_integer(owner, "seed", seed, 0)


class Goal(NamedTuple):
    """What is best: low ("min") or high ("max") values of a metric."""

    metric: str
    mode: str

    @property
    def sign(self) -> float:
        """What makes low values of the metric the better ones."""
        return -1.0 if self.mode == "max" else 1.0


def check_goal(owner: str, metric: Any, mode: Any) -> Goal:
    """Check what a rule or a sweep goes by: the name of a metric, and "min" or "max"."""
    if not isinstance(metric, str):
        raise _build_type_error(owner, "metric", "the name of a metric", metric)
    if not metric:
        raise UsageError(f"{owner}: metric must be the name of a metric, got {metric!r}")
    if mode not in ("min", "max"):
        raise UsageError(f'{owner}: mode must be "min" or "max", got {mode!r}')
    return Goal(metric, mode)


def check_goals(owner: str, metric: Any, mode: Any) -> tuple[Goal, ...]:
    """Check a metric or a list of some, and a mode for all or a list with one for each."""
    if not isinstance(metric, list | tuple):
        return (check_goal(owner, metric, mode),)
    modes = list(mode) if isinstance(mode, list | tuple) else [mode] * len(metric)
    if len(modes) != len(metric) or not metric:
        raise UsageError(
            f"{owner}: mode must be one word for all metrics, or a list of as many as there are: "
            f"got metric={metric!r}, mode={mode!r}"
        )
    goals = tuple(check_goal(owner, *each) for each in zip(metric, modes, strict=True))
    if len({goal.metric for goal in goals}) < len(goals):
        raise UsageError(f"{owner}: each metric must be named once, got {metric!r}")
    return goals


def name_goals(goals: Sequence[Goal]) -> tuple[Any, Any]:
    """Write goals as a metric and a mode, or as a tuple of each where there are several."""
    metrics, modes = zip(*goals, strict=True)
    return (metrics, modes) if len(goals) > 1 else goals[0]


def check_reduction_factor(owner: str, reduction_factor: Any) -> float:
    """Return the reduction factor, 2 or more, as an int if it is whole."""
    number = check_real(owner, "reduction_factor", reduction_factor, 2)
    return int(number) if number.is_integer() else number


def set_fields(instance: Any, **values: Any) -> None:
    """Put what the checks made of its arguments into a frozen dataclass, while it is made."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def as_fraction(number: float) -> Fraction:
    """Return the decimal that was written: 2.1 is 21/10, not the float next to it."""
    return Fraction(repr(number))


def _build_type_error(owner: str, name: str, wanted: str, value: Any) -> UsageTypeError:
    kind = type(value).__name__
    return UsageTypeError(f"{owner}: {name} must be {wanted}, got {value!r} ({kind})")
