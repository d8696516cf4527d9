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
from bisect import bisect, bisect_left
from collections.abc import Hashable
from dataclasses import dataclass, field
from fractions import Fraction

from ..checks import check_goal, check_integer, set_fields
from ..errors import UsageError
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
        if isinstance(self.metric, list | tuple):
            raise UsageError(
                f"MedianStopping goes by one metric, got {self.metric!r}: for several use ss.ASHA "
                "or ss.Hyperband, or name the one to judge by here, and all of them in the "
                "experiment's metric"
            )
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
class _Course:
    """What one trial reported, by iteration, and has at the levels; infinity is nothing finite."""

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    best_so_far: list[float] = field(default_factory=list)
    at_levels: list[float] = field(default_factory=list)
    offset: int = 0

    def put(self, iteration: int, value: float) -> tuple[int, int]:
        """Take in a value; return from where to where it changed what is the best so far."""
        start = bisect_left(self.iterations, iteration)
        if self.iterations[start : start + 1] != [iteration]:
            self.iterations.insert(start, iteration)
            self.values.insert(start, value)
            self.best_so_far.insert(start, math.nan)
        self.values[start] = value
        best = self.best_so_far[start - 1] if start else math.inf
        for end, each in enumerate(self.values[start:], start):
            best = each if each < best else best
            if best == self.best_so_far[end]:
                return start, end
            self.best_so_far[end] = best
        return start, len(self.values)


class MedianPruner:
    """The median rule, report by report: O(log n) where iterations come in their order.

    It keeps all values, about 100 bytes each. An iteration that is logged again, or late, costs as
    much as it changes of what was the best so far.
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
        signed = self._sign * value if math.isfinite(value) else math.inf
        start, end = course.put(iteration, signed)
        if iteration == 0 and not course.offset:  # all resources grow by one
            course.offset, start, end = 1, 0, len(course.values)
        if start < end:
            self._rank(course, start, end)
        return self._judge(course, iteration, signed)

    def _judge(self, course: _Course, iteration: int, signed: float) -> Decision:
        if iteration + course.offset < self._plan.min_t or not course.at_levels:
            return Decision.GO_ON
        if signed == math.inf:
            return Decision.PRUNE
        ranking = self._rankings[len(course.at_levels) - 1]
        # A report that came late is judged where the trial stands, as one in order is.
        fails = ranking.threshold < course.at_levels[-1] < math.inf
        return Decision.PRUNE if fails and len(ranking) >= self._plan.min_trials else Decision.GO_ON

    def _rank(self, course: _Course, start: int, end: int) -> None:
        """Rank a trial anew at the levels that its reports from `start` to `end` were first at."""
        reached = course.iterations[end - 1] + course.offset
        self._extend_levels(reached)
        before = course.iterations[start - 1] + course.offset if start else 0
        for i in range(bisect(self._levels, before), bisect(self._levels, reached)):
            best = course.best_so_far[
                bisect_left(course.iterations, self._levels[i] - course.offset)
            ]
            if i == len(course.at_levels):
                course.at_levels.append(math.inf)
            self._rankings[i].remove(course.at_levels[i])
            self._rankings[i].add(best)
            course.at_levels[i] = best

    def _extend_levels(self, resource: int) -> None:
        while (last := self._levels[-1]) <= resource:
            self._levels.append(last + max(1, last // 10 if last >= _DENSE else 1))
            self._rankings.append(Ranking(Fraction(2)))
