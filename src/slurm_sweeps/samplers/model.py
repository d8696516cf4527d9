"""Learning from the trials so far where good configurations lie.

A forest is told of each trial's learning curve, thinned, with the iteration as one more input, and
asked what a configuration would reach in the end: what was pruned early teaches it what early
values are worth, and what still runs how far one can come. Each proposal follows a few of its
trees, drawn at random (Thompson sampling): where trees agree it goes to what is best, where they
differ it explores. As every proposal follows other trees and leaves the pool of candidates, many
workers that ask at once are not sent to one place.

What an iteration costs is learned as well: of two that promise the same the cheaper comes first.

What is proposed follows from the order of what is asked and told alone. A fit is planned as soon as
enough was told, of what was told until then, and is used a few asks later, however long it takes:
so another thread can make it (`plan_study`) while more trials run. An ask that needs it makes it by
itself if nobody has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..checks import Goal, check_integer, check_real, set_fields
from ..errors import UsageError
from ..search.draws import Draw, Drawing, Streams
from ..trial import Status
from .forest import COMPLETE, Encoding, Points, Pool, Told, fit
from .protocol import HOW_TO_NAME_A_GOAL, Observation, Problem, import_extra
from .simple import NumberedSampler

#: The forest is fitted anew when there are so many more trials, as a share of those it knows.
GROWTH = 0.05

#: So many asks are made of a pool at the most, so that enough good candidates are left in it.
MAX_ASKED = 700

#: Between the plan of a fit and its use comes one ask, and one more for so many trials that it
#: knows: time in which it can be made, and less news than bring about the next.
TRIALS_PER_ASK = 25

#: What the time that an iteration takes counts, unless the user says or the sweep is repeatable.
COST_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Model:
    """Propose what a forest of trees, fitted to the trials so far, expects to end well.

    Needs scikit-learn: `pip install 'slurm-sweeps[model]'`, and a metric (the experiment's).
    Conditional and mixed spaces are modelled; trials that fail, diverge or
    are infeasible count as the worst. Of several metrics each fit learns another
    combination, weighed at random (ParEGO's augmented Chebyshev norm, Knowles 2006).

    Args:
        n_startup: How many trials must have reported before the model is asked; random till then.
        random_share: The share of proposals, from 0 to 1, that are drawn at random for ever.
        cost_weight: How much the time counts that an iteration takes, 0 or more: of two
            configurations of which one takes e = 2.7 times as long, this one must be expected to
            be better by so many standard deviations of the scores; among more than 100 trials
            by less, falling with one over the square root of their number. 0 where only the
            number of trials counts. None is 0.2, or 0 in an experiment with a seed: no iteration
            takes the same time twice, so what goes by time can't be repeated.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    n_startup: int = 15
    random_share: float = 0.3
    cost_weight: float | None = None

    def __post_init__(self) -> None:
        n_startup = check_integer("Model", "n_startup", self.n_startup, 1)
        share = check_real("Model", "random_share", self.random_share, 0, 1)
        set_fields(self, n_startup=n_startup, random_share=share)
        if self.cost_weight is not None:
            weight = check_real("Model", "cost_weight", self.cost_weight, 0)
            set_fields(self, cost_weight=weight)

    def bind(self, problem: Problem) -> ModelSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: There is no metric to learn, or scikit-learn is missing.
        """
        if problem.metric is None:
            raise UsageError(f"samplers.Model() needs a metric to learn: {HOW_TO_NAME_A_GOAL}")
        import_extra("sklearn", "samplers.Model()", "scikit-learn", "model")
        return ModelSampler(self, problem)


@dataclass(slots=True, eq=False)
class _Study:
    """A fit that is planned, or made, or used."""

    begins: int  # the number of the first ask that uses it
    compute: Callable[[], Pool]
    pool: Pool | None = None  # once it is made


class ModelSampler(NumberedSampler):
    """The model of one problem; see `Model`.

    Attributes:
        studies_apart: Whether someone else calls `plan_study` and `learn`.
    """

    def __init__(self, plan: Model, problem: Problem) -> None:
        super().__init__(problem)
        self._plan = plan
        default = 0.0 if problem.is_repeatable else COST_WEIGHT
        self._cost_weight = default if plan.cost_weight is None else plan.cost_weight
        self._goals = problem.goals
        self._sign = -1.0 if problem.mode == "max" and not self._goals else 1.0
        self._of_several: dict[int, tuple[Mapping[int, tuple[float, ...]], Status]] = {}
        self._encoding = Encoding(problem.space)
        self._random = Draw(problem.space, problem.seed)
        self._streams = Streams(problem.seed, "model")
        self._weights = Streams(problem.seed, "weights of the objectives")
        self._fills = Streams(problem.seed, "what is not active")
        self._told: dict[int, Told] = {}
        self._n_known = 0
        self._is_at_random = False
        self._planned: _Study | None = None
        self._used: _Study | None = None
        self._studied: _Study | None = None  # made by someone else
        # Since the study is used: the asks, and those made in another process or by nobody.
        self._n_asked = 0
        self._elsewhere: list[tuple[int, dict[str, Any]]] = []
        self.studies_apart = False

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        number = self._begin()
        self._go_to(number)
        cfg = self._unseen.find(self._choose(number, self._open_pool()))
        self._plan_fit(self._next)
        return cfg

    @property
    def awaits_study(self) -> bool:
        """Whether the next ask uses a fit that is not made yet."""
        study = self._find_used(self._next)
        return study is not None and study.pool is None

    def plan_study(self) -> Callable[[], Pool] | None:
        """Return what makes the next fit, None while there is nothing to make."""
        if self._next == 0:
            self._plan_fit(0)
        for study in (self._find_used(self._next), self._planned):
            if study is not None and study.pool is None:
                self._studied = study
                return study.compute
        return None

    def learn(self, result: Pool) -> None:
        """Take in what a study found."""
        if self._studied is not None:
            self._studied.pool = result

    def draw_at_random(self) -> None:
        """Plan no further study and go on at random; see `StudyingSampler`."""
        self._is_at_random, self._planned, self._used = True, None, None

    def _plan_fit(self, number: int) -> None:
        """Plan the next fit, if there is reason to, before trial `number` is asked for."""
        n = len(self._told)
        if self._is_at_random or n < self._plan.n_startup or not self._encoding.n_columns:
            return
        if self._planned or (n <= (1 + GROWTH) * self._n_known and self._n_asked < MAX_ASKED):
            return
        seed = int(self._streams.go_to(number).integers(2**62))
        told = self._scalarize(number) if self._goals else list(self._told.values())
        compute = partial(fit, told, self._encoding, seed, self._cost_weight)
        # What earlier sweeps have found is learnt before the first trial.
        begins = number + 1 + n // TRIALS_PER_ASK if number else 0
        self._planned, self._n_known = _Study(begins, compute), n

    def _find_used(self, number: int) -> _Study | None:
        """Return the study that the ask for a trial uses."""
        is_due = self._planned is not None and number >= self._planned.begins
        return self._planned if is_due else self._used

    def _go_to(self, number: int) -> None:
        """Go on to the ask for a trial: a study that was planned for it is used from now on."""
        if number == 0:
            self._plan_fit(0)
        study = self._find_used(number)
        if study is not self._used:
            self._used, self._planned = study, None
            self._n_asked = 0
            self._elsewhere.clear()
        self._n_asked += 1

    def _open_pool(self) -> Pool | None:
        """Return the pool to propose from, without what trials of another process took of it."""
        if self._used is None:
            return None
        pool = self._used.pool = self._used.pool or self._used.compute()
        for number, cfg in self._elsewhere:
            if self._choose(number, pool) is pool:
                self._unseen.repeat(pool, cfg)
        self._elsewhere.clear()
        return pool

    def _choose(self, number: int, pool: Pool | None) -> Drawing:
        """Return what a trial's configuration is drawn from."""
        rng = self._streams.go_to(number)
        if pool is None or rng.random() < self._plan.random_share:
            self._random.go_to(number)
            return self._random
        pool.begin(rng)
        return pool

    def _note(self, cfg: dict[str, Any]) -> None:
        number = self._next - 1
        self._go_to(number)
        if self._used is not None and self._unseen.is_drawing:
            self._elsewhere.append((number, cfg))
        super()._note(cfg)
        self._plan_fit(self._next)

    def _learn(self, trial: Observation) -> None:
        # Where many run at once, those that run have come furthest: it pays to know of them.
        if not (trial.status.tells_value or trial.curve):
            return
        # The last that is told of a trial counts: one that was paused may have gone on.
        known = self._told.get(trial.number)
        fill = self._fills.go_to(abs(trial.number)).random
        row = known.row if known else self._encoding.read(trial.cfg, fill)
        if row is not None:
            if self._goals:
                self._of_several[trial.number] = trial.points, trial.status
                points: Points = ()
            else:
                points = self._judge(trial.curve or _read_last(trial), trial.status)
            self._told[trial.number] = Told(row, points, trial.seconds_per_iteration)
        if trial.number >= 0:
            self._plan_fit(self._next)

    def _scalarize(self, number: int) -> list[Told]:
        """Return what was told, the objectives as one, by weights of the ask for this trial."""
        curves, statuses = zip(*self._of_several.values(), strict=True)
        values = scalarize(curves, self._goals, self._weights.go_to(number))
        judged = map(self._judge, values, statuses)
        of_trial = dict(zip(self._of_several, judged, strict=True))
        return [replace(told, points=of_trial[each]) for each, told in self._told.items()]

    def _judge(self, curve: Mapping[int, float], status: Status) -> Points:
        """Return a curve's points, lower is better, with the end that its trial came to."""
        points = [(float(at), self._sign * value) for at, value in curve.items()]
        last = points[-1][1] if points else math.nan
        points = [point for point in points if math.isfinite(point[1])]
        if status is Status.INFEASIBLE:  # good as its values may be
            return ((COMPLETE, math.inf),)
        if status is Status.FAILED or not math.isfinite(last):
            return (*points, (COMPLETE, math.inf))
        if status is Status.COMPLETED:
            points[-1] = (COMPLETE, last)
        return tuple(points)


def _read_last(trial: Observation) -> dict[int, float]:
    return {} if trial.value is None else {trial.iteration or 0: trial.value}


# --- several objectives ---------------------------------------------------------------------------


#: What the sum of the weighted objectives counts beside the largest of them.
SHARE_OF_SUM = 0.05


def scalarize(
    curves: Sequence[Mapping[int, tuple[float, ...]]],
    goals: Sequence[Goal],
    rng: np.random.Generator,
) -> list[dict[int, float]]:
    """Return curves of one number, lower is better, of points: a Chebyshev norm.

    ParEGO's way (Knowles 2006, doi 10.1109/TEVC.2005.851274): weights are drawn for each fit, so
    that the model comes to all parts of the front. Objectives count by their rank among all that is
    known, so that neither scale nor outliers matter. A point that is not finite becomes NaN.
    """
    points = np.array([point for curve in curves for point in curve.values()])
    points = points.reshape(-1, len(goals)) * [goal.sign for goal in goals]
    finite = np.isfinite(points).all(axis=1)
    weights = rng.dirichlet(np.ones(len(goals)))
    norms = np.full(len(points), math.nan)
    if finite.any():
        weighed = weights * np.column_stack([_rank(column) for column in points[finite].T])
        norms[finite] = weighed.max(axis=1) + SHARE_OF_SUM * weighed.sum(axis=1)
    values = iter(norms.tolist())
    return [{at: next(values) for at in curve} for curve in curves]


def _rank(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return each value's place among all, from 0 to 1."""
    levels, place = np.unique(values, return_inverse=True)
    ranked: np.ndarray[Any, Any] = place / max(1, len(levels) - 1)
    return ranked
