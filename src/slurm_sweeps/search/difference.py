"""How a search space differs from the one that an experiment was begun with."""

from __future__ import annotations

from typing import Any

from ..trial import canonical_json
from .space import SPACE_KEY, format_description


def describe_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return one sentence on the first difference of two descriptions, None if there is none.

    Args:
        old: What `SearchSpace.describe` returned then.
        new: What it returns now.
        path: Where in the cfg the two are, keys joined by dots.
    """
    if canonical_json(old) == canonical_json(new):
        return None
    if _is_mapping(old) and _is_mapping(new):
        return _compare_mappings(old, new, path)
    return f"{_name(path)} was {format_description(old)} and is now {format_description(new)}"


def _is_mapping(described: Any) -> bool:
    return isinstance(described, dict) and SPACE_KEY not in described


def _compare_mappings(old: dict[str, Any], new: dict[str, Any], path: str) -> str | None:
    for key in [*old, *(key for key in new if key not in old)]:
        place = f"{path}.{key}" if path else key
        if key not in new:
            return f"{_name(place)} was {format_description(old[key])} and is gone"
        if key not in old:
            return f"{_name(place)} is new: {format_description(new[key])}"
        if sentence := describe_difference(old[key], new[key], place):
            return sentence
    return None


def _name(path: str) -> str:
    return f"cfg[{path!r}]" if path else "cfg"
