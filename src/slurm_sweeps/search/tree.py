"""The tree behind a cfg with search spaces in it.

`compile_template` turns the user's dict into nodes, once; every walk over it is then a method of
four small classes: a constant, a branch (a dict, list or tuple), a leaf and a choice among options.
Options may hold spaces themselves, at any depth; such a space is *active* only in
configurations for which its option was picked.

A configuration is made by asking for one number in [0, 1] per active leaf (`build`). So random
draws, quasi-random points, grid points and the proposals of a model are one walk with different
numbers, and `read` is its inverse: it turns a configuration, as JSON holds it, back into objects
and into those numbers.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Protocol

from ..errors import UsageError
from ..trial import canonical_json
from .spaces import Space, describe_prior, describe_space

#: Answers with a number in [0, 1] for a leaf.
Pick = Callable[["Leaf"], float]


class Node(Protocol):
    """One part of a template."""

    @property
    def size(self) -> int | None:
        """How many different values it can take; None if they can't be counted to an end."""

    def build(self, pick: Pick) -> Any:
        """Return a value, made of `pick(leaf)` for every active leaf, in the template's order."""

    def at(self, index: int) -> Any:
        """Return the value number `index` of a finite node; the last leaf varies fastest."""

    def read(self, json_value: Any, units: dict[Leaf, float] | None) -> Any:
        """Return the value written as `json_value`; note each active leaf's unit if that is asked.

        Raises:
            UsageError: No value of this node is written so.
        """

    def describe(self) -> Any:
        """Return what defines it, as JSON can hold it."""


@dataclass(frozen=True, slots=True)
class ConstantNode:
    """A part without spaces: the user's own object, never copied."""

    path: str
    value: Any
    key: str

    @property
    def size(self) -> int:
        return 1

    def build(self, pick: Pick) -> Any:  # noqa: ARG002 - the base's
        return self.value

    def at(self, index: int) -> Any:  # noqa: ARG002 - the base's
        return self.value

    def read(self, json_value: Any, units: dict[Leaf, float] | None) -> Any:  # noqa: ARG002 - the base's
        if canonical_json(json_value) != self.key:
            raise UsageError(f"cfg{format_place(self.path)} is {json_value!r}, but here {self.key}")
        return self.value

    def describe(self) -> Any:
        return json.loads(self.key)


@dataclass(frozen=True, slots=True)
class BranchNode:
    """A dict, list or tuple with spaces somewhere in it; children are in the template's order."""

    path: str
    children: tuple[Node, ...]
    texts: tuple[str, ...] | None  # a dict's keys as JSON writes them
    make: Callable[[list[Any]], Any]  # of the children's values

    @property
    def size(self) -> int | None:
        sizes = [child.size for child in self.children]
        return None if None in sizes else math.prod(size or 0 for size in sizes)

    def build(self, pick: Pick) -> Any:
        return self.make([child.build(pick) for child in self.children])

    def at(self, index: int) -> Any:
        values = []
        for child in reversed(self.children):
            index, digit = divmod(index, child.size or 1)
            values.append(child.at(digit))
        return self.make(values[::-1])

    def read(self, json_value: Any, units: dict[Leaf, float] | None) -> Any:
        pairs = zip(self.children, self._split(json_value), strict=True)
        return self.make([child.read(value, units) for child, value in pairs])

    def _split(self, json_value: Any) -> list[Any]:
        """Return what stands for each of the children."""
        wanted = f"a list of {len(self.children)}"
        if self.texts is None:
            if isinstance(json_value, list) and len(json_value) == len(self.children):
                return json_value
        else:
            if isinstance(json_value, dict) and json_value.keys() == set(self.texts):
                return [json_value[text] for text in self.texts]
            wanted = f"a dict with the keys {list(self.texts)!r}"
        raise UsageError(f"cfg{format_place(self.path)} is {json_value!r}, but here {wanted}")

    def describe(self) -> Any:
        described = [child.describe() for child in self.children]
        return described if self.texts is None else dict(zip(self.texts, described, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A place in the template that holds a space; equal only to itself.

    It is the node of a space of numbers; to a Choice or Grid belongs an `OptionsNode`.

    Args:
        path: Where it is, keys and list positions joined by dots: `opt.lr`, `layers.0`. Leaves in
            different options of one Choice may share a path.
        space: The space.
        parent: The Choice or Grid leaf in whose option it lies, or None.
        option: The number of that option.
    """

    path: str
    space: Space
    parent: Leaf | None = None
    option: int = 0

    @property
    def n_options(self) -> int:
        """How many options the space has, 0 where it is one of numbers."""
        return len(self.space.options or ())

    def pick_option(self, u: float) -> int:
        """Return the number of the option whose share of [0, 1] holds u; all shares are equal."""
        return min(int(u * self.n_options), self.n_options - 1)

    def find_unit(self, option: int) -> float:
        """Return the middle of an option's share of [0, 1]."""
        return (option + 0.5) / self.n_options

    @property
    def size(self) -> int | None:
        return self.space.size

    def build(self, pick: Pick) -> Any:
        u, prior = pick(self), self.space.prior
        # A guess is to come as it was written, not as 0.0010000000000000002.
        return self.space.from_unit(u) if prior is None or u != prior.unit else prior.value

    def at(self, index: int) -> Any:
        return self.space.at(index)

    def read(self, json_value: Any, units: dict[Leaf, float] | None) -> Any:
        try:
            value = self.space.revive(json_value)
        except UsageError as error:
            raise UsageError(f"cfg{format_place(self.path)}: {error}") from None
        if units is not None:
            units[self] = self.space.to_unit(value)
        return value

    def describe(self) -> dict[str, Any]:
        return self.space.describe()


@dataclass(frozen=True, slots=True)
class OptionsNode:
    """A Choice or a Grid: one of several nodes."""

    leaf: Leaf
    options: tuple[Node, ...]
    numbers: dict[str, int]  # of each constant option's key, the first such option's number
    distinct: tuple[int, ...]  # without those that say the same as an earlier one

    @property
    def size(self) -> int | None:
        sizes = [self.options[i].size for i in self.distinct]
        return None if None in sizes else sum(size or 0 for size in sizes)

    def build(self, pick: Pick) -> Any:
        return self.options[self.leaf.pick_option(pick(self.leaf))].build(pick)

    def at(self, index: int) -> Any:
        for i in self.distinct:
            size = self.options[i].size or 1
            if index < size:
                return self.options[i].at(index)
            index -= size
        raise IndexError(index)

    def read(self, json_value: Any, units: dict[Leaf, float] | None) -> Any:
        key = canonical_json(json_value)
        number = self.numbers.get(key)
        if number is None:
            number, value, inner = self._find_option(json_value, key)
        else:
            value, inner = self.options[number].at(0), {}
        if units is not None:
            units[self.leaf] = self.leaf.find_unit(number)
            units.update(inner)
        return value

    def _find_option(self, json_value: Any, key: str) -> tuple[int, Any, dict[Leaf, float]]:
        """Return the first option that would be written just so, else the first that can be read.

        The two differ where a number space takes 1 for 1.0 and another option holds the integers.
        """
        readings = []
        for number in self.distinct:
            inner: dict[Leaf, float] = {}
            try:
                value = self.options[number].read(json_value, inner)
            except UsageError:
                continue
            if canonical_json(value) == key:
                return number, value, inner
            readings.append((number, value, inner))
        if readings:
            return readings[0]
        raise UsageError(
            f"cfg{format_place(self.leaf.path)} is {json_value!r}, which is none of the options of "
            f"{self.leaf.space!r}"
        )

    def describe(self) -> dict[str, Any]:
        options = [option.describe() for option in self.options]
        space = self.leaf.space
        described = describe_space(type(space).__name__, [options], space.seed)
        return described | describe_prior(space.prior)


#: Into how many parts of one constant, and of all of them, spaces are looked for.
MAX_PARTS, MAX_LOOKS = 1_000, 10_000


def find_space(constant: Any) -> tuple[str, Space] | None:
    """Find a space inside a constant, where none is drawn; return where it is, and itself.

    Looked into are collections of all kinds, object arrays and the attributes of objects.
    """
    rest, seen = deque([("", constant)]), {id(constant)}
    while rest and len(seen) < MAX_LOOKS:
        place, thing = rest.popleft()
        for label, part in islice(_list_parts(thing), MAX_PARTS):
            if isinstance(part, Space):
                return place + label, part
            if id(part) not in seen:
                seen.add(id(part))
                rest.append((place + label, part))
    return None


def _list_parts(thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, deque)):
        yield from ((f"[{i}]", value) for i, value in enumerate(thing))
    elif isinstance(thing, (set, frozenset)):
        yield from (("", value) for value in thing)
    elif getattr(getattr(thing, "dtype", None), "hasobject", False) and hasattr(thing, "flat"):
        yield from ((f".flat[{i}]", value) for i, value in enumerate(thing.flat))
    elif isinstance(thing, partial):
        yield from ((f".args[{i}]", value) for i, value in enumerate(thing.args))
        yield from ((f".keywords[{key!r}]", value) for key, value in thing.keywords.items())
    elif not isinstance(thing, (type, FunctionType, ModuleType, Space)):
        slots = (name for kind in type(thing).__mro__ for name in _list_slots(kind))
        names = dict.fromkeys((*getattr(thing, "__dict__", {}), *slots))
        yield from ((f".{name}", getattr(thing, name)) for name in names if hasattr(thing, name))


def _list_slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def format_place(path: str) -> str:
    """Write a path the way messages do: cfg['opt.lr'], or just cfg for the whole."""
    return f"[{path!r}]" if path else ""
