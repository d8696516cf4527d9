"""From overrides in Hydra's grammar to a search space, and back from a configuration to overrides.

A configuration's keys are those of the overrides: `{"model.lr": 0.1, "db": "mysql"}`. Those that
are not swept are constants of it, so that a sweep which goes on with other ones is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    Sweep,
    Transformer,
)
from hydra.errors import CompactHydraException

import slurm_sweeps as ss

#: The tags that mean something here.
TAGS = {"log", "int"}


@dataclass(frozen=True)
class Swept:
    """A parameter that is swept: its key as it stands in an override, its space, its options.

    Args:
        key: With the mark of an addition, if there is one: `+model.lr`.
        space: What is drawn, or a constant where there is only one value.
        texts: How each option is written in an override, by its JSON.
        examples: Overrides that show whether its values can be composed.
    """

    key: str
    space: Any
    texts: Mapping[str, str]
    examples: tuple[str, ...]

    def write(self, value: Any) -> str:
        """Write a value as an override."""
        return f"{self.key}={self.texts.get(json.dumps(value)) or format_value(value)}"


@dataclass(frozen=True)
class Space:
    """What the overrides of a multirun come to.

    Args:
        swept: By the name in the cfg.
        fixed: The other overrides, as they were written.
        template: The cfg of the experiment.
    """

    swept: Mapping[str, Swept]
    fixed: tuple[str, ...]
    template: dict[str, Any]

    @property
    def has_swept(self) -> bool:
        """Whether there is anything to try."""
        return any(isinstance(value, _SPACES) for value in self.template.values())

    def write(self, cfg: Mapping[str, Any]) -> list[str]:
        """Write a configuration as overrides."""
        return [*self.fixed, *(each.write(cfg[name]) for name, each in self.swept.items())]

    def list_examples(self, most: int) -> Iterator[list[str]]:
        """Give overrides of configurations in which each option appears; at most so many."""
        longest = max((len(each.examples) for each in self.swept.values()), default=1)
        for i in range(min(longest, most)):
            parts = [each.examples[i % len(each.examples)] for each in self.swept.values()]
            yield [*self.fixed, *parts]


_SPACES = (
    *(ss.Uniform, ss.LogUniform, ss.Integer, ss.LogInteger, ss.Quantized),
    *(ss.Choice, ss.Grid),
)


def build_space(overrides: list[Override], all_of_them: bool) -> Space:
    """Make a search space of overrides.

    Args:
        overrides: All of them; of two with the same name the later one counts.
        all_of_them: Whether every combination is to be run, instead of some that are drawn.

    Raises:
        CompactHydraException: Something can't be swept.
    """
    swept: dict[str, Swept] = {}
    fixed: dict[str, str] = {}
    template: dict[str, Any] = {}
    for override in overrides:
        name = override.get_key_element().lstrip("+")
        for known in (swept, fixed, template):
            known.pop(name, None)
        if override.is_hydra_override() and override.is_sweep_override():
            raise CompactHydraException(
                f"{override.input_line}: settings of Hydra's own can't be swept"
            )
        if override.is_sweep_override():
            swept[name] = _read(override, all_of_them)
            template[name] = swept[name].space
        else:
            fixed[name] = str(override.input_line)
            if not override.is_delete():
                template[name] = override.value()
    return Space(swept, tuple(fixed.values()), template)


def _read(override: Override, all_of_them: bool) -> Swept:
    key, sweep, line = override.get_key_element(), override.value(), override.input_line
    tags = sweep.tags if isinstance(sweep, Sweep) else set()
    if tags - TAGS:
        raise CompactHydraException(
            f"{line}: the tag {min(tags - TAGS)!r} means nothing to the sweeper slurm_sweeps, "
            f"which knows {' and '.join(sorted(TAGS))}"
        )
    if isinstance(sweep, IntervalSweep):
        if all_of_them:
            raise CompactHydraException(
                f"{line} has values without end: say how many to draw, hydra.sweeper.n_trials=50"
            )
        return _as_swept(key, _read_interval(sweep, line))
    if isinstance(sweep, ChoiceSweep | RangeSweep) and sweep.shuffle and all_of_them:
        raise CompactHydraException(
            f"{line}: all combinations are run, in their order: leave shuffle out, or say how many "
            "to draw, hydra.sweeper.n_trials=50"
        )
    if isinstance(sweep, RangeSweep) and not sweep.shuffle and not all_of_them:
        return _as_swept(key, _read_range(sweep, line))
    if "log" in tags:
        raise CompactHydraException(
            f"{line}: only intervals, and ranges of which some are drawn, take log"
        )
    options = list(_list_options(override, sweep))
    if not options:
        raise CompactHydraException(f"{line} has no value")
    values = [int(each) if "int" in tags else _convert(each) for each in options]
    texts = {
        json.dumps(value): Transformer.str(option)
        for value, option in zip(values, options, strict=True)
    }
    space = (ss.Grid if all_of_them else ss.Choice)(values) if len(values) > 1 else values[0]
    return Swept(key, space, texts, tuple(f"{key}={text}" for text in texts.values()))


def _list_options(override: Override, sweep: Any) -> Any:
    """Its values in their own order, which is that of the space, also where they are shuffled."""
    if isinstance(sweep, ChoiceSweep):
        return sweep.list
    return sweep.range() if isinstance(sweep, RangeSweep) else override.sweep_iterator()


def _as_swept(key: str, space: Any) -> Swept:
    """A parameter whose values are numbers."""
    ends = {space.from_unit(0.0), space.from_unit(1.0)} if isinstance(space, _SPACES) else {space}
    return Swept(key, space, {}, tuple(f"{key}={format_value(end)}" for end in sorted(ends)))


def _read_interval(sweep: IntervalSweep, line: Any) -> Any:
    low, high = sweep.start, sweep.end
    if "int" in sweep.tags:
        low, high = int(low), int(high)
    if low == high:
        return low
    whole = isinstance(low, int) and isinstance(high, int)
    kind = {
        (False, False): ss.Uniform,
        (False, True): ss.LogUniform,
        (True, False): ss.Integer,
        (True, True): ss.LogInteger,
    }[whole, "log" in sweep.tags]
    return _build(line, kind, low, high)


def _read_range(sweep: RangeSweep, line: Any) -> Any:
    """The numbers of a range, in their order; its stop is none of them, as in Hydra."""
    values = sorted(sweep.range())
    if not values:
        raise CompactHydraException(f"{line} has no value")
    if "int" in sweep.tags:
        values = [int(value) for value in values]
    low, high, step, is_log = values[0], values[-1], abs(sweep.step), "log" in sweep.tags
    if low == high:
        return low
    is_whole = isinstance(low, int) and isinstance(high, int)
    if is_whole and step == 1:
        return _build(line, ss.LogInteger if is_log else ss.Integer, low, high)
    if is_log:
        raise CompactHydraException(
            f"{line}: a range in steps has no logarithmic scale: leave log out"
        )
    inner = _build(line, ss.Integer if is_whole else ss.Uniform, low, high)
    return _build(line, ss.Quantized, inner, step, base="low")


def _build(line: Any, kind: Any, *arguments: Any, **named: Any) -> Any:
    try:
        return kind(*arguments, **named)
    except ss.UsageError as error:
        raise CompactHydraException(f"{line}: {error}") from error


def _convert(value: Any) -> Any:
    """What an override's value is without the quotes around its texts."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_convert(each) for each in value]
    if isinstance(value, dict):
        return {_convert(key): _convert(each) for key, each in value.items()}
    return value


def format_value(value: Any) -> str:
    """Write a plain value as it stands in an override."""
    return str(Transformer.str(value))
