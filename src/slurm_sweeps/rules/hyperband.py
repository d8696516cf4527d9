"""Asynchronous Hyperband: several ASHAs side by side that differ in when they begin to judge.

Bracket b has the rungs from number b on. Each trial belongs to one bracket for good, and is judged
among the trials of that bracket alone. Brackets get trials in the shares of Hyperband (Li et al.
2018, arXiv 1603.06560), spread evenly over the trial numbers.
"""

from __future__ import annotations

import hashlib
from bisect import bisect
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import accumulate

from ..checks import check_goal, check_integer, check_reduction_factor, set_fields
from .asha import AshaPruner, compute_rungs
from .protocol import Decision


@dataclass(frozen=True, slots=True)
class Hyperband:
    """Asynchronous Hyperband: several ASHAs that begin to stop trials at different resources.

    For a metric whose first values may say nothing about later ones: some trials are given more
    time before they are judged. Where they do say something, ASHA alone finds as good a
    configuration sooner.

    Args:
        metric: The metric's name in `log`.
        mode: "min" if smaller values are better, "max" if larger ones are.
        max_t: The resource from which on no trial is stopped; 1 or more.
        reduction_factor: Of how many trials in a rung about one goes on; 2 or more.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    metric: str
    mode: str
    max_t: int = 50
    reduction_factor: float = 4

    def __post_init__(self) -> None:
        check_goal("Hyperband", self.metric, self.mode)
        max_t = check_integer("Hyperband", "max_t", self.max_t, 1)
        factor = check_reduction_factor("Hyperband", self.reduction_factor)
        set_fields(self, max_t=max_t, reduction_factor=factor)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The first bracket's rungs; bracket b has those from number b on."""
        return compute_rungs(1, self.max_t, self.reduction_factor)

    def build_pruner(self) -> HyperbandPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        return HyperbandPruner(self)


#: The golden ratio's fraction: its multiples are spread most evenly.
_GOLDEN = 0.6180339887498949


class HyperbandPruner:
    """Asynchronous Hyperband: O(rungs · log n) a report."""

    def __init__(self, plan: Hyperband) -> None:
        rungs, n = plan.rungs, len(plan.rungs)
        self._brackets = [AshaPruner(plan, rungs[b:]) for b in range(n)]
        shares = [plan.reduction_factor ** (n - 1 - b) * n / (n - b) for b in range(n)]
        self._bounds = [bound / sum(shares) for bound in accumulate(shares[:-1])]

    def report(self, trial: Hashable, iteration: int, value: float) -> Decision:
        """Take in a value and decide on the trial that reported it; see `Pruner.report`."""
        bracket = self._brackets[bisect(self._bounds, _spread(trial))]
        return bracket.report(trial, iteration, value)


def _spread(trial: Hashable) -> float:
    """Return a number in [0, 1) for a trial, the same in every process."""
    if isinstance(trial, int):
        return (trial + 1) * _GOLDEN % 1.0
    digest = hashlib.blake2s(str(trial).encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
