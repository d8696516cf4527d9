"""Configurations as rows of numbers, for models that learn from tables.

A row has one column per leaf of the space: its unit in [0, 1]. Leaves that lie in options have a
column too, whether their option is picked or not; such an inactive leaf's number counts for nothing
until a neighbour of the configuration picks its option. What a model is shown has -1 there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UsageError
from ..search.search_space import SearchSpace
from ..search.tree import Leaf

Array = np.ndarray[Any, Any]

#: What a model is shown of a leaf that is not active.
INACTIVE = -1.0


class Encoding:
    """Rows of units for one space.

    Args:
        space: The search space.

    Attributes:
        n_columns: How many leaves the space has.
        counts: How many options each leaf has, 0 where it is a number; [n_columns].
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._columns = {leaf: i for i, leaf in enumerate(space.leaves)}
        self._is_continuous = np.array([leaf.space.is_continuous for leaf in space.leaves], bool)
        self.n_columns = len(space.leaves)
        self.counts = np.array([len(leaf.space.options or ()) for leaf in space.leaves], int)

    def read(self, cfg: dict[str, Any], fill: Callable[[int], Array]) -> Array | None:
        """Return the row of a configuration, None for one of another space.

        Args:
            cfg: The configuration.
            fill: Returns so many numbers in [0, 1], for the leaves that are not active.
        """
        try:
            units = self._space.to_units(cfg)
        except UsageError:
            return None
        row = np.asarray(fill(self.n_columns), dtype=float)
        for leaf, unit in units.items():
            row[self._columns[leaf]] = unit
        return row

    def build(self, row: Array) -> dict[str, Any]:
        """Return the configuration of a row."""
        return self._space.build(lambda leaf: float(row[self._columns[leaf]]))

    def show(self, rows: Array) -> Array:
        """Return rows as a model is shown them; [n, n_columns]."""
        shown: Array = np.where(self._find_active(rows), rows, INACTIVE)
        return shown

    def is_point(self, row: Array) -> bool:
        """Whether a row's configuration holds no continuous number, so that it can come again."""
        return not bool((self._find_active(row[None])[0] & self._is_continuous).any())

    def _find_active(self, rows: Array) -> Array:
        active = np.ones(rows.shape, dtype=bool)
        for leaf, column in self._columns.items():  # parents come before what lies in them
            if leaf.parent is not None:
                active[:, column] = self._is_picked(leaf, rows, active)
        return active

    def _is_picked(self, leaf: Leaf, rows: Array, active: Array) -> Array:
        parent = self._columns[leaf.parent]  # type: ignore[index] # only called where there is one
        n_options = self.counts[parent]
        option = np.minimum((rows[:, parent] * n_options).astype(int), n_options - 1)
        picked: Array = active[:, parent] & (option == leaf.option)
        return picked
