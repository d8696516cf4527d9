"""What can be logged, or returned by `train`: names of metrics, their values, iterations. Pure."""

from __future__ import annotations

import math
from numbers import Complex, Integral, Number, Real
from typing import Any, SupportsFloat, cast

from ..errors import UsageError, UsageTypeError
from .channel import is_storable

#: SQLite's largest number.
MAX_ITERATION = 2**63 - 1


def check_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics as plain floats.

    Raises:
        UsageTypeError: Not a dict of str to real numbers.
    """
    if not isinstance(metrics, dict):
        raise UsageTypeError(
            f"log needs a dict of metrics, like {{'loss': 0.1}}; got {type(metrics).__name__}"
        )
    return {_check_name(name): _check_value(name, value) for name, value in metrics.items()}


def _check_name(name: Any) -> str:
    """Return the metric's name if it is one."""
    if not isinstance(name, str):
        raise UsageTypeError(f"the name of a metric is a str; got {name!r}")
    if not name or "\0" in name:
        raise UsageError(f"the name of a metric can't be empty or hold NUL; got {name!r}")
    if not is_storable(name):
        raise UsageError(f"the name of a metric must be writable as UTF-8; got {name!r}")
    return name


def _check_value(name: str, value: Any) -> float:
    """Return a metric's value as a float."""
    kind = type(value)
    if kind is float:
        return cast(float, value)
    try:
        number = read_number(value)
    except OverflowError:
        raise UsageError(f"metric {name!r} is too large for a float") from None
    if number is not None:
        return number
    shape = getattr(value, "shape", None)
    hint = f" of shape {shape}; pass one number of it, or its mean" if shape else ""
    if kind.__name__ in ("bool", "bool_"):
        hint = f"; pass int({name}) of a truth value"
    raise UsageTypeError(
        f"metric {name!r} must be a real number, not {kind.__module__}.{kind.__qualname__}{hint}"
    )


def read_number(value: Any) -> float | None:
    """Return the real number that a value is, or holds as its one element; None if there is none.

    Raises:
        OverflowError: It is too large for a float.
    """
    if value is None:  # what most return: to look further costs a trial's process pages
        return None
    if not isinstance(value, Number):
        value = _unpack(value)
    if isinstance(value, bool) or not isinstance(value, Number):
        return None
    if isinstance(value, Real) or not isinstance(value, Complex):  # Decimal is neither of them
        return float(cast(SupportsFloat, value))
    return None


def read_returned(returned: Any, name: str) -> dict[str, float]:
    """Return the metrics that `train` has returned, empty for none; `name` is that of a number.

    Raises:
        UsageTypeError, UsageError: It returned a dict, but not one of metrics.
    """
    metrics = returned if type(returned) is dict else {}
    try:
        if (number := read_number(returned)) is not None:
            metrics = {name: number}
        return check_metrics(metrics)
    except OverflowError:
        raise UsageError("train returned a number that is too large for a float") from None
    except (UsageError, UsageTypeError) as error:
        raise type(error)(
            f"a dict that train returns is its last report, and this is none: {error}. Return "
            "a number, a dict of numbers, or anything but a dict"
        ) from None


def _unpack(value: Any) -> Any:
    """Return the one element of an array or tensor, whoever's it is; None if it is no such thing.

    Arrays have `item`, TensorFlow's tensors and Keras's variables `numpy`.
    """
    try:
        if math.prod(value.shape) != 1:
            return None
        held = value if hasattr(value, "item") else value.numpy()
        element = held.item()
        # Types that Python lacks, such as bfloat16, stay what they are.
        is_known = isinstance(element, Number | str | bytes)
        return element if is_known else float(element)
    except Exception:  # noqa: BLE001 - whatever a foreign object raises
        return None


def check_iteration(iteration: Any) -> int:
    """Return the iteration as an int: a whole number from 0 to 2**63 - 1."""
    kind = type(iteration)
    if kind is not int and (kind is bool or not isinstance(iteration, Integral)):
        raise UsageError(f"iteration must be a whole number (0, 1, 2, …); got {iteration!r}")
    step = int(iteration)
    if not 0 <= step <= MAX_ITERATION:
        raise UsageError(f"iteration must be from 0 to 2**63 - 1; got {iteration!r}")
    return step
