"""Choosing what a framework's metrics a callback reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, UsageTypeError


def check_names(metrics: str | Sequence[str]) -> list[str]:
    """Return the names of the metrics to report.

    Raises:
        UsageTypeError: It is no name and no list of names.
        UsageError: The list is empty.
    """
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageTypeError(f"metrics must be a name or a list of names; got {metrics!r}")
    if not names:
        raise UsageError(f"metrics={metrics!r}: name at least one metric to report")
    return list(names)


def pick_metrics(
    names: Sequence[str], available: Mapping[str, Any], where: str
) -> dict[str, float]:
    """Pick metrics by name, tensors turned into numbers.

    Args:
        names: What to report.
        available: What there is.
        where: How it came there, for the message.

    Raises:
        UsageError: One is missing.
    """
    missing = [name for name in names if name not in available]
    if missing:
        raise UsageError(
            f"metric {missing[0]!r} is not among those {where} by the end of the validation: "
            f"{sorted(available)}"
        )
    return {name: to_number(available[name]) for name in names}


def to_number(value: Any) -> Any:
    """Turn a tensor or array that holds one number into it; leave everything else as it is."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value
