"""Values and search spaces as text for people: numbers, times, cfgs, curves, what varies. Pure.

Numbers have 4 significant digits in every view. What is shown where only so many characters fit
goes through `shorten`. What users, trials or a database may have written (names, keys, errors)
goes through `clean` or `clean_lines` on its way to a terminal.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What goes on with a sweep, unless its settings name its file.
AGAIN = "the script, run with restore=True,"

#: Significant digits of a number.
DIGITS = 4

#: What steers a terminal, breaks a line, or turns the direction of writing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")

#: Spaces that go from their first to their second argument.
_RANGES = ("Uniform", "LogUniform", "Integer", "LogInteger")

_NO_RANGE = {"low": None, "high": None, "is_log": False, "is_integer": False}

_BARS = "▁▂▃▄▅▆▇█"

#: The key that marks a space in a stored description (as `Space.describe` writes it).
_SPACE_KEY = "$space"


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_number(value: float | None) -> str:
    """Write a number with 4 significant digits, exponents short (`1.5e-5`); None as a dash.

    Whole numbers of type int are written in full up to 7 digits.
    """
    if value is None:
        return "-"
    if isinstance(value, int) and abs(value) < 10_000_000:
        return str(value)
    if not math.isfinite(value):
        return str(float(value))
    text = f"{value:.{DIGITS}g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def format_value(value: Any) -> str:
    """Write a value of a cfg in one line: numbers with 4 digits, the rest as it is."""
    if is_number(value):
        return format_number(value)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, str):
        return clean(value) or '""'
    return clean(json.dumps(_round(value), ensure_ascii=False, default=str))


def _round(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_round(each) for each in value]
    return value


def format_yaml(cfg: Any) -> str:
    """Write a cfg as YAML that can be pasted; what steers a terminal is written as escapes."""
    import yaml

    text: str = yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def format_duration(seconds: float | None) -> str:
    """Write a time span as `m:ss`, `h:mm:ss` or `2d 3:04:05`; None as a dash."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_span(seconds: float) -> str:
    """Write a time span in words, in its two largest units: `2 min 56 s`, `3 h 12 min`."""
    units = (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    rest = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in units:
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def format_age(seconds: float) -> str:
    """Write roughly how long ago something was: `5 s`, `12 min`, `3 h`, `2 days`."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= (2 if unit == "days" else 1) * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def say_how_to_retry(name: str, again: str | None) -> str:
    """Say what runs failed trials again: `retry` marks them, `again` tries the marked ones."""
    return f"'slurm-sweeps retry {name} --failed' marks them; {again or AGAIN} tries them again"


def format_provenance(told: Mapping[str, Any]) -> str:
    """Write in a line of what code a driver ran, and where; empty where nothing is known."""
    git = told.get("git") or {}
    changed = len(git.get("changed", ()))
    commit = f"commit {str(git['commit'])[:12]}" if git.get("commit") else ""
    if commit and git.get("dirty"):
        commit += f" with {changed} changed file{'s' * (changed > 1)}"
    parts = [
        str(told["script"]).rpartition("/")[2] if told.get("script") else "",
        commit,
        f"Python {told['python']}" if told.get("python") else "",
        f"on {told['host']}" if told.get("host") else "",
        f"job {told['job_id']}" if told.get("job_id") else "",
    ]
    return clean(", ".join(filter(None, parts)))


def clean(text: str) -> str:
    """Return text in one line, without control characters, so that it can't steer a terminal."""
    return _CONTROL.sub(" ", text).strip()


def clean_lines(text: str) -> str:
    """Return a text of several lines with each of them clean, and its indentation kept."""
    return "\n".join(_CONTROL.sub(" ", line).rstrip() for line in text.split("\n"))


def wrap_words(text: str, width: int) -> str:
    """Break lines that are too long between words; longer words, paths say, stay in one piece.

    So do lines that are indented, as those of a traceback are.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        parts = textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
        lines += parts if parts and not line[0].isspace() else [line]
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """Cut the end of a text that is longer than `width` characters."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def shorten_name(name: str, width: int) -> str:
    """Cut the beginning of a dotted name that is too long: its last part says most."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def format_columns(lines: Iterable[Sequence[str]]) -> list[str]:
    """Write lines of cells as columns, each as wide as its widest cell."""
    table = list(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]


def draw_sparkline(values: Sequence[float], width: int = 40) -> str:
    """Draw values from left to right as bars between their lowest and their highest.

    Args:
        values: In order; a NaN or an infinity leaves a gap.
        width: The characters at the most; more values than that are averaged in bins.
    """
    bins = _average(values, width)
    finite = [value for value in bins if math.isfinite(value)]
    if not finite:
        return " " * len(bins)
    low = min(finite) / 2  # halves: the span of the largest floats is none
    span = max(finite) / 2 - low
    return "".join(_choose_bar(value, low, span) for value in bins)


def _choose_bar(value: float, low: float, span: float) -> str:
    if not math.isfinite(value):
        return " "
    share = (value / 2 - low) / span if span > 0 else 0.5
    return _BARS[min(len(_BARS) - 1, int(share * len(_BARS)))]


def _average(values: Sequence[float], width: int) -> list[float]:
    count = min(width, len(values))
    averaged = []
    for at in range(count):
        part = values[at * len(values) // count : (at + 1) * len(values) // count]
        finite = [value for value in part if math.isfinite(value)]
        averaged.append(sum(finite) / len(finite) if finite else math.nan)
    return averaged


# --- what the stored description of a search space says -------------------------------------------


@dataclass(frozen=True, slots=True)
class Parameter:
    """One thing that varies in a sweep."""

    name: str  # its place in the cfg, keys joined by dots
    is_log: bool  # whether its values spread over orders of magnitude
    text: str  # the space as the user would write it


def list_parameters(description: Any, cfgs: Iterable[Mapping[str, Any]] = ()) -> list[Parameter]:
    """Find all parameters of a stored space, those within options included, in its order.

    Args:
        description: What `SearchSpace.describe` returned, read back from JSON.
        cfgs: Of trials, flat: where the space is empty, what they have drawn as they ran counts.
    """
    found: dict[str, Parameter] = {}
    _collect(description, "", found)
    if not description:
        names = dict.fromkeys(name for cfg in cfgs for name in cfg)
        return [Parameter(name, False, "drawn as the trial ran") for name in names]
    return list(found.values())


def _collect(
    part: Any, path: str, found: dict[str, Parameter], option_of: str | None = None
) -> None:
    """Find the parameters of a part that is no list: a list is one value, with no columns."""
    if not isinstance(part, Mapping):
        return
    if _SPACE_KEY in part:
        has_options = part[_SPACE_KEY] in ("Choice", "Grid")
        options = _list_arguments(part)[0] if has_options else []
        are_dicts = all(isinstance(each, Mapping) and _SPACE_KEY not in each for each in options)
        if not has_options or not are_dicts:
            found.setdefault(path, _build_parameter(path, part))
        for option in options:
            _collect(option, path, found, option_of=path)
        return
    for key, child in part.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(child, Mapping) and child:
            _collect(child, name, found, option_of)
        elif option_of is not None:  # an option's keys are columns, whether they vary in it or not
            found.setdefault(name, Parameter(name, False, f"in an option of {option_of}"))


def _list_arguments(part: Mapping[str, Any]) -> list[Any]:
    """What a space was made with; a space of a foreign kind may describe itself by names."""
    others = (_SPACE_KEY, "seed", "args", "prior")
    named = [value for key, value in part.items() if key not in others]
    return [*part.get("args", ()), *named]


def _build_parameter(name: str, part: Mapping[str, Any]) -> Parameter:
    inner = _list_arguments(part)[0] if part[_SPACE_KEY] == "Quantized" else part
    is_log = str(inner.get(_SPACE_KEY, "")).startswith("Log")
    return Parameter(name, is_log, format_space(part))


def list_spaces(description: Any, path: str = "") -> dict[str, dict[str, Any]]:
    """Find what values each parameter of a stored space can have.

    Returns:
        By name: `options` (None for numbers), `low` and `high` (None where there is no end),
        `is_log` and `is_integer`.
    """
    found: dict[str, dict[str, Any]] = {}
    if not isinstance(description, Mapping):
        return found
    if _SPACE_KEY not in description:
        for key, child in description.items():
            found |= list_spaces(child, f"{path}.{key}" if path else str(key))
        return found
    kind, arguments = str(description[_SPACE_KEY]), _list_arguments(description)
    if kind in ("Choice", "Grid"):
        options = arguments[0]
        for option in options:
            found |= list_spaces(option, path)
        if not any(isinstance(option, Mapping) for option in options):
            found[path] = {"options": options, **_NO_RANGE}
        return found
    inner = arguments[0] if kind == "Quantized" else description
    ends = _list_arguments(inner)[:2] if inner[_SPACE_KEY] in _RANGES else (None, None)
    is_log, is_integer = "Log" in inner[_SPACE_KEY], "Integer" in inner[_SPACE_KEY]
    low, high = ends
    found[path] = {
        "options": None,
        "low": low,
        "high": high,
        "is_log": is_log,
        "is_integer": is_integer,
    }
    return found


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
        arguments += [f"prior={format_space(part['prior'])}"] if "prior" in part else []
        return f"{part[_SPACE_KEY]}({', '.join(arguments)})"
    if isinstance(part, list):
        return f"[{', '.join(format_space(each) for each in part)}]"
    if isinstance(part, str):
        return repr(part)
    if isinstance(part, Mapping):
        inside = (f"{key!r}: {format_space(value)}" for key, value in part.items())
        return f"{{{', '.join(inside)}}}"
    return format_value(part)
