"""Learning from the trials so far where good configurations lie.

A forest is told of each trial's learning curve, thinned, with the iteration as one more input, and
asked what a configuration would reach in the end: what was pruned early teaches it what early
values are worth, and what still runs how far one can come. Each proposal follows a few of its
trees, drawn at random (Thompson sampling): where trees agree it goes to what is best, where they
differ it explores. As every proposal follows other trees and leaves the pool of candidates, many
workers that ask at once are not sent to one place.

What an iteration costs is learned as well: of two that promise the same the cheaper comes first.

`plan_study` and `learn` part the fit from the asking, so that a driver can fit in another thread;
unless someone took this over (`studies_apart`), an ask fits by itself when enough was told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..checks import check_integer, check_real, set_fields
from ..errors import UsageError
from ..search.draws import Draw, Streams
from ..trial import Status
from .forest import COMPLETE, Encoding, Points, Pool, Told, fit
from .protocol import NumberedSampler, Observation, Problem, import_extra

#: The forest is fitted anew when there are so many more trials, as a share of those it knows.
GROWTH = 0.05

#: So many candidates at least are left in the pool; then the next fit can't wait.
MIN_POOL = 300


@dataclass(frozen=True, slots=True)
class Model:
    """Propose what a forest of trees, fitted to the trials so far, expects to end well.

    Needs scikit-learn: `pip install 'slurm-sweeps[model]'`, and a metric (that of the pruner).
    Conditional and mixed spaces are modelled; trials that fail or diverge count as the worst.

    Args:
        n_startup: How many trials must have reported before the model is asked; random till then.
        random_share: The share of proposals, from 0 to 1, that are drawn at random for ever.
        cost_weight: How much the time counts that an iteration takes, 0 or more: of two
            configurations of which one takes e = 2.7 times as long, this one must be expected to
            be better by so many standard deviations of the scores; among more than 100 trials
            by less, falling with one over the square root of their number. 0 where only the
            number of trials counts.

    Raises:
        UsageError: An argument is out of its range.
        UsageTypeError: An argument is of a wrong type.
    """

    n_startup: int = 15
    random_share: float = 0.3
    cost_weight: float = 0.2

    def __post_init__(self) -> None:
        n_startup = check_integer("Model", "n_startup", self.n_startup, 1)
        share = check_real("Model", "random_share", self.random_share, 0, 1)
        weight = check_real("Model", "cost_weight", self.cost_weight, 0)
        set_fields(self, n_startup=n_startup, random_share=share, cost_weight=weight)

    def bind(self, problem: Problem) -> ModelSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: There is no metric to learn, or scikit-learn is missing.
        """
        if problem.metric is None:
            raise UsageError(
                "samplers.Model() needs a metric to learn: pass asha=ss.ASHA(metric, mode)"
            )
        import_extra("sklearn", "samplers.Model()", "scikit-learn", "model")
        return ModelSampler(self, problem)


class ModelSampler(NumberedSampler):
    """The model of one problem; see `Model`.

    Attributes:
        studies_apart: Whether someone else calls `plan_study` and `learn`.
    """

    def __init__(self, plan: Model, problem: Problem) -> None:
        super().__init__(problem)
        self._plan = plan
        self._seed = problem.seed
        self._sign = -1.0 if problem.mode == "max" else 1.0
        self._encoding = Encoding(problem.space)
        self._random = Draw(problem.space, problem.seed)
        self._streams = Streams(problem.seed, "model")
        self._fills = Streams(problem.seed, "what is not active")
        self._told: dict[int, Told] = {}
        self._n_known = 0
        self._is_at_random = False
        self._pool: Pool | None = None
        self.studies_apart = False

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        number = self._begin()
        if not self.studies_apart and (study := self.plan_study()) is not None:
            self.learn(study())
        rng = self._streams.go_to(number)
        if self._pool is None or rng.random() < self._plan.random_share:
            self._random.go_to(number)
            return self._unseen.find(self._random)
        self._pool.begin(rng)
        return self._unseen.find(self._pool)

    def plan_study(self) -> Callable[[], Pool] | None:
        """Return what makes the next fit, None while there is too little new."""
        n = len(self._told)
        is_short = self._pool is not None and self._pool.n_left < MIN_POOL
        if self._is_at_random or n < self._plan.n_startup or not self._encoding.n_columns:
            return None
        if n <= (1 + GROWTH) * self._n_known and not is_short:
            return None
        seed = int(self._streams.go_to(self._next).integers(2**62))
        self._n_known = n
        told = list(self._told.values())
        return partial(fit, told, self._encoding, seed, self._plan.cost_weight)

    def learn(self, result: Pool) -> None:
        """Take in what a study found."""
        self._pool = result

    def draw_at_random(self) -> None:
        """Plan no further study and go on at random; see `StudyingSampler`."""
        self._is_at_random, self._pool = True, None

    def _learn(self, trial: Observation) -> None:
        # Where many run at once, those that run have come furthest: it pays to know of them.
        if not (trial.status.tells_value or trial.curve):
            return
        # The last that is told of a trial counts: one that was paused may have gone on.
        known = self._told.get(trial.number)
        fill = self._fills.go_to(abs(trial.number)).random
        row = known.row if known else self._encoding.read(trial.cfg, fill)
        if row is not None:
            points = self._judge(trial.curve or _read_last(trial), trial.status)
            self._told[trial.number] = Told(row, points, trial.seconds_per_iteration)

    def _judge(self, curve: Mapping[int, float], status: Status) -> Points:
        """Return a curve's points, lower is better, with the end that its trial came to."""
        points = [(float(at), self._sign * value) for at, value in curve.items()]
        last = points[-1][1] if points else math.nan
        points = [point for point in points if math.isfinite(point[1])]
        if status is Status.FAILED or not math.isfinite(last):
            return (*points, (COMPLETE, math.inf))
        if status is Status.COMPLETED:
            points[-1] = (COMPLETE, last)
        return tuple(points)


def _read_last(trial: Observation) -> dict[int, float]:
    return {} if trial.value is None else {trial.iteration or 0: trial.value}
