"""Not trying the same point twice.

Points are told apart by a digest of their canonical JSON. What is drawn with a continuous number in
it can't come up again, so its digest is not kept.

A point that was tried is drawn anew a few times. Once half of a finite space is tried, or when
drawing keeps hitting what is known, untried points are taken by their number instead, in the end
in a fixed random order. What comes next depends on the set of tried points alone, not on how it
grew: a resumed sweep goes on as an undisturbed one does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ...trial import canonical_json
from ..draws import Streams
from ..search_space import SearchSpace

#: How often a point that is known already is drawn anew before another way is taken.
_N_DRAWS = 16


class Drawing(Protocol):
    """Proposes configurations for one trial: `Draw` does, or a model."""

    @property
    def rng(self) -> np.random.Generator:
        """The trial's random numbers."""

    @property
    def is_point(self) -> bool:
        """Whether the last configuration proposed can come up again."""

    def draw(self) -> dict[str, Any]:
        """Return one configuration; each call another one."""


class Unseen:
    """The points of a space that were not tried yet in this round.

    A round ends when all points of a finite space were tried; the next begins with none tried.

    Attributes:
        repeats: Whether a point came up that had been tried before, because no other was left.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed
        # Where a continuous number is in every configuration, no two are ever the same.
        self._is_needed = not any(
            leaf.space.is_continuous and leaf.parent is None for leaf in space.leaves
        )
        self._seen: set[bytes] = set()
        self._order: Any = None
        self._position = 0
        self.repeats = False

    def find(self, draw: Drawing) -> dict[str, Any]:
        """Return a configuration not tried in this round, and note it as tried."""
        if not self._is_needed:
            return draw.draw()
        size = self._space.size
        if size is not None and 2 * len(self._seen) >= size:
            return self._take_in_order(size)
        for cfg in self._draw_candidates(draw, size):
            if not draw.is_point or self._take(cfg):
                return cfg
        if size is not None:
            return self._take_in_order(size)
        self.repeats = True
        return cfg

    def mark(self, cfg: dict[str, Any]) -> None:
        """Count a configuration that another sweep tried as tried in this round."""
        if self._is_needed:
            self._take(cfg)

    def note(self, cfg: dict[str, Any]) -> None:
        """Note a configuration that was given out before, perhaps in another process."""
        if not self._is_needed or self._take(cfg):
            return
        # A known point is only given out when none was left, so a round must have begun here.
        self._begin_round()
        self._take(cfg)

    def _draw_candidates(self, draw: Drawing, size: int | None) -> Iterator[dict[str, Any]]:
        for _ in range(_N_DRAWS):
            yield draw.draw()
        if size is None:
            return
        # Likely points are used up; by their number, all are as likely.
        for _ in range(_N_DRAWS):
            yield self._space.at(int(draw.rng.random() * size))

    def _take_in_order(self, size: int) -> dict[str, Any]:
        if self._order is None:
            self._order = Streams(self._seed, "order of the untried").go_to(0).permutation(size)
        while True:
            for index in self._order[self._position :]:
                self._position += 1
                cfg = self._space.at(int(index))
                if self._take(cfg):
                    return cfg
            self._begin_round()

    def _take(self, cfg: dict[str, Any]) -> bool:
        digest = hashlib.blake2s(canonical_json(cfg).encode(), digest_size=8).digest()
        if digest in self._seen:
            return False
        self._seen.add(digest)
        return True

    def _begin_round(self) -> None:
        # In an infinite space what is known stays known: other points are left, only hard to hit.
        if self._space.size is not None:
            self._seen.clear()
        self._position = 0
        self.repeats = True
