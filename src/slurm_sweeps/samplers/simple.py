"""Random draws, or evenly spread ones; in a finite space never the same twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UsageTypeError
from ..search.samplers.draw import Draw
from ..search.samplers.quasi import QuasiDraw
from ..search.samplers.unseen import Unseen
from .protocol import Observation, Problem


@dataclass(frozen=True, slots=True)
class Random:
    """Draw every configuration at random; a Grid in the cfg is drawn from like a Choice.

    A point of a finite space is drawn again only when all have been; spaces with a seed of their
    own follow their own stream.

    Args:
        quasi: Draw the points of a scrambled Sobol sequence, which fill the space more evenly than
            chance does. Needs SciPy: `pip install 'slurm-sweeps[model]'`.

    Raises:
        UsageTypeError: `quasi` is no bool.
    """

    quasi: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.quasi, bool):
            raise UsageTypeError(f"Random: quasi must be True or False, got {self.quasi!r}")

    def bind(self, problem: Problem) -> RandomSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: `quasi` is True and SciPy is missing.
        """
        draw = QuasiDraw if self.quasi else Draw
        return RandomSampler(problem, draw(problem.space, problem.seed))


class RandomSampler:
    """Random draws for one problem; see `Random`.

    Attributes:
        repeats: Whether all points were tried and a further round has begun.
    """

    def __init__(self, problem: Problem, draw: Draw | QuasiDraw) -> None:
        self._draw = draw
        self._unseen = Unseen(problem.space, problem.seed)
        self._next = 0

    @property
    def repeats(self) -> bool:
        return self._unseen.repeats

    def ask(self, now: float) -> dict[str, Any]:
        number, self._next = self._next, self._next + 1
        self._draw.go_to(number)
        return self._unseen.find(self._draw)

    def warm_up(self, cfg: dict[str, Any], value: float | None) -> None:
        """Take a point that another sweep tried as tried."""
        self._unseen.mark(cfg)

    def tell(self, trial: Observation) -> None:
        # Later news of a trial change nothing: its point was noted when it was asked for.
        if trial.number >= self._next:
            self._next = trial.number + 1
            self._unseen.note(trial.cfg)
