"""All points of the grids in a cfg, once each, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from ...samplers.protocol import Observation, Problem
from ..search_space import SearchSpace
from .draw import Draw


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
        return GridSampler(problem.space, problem.seed)


class GridSampler:
    """The grid points of one problem; see `Grid`.

    Attributes:
        repeats: False: a grid ends when it is through.
        n_points: How many points the grids have.
    """

    repeats = False

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._draw = Draw(space, seed)
        self.n_points = space.n_grid_points or 0
        self._told: set[int] = set()
        self._point = 0
        self._next = 0

    def ask(self, now: float) -> dict[str, Any] | None:
        # Points can be told of out of order where others than this sampler made configurations.
        while self._point in self._told:
            self._told.remove(self._point)
            self._point += 1
        if self._point >= self.n_points:
            return None
        self._draw.go_to(self._next, self._space.pick_grid_point(self._point))
        self._next, self._point = self._next + 1, self._point + 1
        return self._draw.draw()

    def tell(self, trial: Observation) -> None:
        if trial.number < self._next:
            return
        self._next = trial.number + 1
        self._skip(trial.cfg)

    def warm_up(self, cfg: dict[str, Any], value: float | None) -> None:
        """Leave out a point that another sweep tried."""
        self._skip(cfg)

    def _skip(self, cfg: dict[str, Any]) -> None:
        try:
            point = self._space.find_grid_point(self._space.to_units(cfg))
        except UsageError:
            return  # a configuration of another space stands for none of the points
        if point >= self._point:
            self._told.add(point)
