"""What a forest of extremely randomised trees learns from the trials that have ended.

A fit is made of what was told of them alone, so that it can be made in another thread. It holds a
pool of candidates with every tree's prediction for each of them: proposing is then no more than
averaging a few rows of numbers.

The trees learn a value from a configuration and an iteration; candidates are judged at the last
iteration that any trial has reached. Half of the candidates are drawn at random and half around the
best trials. Values count by their rank alone: they are carried to a normal distribution, so that
neither outliers nor the metric's scale matter, and a trial that failed or diverged is simply the
worst.

What a candidate's iterations are expected to cost, by a smaller forest of its own, is added to its
scores. How much that counts fades while trials come in: at first cheap lessons are as good as dear
ones, in the end the best configuration is wanted, whatever it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..errors import UsageError
from ..search.draws import Drawing
from ..search.search_space import SearchSpace
from ..search.tree import Leaf

Array = np.ndarray[Any, Any]

#: Iterations, rising, and the metric there, lower is better.
Points = tuple[tuple[float, float], ...]

#: The iteration at which a trial is complete, whichever that is.
COMPLETE = math.inf

#: What a model is shown of a leaf that is not active.
INACTIVE = -1.0

#: A fit is made of no more points than this: the best third of them, the others at random.
MAX_POINTS = 1200
N_TREES = 50

#: How many trees are asked for one proposal.
N_ASKED = 2

N_CANDIDATES = 1000

#: How often candidates are drawn anew, until `where` is true of a quarter as many.
MAX_ROUNDS = 10

#: The share of trials, and their largest number, around which candidates are drawn.
BEST_SHARE = 0.2
MAX_BEST = 30

#: The narrowest that candidates are drawn around the best, in units.
MIN_WIDTH = 0.08

#: How likely a candidate near a trial picks another option.
P_OTHER_OPTION = 0.15


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What was told of one trial; the last value of one that failed or diverged is infinite."""

    row: Array  # its configuration; [n_columns]
    points: Points
    seconds: float | None = None  # for an iteration, more than 0


class Encoding:
    """Configurations of one space as rows of numbers, to learn from.

    A row has one column per leaf of the space: its unit in [0, 1]. Leaves that lie in options have
    a column too, whether their option is picked or not; such an inactive leaf's number counts for
    nothing until a neighbour of the configuration picks its option.

    Attributes:
        columns: The column of each leaf, of `n_columns`.
        counts: How many options each leaf has, 0 where it is a number; [n_columns].
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.columns = {leaf: i for i, leaf in enumerate(space.leaves)}
        self.n_columns = len(space.leaves)
        self.counts = np.array([leaf.n_options for leaf in space.leaves], int)

    def read(self, cfg: dict[str, Any], fill: Callable[[int], Array]) -> Array | None:
        """Return the row of a configuration, None for one of another space.

        `fill` returns so many numbers in [0, 1], for the leaves that are not active.
        """
        try:
            units = self.space.to_units(cfg)
        except UsageError:
            return None
        row = np.asarray(fill(self.n_columns), dtype=float)
        for leaf, unit in units.items():
            row[self.columns[leaf]] = unit
        return row

    def show(self, rows: Array) -> Array:
        """Return rows as a model is shown them; [n, n_columns]."""
        shown: Array = np.where(self._find_active(rows), rows, INACTIVE)
        return shown

    def allows(self, row: Array) -> bool:
        """Whether `where` is true of the configuration of a row."""
        return self.space.allows(self.space.build(lambda leaf: float(row[self.columns[leaf]])))

    def _find_active(self, rows: Array) -> Array:
        active = np.ones(rows.shape, dtype=bool)
        for leaf, column in self.columns.items():  # parents come before what lies in them
            if leaf.parent is not None:
                parent = self.columns[leaf.parent]
                n_options = self.counts[parent]
                option = np.minimum((rows[:, parent] * n_options).astype(int), n_options - 1)
                active[:, column] = active[:, parent] & (option == leaf.option)
        return active


class Pool(Drawing):
    """A forest's opinion on candidates that nobody has got yet.

    Each tree predicts something for each candidate [trees, n], its cost weighed in; lower is
    better. The candidates are rows [n, n_columns].
    """

    def __init__(self, encoding: Encoding, candidates: Array, predictions: Array) -> None:
        super().__init__(encoding.space, np.random.default_rng(0))
        self._columns = encoding.columns
        self._candidates = candidates
        self.predictions = predictions
        self._is_taken = np.zeros(len(candidates), dtype=bool)
        self._expected = predictions.mean(axis=0)
        self._best = 0

    def begin(self, rng: np.random.Generator) -> None:
        """Choose the trees that the next proposal follows."""
        self.rng = rng
        trees = rng.choice(len(self.predictions), N_ASKED, replace=False)
        self._expected = self.predictions[trees].mean(axis=0)
        self._expected[self._is_taken] = math.inf

    def draw(self) -> dict[str, Any]:
        """Return the best candidate that is left; each call another one. At random if none is."""
        if self._is_taken.all():  # `where` has left only few
            self._best = -1
            return super().draw()
        self._best = best = int(self._expected.argmin())
        self._is_taken[best], self._expected[best] = True, math.inf
        return super().draw()

    def _pick(self, leaf: Leaf) -> float:
        if self._best < 0:
            return float(self.rng.random())
        return float(self._candidates[self._best, self._columns[leaf]])


def fit(told: Sequence[Told], encoding: Encoding, seed: int, cost_weight: float) -> Pool:
    """Fit a forest to one trial or more, and ask it about a pool of candidates.

    Among few trials `cost_weight` is added to a candidate's scores for each e-fold of its expected
    seconds; see `fade`.
    """
    rng = np.random.default_rng(seed)
    rows = np.array([trial.row for trial in told])
    of = np.repeat(np.arange(len(told)), [len(trial.points) for trial in told])
    points = np.array([point for trial in told for point in trial.points])
    kept = _thin(np.argsort(points[:, 1], kind="stable"), rng)
    shown = np.column_stack((encoding.show(rows[of[kept]]), scale(points[:, 0])[kept]))
    trees = grow_trees(N_TREES, shown, score(points[:, 1])[kept], rng)

    order = np.argsort([trial.points[-1][1] for trial in told], kind="stable")
    candidates = draw_allowed_candidates(rows[order[: count_best(len(order))]], encoding, rng)
    look = encoding.show(candidates)
    predictions = ask_trees(trees, np.column_stack((look, np.ones(len(candidates)))))
    if cost_weight:
        timed = [trial for trial in told if trial.seconds]
        shown = encoding.show(np.array([trial.row for trial in timed]).reshape(-1, look.shape[1]))
        seconds = np.array([trial.seconds for trial in timed])
        weight = cost_weight * fade(len(told))
        predictions = predictions + weight * predict_costs(shown, seconds, look, rng)
    return Pool(encoding, candidates, predictions)


def scale(iterations: Array) -> Array:
    """Carry iterations to [0, 1] by their logarithm; the largest, and `COMPLETE`, to 1."""
    finite = iterations[np.isfinite(iterations)]
    most = math.log1p(float(finite.max(initial=0))) or 1.0
    scaled: Array = np.minimum(np.log1p(iterations) / most, 1.0)
    return scaled


def score(values: Array) -> Array:
    """Carry values to a normal distribution by their rank; ties share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts + 1) / 2
    normal = NormalDist()
    scores = [normal.inv_cdf((rank + 0.5) / len(values)) for rank in ranks]
    scored: Array = np.array(scores)[group]
    return scored


def count_best(n: int) -> int:
    """Around how many of n trials candidates are drawn."""
    return min(n, MAX_BEST, max(5, math.ceil(BEST_SHARE * n)))


def draw_candidates(best: Array, encoding: Encoding, rng: np.random.Generator) -> Array:
    """Return rows to choose from, half of them near the best trials; [n, n_columns]."""
    n, n_columns = N_CANDIDATES // 2, encoding.n_columns
    anywhere = rng.random((N_CANDIDATES - n, n_columns))
    centers = best[rng.integers(len(best), size=n)]
    # Scott's rule: the fewer there are and the wider they lie, the wider is drawn.
    width = np.maximum(MIN_WIDTH, best.std(axis=0) * len(best) ** (-1 / (4 + n_columns)))
    near = np.abs(centers + width * rng.standard_normal((n, n_columns)))
    near = np.clip(np.where(near > 1, 2 - near, near), 0, 1)
    stays = rng.random((n, n_columns)) >= P_OTHER_OPTION
    other = np.where(stays, centers, rng.random((n, n_columns)))
    return np.concatenate([anywhere, np.where(encoding.counts > 0, other, near)])


def draw_allowed_candidates(best: Array, encoding: Encoding, rng: np.random.Generator) -> Array:
    """Return rows as `draw_candidates` does, of which `where` is true as far as some are found."""
    drawn = draw_candidates(best, encoding, rng)
    if encoding.space.where is None:
        return drawn
    allowed = [row for row in drawn if encoding.allows(row)]
    for _ in range(MAX_ROUNDS):
        if len(allowed) >= N_CANDIDATES // 4:
            break
        more = draw_candidates(best, encoding, rng)
        allowed += [row for row in more if encoding.allows(row)]
    return np.array(allowed) if allowed else drawn


def _thin(order: Array, rng: np.random.Generator) -> Array:
    """Choose the points to fit to, from their numbers, the best first."""
    if len(order) <= MAX_POINTS:
        return order
    n_best = MAX_POINTS // 3
    rest = rng.choice(order[n_best:], MAX_POINTS - n_best, replace=False)
    return np.concatenate([order[:n_best], rest])


#: A forest is fitted to no more trials than this, drawn at random.
MAX_TRIALS = 500
N_COST_TREES = 10

#: Costs count in full up to so many trials, then by one over the square root of their number.
N_IN_FULL = 100

#: Logarithms farther from their median than so many standard deviations, by the median deviation,
#: are cut: a suspended job or a first import says nothing of a configuration.
MAX_DEVIATIONS = 4.0
PER_MEDIAN_DEVIATION = 1.4826

#: Nothing is cut that is nearer to the median than this.
MIN_LIMIT = 1.0

#: Where the logarithms of the seconds spread less than this, all cost the same.
MIN_SPREAD = 0.1


def fade(n_trials: int) -> float:
    """Return the share, in (0, 1], of its weight that a cost has among so many trials."""
    return math.sqrt(min(1.0, N_IN_FULL / max(n_trials, 1)))


def predict_costs(shown: Array, seconds: Array, asked: Array, rng: np.random.Generator) -> Array:
    """Predict the logarithm of the seconds per iteration, less the trials' mean; [n_asked].

    The trials `shown` [n, n_columns] took `seconds` [n], more than 0, for an iteration; both they
    and what is `asked` [n_asked, n_columns] are as a model is shown them.
    """
    if len(seconds) < 2 or (logs := _cut(np.log(seconds))).std() < MIN_SPREAD:
        return np.zeros(len(asked))
    if len(logs) > MAX_TRIALS:
        kept = rng.choice(len(logs), MAX_TRIALS, replace=False)
        shown, logs = shown[kept], logs[kept]
    trees = grow_trees(N_COST_TREES, shown, logs, rng)
    expected: Array = ask_trees(trees, asked).mean(axis=0) - logs.mean()
    return expected


def _cut(logs: Array) -> Array:
    """Draw in what lies too far out."""
    median = np.median(logs)
    deviation = PER_MEDIAN_DEVIATION * float(np.median(np.abs(logs - median)))
    limit = max(MIN_LIMIT, MAX_DEVIATIONS * deviation)
    cut: Array = np.clip(logs, median - limit, median + limit)
    return cut


def grow_trees(n_trees: int, rows: Array, values: Array, rng: np.random.Generator) -> Sequence[Any]:
    """Fit trees to the values of rows; [n, n_columns] and [n]."""
    from sklearn.ensemble import ExtraTreesRegressor

    state = int(rng.integers(2**31))
    forest = ExtraTreesRegressor(n_trees, min_samples_leaf=2, random_state=state, n_jobs=1)
    trees: Sequence[Any] = forest.fit(rows, values).estimators_
    return trees


def ask_trees(trees: Sequence[Any], rows: Array) -> Array:
    """Return what each tree expects of each row, sooner than a forest would; [trees, n]."""
    asked = rows.astype(np.float32)  # what a tree takes
    return np.array([tree.tree_.predict(asked)[:, 0] for tree in trees])
