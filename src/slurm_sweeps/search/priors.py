"""Guesses of where good values are, and draws near them.

A draw near a guess is one number in [0, 1] carried to another, on the space's own scale: for
numbers that of a normal distribution around the guess, cut off at the bounds; an option that is the
guess has more weight than the others. How wide and how much is said by a confidence, in the steps
that users of PriorBand know. Source: Mallik et al., "PriorBand: Practical Hyperparameter
Optimization in the Age of Deep Learning" (2023), arXiv 2306.12370.

Of random draws every second is near the guess at first, and ever fewer later, at a rate that
follows from the trial's number alone. So good guesses pay at once, wrong ones cost a part of the
first draws and next to nothing later, and what is drawn is repeatable.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..checks import set_fields
from ..errors import UsageError
from ..trial import canonical_json

if TYPE_CHECKING:
    from .spaces import Space

#: By confidence: the standard deviation in units, and the weight of an option against another.
WIDTHS = {"low": 0.5, "medium": 0.25, "high": 0.125}
WEIGHTS = {"low": 2, "medium": 4, "high": 6}

#: The share of draws near the guess, and of how many; from then on it falls with one over the
#: number.
FIRST_SHARE, N_FIRST = 0.5, 16

#: The ends of [0, 1] may be infinitely far out on a normal distribution.
_MARGIN = 2.0**-53


@dataclass(frozen=True, slots=True)
class Prior:
    """A guess of a good value: `LogUniform(1e-5, 1e-1, prior=Prior(1e-3, "high"))`.

    `prior=1e-3` says the same with medium confidence. The first configuration of a sweep takes all
    guesses; what is drawn at random is near them at first.

    Args:
        value: The value, one of the space's.
        confidence: "low", "medium" or "high": draws near it have a standard deviation of 1/2, 1/4
            or 1/8 of the space's range (of its logarithm, where the space is logarithmic); an
            option weighs 2, 4 or 6 times as much as any other.

    Raises:
        UsageError: `confidence` is none of these.
    """

    value: Any
    confidence: str = "medium"
    unit: float = field(init=False, repr=False, compare=False, default=math.nan)

    def __post_init__(self) -> None:
        if self.confidence not in WIDTHS:
            raise UsageError(
                f'Prior: confidence must be "low", "medium" or "high", got {self.confidence!r}'
            )

    def pull(self, u: float, n_options: int) -> float:
        """Carry u in [0, 1] to the unit of a value near the guess, of so many options if any."""
        if n_options:
            return self._pull_option(u, n_options)
        from statistics import NormalDist

        around = NormalDist(self.unit, WIDTHS[self.confidence])
        low, high = around.cdf(0.0), around.cdf(1.0)
        inside = min(max(low + u * (high - low), _MARGIN), 1.0 - _MARGIN)
        return min(max(around.inv_cdf(inside), 0.0), 1.0)

    def _pull_option(self, u: float, n_options: int) -> float:
        weight = WEIGHTS[self.confidence]
        beyond = u * (weight + n_options - 1) - weight
        if beyond < 0 or n_options == 1:
            return self.unit
        guess, other = int(self.unit * n_options), min(int(beyond), n_options - 2)
        return (other + (other >= guess) + 0.5) / n_options


def compute_share(number: int) -> float:
    """Return how likely it is, in (0, 1/2], that a trial is drawn near the guesses."""
    return FIRST_SHARE * min(1.0, N_FIRST / max(number, 1))


def place_prior(space: Space) -> None:
    """Check the guess that a space was given, and find its unit."""
    if space.prior is None:
        return
    given = space.prior if isinstance(space.prior, Prior) else Prior(space.prior)
    set_fields(space, prior=None)  # as errors are to show the space
    try:
        value = space.revive(json.loads(canonical_json(given.value)))
    except UsageError as error:
        kind = type(space).__name__
        raise UsageError(f"{kind}: prior={given.value!r} is no guess: {error}") from None
    prior = Prior(value, given.confidence)
    set_fields(prior, unit=space.to_unit(value))
    set_fields(space, prior=prior)
