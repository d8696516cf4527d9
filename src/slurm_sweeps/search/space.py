"""What every search space is.

A space is the image of the unit interval: `from_unit` carries u in [0, 1] to a value on the
space's natural scale (logarithmic where the space is), `to_unit` carries a value back. Drawing is
`from_unit` of a uniform random number, so that random, quasi-random and model-based samplers all
meet a space through the same two methods, and equal steps of u are equally likely.

Values are native Python numbers, never numpy's: they end in JSON, in YAML and in user code that
checks `isinstance(x, int)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from ..errors import UsageError

#: Marks a space in a description, where a dict could else be one of the user's.
SPACE_KEY = "$space"


def clip_unit(u: float) -> float:
    """Return u moved into [0, 1]."""
    return min(max(u, 0.0), 1.0)


def log_unit(value: float, low: float, high: float) -> float:
    """Return where `value` lies between `low` and `high` on a logarithmic scale, in [0, 1]."""
    width = math.log(high) - math.log(low)
    if value <= low or width == 0.0:  # the logarithms of neighbouring floats can be the same
        return 0.0
    return clip_unit((math.log(value) - math.log(low)) / width)


class Space(ABC):
    """A set of values that a hyper-parameter can take, and how likely each is."""

    __slots__ = ()

    seed: int | None

    #: Options that may hold spaces themselves; None for a space of plain numbers.
    options: tuple[Any, ...] | None = None
    #: Whether all options are to be tried, each once, instead of drawn.
    is_grid: ClassVar[bool] = False

    @property
    @abstractmethod
    def size(self) -> int | None:
        """How many different values there are; None if they can't be counted to an end."""

    @property
    def is_continuous(self) -> bool:
        """Whether two draws are never equal (but for rounding)."""
        return self.size is None

    @abstractmethod
    def from_unit(self, u: float) -> Any:
        """Return the value at u in [0, 1]; it grows with u."""

    @abstractmethod
    def to_unit(self, value: Any) -> float:
        """Return a u in [0, 1] with `from_unit(u) == value`, up to rounding."""

    @abstractmethod
    def at(self, index: int) -> Any:
        """Return the value number `index` (0 <= index < size) of a finite space."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what defines the space, as JSON can hold it, to store and to compare."""

    @abstractmethod
    def revive(self, json_value: Any) -> Any:
        """Return the value that stands for `json_value`, read back from JSON.

        Raises:
            UsageError: No value of this space is written so.
        """

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw one value."""
        return self.from_unit(rng.random())

    def __repr__(self) -> str:
        return format_description(self.describe())


def describe_space(name: str, arguments: list[Any], seed: int | None) -> dict[str, Any]:
    """Return a space's description; a list keeps the arguments' order where JSON sorts keys."""
    return {SPACE_KEY: name, "args": arguments, "seed": seed}


def format_description(described: Any) -> str:
    """Write what `describe` returned as the user would write the space."""
    if isinstance(described, dict) and SPACE_KEY in described:
        arguments = [format_description(argument) for argument in described["args"]]
        if described["seed"] is not None:
            arguments.append(f"seed={described['seed']}")
        return f"{described[SPACE_KEY]}({', '.join(arguments)})"
    if isinstance(described, dict):
        items = (f"{k!r}: {format_description(v)}" for k, v in described.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(described, list):
        return f"[{', '.join(format_description(v) for v in described)}]"
    return repr(described)


class NumberSpace(Space):
    """What the spaces of numbers share. All are dataclasses of the arguments they were given."""

    __slots__ = ()

    def describe(self) -> dict[str, Any]:
        return describe_space(type(self).__name__, self._arguments(), self.seed)

    @abstractmethod
    def _arguments(self) -> list[Any]:
        """Return what the space was made of, as JSON can hold it, without the seed."""

    def revive(self, json_value: Any) -> Any:
        is_number = isinstance(json_value, (int, float)) and not isinstance(json_value, bool)
        if not is_number or not math.isfinite(json_value) or not self._contains(json_value):
            raise UsageError(f"{json_value!r} is no value of {self!r}")
        return self._cast(json_value)

    def at(self, index: int) -> Any:
        raise UsageError(f"{self!r} has no end, so none of its points has the number {index!r}")

    @abstractmethod
    def _contains(self, value: float) -> bool: ...

    def _cast(self, value: float) -> Any:
        return float(value)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
