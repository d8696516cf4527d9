"""Search spaces: what every one is, and those of one number each.

A space is the image of the unit interval: `from_unit` carries u in [0, 1] to a value on the
space's natural scale (logarithmic where the space is), `to_unit` carries a value back. Drawing is
`from_unit` of a uniform random number, so that random, quasi-random and model-based samplers all
meet a space through the same two methods, and equal steps of u are equally likely.

Values are native Python numbers, never numpy's: they end in JSON, in YAML and in user code that
checks `isinstance(x, int)`.

A quantized space of a bounded one is a space of the multiples' counts: `Quantized(LogUniform(16,
512), 16)` is 16 times `LogInteger(1, 32)`. So the first and the last multiple are as likely as
their neighbours, which rounding a float would make half as likely.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ..checks import as_fraction, check_integer, check_real, check_seed, set_fields
from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .priors import Prior, place_prior

if TYPE_CHECKING:  # a script's top level has spaces, and each host runs that
    import numpy as np

#: Marks a space in a description, where a dict could else be one of the user's.
SPACE_KEY = "$space"


class Space(ABC):
    """A set of values that a hyper-parameter can take, and how likely each is."""

    __slots__ = ()

    seed: int | None

    #: Options that may hold spaces themselves; None for a space of plain numbers.
    options: tuple[Any, ...] | None = None
    #: Whether all options are to be tried, each once, instead of drawn.
    is_grid: ClassVar[bool] = False
    #: A guess of a good value.
    prior: Prior | None = None

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


def describe_prior(prior: Prior | None) -> dict[str, Any]:
    """Return what a guess adds to the description of its space; nothing where there is none."""
    if prior is None:
        return {}
    value = json.loads(canonical_json(prior.value))
    is_plain = prior.confidence == "medium"
    return {
        "prior": value if is_plain else describe_space("Prior", [value, prior.confidence], None)
    }


def format_description(described: Any) -> str:
    """Write what `describe` returned as the user would write the space."""
    if isinstance(described, dict) and SPACE_KEY in described:
        arguments = [format_description(argument) for argument in described["args"]]
        named = ((k, v) for k, v in described.items() if k not in (SPACE_KEY, "args"))
        arguments += [f"{k}={format_description(v)}" for k, v in named if v is not None]
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

    is_log: ClassVar[bool] = False

    @property
    def size(self) -> int | None:
        return None

    def describe(self) -> dict[str, Any]:
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.init}  # type: ignore[arg-type] # all are dataclasses
        seed, prior = given.pop("seed"), given.pop("prior", None)
        arguments = [v.describe() if isinstance(v, Space) else v for v in given.values()]
        return describe_space(type(self).__name__, arguments, seed) | describe_prior(prior)

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


#: u = 0 and u = 1 would be infinitely far out on a normal distribution.
_UNIT_MARGIN = 2.0**-53


#: What a space's values are.
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, repr=False)
class _Interval(NumberSpace, Generic[Number]):
    """The numbers between two bounds; where these are the same, that one number."""

    low: Number
    high: Number
    seed: int | None = None
    prior: Any = field(default=None, kw_only=True)  # a Prior once made

    def __post_init__(self) -> None:
        owner = type(self).__name__
        low, high = (self._check(owner, name, getattr(self, name)) for name in ("low", "high"))
        if self.is_log and low <= 0:
            raise UsageError(
                f"{owner} needs low > 0, because a logarithmic scale has no zero, got low={low!r}"
            )
        if low > high:
            raise UsageError(f"{owner} needs low <= high, got low={low!r}, high={high!r}")
        self._check(owner, "high - low", high - low)
        set_fields(self, low=low, high=high, seed=check_seed(owner, self.seed))
        place_prior(self)

    @staticmethod
    @abstractmethod
    def _check(owner: str, name: str, value: Any) -> Number: ...

    @property
    def size(self) -> int | None:
        return 1 if self.low == self.high else None

    def at(self, index: int) -> Any:
        return self.low if self.size else NumberSpace.at(self, index)  # which raises

    def _contains(self, value: float) -> bool:
        return self.low <= value <= self.high


class _IntegerInterval(_Interval[int]):
    """The ints between two bounds, both included."""

    __slots__ = ()

    _check = staticmethod(check_integer)

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    def from_unit(self, u: float) -> int:
        return _pick_integer(u, self.low, self.high, self.is_log)

    def to_unit(self, value: int) -> float:
        return _place_integer(value, self.low, self.high, self.is_log)

    def at(self, index: int) -> int:
        return self.low + index

    def _contains(self, value: float) -> bool:
        return self.low <= value <= self.high and value == int(value)

    def _cast(self, value: float) -> int:
        return int(value)


@dataclass(frozen=True, slots=True, repr=False)
class Uniform(_Interval[float]):
    """A float between `low` and `high`, every one as likely.

    Args:
        low: Smallest value.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.
        prior: A guess of a good value, or a `Prior`, which has a confidence too.

    Raises:
        UsageError: The guess is out of the bounds, low > high, or a bound is not finite.
        UsageTypeError: A bound is not a number.
    """

    _check = staticmethod(check_real)

    def from_unit(self, u: float) -> float:
        # Unlike low + u * (high - low), this is exact at both ends.
        return _clip((1.0 - u) * self.low + u * self.high, self.low, self.high)

    def to_unit(self, value: float) -> float:
        width = self.high - self.low
        return _clip((value - self.low) / width, 0.0, 1.0) if width else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class LogUniform(_Interval[float]):
    """A float between `low` and `high`, every order of magnitude as likely.

    Args:
        low: Smallest value, above 0.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.
        prior: A guess of a good value, or a `Prior`, which has a confidence too.

    Raises:
        UsageError: low > high, low <= 0, a bound is not finite, or the guess is out of them.
        UsageTypeError: A bound is not a number.
    """

    is_log: ClassVar[bool] = True

    _check = staticmethod(check_real)

    def from_unit(self, u: float) -> float:
        # Powers can't overflow here, as the exponential of a sum of logarithms can.
        value: float = self.low ** (1.0 - u) * self.high**u
        return _clip(value, self.low, self.high)

    def to_unit(self, value: float) -> float:
        return _place_log(value, self.low, self.high)


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
        set_fields(self, mean=mean, std=std, seed=check_seed("Normal", self.seed))

    def from_unit(self, u: float) -> float:
        inside = _clip(u, _UNIT_MARGIN, 1.0 - _UNIT_MARGIN)
        from statistics import NormalDist

        return NormalDist(self.mean, self.std).inv_cdf(inside)

    def to_unit(self, value: float) -> float:
        # Unlike 1 + erf, this keeps all digits far below the mean.
        return 0.5 * math.erfc((self.mean - value) / (self.std * math.sqrt(2.0)))

    def _contains(self, value: float) -> bool:
        return math.isfinite(value)


@dataclass(frozen=True, slots=True, repr=False)
class Integer(_IntegerInterval):
    """An int between `low` and `high`, both included, every one as likely.

    Args:
        low: Smallest value.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.
        prior: A guess of a good value, or a `Prior`, which has a confidence too.

    Raises:
        UsageError: The guess is out of the bounds, low > high.
        UsageTypeError: A bound is not an integer.
    """


@dataclass(frozen=True, slots=True, repr=False)
class LogInteger(_IntegerInterval):
    """An int between `low` and `high`, both included, every order of magnitude as likely.

    An int k is what a log-uniform float between `low - 0.5` and `high + 0.5` is rounded to.

    Args:
        low: Smallest value, 1 or more.
        high: Largest value.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.
        prior: A guess of a good value, or a `Prior`, which has a confidence too.

    Raises:
        UsageError: The guess is out of the bounds, low > high, or low <= 0.
        UsageTypeError: A bound is not an integer.
    """

    is_log: ClassVar[bool] = True


def _pick_integer(u: float, low: int, high: int, is_log: bool) -> int:
    if is_log:
        x = math.exp((1.0 - u) * math.log(low - 0.5) + u * math.log(high + 0.5))
        return _clip(math.floor(x + 0.5), low, high)
    return min(low + int(u * (high - low + 1)), high)


def _place_integer(value: int, low: int, high: int, is_log: bool) -> float:
    if is_log:
        return _place_log(value, low - 0.5, high + 0.5)
    return _clip((value - low + 0.5) / (high - low + 1), 0.0, 1.0)


def _place_log(value: float, low: float, high: float) -> float:
    """Return where `value` lies between `low` and `high` on a logarithmic scale, in [0, 1]."""
    width = math.log(high) - math.log(low)
    if value <= low or width == 0.0:  # the logarithms of neighbouring floats can be the same
        return 0.0
    return _clip((math.log(value) - math.log(low)) / width, 0.0, 1.0)


def _clip(value: Number, low: Number, high: Number) -> Number:
    return min(max(value, low), high)


_Inner = Uniform | LogUniform | Integer | LogInteger | Normal


@dataclass(frozen=True, slots=True, repr=False)
class Quantized(NumberSpace):
    """Multiples of `step` that lie within the bounds of `space`, distributed as `space` is.

    The values are ints if `step` is an int, else floats, as short as they can be written: 0.3, not
    0.30000000000000004. With `base="low"` they are counted from the lower bound, as by `step=`
    elsewhere: 1, 3, 5, … of `Quantized(Integer(1, 9), 2, base="low")`.

    A guess is said in `space`; the multiple that is nearest takes its place.

    Args:
        space: A Uniform, LogUniform, Integer, LogInteger or Normal.
        step: What all values are multiples of, above 0.
        seed: Gives this space a repeatable stream of its own; None takes the seed of `space`.
        base: What the steps are counted from: "zero", or "low", the lower bound of a Uniform or an
            Integer; the values are ints then if that is whole too.

    Raises:
        UsageError: step <= 0, no multiple of it lies within the bounds, or `space` has no lower
            bound that steps are counted from.
        UsageTypeError: `space` is none of the above, or `step` is not a number.
    """

    space: _Inner
    step: float
    seed: int | None = None
    base: str = field(default="zero", kw_only=True)
    prior: Prior | None = field(init=False, compare=False, default=None)
    _base: float = field(init=False, compare=False, default=0)
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
        set_fields(self, step=step, seed=self.space.seed if seed is None else seed)
        if self.base != "zero":
            set_fields(self, _base=self._read_base())
        set_fields(self, _digits=max(map(_count_digits, (step, self._base))))
        if not isinstance(self.space, Normal):
            self._count_multiples(self.space.low, self.space.high)
            if guess := self.space.prior:
                nearest = self.from_unit(self.to_unit(guess.value))
                set_fields(self, prior=Prior(nearest, guess.confidence))
                place_prior(self)

    def _read_base(self) -> float:
        if self.base != "low":
            raise UsageError(f'Quantized: base must be "zero" or "low", got {self.base!r}')
        if not isinstance(self.space, Uniform | Integer):
            raise UsageError(
                'Quantized: base="low" is for a Uniform or an Integer, whose steps are as likely '
                f"wherever they begin, got {self.space!r}"
            )
        low = self.space.low
        return int(low) if isinstance(self.step, int) and low == int(low) else low

    def _count_multiples(self, low: float, high: float) -> None:
        step, base = as_fraction(self.step), as_fraction(self._base)
        first, last = -((base - as_fraction(low)) // step), (as_fraction(high) - base) // step
        if first > last:
            raise UsageError(
                f"Quantized: no multiple of step={self.step!r} lies between {low!r} and {high!r}"
            )
        set_fields(self, _first=first, _last=last)

    @property
    def size(self) -> int | None:
        return None if self._last is None else self._last - self._first + 1

    @property
    def is_continuous(self) -> bool:
        return False

    def describe(self) -> dict[str, Any]:
        described = NumberSpace.describe(self)
        del described["args"][2]  # the base, which older descriptions have not
        return described if self.base == "zero" else {**described, "base": self.base}

    def from_unit(self, u: float) -> float:
        if self._last is None:
            return self._multiply(round(self.space.from_unit(u) / self.step))
        return self._multiply(_pick_integer(u, self._first, self._last, self.space.is_log))

    def to_unit(self, value: float) -> float:
        if self._last is None:
            return self.space.to_unit(value)  # type: ignore[arg-type] # only a Normal has no end
        count = round((value - self._base) / self.step)
        return _place_integer(count, self._first, self._last, self.space.is_log)

    def at(self, index: int) -> float:
        if self._last is None:
            return float(NumberSpace.at(self, index))  # raises
        return self._multiply(self._first + index)

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.step, int) and isinstance(self._base, int)

    def _multiply(self, count: int) -> float:
        value = self._base + count * self.step
        if self._is_whole:
            return value
        rounded = round(value, self._digits)
        return rounded if isinstance(self.space, Normal) else min(rounded, self.space.high)

    def _contains(self, value: float) -> bool:
        count = round((value - self._base) / self.step)
        inside = self._last is None or self._first <= count <= self._last
        return inside and self._multiply(count) == value

    def _cast(self, value: float) -> float:
        return int(value) if self._is_whole else float(value)


def _count_digits(number: float) -> int:
    """How many digits a decimal number has behind the point."""
    return -int(Decimal(repr(number)).as_tuple().exponent)


def _check_step(step: Any) -> float:
    number = check_real("Quantized", "step", step)
    if number <= 0:
        raise UsageError(f"Quantized needs step > 0, got step={step!r}")
    return number if isinstance(step, float) or not number.is_integer() else int(number)
