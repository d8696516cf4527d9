"""From the user's dict to the tree of nodes; checks all that a template can get wrong."""

from __future__ import annotations

import json
from typing import Any

from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .space import Space
from .tree import (
    ConstantNode,
    Leaf,
    MappingNode,
    Node,
    NumberNode,
    OptionsNode,
    RowNode,
    format_place,
)


def compile_template(
    template: Any, path: str = "", parent: Leaf | None = None, option: int = 0
) -> Node:
    """Turn a template into nodes.

    Args:
        template: A dict, list, tuple, space or constant.
        path: Where it is; keys and list positions joined by dots.
        parent: The Choice or Grid leaf in whose option it lies, or None.
        option: The number of that option.

    Raises:
        UsageError: A dict has keys that JSON can't hold, or an option holds a Grid.
        UsageTypeError: A class of spaces stands where one of its instances was meant.
    """
    if isinstance(template, Space):
        return _compile_space(template, Leaf(path, template, parent, option))
    if isinstance(template, dict):
        return _compile_mapping(template, path, parent, option)
    if isinstance(template, (list, tuple)):
        return _compile_row(template, path, parent, option)
    if isinstance(template, type) and issubclass(template, Space):
        raise UsageTypeError(
            f"cfg{format_place(path)} is the class {template.__name__}; make a space of it, such "
            "as Uniform(0, 1)"
        )
    return ConstantNode(path, template, canonical_json(template))


def _compile_space(space: Space, leaf: Leaf) -> Node:
    if space.is_grid and leaf.parent is not None:
        raise UsageError(
            f"cfg{format_place(leaf.path)}: a Grid can't lie in an option of a Choice or a Grid, "
            f"where its points could not all be tried; write {space!r} as a Choice"
        )
    if space.options is None:
        return NumberNode(leaf)
    return compile_options(leaf, space.options)


def compile_options(leaf: Leaf, options: tuple[Any, ...]) -> OptionsNode:
    """Turn the options of a Choice or Grid at `leaf` into one node."""
    nodes = tuple(compile_template(o, leaf.path, leaf, i) for i, o in enumerate(options))
    first: dict[str, int] = {}
    for i, node in enumerate(nodes):
        first.setdefault(canonical_json(node.describe()), i)
    numbers = {key: i for key, i in first.items() if isinstance(nodes[i], ConstantNode)}
    return OptionsNode(type(leaf.space).__name__, leaf, nodes, numbers, tuple(first.values()))


def _compile_mapping(template: dict[Any, Any], path: str, parent: Leaf | None, option: int) -> Node:
    texts = _write_keys(template, path)
    children = {
        key: compile_template(template[key], join_path(path, text), parent, option)
        for text, key in texts.items()
    }
    if all(isinstance(child, ConstantNode) for child in children.values()):
        return ConstantNode(path, template, canonical_json(template))
    return MappingNode(path, children, texts)


def _compile_row(
    template: list[Any] | tuple[Any, ...], path: str, parent: Leaf | None, option: int
) -> Node:
    children = tuple(
        compile_template(item, join_path(path, str(i)), parent, option)
        for i, item in enumerate(template)
    )
    if all(isinstance(child, ConstantNode) for child in children):
        return ConstantNode(path, template, canonical_json(template))
    # A named tuple is made by _make, all others from one iterable.
    return RowNode(path, children, getattr(type(template), "_make", type(template)))


def join_path(path: str, text: str) -> str:
    """Append a key or a list position to a path."""
    return f"{path}.{text}" if path else text


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
