"""Choice and Grid: one of several values, whatever they are.

A value comes back as the very object that was given. Options may hold spaces themselves
(`Choice([{"name": "sgd", "momentum": Uniform(0, 1)}, {"name": "adam"}])`); what an option holds is
drawn only when the option is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..checks import check_seed, set_fields
from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .priors import place_prior
from .search_space import compile_options
from .spaces import Space
from .tree import Leaf, OptionsNode

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, repr=False)
class OptionSpace(Space):
    """What Choice and Grid share: a value is one of `options`, which may hold spaces."""

    options: Sequence[Any] = field()  # type: ignore[assignment] # a tuple once made
    seed: int | None = None
    _node: OptionsNode = field(init=False, repr=False, compare=False)

    def __new__(cls, *args: Any, **_: Any) -> OptionSpace:
        if len(args) > 2 or (len(args) == 2 and isinstance(args[0], (str, int, float))):
            raise UsageTypeError(_format_no_list(cls.__name__, *args))
        return object.__new__(cls)

    def __post_init__(self) -> None:
        owner = type(self).__name__
        options = _check_options(owner, self.options)
        set_fields(self, seed=check_seed(owner, self.seed), options=options)
        node = compile_options(Leaf("", self), options)
        _check_tellable(owner, node, options)
        if self.is_grid and len(node.distinct) < len(options):
            options = tuple(options[i] for i in node.distinct)
            set_fields(self, options=options)
            node = compile_options(Leaf("", self), options)
        set_fields(self, _node=node)

    @property
    def size(self) -> int | None:
        return self._node.size

    @property
    def is_continuous(self) -> bool:
        # Which option it is can well be drawn twice; the spaces in it speak for themselves.
        return False

    def from_unit(self, u: float) -> Any:
        """Return the option at u in [0, 1], the very object, spaces in it undrawn."""
        return self.options[self._node.leaf.pick_option(u)]

    def to_unit(self, value: Any) -> float:
        """Return the middle of the option's share of [0, 1]."""
        units: dict[Leaf, float] = {}
        self._node.read(json.loads(canonical_json(value)), units)
        return units[self._node.leaf]

    def sample(self, rng: np.random.Generator) -> Any:
        """Draw one option, and a value for every space in it."""
        return self._node.build(lambda _leaf: rng.random())

    def at(self, index: int) -> Any:
        return self._node.at(index)

    def describe(self) -> dict[str, Any]:
        return self._node.describe()

    def revive(self, json_value: Any) -> Any:
        return self._node.read(json_value, None)


@dataclass(frozen=True, slots=True, repr=False)
class Choice(OptionSpace):
    """One of the options, each as likely; an option given twice is twice as likely.

    Args:
        options: A list, tuple or other sequence of any values; numpy scalars become Python's.
        seed: Gives this space a repeatable stream of its own, whatever the sweep's seed.
        prior: An option that is a good guess, or a `Prior`, which has a confidence too.

    Raises:
        UsageError: No options; the guess is none of them; an option holds a Grid or keys that JSON
            can't hold; or two different options can't be told apart by their names.
        UsageTypeError: `options` is no sequence.
    """

    prior: Any = field(default=None, kw_only=True)  # a Prior once made

    def __post_init__(self) -> None:
        OptionSpace.__post_init__(self)
        place_prior(self)


@dataclass(frozen=True, slots=True, repr=False)
class Grid(OptionSpace):
    """All of the options, one after the other; several grids in a cfg multiply.

    Spaces beside it (or inside of its options) are drawn once for each point of the grid.

    Args:
        options: A list, tuple or other sequence of any values; numpy scalars become Python's. An
            option given twice counts once.
        seed: Taken as by the other spaces, for a sampler that draws from the grid at random.

    Raises:
        UsageError: No options; an option holds a Grid or keys that JSON can't hold; or two
            different options can't be told apart by their names.
        UsageTypeError: `options` is no sequence.
    """

    is_grid: ClassVar[bool] = True


def _check_options(owner: str, options: Any) -> tuple[Any, ...]:
    if hasattr(options, "tolist"):  # arrays and series: their own way to Python's numbers
        options = options.tolist()
    if isinstance(options, (str, bytes)) or not isinstance(options, Sequence):
        raise UsageTypeError(_format_no_list(owner, options))
    if not options:
        raise UsageError(f"{owner} needs at least one option, got {options!r}")
    generic = getattr(sys.modules.get("numpy"), "generic", ())
    return tuple(o.item() if isinstance(o, generic) else o for o in options)


def _format_no_list(owner: str, *got: Any) -> str:
    shown, kind = ", ".join(map(repr, got)), type(got[0]).__name__
    return f"{owner} needs a list of options, got {shown} ({kind}): write {owner}([{shown}])"


def _check_tellable(owner: str, node: OptionsNode, options: Sequence[Any]) -> None:
    """Refuse options that are stored as the same text though they are not the same.

    Plain data that is written the same is the same; two lambdas are both written `<lambda>`.
    """
    first: dict[str, Any] = {}
    for option, inner in zip(options, node.options, strict=True):
        text = canonical_json(inner.describe())
        other = first.setdefault(text, option)
        if other is not option and not _is_plain(option):
            raise UsageError(
                f"{owner}: {other!r} and {option!r} are both stored as {text}, so they could not "
                "be told apart; use named functions, or names that train() looks up"
            )


def _is_plain(option: Any) -> bool:
    try:
        json.dumps(option, default=_describe_space)
    except TypeError:
        return False
    return True


def _describe_space(value: Any) -> Any:
    if isinstance(value, Space):
        return value.describe()
    raise TypeError
