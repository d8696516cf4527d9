"""Spaces of multiples of a step.

A quantized space of a bounded one is a space of the multiples' counts: `Quantized(LogUniform(16,
512), 16)` is 16 times `LogInteger(1, 32)`. So the first and the last multiple are as likely as
their neighbours, which rounding a float would make half as likely.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ..checks import check_real, check_seed
from ..errors import UsageError, UsageTypeError
from .space import NumberSpace, clip_unit, log_unit
from .spaces import (
    Integer,
    LogInteger,
    LogUniform,
    Normal,
    Uniform,
    round_log_integer,
)

_Inner = Uniform | LogUniform | Integer | LogInteger | Normal


@dataclass(frozen=True, slots=True, repr=False)
class Quantized(NumberSpace):
    """Multiples of `step` that lie within the bounds of `space`, distributed as `space` is.

    The values are ints if `step` is an int, else floats, as short as they can be written: 0.3, not
    0.30000000000000004.

    Args:
        space: A Uniform, LogUniform, Integer, LogInteger or Normal.
        step: What all values are multiples of, above 0.
        seed: Gives this space a repeatable stream of its own; None takes the seed of `space`.

    Raises:
        UsageError: step <= 0, or no multiple of it lies within the bounds.
        UsageTypeError: `space` is none of the above, or `step` is not a number.
    """

    space: _Inner
    step: float
    seed: int | None = None
    _first: int = field(init=False, compare=False, default=0)
    _last: int | None = field(init=False, compare=False, default=None)
    _digits: int = field(init=False, compare=False, default=0)

    def __post_init__(self) -> None:
        if not isinstance(self.space, _Inner):
            raise UsageTypeError(
                "Quantized: space must be a Uniform, LogUniform, Integer, LogInteger or Normal, "
                f"got {self.space!r} ({type(self.space).__name__})"
            )
        step = _check_step(self.step)
        seed = check_seed("Quantized", self.seed)
        self._set(step=step, seed=self.space.seed if seed is None else seed)
        self._set(_digits=-int(Decimal(repr(step)).as_tuple().exponent))
        if not isinstance(self.space, Normal):
            self._count_multiples(self.space.low, self.space.high)

    def _count_multiples(self, low: float, high: float) -> None:
        step = _as_written(self.step)
        first, last = -(-_as_written(low) // step), _as_written(high) // step
        if first > last:
            raise UsageError(
                f"Quantized: no multiple of step={self.step!r} lies between {low!r} and {high!r}"
            )
        self._set(_first=first, _last=last)

    @property
    def size(self) -> int | None:
        return None if self._last is None else self._last - self._first + 1

    @property
    def is_continuous(self) -> bool:
        return False

    def from_unit(self, u: float) -> float:
        if self._last is None:
            return self._multiply(round(self.space.from_unit(u) / self.step))
        if isinstance(self.space, (LogUniform, LogInteger)):
            return self._multiply(round_log_integer(u, self._first, self._last))
        size = self._last - self._first + 1
        return self._multiply(self._first + min(int(u * size), size - 1))

    def to_unit(self, value: float) -> float:
        if self._last is None:
            return self.space.to_unit(value)  # type: ignore[arg-type] # only a Normal has no end
        count = round(value / self.step)
        if isinstance(self.space, (LogUniform, LogInteger)):
            return log_unit(count, self._first - 0.5, self._last + 0.5)
        return clip_unit((count - self._first + 0.5) / (self._last - self._first + 1))

    def at(self, index: int) -> float:
        if self._last is None:
            raise UsageError(f"{self!r} has no end, so none of its points has the number {index!r}")
        return self._multiply(self._first + index)

    def _arguments(self) -> list[Any]:
        return [self.space.describe(), self.step]

    def _multiply(self, count: int) -> float:
        if isinstance(self.step, int):
            return count * self.step
        return round(count * self.step, self._digits)

    def _contains(self, value: float) -> bool:
        count = round(value / self.step)
        inside = self._last is None or self._first <= count <= self._last
        return inside and self._multiply(count) == value

    def _cast(self, value: float) -> float:
        return int(value) if isinstance(self.step, int) else float(value)


def _check_step(step: Any) -> float:
    number = check_real("Quantized", "step", step)
    if number <= 0:
        raise UsageError(f"Quantized needs step > 0, got step={step!r}")
    return number if isinstance(step, float) or not number.is_integer() else int(number)


def _as_written(number: float) -> Fraction:
    """Return the decimal that a float is written as: 0.1 is 1/10, not 0.1000000000000000055."""
    return Fraction(repr(number))
