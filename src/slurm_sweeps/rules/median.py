"""The median rule: a trial goes on while its best value is in the better half at its resource.

Let `resource` be the iteration, plus one for a trial whose own first iteration is 0. What a trial
has at a level is the best finite value of its reports up to the first one at or beyond the level;
if there is none, it has nothing there and does not count. Levels are 1, 2, 3, … and from 20 on a
tenth apart, so that iterations in the millions cost no more than some hundred numbers a trial, and
trials that report at different iterations meet. At each report, at or beyond min_t, a trial is
judged at the highest level it has reached: among n trials there, min_trials or more, it goes on if
what it has is one of the ⌈n / 2⌉ best. A report that is not
finite fails there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction

from ..checks import check_goal, check_integer, set_fields
from .protocol import Decision
from .ranking import Ranking

#: Up to here every resource is a level; beyond, each is a tenth further than the one before.
_DENSE = 20


@dataclass(slots=True)
class _Course:
    """What one trial reported, and what it has at the levels below `n_entered`."""

    curve: dict[int, float] = field(default_factory=dict)
    bests: list[float] = field(default_factory=list)  # NaN for a level without a finite value
    last: int = -1
    best: float = math.nan
    offset: int = 0


class MedianPruner:
    """The median rule, report by report: O(log n) where iterations come in their order.

    It keeps all values, about 100 bytes each. An iteration that is logged again, or late, costs
    what the trial's whole curve does.

    Args:
        mode: "min" or "max".
        min_t: The resource up to which no trial is stopped.
        min_trials: How many trials a level must have for its median to count.
    """

    def __init__(self, mode: str, min_t: int, min_trials: int) -> None:
        self._sign = 1.0 if mode == "min" else -1.0
        self._min_t = min_t
        self._min_trials = min_trials
        self._levels = [1]
        self._rankings = [Ranking(Fraction(2))]
        self._courses: dict[Hashable, _Course] = {}

    def report(self, trial: Hashable, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        course = self._courses.setdefault(trial, _Course())
        signed = self._sign * value if math.isfinite(value) else math.nan
        in_order = iteration > course.last
        course.curve[iteration] = signed
        if in_order:
            course.offset = course.offset or int(iteration == 0)
            self._take(course, iteration, signed)
        else:
            self._rebuild(course)
        return self._judge(course, iteration, signed)

    def _judge(self, course: _Course, iteration: int, signed: float) -> Decision:
        if iteration + course.offset < self._min_t or not course.bests:
            return Decision.GO_ON
        if math.isnan(signed):
            return Decision.PRUNE
        ranking = self._rankings[len(course.bests) - 1]
        # A report that came late is judged where the trial stands, as one in order is.
        fails = course.bests[-1] > ranking.threshold
        return Decision.PRUNE if fails and len(ranking) >= self._min_trials else Decision.GO_ON

    def _take(self, course: _Course, iteration: int, signed: float) -> None:
        """Add the next report of a trial to what it has at the levels."""
        course.last = iteration
        if not course.best <= signed and not math.isnan(signed):
            course.best = signed
        resource = iteration + course.offset
        while self._get_level(len(course.bests)) <= resource:
            if not math.isnan(course.best):
                self._rankings[len(course.bests)].add(course.best)
            course.bests.append(course.best)

    def _rebuild(self, course: _Course) -> None:
        for ranking, best in zip(self._rankings, course.bests, strict=False):
            if not math.isnan(best):
                ranking.remove(best)
        course.bests, course.last, course.best = [], -1, math.nan
        course.offset = int(0 in course.curve)
        for iteration in sorted(course.curve):
            self._take(course, iteration, course.curve[iteration])

    def _get_level(self, index: int) -> int:
        while index >= len(self._levels):
            last = self._levels[-1]
            self._levels.append(last + max(1, last // 10 if last >= _DENSE else 1))
            self._rankings.append(Ranking(Fraction(2)))
        return self._levels[index]


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
        return MedianPruner(self.mode, self.min_t, self.min_trials)
