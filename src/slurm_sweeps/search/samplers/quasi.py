"""Quasi-random configurations by trial number: points that fill the space evenly.

The points are those of a scrambled Sobol sequence, one axis per leaf of the space. What is not
asked of it (a leaf with a seed of its own, a configuration drawn anew because it was tried already)
is random, as in `Draw`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UsageError
from ..search_space import SearchSpace
from .draw import Draw

#: Points are computed so many at a time.
_BLOCK = 256

#: The most axes that the sequence has; further leaves are random.
_MAX_AXES = 21201


class QuasiDraw:
    """Draws as `Draw` does, the first configuration of each trial by the sequence.

    Args:
        space: The search space.
        seed: The sweep's seed; it scrambles the sequence, too.

    Attributes:
        rng: The stream of the trial that `go_to` went to.
        is_point: Whether the last configuration drawn can come up again.

    Raises:
        UsageError: SciPy is not there.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._draw = Draw(space, seed)
        self._leaves = [leaf for leaf in space.leaves if leaf.space.seed is None][:_MAX_AXES]
        self._points = _Points(len(self._leaves), seed) if self._leaves else None
        self._number = 0
        self._is_first = True

    @property
    def rng(self) -> np.random.Generator:
        return self._draw.rng

    @property
    def is_point(self) -> bool:
        return self._draw.is_point

    def go_to(self, number: int) -> None:
        """Go to trial `number`, from 0."""
        self._number, self._is_first = number, True
        point = [] if self._points is None else self._points.at(number).tolist()
        self._draw.go_to(number, dict(zip(self._leaves, point, strict=True)))

    def draw(self) -> dict[str, Any]:
        """Return one configuration; each call another one."""
        if not self._is_first:
            # The sequence has one point for each trial; where that was tried, chance goes on.
            self._draw.free()
        self._is_first = False
        return self._draw.draw()


class _Points:
    """A scrambled Sobol sequence, by number."""

    def __init__(self, n_axes: int, seed: int) -> None:
        try:
            from scipy.stats import qmc
        except ImportError as error:
            raise UsageError(
                f"samplers.Random(quasi=True) needs SciPy ({error}): "
                "pip install 'slurm-sweeps[model]'"
            ) from error
        self._sequence = qmc.Sobol(n_axes, scramble=True, seed=np.random.default_rng(seed))
        self._block = -1
        self._points = np.empty((0, n_axes))

    def at(self, number: int) -> Any:
        """Return point `number`; [n_axes], each in [0, 1)."""
        block, row = divmod(number, _BLOCK)
        if block != self._block:
            self._sequence.reset()
            if block:
                self._sequence.fast_forward(block * _BLOCK)
            self._points = self._sequence.random(_BLOCK)
            self._block = block
        return self._points[row]
