"""Random configurations by trial: the same for trial n, whatever was drawn before.

`Streams` are the random numbers, `Draw` makes configurations of them, near the guesses of the
spaces or anywhere. `fill_points` makes those that the user wants tried first, of which a part may
be left open, `list_guesses` the one of all guesses. `Unseen` sees to it that no point is tried
twice.

Points are told apart by a digest of their canonical JSON. What is drawn with a continuous number in
it can't come up again, so its digest is not kept.

A point that was tried is drawn anew a few times. Once half of a finite space is tried, or when
drawing keeps hitting what is known, untried points are taken by their number instead, in the end
in a fixed random order. What comes next depends on the set of tried points alone, not on how it
grew: a resumed sweep goes on as an undisturbed one does.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, UsageTypeError
from ..trial import canonical_json
from .priors import compute_share
from .search_space import SearchSpace
from .tree import Leaf

if TYPE_CHECKING:  # a job that joins a sweep draws nothing, and loads none
    import numpy as np


class Streams:
    """One stream of random numbers per trial number, made from a seed; paths tell streams apart.

    Philox counts: its output is a function of a key and a counter. The key is the seed's, the
    trial's number is the counter's upper half, so that going to any trial's stream is only a write
    of the counter (1.6 µs, a tenth of what a new generator costs), and no two streams can overlap.
    """

    def __init__(self, seed: int, path: str = "") -> None:
        import numpy as np

        words = [seed]
        if path:
            words += hashlib.blake2s(path.encode("utf-8", "surrogatepass")).digest()
        self._philox = np.random.Philox(np.random.SeedSequence(words))
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state

    def go_to(self, number: int) -> np.random.Generator:
        """Return a generator at the start of trial `number`'s stream; the next call moves it."""
        self._state["state"]["counter"][2] = number
        self._philox.state = self._state
        return self._generator


class Drawing(ABC):
    """Proposes configurations of one trial at a time: `Draw` does, or a model.

    Attributes:
        rng: The trial's random numbers.
        is_point: Whether the last configuration drawn holds no continuous number, so that it can
            come up again.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space = space
        self._continuous = frozenset(leaf for leaf in space.leaves if leaf.space.is_continuous)
        self.rng = rng
        self.is_point = False

    def draw(self) -> dict[str, Any]:
        """Return one configuration; each call another one."""
        self.is_point = True
        return self._space.build(self._watch)

    def _watch(self, leaf: Leaf) -> float:
        if leaf in self._continuous:
            self.is_point = False
        return self._pick(leaf)

    @abstractmethod
    def _pick(self, leaf: Leaf) -> float:
        """Return the unit of an active leaf."""


class Draw(Drawing):
    """Draws at random; each space with a seed follows its own stream."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._common = Streams(seed)
        super().__init__(space, self._common.go_to(0))
        self._own = [
            (leaf, Streams(leaf.space.seed, leaf.path))
            for leaf in space.leaves
            if leaf.space.seed is not None
        ]
        self._rngs: dict[Leaf, np.random.Generator] = {}
        self._fixed: Mapping[Leaf, float] = {}
        self._stays = False
        has_guesses = any(leaf.space.prior for leaf in space.leaves)
        self._turns = Streams(seed, "near the guesses") if has_guesses else None
        self._is_near = False

    def go_to(
        self, number: int, fixed: Mapping[Leaf, float] | None = None, stays: bool = False
    ) -> None:
        """Go to the start of trial `number`'s stream.

        Its first draw takes `fixed` as it is, and if that `stays` all further ones.
        """
        self.rng = self._common.go_to(number)
        self._rngs = {leaf: streams.go_to(number) for leaf, streams in self._own}
        self._fixed, self._stays = fixed or {}, stays
        if self._turns is not None:
            self._is_near = self._turns.go_to(number).random() < compute_share(number)

    def draw(self) -> dict[str, Any]:
        cfg = super().draw()
        if not self._stays:
            self._fixed = {}
        return cfg

    def _pick(self, leaf: Leaf) -> float:
        fixed = self._fixed.get(leaf)
        u = self._rngs.get(leaf, self.rng).random() if fixed is None else fixed
        if self._is_near and (prior := leaf.space.prior) is not None:
            return prior.pull(u, leaf.n_options)
        return u


#: How often a configuration that `where` refuses is drawn anew.
MAX_DRAWS = 10_000


def draw_allowed(draw: Drawing, space: SearchSpace) -> dict[str, Any]:
    """Draw until `where` is true.

    Raises:
        UsageError: It never is.
    """
    for _ in range(MAX_DRAWS):
        cfg = draw.draw()
        if space.allows(cfg):
            return cfg
    raise UsageError(
        f"where refuses {MAX_DRAWS:,} configurations in a row, the last of which was {cfg!r}: mend "
        "it, or narrow the search space to what it allows"
    )


#: Where fewer configurations than one in so many are allowed, it is said; of so many at first.
RARE = 100
FIRST_DRAWS = 1_000


def check_where(space: SearchSpace) -> str | None:
    """Say how many of all configurations `where` allows, if that are few.

    Raises:
        UsageError: It refuses all that are drawn, or raises an error.
    """
    if space.where is None:
        return None
    import numpy as np

    rng, n_allowed = np.random.default_rng(0), 0
    for n_drawn in range(1, MAX_DRAWS + 1):
        n_allowed += space.allows(space.sample(rng))
        if n_drawn == FIRST_DRAWS and n_allowed >= FIRST_DRAWS / RARE:
            return None
    if not n_allowed:
        raise UsageError(
            f"where refuses all of {MAX_DRAWS:,} configurations that were drawn at random, "
            f"{space.sample(rng)!r} for instance: mend it, or narrow the search space"
        )
    return (
        f"where allows {n_allowed} of {MAX_DRAWS:,} configurations that were drawn at random "
        f"({n_allowed / MAX_DRAWS:.2%}), so that each takes many draws: narrow the search space to "
        "what it allows, if that can be said in ranges"
    )


def describe_where(where: Any) -> str | None:
    """Return a text that says whether a `where` is still the same, whatever its lines look like.

    Of what a function refers to plain values count. Another Python's is another text.
    """
    code = getattr(where, "__code__", None)
    if code is None:
        return None if where is None else type(where).__qualname__
    found = inspect.getclosurevars(where)
    values = {**found.globals, **found.nonlocals, "": where.__defaults__}
    plain = {k: v for k, v in values.items() if isinstance(v, bool | int | float | str | tuple)}
    text = f"{_list_code(code)} {sorted(plain.items())}"
    return f"{where.__qualname__} {hashlib.blake2s(text.encode(), digest_size=6).hexdigest()}"


def _list_code(code: CodeType) -> list[Any]:
    """What a function does, without where it stands."""
    consts = [_list_code(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    # A set's order is another one in each process.
    plain = [sorted(map(repr, each)) if isinstance(each, frozenset) else each for each in consts]
    return [code.co_code.hex(), code.co_names, code.co_varnames, plain]


#: How often a point that is known already is drawn anew before another way is taken.
_N_DRAWS = 16


class Unseen:
    """The points of a space that were not tried yet in this round.

    A round ends when all points of a finite space were tried; the next begins with none tried.
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

    def find(self, draw: Drawing) -> dict[str, Any]:
        """Return a configuration not tried in this round, and note it as tried."""
        if not self._is_needed:
            return draw_allowed(draw, self._space)
        size = self._space.size
        if size is not None and not self.is_drawing:
            return self._take_in_order(size)
        for cfg in self._draw_candidates(draw, size):
            if not draw.is_point or self._take(cfg):
                return cfg
        if size is not None:
            return self._take_in_order(size)
        return cfg

    @property
    def is_drawing(self) -> bool:
        """Whether the next configuration is drawn; else it is the next of the untried."""
        size = self._space.size
        return not self._is_needed or size is None or 2 * len(self._seen) < size

    def repeat(self, draw: Drawing, cfg: dict[str, Any]) -> None:
        """Draw what was drawn when this configuration was found, in another process."""
        text = canonical_json(cfg)
        is_first = not self._is_needed and self._space.where is None
        for _ in range(1 if is_first else _N_DRAWS):
            if canonical_json(draw.draw()) == text:
                return

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
            yield draw_allowed(draw, self._space)
        if size is None:
            return
        # Likely points are used up; by their number, all are as likely.
        for _ in range(_N_DRAWS):
            cfg = self._space.at(int(draw.rng.random() * size))
            if self._space.allows(cfg):
                yield cfg

    def _take_in_order(self, size: int) -> dict[str, Any]:
        if self._order is None:
            self._order = Streams(self._seed, "order of the untried").go_to(0).permutation(size)
        while True:
            for index in self._order[self._position :]:
                self._position += 1
                cfg = self._space.at(int(index))
                if self._space.allows(cfg) and self._take(cfg):
                    return cfg
            self._begin_round()

    def _take(self, cfg: dict[str, Any]) -> bool:
        key = digest(cfg)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _begin_round(self) -> None:
        # In an infinite space what is known stays known: other points are left, only hard to hit.
        if self._space.size is not None:
            self._seen.clear()
        self._position = 0


def digest(cfg: dict[str, Any]) -> bytes:
    """Return what tells configurations apart, shorter than their text."""
    return hashlib.blake2s(canonical_json(cfg).encode(), digest_size=8).digest()


#: How often what a partial point leaves open is drawn, until it fits the options the point names.
_N_FILLS = 1000


def fill_points(
    points: Sequence[Mapping[str, Any]], space: SearchSpace, seed: int, name: str | None = None
) -> tuple[dict[str, Any], ...]:
    """Return configurations that agree with the points, dicts nested as the cfg is.

    What a point leaves open is drawn, the same in every process. `name` is what errors call one.
    """
    if isinstance(points, (str, Mapping)) or not isinstance(points, Sequence):
        raise UsageTypeError(f"points_to_evaluate must be a list of dicts, got {points!r}")
    if not points:
        return ()
    streams = Streams(seed, "points")
    return tuple(
        _fill(point, name or f"points_to_evaluate[{i}]", space, streams.go_to(i))
        for i, point in enumerate(points)
    )


def list_guesses(space: SearchSpace, seed: int) -> list[dict[str, Any]]:
    """Return the configuration that takes all guesses; none where no space has one.

    What has no guess is drawn, the same in every process.

    Raises:
        UsageError: `where` refuses it, whatever is drawn.
    """
    if not any(leaf.space.prior for leaf in space.leaves):
        return []
    rng = Streams(seed, "guess").go_to(0)

    def pick(leaf: Leaf) -> float:
        drawn = rng.random()
        return leaf.space.prior.unit if leaf.space.prior else drawn

    for _ in range(_N_FILLS):
        cfg = space.build(pick)
        if space.allows(cfg):
            return [cfg]
    raise UsageError(f"where refuses what the priors guess, {cfg!r}: mend one of them")


def _fill(point: Any, name: str, space: SearchSpace, rng: np.random.Generator) -> dict[str, Any]:
    if not isinstance(point, Mapping):
        raise UsageTypeError(f"{name} must be a dict, got {point!r} ({type(point).__name__})")
    for _ in range(_N_FILLS):
        try:
            # Read as it is, not made of units: 1e-3 is to stay 1e-3.
            cfg = space.revive(json.loads(canonical_json(_overlay(space.sample(rng), point))))
            if space.allows(cfg):
                return cfg
            why = UsageError(f"where refuses {cfg!r}")
        except UsageError as error:
            why = error
    raise UsageError(f"{name} = {point!r} is no part of any configuration: {why}") from why


def _overlay(drawn: Any, wanted: Any) -> Any:
    """Return what was drawn, with the wanted values in their places."""
    if not isinstance(wanted, Mapping):
        return wanted
    below = drawn if isinstance(drawn, dict) else {}
    return below | {key: _overlay(below.get(key), value) for key, value in wanted.items()}
