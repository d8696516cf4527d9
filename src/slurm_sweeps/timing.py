"""How long trials take, and which of those that wait fits into the time that a slot has left. Pure.

A slot in a job that is about to end is given what comes to something there: to its end, or, where
trials go on from checkpoints, to its next report. What is known of that is learnt from the trials
that have run. Nothing is known of the first ones: they fit everywhere.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from heapq import heappush, heappushpop
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: A trial that was lost after so many seconds, and begins anew, is taken to need so many times as
#: many: it would else be lost again, and again, in jobs of the same length.
BEYOND_LOST = 1.25

#: Trials that wait are told apart by their need in steps of an eighth.
_STEP = math.log(1.125)


class Median:
    """The lower median of numbers that come one by one: O(log n) for each."""

    def __init__(self) -> None:
        self._low: list[float] = []  # negated: the largest comes first
        self._high: list[float] = []

    def add(self, number: float) -> None:
        """Take a number in."""
        if len(self._low) == len(self._high):
            heappush(self._low, -heappushpop(self._high, number))
        else:
            heappush(self._high, -heappushpop(self._low, -number))

    def read(self) -> float | None:
        """Return the median; None while there is none."""
        return -self._low[0] if self._low else None


class Times:
    """What a trial needs until something of it is kept, in seconds.

    Args:
        resumes: Whether trials go on from checkpoints; where that is not said, it is learnt from
            the first one that does.
    """

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes
        self._spans = Median()  # of attempts that have ended by themselves
        self._firsts = Median()  # from an attempt's start to its first report
        self._lost = Median()  # what attempts have run that were lost
        self._longest_s = 0.0  # of the first ones
        self._iterations = 0  # of a complete trial

    def note_first_report(self, seconds: float) -> None:
        """A trial has reported for the first time, so long after its start."""
        self._firsts.add(seconds)

    def note_end(self, seconds: float, iterations: int) -> None:
        """An attempt has ended by itself, pruned or paused ones included."""
        self._spans.add(seconds)
        self._longest_s = max(self._longest_s, seconds)
        self._iterations = max(self._iterations, iterations)

    def note_loss(self, seconds: float) -> None:
        """An attempt was lost after so long."""
        self._lost.add(seconds)

    @property
    def tells_ends(self) -> bool:
        """Whether what a trial needs is the time to its end, and not nothing is known of that."""
        return not self.resumes and self._spans.read() is not None

    def may_end(self, ran_s: float, lost_s: float, within_s: float) -> bool:
        """Whether a trial that has begun anew should end by itself within so many seconds.

        One that has run for longer than it was taken to need may do so for a while.

        Args:
            ran_s: For how long it has run.
            lost_s: The longest of its attempts that were lost.
            within_s: How long it may go on, in seconds.
        """
        span_s = self._spans.read()
        if span_s is None:
            return False
        need_s = max(span_s, BEYOND_LOST * lost_s)
        return ran_s < BEYOND_LOST * need_s and need_s - ran_s <= within_s

    def estimate_new(self) -> float:
        """Return what a trial needs of which nothing is known but that it is like the others.

        That is what half of them have needed at most: of those that end, are pruned, or paused.
        """
        if self.resumes:
            return self._firsts.read() or 0.0
        lost_s = self._lost.read() or 0.0
        return self._spans.read() or BEYOND_LOST * lost_s

    def estimate(self, pace_s: float | None, lost_s: float) -> float:
        """Return what a trial needs that has run before.

        Args:
            pace_s: Seconds for each of its iterations, start and loading included; None if unknown.
            lost_s: The longest of its attempts that were lost.
        """
        if self.resumes:
            return self.estimate_new() if pace_s is None else pace_s
        if pace_s is None or not self._iterations:
            need_s = self.estimate_new()
        else:  # loading counts for each iteration here: too much, but for the longest that was seen
            need_s = min(pace_s * self._iterations, self._longest_s)
        return max(need_s, BEYOND_LOST * lost_s)


class WaitingLine(Generic[Item]):
    """Things that wait, each with a need; the first one whose need is met is taken out.

    Where all needs are met it is first in, first out. Needs are told apart in steps, each of which
    has a line of its own, so that a call looks at some hundred of them at most.
    """

    def __init__(self) -> None:
        self._lines: dict[int, deque[tuple[int, float, Item]]] = {}
        self._front = self._end = self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        """Give what waits, in order."""
        return (item for _, _, item in sorted(chain(*self._lines.values()), key=itemgetter(0)))

    def append(self, item: Item, need: float) -> None:
        """Put something at the end."""
        self._find_line(need).append((self._end, need, item))
        self._end += 1
        self._length += 1

    def appendleft(self, item: Item, need: float) -> None:
        """Put something before all others."""
        self._front -= 1
        self._find_line(need).appendleft((self._front, need, item))
        self._length += 1

    def _find_line(self, need: float) -> deque[tuple[int, float, Item]]:
        return self._lines.setdefault(round(math.log(max(need, 1.0)) / _STEP), deque())

    def pop(self, have: float) -> Item | None:
        """Take out the first one whose need is met, as far as steps tell; None if none is."""
        fitting = [(line[0][0], step) for step, line in self._lines.items() if line[0][1] <= have]
        if not fitting:
            return None
        _, step = min(fitting)
        line = self._lines[step]
        _, _, item = line.popleft()
        if not line:
            del self._lines[step]
        self._length -= 1
        return item

    def find_least(self) -> float:
        """Return a need that is the smallest, or a step from that; infinite if nothing waits."""
        return min((line[0][1] for line in self._lines.values()), default=math.inf)
