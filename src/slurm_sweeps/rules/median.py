"""The median rule: a trial goes on while its best value is in the better half at its resource.

Let `resource` be the iteration, plus one for a trial whose own first iteration is 0. What a trial
has at a level is the best finite value of its reports up to the first one at or beyond the level;
if there is none, it has nothing there and does not count. Levels are 1, 2, 3, … and from 20 on a
tenth apart, so that iterations in the millions cost no more than some hundred numbers a trial, and
trials that report at different iterations meet. At each report, at or beyond min_t, a trial is
judged at the highest level it has reached: among n trials there, min_trials or more, it goes on if
what it has is one of the ⌈n / 2⌉ best. A report that is not finite fails there.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest

from ..checks import check_goal, check_integer, set_fields
from .protocol import Decision
from .ranking import Ranking


@dataclass(frozen=True, slots=True)
class MedianStopping:
    """Stop a trial whose best value is in the worse half of what others had at the same resource.

    A trial's resource is its iteration, plus one if its own first iteration is 0. It goes on if the
    best of its values so far is one of the ⌈n / 2⌉ best among the n trials that came as far; ties
    pass, and a value that is not finite does not. It stops late and few: for noisy curves, or to
    stop nothing but what is clearly bad.

    Args:
        metric: The metric's name in `log`.
        mode: "min" if smaller values are better, "max" if larger ones are.
        min_t: The resource below which no trial is stopped; 1 or more.
        min_trials: How many trials must have come as far for their median to count; 1 or more.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    metric: str
    mode: str
    min_t: int = 1
    min_trials: int = 5

    def __post_init__(self) -> None:
        check_goal("MedianStopping", self.metric, self.mode)
        for name in ("min_t", "min_trials"):
            number = check_integer("MedianStopping", name, getattr(self, name), 1)
            set_fields(self, **{name: number})

    def build_pruner(self) -> MedianPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        return MedianPruner(self)


#: Up to here every resource is a level; beyond, each is a tenth further than the one before.
_DENSE = 20


@dataclass(slots=True)
class _Stretch:
    """What a trial reported beyond one level, up to the next."""

    values: dict[int, float] = field(default_factory=dict)
    first: int = sys.maxsize
    best: float = math.nan

    def put(self, iteration: int, value: float) -> None:
        """Take in a value, which may replace one."""
        old = self.values.get(iteration)
        self.values[iteration] = value
        self.first = min(self.first, iteration)
        if old == self.best != value:
            self.best = min((v for v in self.values.values() if v == v), default=math.nan)
        else:
            self.best = _choose(self.best, value)


@dataclass(slots=True)
class _Course:
    """What one trial reported, and what it has at the levels.

    Its stretches, by the level at their end, are kept from the first report on that comes out of
    order: few trials have any, and a stretch takes as much as three values.
    """

    curve: dict[int, float] = field(default_factory=dict)
    stretches: dict[int, _Stretch] = field(default_factory=dict)
    bests: list[float] = field(default_factory=list)  # NaN for a level without a finite value
    last: int = -1
    best: float = math.nan
    offset: int = 0


class MedianPruner:
    """The median rule, report by report: O(log n) where iterations come in their order.

    It keeps all values, about 100 bytes each. An iteration that is logged again, or late, costs
    what the trial's levels and one stretch between two of them do.
    """

    def __init__(self, plan: MedianStopping) -> None:
        self._sign = 1.0 if plan.mode == "min" else -1.0
        self._plan = plan
        self._levels = [1]
        self._rankings = [Ranking(Fraction(2))]
        self._courses: dict[Hashable, _Course] = {}

    def report(self, trial: Hashable, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        course = self._courses.setdefault(trial, _Course())
        signed = self._sign * value if math.isfinite(value) else math.nan
        is_known = course.curve.get(iteration) == signed
        course.curve[iteration] = signed
        if iteration > course.last:
            course.offset = course.offset or int(iteration == 0)
            self._take(course, iteration, signed)
            if course.stretches:
                self._store(course, iteration, signed)
        elif not is_known:
            self._replace(course, iteration, signed)
        return self._judge(course, iteration, signed)

    def _judge(self, course: _Course, iteration: int, signed: float) -> Decision:
        if iteration + course.offset < self._plan.min_t or not course.bests:
            return Decision.GO_ON
        if math.isnan(signed):
            return Decision.PRUNE
        ranking = self._rankings[len(course.bests) - 1]
        # A report that came late is judged where the trial stands, as one in order is.
        fails = course.bests[-1] > ranking.threshold
        return Decision.PRUNE if fails and len(ranking) >= self._plan.min_trials else Decision.GO_ON

    def _replace(self, course: _Course, iteration: int, signed: float) -> None:
        """Take in a report that did not come in order."""
        starts_at_zero = iteration == 0 and not course.offset  # all resources grow by one
        if course.stretches and not starts_at_zero:
            self._store(course, iteration, signed)
        else:
            course.offset = int(0 in course.curve)
            course.stretches.clear()
            for at, value in course.curve.items():
                self._store(course, at, value)
        self._rank_again(course)

    def _store(self, course: _Course, iteration: int, signed: float) -> None:
        resource = iteration + course.offset
        self._extend_levels(resource)
        index = bisect_left(self._levels, resource)
        stretch = course.stretches.get(index)
        if stretch is None:
            stretch = course.stretches[index] = _Stretch()
        stretch.put(iteration, signed)

    def _take(self, course: _Course, iteration: int, signed: float) -> None:
        """Add the next report of a trial to what it has at the levels."""
        course.last = iteration
        course.best = _choose(course.best, signed)
        self._extend_levels(iteration + course.offset)
        for level in self._levels[len(course.bests) :]:
            if level > iteration + course.offset:
                return
            self._rankings[len(course.bests)].add(course.best)
            course.bests.append(course.best)

    def _rank_again(self, course: _Course) -> None:
        """Find what a trial has at the levels, and rank it anew where that is another."""
        best, bests = math.nan, list[float]()
        for index in sorted(course.stretches):
            stretch = course.stretches[index]
            # The stretch's first report is the first one beyond all levels since the last stretch.
            beyond = _choose(best, stretch.values[stretch.first])
            bests.extend([beyond] * (index - len(bests)))
            best = _choose(best, stretch.best)
            if self._levels[index] - course.offset in stretch.values:
                bests.append(best)
        pairs = zip_longest(course.bests, bests, fillvalue=math.nan)
        for ranking, (old, new) in zip(self._rankings, pairs, strict=False):
            if old != new:
                ranking.remove(old)
                ranking.add(new)
        course.bests, course.best = bests, best

    def _extend_levels(self, resource: int) -> None:
        while (last := self._levels[-1]) <= resource:
            self._levels.append(last + max(1, last // 10 if last >= _DENSE else 1))
            self._rankings.append(Ranking(Fraction(2)))


def _choose(best: float, value: float) -> float:
    """Return the smaller of two, of which each may be NaN for none."""
    return best if best <= value or math.isnan(value) else value
