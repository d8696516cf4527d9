"""Samplers that learn nothing: random draws, evenly spread ones, all points of a grid or a design.

In a finite space no point is drawn twice until all were. Evenly spread points are those of a
scrambled Sobol sequence, one axis per leaf of the space. What is not asked of it (a leaf with a
seed of its own, a configuration drawn anew because it was tried already) is random, as in `Draw`.

All points of a design are there before the first is run, so that what was tried already, by an
earlier run say, is told by its configuration, whichever number it had. Points that come out the
same, as whole numbers and options do, are run once. Which designs there are stands in `designs`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ..checks import check_flag, check_integer, set_fields
from ..errors import UsageError
from ..search.draws import Draw, Unseen, digest, draw_allowed
from ..search.search_space import SearchSpace
from ..search.tree import Leaf
from ..trial import Status
from .protocol import Observation, Problem, import_extra

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


class NumberedSampler:
    """What the samplers here share: they count the trials, and try no point twice."""

    def __init__(self, problem: Problem) -> None:
        self._unseen = Unseen(problem.space, problem.seed)
        self._next = 0
        self._n_warm = 0

    def tell(self, trial: Observation) -> None:
        """Take note of a trial; see `Sampler.tell`."""
        # Later news change nothing here: a point was noted when it was asked for.
        if trial.number >= self._next:  # of an earlier run: it was asked for there
            self._next = trial.number + 1
            self._note(trial.cfg)
        self._learn(trial)

    def warm_up(self, cfg: dict[str, Any], value: Any) -> None:
        """Take a point that another sweep tried as tried, and learn from it.

        `value` is the metric, of several a tuple, or None.
        """
        self.skip(cfg)
        self._n_warm += 1
        points = {0: value} if isinstance(value, tuple) else {}
        first = value[0] if points else value
        self._learn(Observation(-self._n_warm, cfg, Status.COMPLETED, 0, first, points=points))

    def skip(self, cfg: dict[str, Any]) -> None:
        """Take a point that another sweep tried as tried: in a finite space it isn't again."""
        self._unseen.mark(cfg)

    def _learn(self, trial: Observation) -> None:
        """Learn from what is told of a trial; those of another sweep have numbers below 0."""

    def _begin(self) -> int:
        """Return the number of the trial that is asked for."""
        number, self._next = self._next, self._next + 1
        return number

    def _note(self, cfg: dict[str, Any]) -> None:
        self._unseen.note(cfg)


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
        import numpy as np

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


@dataclass(frozen=True, slots=True)
class Design(ABC):
    """What the designs share: so many points, all of which are run."""

    n: int

    def __post_init__(self) -> None:
        set_fields(self, n=check_integer(type(self).__name__, "n", self.n, 1))

    def bind(self, problem: Problem) -> DesignSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: There is nothing to vary, the design is none for such a space, or the
                library that draws it is missing.
        """
        if not problem.space.leaves:
            raise UsageError(f"samplers.{self!r} needs spaces in the cfg, and there are none")
        return DesignSampler(problem.space, self.draw_units(problem.space, problem.seed))

    @abstractmethod
    def draw_units(self, space: SearchSpace, seed: int) -> Array:
        """Return the points, a unit for each leaf of the space; [n, leaves]."""

    def count(self, space: SearchSpace) -> int:  # noqa: ARG002 - Saltelli's goes by it
        """How many points the design has."""
        return self.n

    def list_doubts(self, space: SearchSpace, asked: int | None, left: int) -> Iterator[str]:
        """Say what may not be meant, where `run` was asked for so many and so many are run."""
        size = self.count(space)
        if asked not in (None, 1, size):
            yield f"samplers.{self!r} has {size} points, which are all run: n_trials={asked} is not"
        if left < size:
            why = "come out the same as others or were tried before"
            why += ", or where refuses them" if space.where else ""
            yield f"{size - left} of the {size} points of samplers.{self!r} {why}: {left} are run"


class DesignSampler:
    """The points of a design, one after the other; see `Design`."""

    def __init__(self, space: SearchSpace, units: Array) -> None:
        self._space = space
        self._left: OrderedDict[bytes, Array] = OrderedDict()
        for row in units:
            cfg = build_point(space, row)
            if space.allows(cfg):
                self._left.setdefault(digest(cfg), row)
        if not self._left:
            raise UsageError(f"where refuses all of the {len(units)} points of the design")

    @property
    def n_left(self) -> int:
        """How many points are to be run yet."""
        return len(self._left)

    def ask(self, now: float) -> dict[str, Any] | None:  # noqa: ARG002 - the protocol's
        """Return the next point, None after the last."""
        return build_point(self._space, self._left.popitem(last=False)[1]) if self._left else None

    def tell(self, trial: Observation) -> None:
        """Take note of a point that is run, perhaps in another process; see `Sampler.tell`."""
        self.skip(trial.cfg)

    def skip(self, cfg: dict[str, Any]) -> None:
        """Leave out a point that was tried."""
        if self._left:
            self._left.pop(digest(cfg), None)


def build_point(space: SearchSpace, row: Array) -> dict[str, Any]:
    """Return the configuration at a row of a design, a unit for each leaf."""
    units = dict(zip(space.leaves, row.tolist(), strict=True))
    return space.build(units.__getitem__)
