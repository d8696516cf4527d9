"""Bounds on what trials report: one that goes beyond is infeasible, and ends there.

A value that is exactly at its limit is within, and NaN tells nothing, so it breaks no bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checks import check_real, set_fields
from ..errors import UsageError, UsageTypeError


@dataclass(frozen=True, slots=True)
class _Limit:
    limit: float

    def __post_init__(self) -> None:
        set_fields(self, limit=check_real(type(self).__name__, "limit", self.limit))


@dataclass(frozen=True, slots=True)
class AtMost(_Limit):
    """Trials whose metric is larger than `limit` are infeasible.

    Raises:
        UsageError: `limit` is not finite.
        UsageTypeError: `limit` is no number.
    """

    def allows(self, value: float) -> bool:
        """Whether a value is within."""
        return not value > self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


@dataclass(frozen=True, slots=True)
class AtLeast(_Limit):
    """Trials whose metric is smaller than `limit` are infeasible.

    Raises:
        UsageError: `limit` is not finite.
        UsageTypeError: `limit` is no number.
    """

    def allows(self, value: float) -> bool:
        """Whether a value is within."""
        return not value < self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


Bound = AtMost | AtLeast


def check_feasible(feasible: Any) -> dict[str, Bound]:
    """Return the bounds by metric; None is none."""
    if feasible is None:
        return {}
    if not isinstance(feasible, Mapping) or not all(
        isinstance(name, str) and isinstance(bound, AtMost | AtLeast)
        for name, bound in feasible.items()
    ):
        raise UsageTypeError(
            "feasible must be a dict of bounds by the metric's name, such as "
            f"{{'memory_gb': ss.AtMost(24)}}, got {feasible!r}"
        )
    if "" in feasible:
        raise UsageError(f"feasible: a metric must have a name, got {feasible!r}")
    return dict(feasible)


def is_infeasible(bounds: Mapping[str, Bound], metrics: Mapping[str, float]) -> bool:
    """Whether any of these values is beyond its bound."""
    return any(
        name in metrics and not bound.allows(metrics[name]) for name, bound in bounds.items()
    )
