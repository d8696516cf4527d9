"""SearchSpace: the cfg that the user wrote, spaces included, as samplers and the store see it.

From the user's dict to the tree of nodes, with all checks of what a template can get wrong; and how
a search space differs from the one that an experiment was begun with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .spaces import SPACE_KEY, Space, format_description
from .tree import BranchNode, ConstantNode, Leaf, Node, OptionsNode, Pick, find_space, format_place

if TYPE_CHECKING:
    import numpy as np


class SearchSpace:
    """A cfg with search spaces in it, checked once. Nothing in it changes after that.

    Args:
        template: A dict, nested as one likes, with spaces among its values.
        where: What has to be true of a configuration; None for any. `build`, `sample` and `at` do
            not ask it: who proposes does (`allows`, or `draws.draw_allowed`).

    Attributes:
        leaves: All places that hold a space, in the template's order, those in options included.
        names: The dotted names of all values that a configuration may have.
        grids: The leaves that are Grids.
        size: How many different configurations there are; None if they can't be counted to an end.
        root: The template as nodes.

    Raises:
        UsageTypeError: `template` is no dict, or holds a class of spaces where one of its
            instances was meant.
        UsageError: It holds itself, its keys can't be held by JSON, two of its values would have
            the same dotted name, or a Grid lies in an option.
    """

    def __init__(
        self, template: dict[str, Any], where: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        if not isinstance(template, dict):
            raise UsageTypeError(
                f"cfg must be a dict, got {template!r} ({type(template).__name__}); of an object "
                "with attributes vars(cfg) is one"
            )
        if where is not None and not callable(where):
            raise UsageTypeError(
                "where must be a function that takes a configuration and returns whether it may be "
                f"tried, got {where!r}"
            )
        self.template = template
        self.where = where
        try:
            self.root = compile_template(template)
        except RecursionError:
            raise UsageError("cfg is nested without an end: a part of it holds itself") from None
        self.names = list_names(template)
        self.leaves: tuple[Leaf, ...] = tuple(_walk_leaves(self.root))
        self.grids = tuple(leaf for leaf in self.leaves if leaf.space.is_grid)
        self.size = self.root.size

    @property
    def n_grid_points(self) -> int:
        """How many points the grids have together; 1 where there is no grid."""
        return math.prod(leaf.n_options for leaf in self.grids)

    def pick_grid_point(self, index: int) -> dict[Leaf, float]:
        """Return each grid's unit at point number `index`; the last grid varies fastest."""
        units = {}
        for leaf in reversed(self.grids):
            index, digit = divmod(index, leaf.n_options)
            units[leaf] = leaf.find_unit(digit)
        return units

    def find_grid_point(self, units: Mapping[Leaf, float]) -> int:
        """Return the number of the grid point that `units` (of all grids) belong to."""
        index = 0
        for leaf in self.grids:
            index = index * leaf.n_options + leaf.pick_option(units[leaf])
        return index

    def build(self, pick: Pick) -> dict[str, Any]:
        """Return the configuration made of `pick(leaf)`, in [0, 1], for each active leaf.

        The leaves are asked for in order; those in options that were not picked are not asked for.
        """
        return self._as_own(self.root.build(pick))

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw a configuration; grids are drawn like choices, and the spaces' seeds left aside."""
        return self.build(lambda _leaf: rng.random())

    def at(self, index: int) -> dict[str, Any]:
        """Return the configuration number `index` (0 <= index < size) of a finite space."""
        return self._as_own(self.root.at(index))

    def revive(self, json_cfg: Any) -> dict[str, Any]:
        """Return the configuration written as `json_cfg`: the inverse of `canonical_json`.

        Constants and options are the template's own objects.

        Raises:
            UsageError: It is no configuration of this space; the message says where.
        """
        return self._as_own(self.root.read(json_cfg, None))

    def allows(self, cfg: dict[str, Any]) -> bool:
        """Whether `where` is true of a configuration.

        Raises:
            UsageError: It raises an error.
        """
        if self.where is None:
            return True
        try:
            return bool(self.where(cfg))
        except Exception as error:
            raise UsageError(
                f"where raised {type(error).__name__}: {error}, for the configuration {cfg!r}: it "
                "must return True or False for each"
            ) from error

    def to_units(self, cfg: dict[str, Any]) -> dict[Leaf, float]:
        """Return the unit of each leaf that is active in `cfg`: the inverse of `build`.

        Raises:
            UsageError: It is no configuration of this space; the message says where.
        """
        units: dict[Leaf, float] = {}
        self.root.read(json.loads(canonical_json(cfg)), units)
        return units

    def describe(self) -> dict[str, Any]:
        """Return what defines this space, as JSON can hold it, to store and to compare."""
        described: dict[str, Any] = self.root.describe()
        return described

    def _as_own(self, cfg: dict[str, Any]) -> dict[str, Any]:
        # A template without spaces is one constant; each configuration is a dict of its own.
        return dict(cfg) if cfg is self.template else cfg

    def __repr__(self) -> str:
        return f"SearchSpace({self.template!r})"


def _walk_leaves(node: Node) -> Iterator[Leaf]:
    if isinstance(node, BranchNode):
        for child in node.children:
            yield from _walk_leaves(child)
    elif isinstance(node, OptionsNode):
        yield node.leaf
        for option in node.options:
            yield from _walk_leaves(option)
    elif isinstance(node, Leaf):
        yield node


def list_names(template: Any, path: str = "") -> set[str]:
    """Return the names that the values below `path` will have once flattened, if all differ."""
    if isinstance(template, Space) and template.options is not None:
        return set().union(*(list_names(option, path) for option in template.options))
    if not isinstance(template, dict) or not template:
        return {path}
    seen: set[str] = set()
    for key, value in template.items():
        names = list_names(value, join_path(path, str(key)))
        if both := seen & names:
            raise UsageError(
                f"cfg has two values with the dotted name {min(both)!r}; rename one of the keys"
            )
        seen |= names
    return seen


def compile_template(
    template: Any, path: str = "", parent: Leaf | None = None, option: int = 0
) -> Node:
    """Turn a dict, list, tuple, space or constant into nodes; see `Leaf` for its place."""
    if isinstance(template, Space):
        return _compile_space(template, Leaf(path, template, parent, option))
    if isinstance(template, dict):
        return _compile_branch(template, _write_keys(template, path), path, parent, option)
    if isinstance(template, (list, tuple)):
        positions = {str(i): i for i in range(len(template))}
        return _compile_branch(template, positions, path, parent, option)
    if isinstance(template, type) and issubclass(template, Space):
        raise UsageTypeError(
            f"cfg{format_place(path)} is the class {template.__name__}; make a space of it, such "
            "as Uniform(0, 1)"
        )
    found = find_space(template)
    if found is not None:
        raise UsageTypeError(
            f"cfg{format_place(path)} is a {type(template).__name__} with a space in it: "
            f"{found[0].lstrip('.') or 'a member'} is {found[1]!r}. Spaces are drawn in dicts, "
            f"lists and tuples: use one of those, and make the {type(template).__name__} in train"
        )
    return ConstantNode(path, template, canonical_json(template))


def _compile_space(space: Space, leaf: Leaf) -> Node:
    if space.is_grid and leaf.parent is not None:
        raise UsageError(
            f"cfg{format_place(leaf.path)}: a Grid can't lie in an option of a Choice or a Grid, "
            f"where its points could not all be tried; write {space!r} as a Choice"
        )
    if space.options is None:
        return leaf
    return compile_options(leaf, space.options)


def compile_options(leaf: Leaf, options: tuple[Any, ...]) -> OptionsNode:
    """Turn the options of a Choice or Grid at `leaf` into one node."""
    nodes = tuple(compile_template(o, leaf.path, leaf, i) for i, o in enumerate(options))
    first: dict[str, int] = {}
    for i, node in enumerate(nodes):
        first.setdefault(canonical_json(node.describe()), i)
    numbers = {key: i for key, i in first.items() if isinstance(nodes[i], ConstantNode)}
    return OptionsNode(leaf, nodes, numbers, tuple(first.values()))


def _compile_branch(
    template: Any, keys: dict[str, Any], path: str, parent: Leaf | None, option: int
) -> Node:
    """Turn a dict, list or tuple into a node, given its keys by the text of each."""
    children = tuple(
        compile_template(template[key], join_path(path, text), parent, option)
        for text, key in keys.items()
    )
    if all(isinstance(child, ConstantNode) for child in children):
        return ConstantNode(path, template, canonical_json(template))
    if isinstance(template, dict):
        return BranchNode(path, children, tuple(keys), partial(_make_dict, tuple(keys.values())))
    # A named tuple is made by _make, all others from one iterable.
    return BranchNode(path, children, None, getattr(type(template), "_make", type(template)))


def _make_dict(keys: tuple[Any, ...], values: list[Any]) -> dict[Any, Any]:
    return dict(zip(keys, values, strict=True))


def join_path(path: str, text: str) -> str:
    """Append a key or a list position to a path."""
    return f"{path}.{text}" if path else text


def nest(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Make a cfg of values by their dotted names."""
    cfg: dict[str, Any] = {}
    for path, value in cells.items():
        *parents, key = path.split(".")
        place = cfg
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[key] = value
    return cfg


def _write_keys(template: dict[Any, Any], path: str) -> dict[str, Any]:
    """Return the dict's keys by the text that JSON writes for each."""
    texts = {_write_key(key, path): key for key in template}
    if len(texts) < len(template):
        raise UsageError(
            f"cfg{format_place(path)} has keys that JSON writes the same way: {list(template)!r}"
        )
    try:
        sorted(template)
    except TypeError:
        raise UsageError(
            f"cfg{format_place(path)} mixes keys of types that have no order: {list(template)!r}; "
            "use strings"
        ) from None
    return texts


def _write_key(key: Any, path: str) -> str:
    try:
        text: str = next(iter(json.loads(json.dumps({key: None}))))
    except TypeError:
        raise UsageError(
            f"cfg{format_place(path)} has the key {key!r} ({type(key).__name__}), which JSON can't "
            "hold; use a string"
        ) from None
    return text


def list_differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Yield a sentence on each difference of two descriptions."""
    if canonical_json(old) == canonical_json(new):
        return
    if not (_is_mapping(old) and _is_mapping(new)):
        then, now = format_description(old), format_description(new)
        yield f"cfg{format_place(path)} was {then} and is now {now}"
        return
    for key in old | new:
        place = join_path(path, key)
        if key not in new:
            yield f"cfg{format_place(place)} was {format_description(old[key])} and is gone"
        elif key not in old:
            yield f"cfg{format_place(place)} is new: {format_description(new[key])}"
        else:
            yield from list_differences(old[key], new[key], place)


def _is_mapping(described: Any) -> bool:
    return isinstance(described, dict) and SPACE_KEY not in described
