"""Samplers that learn nothing: random draws, evenly spread ones, and all points of a grid.

In a finite space no point is drawn twice until all were. Evenly spread points are those of a
scrambled Sobol sequence, one axis per leaf of the space. What is not asked of it (a leaf with a
seed of its own, a configuration drawn anew because it was tried already) is random, as in `Draw`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import check_flag, set_fields
from ..errors import UsageError
from ..search.draws import Draw, draw_allowed
from ..search.search_space import SearchSpace
from ..search.tree import Leaf
from .protocol import NumberedSampler, Problem, import_extra


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
        set_fields(self, quasi=check_flag("Random", "quasi", self.quasi))

    def bind(self, problem: Problem) -> RandomSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: `quasi` is True and SciPy is missing.
        """
        return RandomSampler(problem, self.quasi)


class RandomSampler(NumberedSampler):
    """Random draws for one problem; see `Random`."""

    def __init__(self, problem: Problem, quasi: bool) -> None:
        super().__init__(problem)
        self._draw = Draw(problem.space, problem.seed)
        self._points = _SobolPoints(problem.space, problem.seed) if quasi else None

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        number = self._begin()
        self._draw.go_to(number, self._points.at(number) if self._points else None)
        return self._unseen.find(self._draw)


#: A grid's point is left out if `where` refuses it with so many draws of the other spaces.
N_TRIES = 100


@dataclass(frozen=True, slots=True)
class Grid:
    """Try every point of the grids in the cfg once; the last grid in it varies fastest.

    All other spaces are drawn once for each point.
    """

    def bind(self, problem: Problem) -> GridSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: There is no Grid in the cfg.
        """
        if not problem.space.grids:
            raise UsageError(
                "samplers.Grid() needs a Grid in the cfg, and there is none in "
                f"{problem.space.template!r}; use samplers.Random()"
            )
        return GridSampler(problem)


class GridSampler(NumberedSampler):
    """The grid points of one problem; see `Grid`.

    Attributes:
        n_points: How many points the grids have, less those that `where` refuses.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._space = problem.space
        self._draw = Draw(problem.space, problem.seed)
        n_points = problem.space.n_grid_points
        self._told = self._find_refused(n_points, Draw(problem.space, problem.seed))
        self.n_points = n_points - len(self._told)
        if not self.n_points:
            raise UsageError(f"where refuses all of the {n_points} points of the grid in cfg")
        self._point = 0

    def ask(self, now: float) -> dict[str, Any] | None:  # noqa: ARG002 - the protocol's
        # Points can be told of out of order where others than this sampler made configurations.
        while self._point in self._told:
            self._told.remove(self._point)
            self._point += 1
        if self._point >= self._space.n_grid_points:
            return None
        units = self._space.pick_grid_point(self._point)
        self._draw.go_to(self._begin(), units, stays=True)
        self._point += 1
        return draw_allowed(self._draw, self._space)

    def _find_refused(self, n_points: int, draw: Draw) -> set[int]:
        """Find the points that `where` refuses, whatever is drawn beside them."""
        if self._space.where is None:
            return set()
        n_tries = 1 if len(self._space.grids) == len(self._space.leaves) else N_TRIES
        refused = set()
        for point in range(n_points):
            draw.go_to(point, self._space.pick_grid_point(point), stays=True)
            if not any(self._space.allows(draw.draw()) for _ in range(n_tries)):
                refused.add(point)
        return refused

    @property
    def n_left(self) -> int:
        """How many points are to be tried, before any was asked for."""
        return self._space.n_grid_points - len(self._told)

    def skip(self, cfg: dict[str, Any]) -> None:
        """Leave out a point that another sweep tried."""
        self._note(cfg)

    def _note(self, cfg: dict[str, Any]) -> None:
        try:
            point = self._space.find_grid_point(self._space.to_units(cfg))
        except UsageError:
            return  # a configuration of another space stands for none of the points
        if point >= self._point:
            self._told.add(point)


#: Points are computed so many at a time.
_BLOCK = 256

#: The most axes that the sequence has; further leaves are random.
_MAX_AXES = 21201


class _SobolPoints:
    """A scrambled Sobol sequence, by number: a unit for each leaf without a seed of its own."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        stats = import_extra("scipy.stats", "samplers.Random(quasi=True)", "SciPy", "model")
        self._leaves = [leaf for leaf in space.leaves if leaf.space.seed is None][:_MAX_AXES]
        n_axes = max(len(self._leaves), 1)  # the sequence has no fewer
        self._sequence = stats.qmc.Sobol(n_axes, scramble=True, seed=np.random.default_rng(seed))
        self._block = -1
        self._points = np.empty((0, n_axes))

    def at(self, number: int) -> dict[Leaf, float]:
        block, row = divmod(number, _BLOCK)
        if block != self._block:
            self._sequence.reset()
            if block:
                self._sequence.fast_forward(block * _BLOCK)
            self._points = self._sequence.random(_BLOCK)
            self._block = block
        return dict(zip(self._leaves, self._points[row].tolist(), strict=False))
