"""From the description of a search space, as the store keeps it, back to a cfg with spaces."""

from __future__ import annotations

import dataclasses
from typing import Any

from .choices import Choice, Grid
from .priors import Prior
from .repeat import Repeat
from .spaces import SPACE_KEY, Integer, LogInteger, LogUniform, Normal, Quantized, Uniform

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
