"""ASHA's rungs, kept report by report.

The rule. Let `resource` be the iteration, plus one for a trial whose own first iteration is 0. A
trial enters a rung with its first report at or beyond the rung's level; levels that were jumped
over are entered with that same report. At each report a trial is judged at every rung it has
entered: among n finite values there, it goes on if its own is one of the ⌈n / reduction factor⌉
best; ties pass, NaN and infinities never do. A trial at or beyond max_t is never pruned.

What a trial has at a rung is the value of its smallest iteration at or beyond the level. Said that
way, the order of the reports does not matter, and a retried trial that logs an iteration again
replaces its value: the state is a function of the stored metrics alone.

Two things follow. max_t is kept as one more level, without a ranking: whoever has entered it is
past judging. And when a trial that began at 1 logs 0 after all (a retry from the start), all its
resources grow by one, so that the value just below a level must be remembered until then.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable
from fractions import Fraction
from typing import NamedTuple

from ..rules.protocol import Decision
from ..rules.ranking import Ranking, compute_rank_correlation

#: So many trials must be in the second rung before the first one is doubted.
N_DOUBT = 50

#: A rank correlation below this is near zero. Only the best of the first rung are in the second,
#: which lowers it: of 0.5 among all trials about 0.27 is left among the best quarter.
LOW_CORRELATION = 0.1


def compute_rungs(min_t: int, max_t: int, factor: Fraction) -> tuple[int, ...]:
    """Return the levels min_t · factor^k up to max_t, each as the first whole resource beyond it.

    Args:
        min_t: Level of the first rung, 1 or more.
        max_t: Largest level there can be.
        factor: The reduction factor, 2 or more; exact, so that no level is off by a rounding.
    """
    levels = []
    level = Fraction(min_t)
    while level <= max_t:
        levels.append(math.ceil(level))
        level *= factor
    return tuple(levels)


class _Entry(NamedTuple):
    """A trial's value in a rung, for `mode="min"`; NaN for all that never passes."""

    iteration: int
    value: float


class _Standing:
    """Where a trial stands: one entry for each level it has entered, lowest first."""

    __slots__ = ("entries", "offset")

    def __init__(self) -> None:
        self.offset = 0
        self.entries: tuple[_Entry, ...] = ()


class AshaPruner:
    """The incremental ASHA: O(rungs · log n) a report, about 300 bytes a trial.

    Args:
        mode: "min" or "max".
        levels: The rungs' levels, ascending.
        max_t: From this resource on a trial is never pruned.
        factor: The reduction factor, 2 or more.
    """

    def __init__(self, mode: str, levels: tuple[int, ...], max_t: int, factor: Fraction) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self._levels = (*(level for level in levels if level < max_t), max_t)
        self._rankings = tuple(Ranking(factor) for _ in self._levels[:-1])
        self._standings: dict[Hashable, _Standing] = {}
        self._level_above = {level - 1: i for i, level in enumerate(self._levels)}
        self._just_below: dict[tuple[Hashable, int], float] = {}
        self._doubt_at = N_DOUBT

    def pop_doubt(self) -> str | None:
        """Say, once, that the first rung tells nothing of the second; None while it seems to.

        Costs O(n log n), but only as the number of trials in the second rung doubles.
        """
        if len(self._rankings) < 2 or len(self._rankings[1]) < self._doubt_at:
            return None
        pairs = [
            (standing.entries[0].value, standing.entries[1].value)
            for standing in self._standings.values()
            if len(standing.entries) > 1
        ]
        correlation = compute_rank_correlation([p for p in pairs if not math.isnan(p[0] + p[1])])
        self._doubt_at *= 2
        if correlation >= LOW_CORRELATION:
            return None
        self._doubt_at = sys.maxsize
        first, second = self._levels[:2]
        return (
            f"at resource {first} the metric says next to nothing about resource {second} (rank "
            f"correlation {correlation:.2f} over {len(pairs)} trials), so trials are stopped there "
            "almost at random: leave out a report before any training, or try a larger min_t"
        )

    def report(self, trial: Hashable, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        standing = self._standings.get(trial)
        if standing is None:
            standing = self._standings[trial] = _Standing()
        signed = self._sign * value if math.isfinite(value) else math.nan
        if standing.offset == 0:
            if iteration == 0:
                self._count_from_zero(trial, standing)
            elif (above := self._level_above.get(iteration)) is not None:
                self._just_below[trial, above] = signed
        if self._may_enter(standing, iteration):
            self._enter(standing, _Entry(iteration, signed))
        return self._judge(standing)

    def forget(self, trial: Hashable, from_iteration: int = 0) -> None:
        """Drop what the trial reported at `from_iteration` and beyond; see `Pruner.forget`."""
        standing = self._standings.get(trial)
        if standing is None:
            return
        for iteration, above in self._level_above.items():
            if iteration >= from_iteration:
                self._just_below.pop((trial, above), None)
        kept = sum(entry.iteration < from_iteration for entry in standing.entries)
        for ranking, entry in zip(self._rankings[kept:], standing.entries[kept:], strict=False):
            _take_out(ranking, entry.value)
        standing.entries = standing.entries[:kept]
        if from_iteration <= 0:
            del self._standings[trial]

    def judge(self, trial: Hashable) -> Decision:
        """Decide on a trial as it stands now, without a report of its own."""
        standing = self._standings.get(trial)
        return Decision.GO_ON if standing is None else self._judge(standing)

    def _judge(self, standing: _Standing) -> Decision:
        if len(standing.entries) == len(self._levels):
            return Decision.GO_ON
        for ranking, entry in zip(self._rankings, standing.entries, strict=False):
            if not entry.value <= ranking.threshold:
                return Decision.PRUNE
        return Decision.GO_ON

    def _may_enter(self, standing: _Standing, iteration: int) -> bool:
        # Most reports lie between two levels, beyond all that the trial has entered.
        n_entered = len(standing.entries)
        if n_entered and iteration <= standing.entries[-1].iteration:
            return True
        if n_entered == len(self._levels):
            return False
        return iteration + standing.offset >= self._levels[n_entered]

    def _enter(self, standing: _Standing, entry: _Entry) -> None:
        resource = entry.iteration + standing.offset
        for i, level in enumerate(self._levels):
            if level > resource:
                return
            if i == len(standing.entries) or entry.iteration <= standing.entries[i].iteration:
                self._put(standing, i, entry)

    def _put(self, standing: _Standing, i: int, entry: _Entry) -> None:
        entries = standing.entries
        if i < len(self._rankings):
            if i < len(entries):
                _take_out(self._rankings[i], entries[i].value)
            if entry.value == entry.value:  # not NaN
                self._rankings[i].add(entry.value)
        standing.entries = (*entries[:i], entry, *entries[i + 1 :])

    def _count_from_zero(self, trial: Hashable, standing: _Standing) -> None:
        standing.offset = 1
        for iteration, above in self._level_above.items():
            value = self._just_below.pop((trial, above), None)
            if value is not None:
                self._put(standing, above, _Entry(iteration, value))


def _take_out(ranking: Ranking, value: float) -> None:
    if value == value:  # not NaN
        ranking.remove(value)
