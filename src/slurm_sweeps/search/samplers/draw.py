"""Random configurations by trial number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..draws import Streams
from ..search_space import SearchSpace
from ..tree import Leaf


class Draw:
    """Draws configurations of one trial at a time; each space with a seed follows its own stream.

    Args:
        space: The search space.
        seed: The sweep's seed.

    Attributes:
        rng: The stream of the trial that `go_to` went to.
        is_point: Whether the last configuration drawn holds no continuous number, so that it can
            come up again.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._common = Streams(seed)
        self._own = [
            (leaf, Streams(leaf.space.seed, leaf.path))
            for leaf in space.leaves
            if leaf.space.seed is not None
        ]
        self._continuous = frozenset(leaf for leaf in space.leaves if leaf.space.is_continuous)
        self._rngs: dict[Leaf, np.random.Generator] = {}
        self._fixed: Mapping[Leaf, float] = {}
        self.rng = self._common.go_to(0)
        self.is_point = False

    def go_to(self, number: int, fixed: Mapping[Leaf, float] | None = None) -> None:
        """Go to the start of trial `number`'s stream, where the leaves in `fixed` are not drawn."""
        self.rng = self._common.go_to(number)
        self._rngs = {leaf: streams.go_to(number) for leaf, streams in self._own}
        self._fixed = fixed or {}

    def free(self) -> None:
        """Draw the leaves, too, that `go_to` was told of as fixed."""
        self._fixed = {}

    def draw(self) -> dict[str, Any]:
        """Return one configuration; each call another one."""
        self.is_point = True
        return self._space.build(self._pick)

    def _pick(self, leaf: Leaf) -> float:
        if leaf in self._continuous:
            self.is_point = False
        fixed = self._fixed.get(leaf)
        return self._rngs.get(leaf, self.rng).random() if fixed is None else fixed
