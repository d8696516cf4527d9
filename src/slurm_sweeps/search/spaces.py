"""Search spaces of one number each, continuous or whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from ..checks import (
    check_integer,
    check_order,
    check_real,
    check_seed,
)
from ..errors import UsageError
from .space import NumberSpace, clip_unit, log_unit

#: u = 0 and u = 1 would be infinitely far out on a normal distribution.
_UNIT_MARGIN = 2.0**-53


class _Interval(NumberSpace):
    """The floats between two bounds."""

    __slots__ = ()

    low: float
    high: float

    @property
    def size(self) -> int | None:
        return None

    def _arguments(self) -> list[Any]:
        return [self.low, self.high]

    def _contains(self, value: float) -> bool:
        return self.low <= value <= self.high


class _IntegerInterval(NumberSpace):
    """The ints between two bounds, both included."""

    __slots__ = ()

    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def at(self, index: int) -> int:
        return self.low + index

    def _arguments(self) -> list[Any]:
        return [self.low, self.high]

    def _contains(self, value: float) -> bool:
        return self.low <= value <= self.high and value == int(value)

    def _cast(self, value: float) -> int:
        return int(value)


@dataclass(frozen=True, slots=True, repr=False)
class Uniform(_Interval):
    """A float between `low` and `high`, every one as likely.

    Args:
        low: Smallest value.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.

    Raises:
        UsageError: low >= high, or a bound is not finite.
        UsageTypeError: A bound is not a number.
    """

    low: float
    high: float
    seed: int | None = None

    def __post_init__(self) -> None:
        low, high = check_real("Uniform", "low", self.low), check_real("Uniform", "high", self.high)
        check_order("Uniform", low, high)
        check_real("Uniform", "high - low", high - low)
        self._set(low=low, high=high, seed=check_seed("Uniform", self.seed))

    def from_unit(self, u: float) -> float:
        # Unlike low + u * (high - low), this is exact at both ends.
        return min(max((1.0 - u) * self.low + u * self.high, self.low), self.high)

    def to_unit(self, value: float) -> float:
        return clip_unit((value - self.low) / (self.high - self.low))


@dataclass(frozen=True, slots=True, repr=False)
class LogUniform(_Interval):
    """A float between `low` and `high`, every order of magnitude as likely.

    Args:
        low: Smallest value, above 0.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.

    Raises:
        UsageError: low >= high, low <= 0, or a bound is not finite.
        UsageTypeError: A bound is not a number.
    """

    low: float
    high: float
    seed: int | None = None

    def __post_init__(self) -> None:
        low = check_real("LogUniform", "low", self.low)
        high = check_real("LogUniform", "high", self.high)
        _check_positive("LogUniform", low)
        check_order("LogUniform", low, high)
        self._set(low=low, high=high, seed=check_seed("LogUniform", self.seed))

    def from_unit(self, u: float) -> float:
        # Powers can't overflow here, as the exponential of a sum of logarithms can.
        value: float = self.low ** (1.0 - u) * self.high**u
        return min(max(value, self.low), self.high)

    def to_unit(self, value: float) -> float:
        return log_unit(value, self.low, self.high)


@dataclass(frozen=True, slots=True, repr=False)
class Normal(NumberSpace):
    """A float from the normal distribution; no value is out of bounds.

    Args:
        mean: The distribution's mean.
        std: Its standard deviation, above 0.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.

    Raises:
        UsageError: std <= 0, or a parameter is not finite.
        UsageTypeError: A parameter is not a number.
    """

    mean: float
    std: float
    seed: int | None = None

    def __post_init__(self) -> None:
        mean, std = check_real("Normal", "mean", self.mean), check_real("Normal", "std", self.std)
        if std <= 0:
            raise UsageError(f"Normal needs std > 0, got std={std!r}")
        self._set(mean=mean, std=std, seed=check_seed("Normal", self.seed))

    @property
    def size(self) -> None:
        return None

    def from_unit(self, u: float) -> float:
        inside = min(max(u, _UNIT_MARGIN), 1.0 - _UNIT_MARGIN)
        return NormalDist(self.mean, self.std).inv_cdf(inside)

    def to_unit(self, value: float) -> float:
        # Unlike 1 + erf, this keeps all digits far below the mean.
        return 0.5 * math.erfc((self.mean - value) / (self.std * math.sqrt(2.0)))

    def _arguments(self) -> list[Any]:
        return [self.mean, self.std]

    def _contains(self, value: float) -> bool:
        return math.isfinite(value)


@dataclass(frozen=True, slots=True, repr=False)
class Integer(_IntegerInterval):
    """An int between `low` and `high`, both included, every one as likely.

    Args:
        low: Smallest value.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.

    Raises:
        UsageError: low >= high.
        UsageTypeError: A bound is not an integer.
    """

    low: int
    high: int
    seed: int | None = None

    def __post_init__(self) -> None:
        low = check_integer("Integer", "low", self.low)
        high = check_integer("Integer", "high", self.high)
        check_order("Integer", low, high)
        self._set(low=low, high=high, seed=check_seed("Integer", self.seed))

    def from_unit(self, u: float) -> int:
        return self.low + min(int(u * self.size), self.size - 1)

    def to_unit(self, value: int) -> float:
        return clip_unit((value - self.low + 0.5) / self.size)


@dataclass(frozen=True, slots=True, repr=False)
class LogInteger(_IntegerInterval):
    """An int between `low` and `high`, both included, every order of magnitude as likely.

    An int k is what a log-uniform float between `low - 0.5` and `high + 0.5` is rounded to.

    Args:
        low: Smallest value, 1 or more.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.

    Raises:
        UsageError: low >= high, or low <= 0.
        UsageTypeError: A bound is not an integer.
    """

    low: int
    high: int
    seed: int | None = None

    def __post_init__(self) -> None:
        low = check_integer("LogInteger", "low", self.low)
        high = check_integer("LogInteger", "high", self.high)
        _check_positive("LogInteger", low)
        check_order("LogInteger", low, high)
        self._set(low=low, high=high, seed=check_seed("LogInteger", self.seed))

    def from_unit(self, u: float) -> int:
        return round_log_integer(u, self.low, self.high)

    def to_unit(self, value: int) -> float:
        return log_unit(value, self.low - 0.5, self.high + 0.5)


def round_log_integer(u: float, low: int, high: int) -> int:
    """Return the int in [low, high] nearest to the u-th point of the logarithmic scale."""
    x = math.exp((1.0 - u) * math.log(low - 0.5) + u * math.log(high + 0.5))
    return min(max(math.floor(x + 0.5), low), high)


def _check_positive(owner: str, low: float) -> None:
    if low <= 0:
        raise UsageError(
            f"{owner} needs low > 0, because a logarithmic scale has no zero, got low={low!r}"
        )
