"""Pruners other than ASHA, as the user configures them."""

from __future__ import annotations

from dataclasses import dataclass

from .checks import (
    as_fraction,
    check_goal,
    check_integer,
    check_reduction_factor,
)
from .errors import UsageError
from .rules.hyperband import HyperbandPruner
from .rules.median import MedianPruner
from .search.rungs import compute_rungs


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
            number = check_integer("MedianStopping", name, getattr(self, name))
            if number < 1:
                raise UsageError(f"MedianStopping: {name} must be 1 or more, got {number!r}")
            object.__setattr__(self, name, number)

    def build_pruner(self) -> MedianPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        return MedianPruner(self.mode, self.min_t, self.min_trials)


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
        max_t = check_integer("Hyperband", "max_t", self.max_t)
        if max_t < 1:
            raise UsageError(f"Hyperband: max_t must be 1 or more, got {max_t!r}")
        factor = check_reduction_factor("Hyperband", self.reduction_factor)
        object.__setattr__(self, "max_t", max_t)
        object.__setattr__(self, "reduction_factor", factor)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The first bracket's rungs; bracket b has those from number b on."""
        return compute_rungs(1, self.max_t, as_fraction(self.reduction_factor))

    def build_pruner(self) -> HyperbandPruner:
        """Return the rule in the form that takes reports one by one, with no trial known yet."""
        factor = as_fraction(self.reduction_factor)
        return HyperbandPruner(self.mode, self.rungs, self.max_t, factor)
