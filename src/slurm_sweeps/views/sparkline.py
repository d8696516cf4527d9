"""A curve in one line of text. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"


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
    low, span = min(finite), max(finite) - min(finite)
    return "".join(_choose_bar(value, low, span) for value in bins)


def _choose_bar(value: float, low: float, span: float) -> str:
    if not math.isfinite(value):
        return " "
    share = (value - low) / span if span > 0 else 0.5
    return _BARS[min(len(_BARS) - 1, int(share * len(_BARS)))]


def _average(values: Sequence[float], width: int) -> list[float]:
    count = min(width, len(values))
    averaged = []
    for at in range(count):
        part = values[at * len(values) // count : (at + 1) * len(values) // count]
        finite = [value for value in part if math.isfinite(value)]
        averaged.append(sum(finite) / len(finite) if finite else math.nan)
    return averaged
