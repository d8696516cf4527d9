"""The k-th smallest of a growing multiset of numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


class Ranking:
    """A multiset of finite numbers that knows its k-th smallest, k = ⌈n / factor⌉.

    Two heaps meet at that number: the k smallest in one, largest first, and the rest in the other,
    smallest first. As k changes by at most one a step, each step moves at most one number over. A
    number that is taken out stays in its heap, noted as dead, until it comes to the top. So adding
    and removing cost O(log n), and looking is free. About 40 bytes a number.

    Attributes:
        threshold: The k-th smallest number; NaN, which nothing is at or below, if there is none.
    """

    def __init__(self, factor: Fraction) -> None:
        self._factor = factor.as_integer_ratio()  # so that k is exact
        self._best: list[float] = []  # negated: heapq keeps the smallest in front
        self._rest: list[float] = []
        self._n_best = self._n_rest = 0  # without the dead
        self._dead_best: dict[float, int] = {}
        self._dead_rest: dict[float, int] = {}
        self.threshold = math.nan

    def __len__(self) -> int:
        return self._n_best + self._n_rest

    def add(self, value: float) -> None:
        """Put a number in; one that is not finite is left out."""
        if value <= self.threshold:
            heappush(self._best, -value)
            self._n_best += 1
        elif math.isfinite(value):
            heappush(self._rest, value)
            self._n_rest += 1
        self._balance()

    def remove(self, value: float) -> None:
        """Take out a number that was put in."""
        if value <= self.threshold:
            # All that is smaller than the threshold is in that heap, and one that is equal.
            self._dead_best[-value] = self._dead_best.get(-value, 0) + 1
            self._n_best -= 1
        elif math.isfinite(value):
            self._dead_rest[value] = self._dead_rest.get(value, 0) + 1
            self._n_rest -= 1
        self._balance()

    def build_queue(self) -> Queue:
        """Return a queue for those whose numbers are in here."""
        return Queue(self)

    def _balance(self) -> None:
        numerator, denominator = self._factor
        k = -(-(self._n_best + self._n_rest) * denominator // numerator)
        if self._n_best < k:
            heappush(self._best, -_pop_living(self._rest, self._dead_rest))
            self._n_best, self._n_rest = self._n_best + 1, self._n_rest - 1
        elif self._n_best > k:
            heappush(self._rest, -_pop_living(self._best, self._dead_best))
            self._n_best, self._n_rest = self._n_best - 1, self._n_rest + 1
        if self._dead_best:
            _drop_dead(self._best, self._dead_best)
        self.threshold = -self._best[0] if self._best else math.nan


class Queue:
    """Trials that wait until their number is among the k best of a ranking: O(log n) each.

    The best is in front, and the one that waits longest among equals.
    """

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._heap: list[tuple[float, int, Hashable]] = []  # some may be out of date
        self._waiting: dict[Hashable, float] = {}
        self._n_put = 0

    def put(self, trial: Hashable, value: float) -> None:
        """Let a trial wait."""
        self._waiting[trial] = value
        heappush(self._heap, (value, self._n_put, trial))
        self._n_put += 1  # trials have no order

    def drop(self, trial: Hashable) -> None:
        """Let a trial wait no more."""
        del self._waiting[trial]

    def find_best(self) -> Hashable | None:
        """Return the best trial that waits if it is among the k best."""
        heap = self._heap
        while heap and self._waiting.get(heap[0][2]) != heap[0][0]:
            heappop(heap)
        return heap[0][2] if heap and heap[0][0] <= self._ranking.threshold else None


def _pop_living(heap: list[float], dead: dict[float, int]) -> float:
    if dead:
        _drop_dead(heap, dead)
    return heappop(heap)


def _drop_dead(heap: list[float], dead: dict[float, int]) -> None:
    """Pop what is dead off the top, so that a living number is in front."""
    while heap and (count := dead.get(heap[0], 0)):
        if count == 1:
            del dead[heap[0]]
        else:
            dead[heap[0]] = count - 1
        heappop(heap)


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
