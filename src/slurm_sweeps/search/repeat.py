"""Repeat: a value that is no part of the search, but by which a configuration is run again.

A configuration is what is left of a cfg without it. What is proposed has the first value; the race
(`race.py`) says when a configuration is given its next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import check_integer, set_fields
from ..errors import UsageError, UsageTypeError
from .choices import OptionSpace
from .search_space import SearchSpace
from .tree import format_place


@dataclass(frozen=True, slots=True, repr=False)
class Repeat(OptionSpace):
    """A seed, or whatever else a configuration is run again with, to be judged by all its runs.

    Each run is a trial of its own, with one of the values. A configuration begins with the first
    value; it is given the next one when it leads: when the mean of its runs is in the better half
    of all configurations with as many. A run counts when it has completed or, with ASHA, has come
    to the highest rung of at most max_t / reduction_factor. A rule for stopping compares the means
    of configurations.

    Args:
        options: How many runs at most, 2 or more, of the values 0, 1, …; or a list of the values,
            two or more different numbers or texts.

    Raises:
        UsageError: Fewer than two values, or two of them are the same.
        UsageTypeError: Neither a number nor a list, or a value is neither a number nor a text.
    """

    def __post_init__(self) -> None:
        set_fields(self, options=_read_values(self.options))
        if self.seed is not None:
            raise UsageError(f"Repeat has no seed of its own, got seed={self.seed!r}: leave it out")
        OptionSpace.__post_init__(self)


def _read_values(given: Any) -> tuple[Any, ...]:
    if isinstance(given, int) and not isinstance(given, bool):
        return tuple(range(check_integer("Repeat", "n", given, 2)))
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise UsageTypeError(f"Repeat needs how many runs, or a list of values, got {given!r}")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise UsageTypeError(f"Repeat: values must be numbers or texts, got {value!r}")
    if len(given) < 2 or len(set(given)) < len(given):
        raise UsageError(f"Repeat needs two or more values, each another one, got {given!r}")
    return tuple(given)


@dataclass(frozen=True, slots=True)
class Repeats:
    """The Repeat of a search space."""

    path: str  # its dotted name
    values: tuple[Any, ...]  # what a configuration is run with, in this order
    space: SearchSpace  # with the first value in its place

    def write(self, cfg: Mapping[str, Any], place: int) -> dict[str, Any]:
        """Return a configuration with the value of a place, from 0."""
        return _put(cfg, self.path.split("."), self.values[place])


def find_repeats(space: SearchSpace) -> Repeats | None:
    """Find the Repeat of a search space, and check where it stands; None if it has none.

    Raises:
        UsageError: There are two, or it is where it can't be.
    """
    leaves = [leaf for leaf in space.leaves if isinstance(leaf.space, Repeat)]
    if not leaves:
        return None
    if len(leaves) > 1:
        raise UsageError(
            f"cfg has {len(leaves)} Repeats, at {[leaf.path for leaf in leaves]!r}: one says by "
            "which runs a configuration is judged; make the others a Choice, or derive them from it"
        )
    (leaf,) = leaves
    if leaf.parent is not None:
        raise UsageError(
            f"cfg{format_place(leaf.path)}: a Repeat can't lie in an option of a Choice or a Grid, "
            "as all configurations are compared by the same runs: put it beside"
        )
    names = leaf.path.split(".")
    if not _holds(space.template, names, leaf.space):
        raise UsageError(
            f"cfg{format_place(leaf.path)}: a Repeat must be a value of cfg, or of a dict in it, "
            "under a key that is a text without a dot"
        )
    values = tuple(leaf.space.options or ())
    return Repeats(
        leaf.path, values, SearchSpace(_put(space.template, names, values[0]), space.where)
    )


def _holds(template: Any, names: Sequence[str], wanted: Any) -> bool:
    for name in names:
        template = template.get(name) if isinstance(template, dict) else None
    return template is wanted


def _put(cfg: Mapping[str, Any], names: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = names
    return {**cfg, first: _put(cfg[first], rest, value) if rest else value}
