"""Configurations that the user wants tried first, whole or in part."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .draws import Streams
from .search_space import SearchSpace

#: How often what a partial point leaves open is drawn, until it fits the options the point names.
_N_DRAWS = 1000


def fill_points(
    points: Sequence[Mapping[str, Any]], space: SearchSpace, seed: int
) -> tuple[dict[str, Any], ...]:
    """Return configurations that agree with the points; what these leave open is drawn.

    Args:
        points: Configurations, or parts of some: dicts nested as the cfg is.
        space: The search space.
        seed: The sweep's seed; the same draws in every process.

    Raises:
        UsageTypeError: `points` is no list of dicts.
        UsageError: A point agrees with no configuration of the space.
    """
    if isinstance(points, (str, Mapping)) or not isinstance(points, Sequence):
        raise UsageTypeError(f"points_to_evaluate must be a list of dicts, got {points!r}")
    streams = Streams(seed, "points")
    return tuple(_fill(point, i, space, streams) for i, point in enumerate(points))


def _fill(point: Any, number: int, space: SearchSpace, streams: Streams) -> dict[str, Any]:
    if not isinstance(point, Mapping):
        raise UsageTypeError(
            f"points_to_evaluate[{number}] must be a dict, got {point!r} ({type(point).__name__})"
        )
    rng = streams.go_to(number)
    for _ in range(_N_DRAWS):
        try:
            # Read as it is, not made of units: 1e-3 is to stay 1e-3.
            return space.revive(json.loads(canonical_json(_overlay(space.sample(rng), point))))
        except UsageError as error:
            why = error
    raise UsageError(
        f"points_to_evaluate[{number}] = {point!r} is no part of any configuration: {why}"
    ) from why


def _overlay(drawn: Any, wanted: Any) -> Any:
    """Return what was drawn, with the wanted values in their places."""
    if not isinstance(wanted, Mapping):
        return wanted
    below = drawn if isinstance(drawn, dict) else {}
    return below | {key: _overlay(below.get(key), value) for key, value in wanted.items()}
