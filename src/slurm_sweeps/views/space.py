"""What the stored description of a search space says about each parameter. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .formats import format_value

#: The key that marks a space in a stored description (as `Space.describe` writes it).
_SPACE_KEY = "$space"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that varies in a sweep.

    Args:
        name: Its place in the cfg, keys joined by dots.
        kind: The space's name, such as "LogUniform".
        is_log: Whether its values spread over orders of magnitude.
        text: The space as the user would write it.
    """

    name: str
    kind: str
    is_log: bool
    text: str


def list_parameters(description: Any) -> list[Parameter]:
    """Find all parameters of a stored space, those within options included, in its order.

    Args:
        description: What `SearchSpace.describe` returned, read back from JSON.
    """
    found: dict[str, Parameter] = {}
    _collect(description, "", found)
    return list(found.values())


def _collect(part: Any, path: str, found: dict[str, Parameter]) -> None:
    if isinstance(part, list):
        return  # spaces in lists are no columns: a list is one value
    if not isinstance(part, Mapping):
        return
    if _SPACE_KEY not in part:
        for key, child in part.items():
            _collect(child, f"{path}.{key}" if path else str(key), found)
        return
    options = _get_options(part)
    if options is None or not all(_is_dict(option) for option in options):
        found.setdefault(path, _build_parameter(path, part))
    for option in options or ():
        _collect_option(option, path, found)


def _get_options(part: Mapping[str, Any]) -> list[Any] | None:
    """The options of a Choice or a Grid, None for other spaces."""
    return _list_arguments(part)[0] if part[_SPACE_KEY] in ("Choice", "Grid") else None


def _list_arguments(part: Mapping[str, Any]) -> list[Any]:
    """What a space was made with; a space of a foreign kind may describe itself by names."""
    named = [value for key, value in part.items() if key not in (_SPACE_KEY, "seed", "args")]
    return [*part.get("args", ()), *named]


def _is_dict(option: Any) -> bool:
    return isinstance(option, Mapping) and _SPACE_KEY not in option


def _collect_option(option: Any, path: str, found: dict[str, Parameter]) -> None:
    """An option's keys are columns of their own, whether they vary within the option or not."""
    if not isinstance(option, Mapping):
        return
    if _SPACE_KEY in option:
        _collect(option, path, found)
        return
    for key, child in option.items():
        name = f"{path}.{key}"
        if isinstance(child, Mapping) and child:
            _collect_option(child, name, found)
        else:
            found.setdefault(name, Parameter(name, "Choice", False, f"in an option of {path}"))


def _build_parameter(name: str, part: Mapping[str, Any]) -> Parameter:
    kind = str(part[_SPACE_KEY])
    inner = _list_arguments(part)[0] if kind == "Quantized" else part
    is_log = str(inner.get(_SPACE_KEY, "")).startswith("Log")
    return Parameter(name, kind, is_log, format_space(part))


def list_constants(description: Any, prefix: str = "") -> dict[str, str]:
    """Find what does not vary in a stored space, as texts by name, keys joined by dots."""
    found: dict[str, str] = {}
    for key, value in description.items() if isinstance(description, Mapping) else ():
        name = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            found[name] = format_space(value)
        elif _SPACE_KEY not in value:
            found.update(list_constants(value, f"{name}."))
    return found


def format_space(part: Any) -> str:
    """Write a described space as in a script: `LogUniform(1e-5, 0.1)`."""
    if isinstance(part, Mapping) and _SPACE_KEY in part:
        arguments = [format_space(value) for value in _list_arguments(part)]
        return f"{part[_SPACE_KEY]}({', '.join(arguments)})"
    if isinstance(part, list):
        return f"[{', '.join(format_space(each) for each in part)}]"
    if isinstance(part, str):
        return repr(part)
    if isinstance(part, Mapping):
        inside = (f"{key!r}: {format_space(value)}" for key, value in part.items())
        return f"{{{', '.join(inside)}}}"
    return format_value(part)
