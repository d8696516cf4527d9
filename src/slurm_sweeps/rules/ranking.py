"""The k-th smallest of a growing multiset of numbers."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Ranking:
    """A multiset of finite numbers that knows its k-th smallest, k = ⌈n / factor⌉.

    It is a sorted list. To put a number in or take one out moves those behind it, by one call of
    the C library: 20 µs among 100,000, less than 5 µs among 10,000.
    """

    def __init__(self, factor: Fraction) -> None:
        self._factor = factor.as_integer_ratio()  # so that k is exact
        self._numbers: list[float] = []

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def threshold(self) -> float:
        """The k-th smallest number; NaN, which nothing is at or below, if there is none."""
        numerator, denominator = self._factor
        k = -(-len(self._numbers) * denominator // numerator)
        return self._numbers[k - 1] if k else math.nan

    def add(self, value: float) -> None:
        """Put a number in; one that is not finite is left out."""
        if math.isfinite(value):
            insort(self._numbers, value)

    def remove(self, value: float) -> None:
        """Take out a number that was put in."""
        if math.isfinite(value):
            del self._numbers[bisect_left(self._numbers, value)]


def compute_rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Return Spearman's correlation, ties at their mean rank; 0 where one side is all the same."""
    import numpy as np

    if not pairs:
        return 0.0
    first, second = (_rank(np.array(side)) for side in zip(*pairs, strict=True))
    if first.std() * second.std() == 0.0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def _rank(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray[Any, Any] = (last - (counts - 1) / 2)[group]
    return ranks
