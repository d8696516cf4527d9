"""A search space that has grown: whether it holds the old one, and its trials as parts of it.

Whether it holds all that could be tried before is told by the ends of each of the old spaces, and
by each of their options, without a word for each kind of space: a range's end, or an option, that
is no value any more has shrunk. What lies between the ends is told by the trials themselves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError
from ..trial import canonical_json, flatten_cfg
from .choices import Choice, Grid
from .priors import Prior
from .repeat import Repeat
from .search_space import SearchSpace, join_path
from .spaces import SPACE_KEY, Integer, LogInteger, LogUniform, Normal, Quantized, Uniform
from .tree import BranchNode, ConstantNode, Leaf, Node, OptionsNode, format_place


def check_extends(old: Any, space: SearchSpace, values: Mapping[str, Any]) -> None:
    """Raise UsageError, which names the place, unless `space` holds all of an `old` description.

    `values` are what its new parameters were before, nested as the cfg is.
    """
    if unknown := flatten_cfg(values).keys() - space.names:
        raise UsageError(
            f"changed_space names {min(unknown)!r}, which is not in cfg: it has "
            f"{', '.join(map(repr, sorted(space.names)))}"
        )
    for cfg in _list_ends(SearchSpace(build_template(old))):
        read_older(json.loads(canonical_json(cfg)), space, values)


def read_older(stored: Any, space: SearchSpace, values: Mapping[str, Any]) -> Any:
    """Return a cfg of an older space, as JSON has it, with what it lacks of this one.

    Raises:
        UsageError: It is no configuration of this space; the message says where.
    """
    cfg = _complete(space.root, stored, json.loads(canonical_json(values)), "")
    space.revive(cfg)
    return cfg


def _list_ends(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Build configurations in which each space is once at each of its ends, or options."""
    yield space.build(lambda _: 0.5)
    for leaf in space.leaves:
        units = [leaf.find_unit(i) for i in range(leaf.n_options)] or [0.0, 1.0]
        yield from (space.build(_Units(leaf, unit).__getitem__) for unit in units)


class _Units(dict[Leaf, float]):
    """The unit of one leaf, those of the options that it lies in, and the middle of all others."""

    def __init__(self, leaf: Leaf, unit: float) -> None:
        super().__init__({leaf: unit})
        while leaf.parent is not None:
            self[leaf.parent] = leaf.parent.find_unit(leaf.option)
            leaf = leaf.parent

    def __missing__(self, _: Leaf) -> float:
        return 0.5


def _complete(node: Node, stored: Any, values: Any, path: str) -> Any:
    """Put in what a part of a cfg lacks: constants as they are, all else of `values`."""
    if isinstance(node, OptionsNode):
        return _complete_option(node, stored, values, path)
    children = _list_children(node)
    if children is None or not isinstance(stored, dict):
        return stored
    if gone := stored.keys() - children.keys():
        raise UsageError(
            f"cfg{format_place(join_path(path, min(gone)))} is gone, which the earlier trials "
            "have: keep it, as a constant if nothing else is to be tried"
        )
    below = values if isinstance(values, dict) else {}
    return {
        text: _complete(child, stored[text], below.get(text), join_path(path, text))
        if text in stored
        else _fill(child, below, text, join_path(path, text))
        for text, child in children.items()
    }


def _complete_option(node: OptionsNode, stored: Any, values: Any, path: str) -> Any:
    """Complete it as the first option that it then is; one that it is already comes first."""
    for option in (None, *node.options):
        with contextlib.suppress(UsageError):
            cfg = stored if option is None else _complete(option, stored, values, path)
            node.read(cfg, {})
            return cfg
    return stored


def _list_children(node: Node) -> dict[str, Node] | None:
    """List the values of a dict by their keys; None where it is none."""
    if isinstance(node, BranchNode) and node.texts is not None:
        return dict(zip(node.texts, node.children, strict=True))
    value = json.loads(node.key) if isinstance(node, ConstantNode) else None
    if not isinstance(value, dict):
        return None
    return {key: ConstantNode("", each, canonical_json(each)) for key, each in value.items()}


def _fill(node: Node, values: Mapping[str, Any], text: str, path: str) -> Any:
    """Return what stands at a place that earlier trials have not."""
    if isinstance(node, ConstantNode):
        return json.loads(node.key)
    if _list_children(node) is not None:
        return _complete(node, {}, values.get(text), path)
    if text not in values:
        told: Any = "…"
        for key in reversed(path.split(".")):
            told = f"{{{key!r}: {told}}}"
        raise UsageError(
            f"cfg{format_place(path)} is new: say what it was in the earlier trials, by "
            f"changed_space={told}"
        )
    return values[text]


# --- from its description, as the store keeps it, back to a cfg with spaces -----------------------

#: The spaces by the names under which they describe themselves.
_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Uniform, LogUniform, Normal, Integer, LogInteger, Quantized, Choice, Grid, Repeat)
}


def build_template(described: Any) -> Any:
    """Return a template whose space describes itself so; constants are as JSON has kept them."""
    if isinstance(described, list):
        return [build_template(each) for each in described]
    if not isinstance(described, dict):
        return described
    if SPACE_KEY not in described:
        return {key: build_template(each) for key, each in described.items()}
    if described[SPACE_KEY] == Prior.__name__:
        return Prior(*described["args"])
    kind = _KINDS[described[SPACE_KEY]]
    names = [each.name for each in dataclasses.fields(kind) if each.init and each.name != "seed"]
    arguments = map(build_template, described["args"])
    named = {name: build_template(v) for name, v in described.items() if name in ("prior", "base")}
    given = dict(zip(names, arguments, strict=False)) | named
    return kind(**given, seed=described["seed"])
