"""What a sampler is: it proposes configurations and is told what became of them.

A sampler is made in two steps. What the user passes to an experiment is a plan, free of any search
space (`Random()`); the experiment binds it: `plan.bind(problem)` gives the sampler that `ask` and
`tell` are called on. A class of one's own can be both at once:

    class Halves:
        def bind(self, problem):
            self.space, self.number = problem.space, 0
            return self

        def ask(self, now):
            self.number += 1
            return self.space.build(lambda leaf: 0.5 if self.number % 2 else 0.25)

        def tell(self, trial):
            self.number = max(self.number, trial.number + 1)

The rules, which the property tests of `tests/samplers` hold every sampler to:

- Trial numbers are given in the order of the asks: the first ask is trial 0's, the next trial 1's.
- `tell` comes when a trial starts, with its first values from each power of four of the iterations
  on, and when it ends; in an experiment that is resumed also for each stored trial, in the order of
  their numbers, before the first ask; a `StudyingSampler` is told again all that it was told then.
  So it comes more than once for a number, and the last one counts.
- Told of the trials 0 to n-1 in a fresh process, with the same seed, a sampler asks for trial n
  what it would have asked for undisturbed. One that learns does so when it was told the same in
  the same order.
- No clock and no global random state: `now` and the problem's seed are all there is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..checks import Goal
from ..errors import UsageError
from ..search.search_space import SearchSpace
from ..trial import Status

#: What to do where a metric is needed and none was named.
HOW_TO_NAME_A_GOAL = (
    "pass metric= and mode= to the experiment, or a pruner such as asha=ss.ASHA(metric, mode)"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a sampler is to search.

    Args:
        space: The search space.
        seed: The sweep's seed, 0 or more; drawn once and stored where the user gave none.
        metric: The metric that the sweep is after, or None if nobody said.
        mode: "min" or "max"; None where `metric` is.
        is_repeatable: Whether the user gave the seed: what is proposed may then depend on no clock.
        goals: Where the sweep is after several metrics, all of them; `metric` is the first.
    """

    space: SearchSpace
    seed: int
    metric: str | None = None
    mode: str | None = None
    is_repeatable: bool = False
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What a sampler is told of a trial.

    Args:
        number: The trial's position in its sweep, from 0.
        cfg: Its configuration.
        status: RUNNING until it ends, then what it ended as.
        iteration: The largest iteration that it logged the metric at; None if it never did.
        value: The metric there; may be NaN or infinite.
        curve: The metric by iteration, rising and thinned: the first value from each power of
            four on, and the last; empty where nobody has kept it.
        seconds_per_iteration: How long its iterations take, as its first report from iteration 1 on
            told: the time from its start, loading included, divided by the iteration; more than 0,
            None while unknown, and where a later attempt logged the first report.
        points: Where the sweep is after several metrics: all of them by iteration, as `curve` is of
            the first.
    """

    number: int
    cfg: dict[str, Any]
    status: Status
    iteration: int | None = None
    value: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    seconds_per_iteration: float | None = None
    points: Mapping[int, tuple[float, ...]] = field(default_factory=dict)


class Sampler(Protocol):
    """Proposes configurations for one problem.

    To be used with `skip` it needs a method `skip(cfg)`, told of each configuration that is not to
    be proposed, before all else. To be used with `warm_start` it also needs a method
    `warm_up(cfg, value)` that is told of each trial of an earlier sweep then. One that may have a
    next trial again when another has ended has an attribute `asks_again` that is True.
    """

    def ask(self, now: float) -> dict[str, Any] | None:
        """Return the configuration of the next trial, or None when there will be no more.

        Args:
            now: Seconds on the caller's clock, real or simulated; never goes back.
        """

    def tell(self, trial: Observation) -> None:
        """Take note of a trial that started, came some way, ended or was read from the store."""


def import_extra(module: str, user: str, library: str, extra: str) -> Any:
    """Import a module of a library that only some samplers need.

    Raises:
        UsageError: It is missing; the message says what needs it, and how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{user} needs {library} ({error}): pip install 'slurm-sweeps[{extra}]'"
        ) from error


@runtime_checkable
class StudyingSampler(Sampler, Protocol):
    """A sampler that learns, in steps too long for an ask.

    It may also have a method `draw_at_random()`: a study has raised, and the sweep is to go on
    without what it learns. Without that method the sweep ends.

    Which asks use what a study found must follow from the order of what was asked and told alone,
    not from how long it took.

    Attributes:
        studies_apart: Set by a driver that calls `plan_study` and `learn` by itself; else an ask
            does it.
    """

    studies_apart: bool

    @property
    def awaits_study(self) -> bool:
        """Whether the next ask uses what a study finds that was not learnt yet: it has to wait."""

    def plan_study(self) -> Callable[[], Any] | None:
        """Return what is to be computed next, None for nothing; it may run in another thread."""

    def learn(self, result: Any) -> None:
        """Take in what the study that was planned last returned."""


@runtime_checkable
class SuggestingSampler(Sampler, Protocol):
    """A sampler whose configurations are empty at first: trials ask for each value as they run."""

    def suggest(
        self, number: int, drawn: Mapping[str, Any], name: str, method: str, arguments: Any
    ) -> Any:
        """Draw a value.

        Args:
            number: The trial's.
            drawn: What it has drawn before.
            name: The value's.
            method: "float", "int" or "categorical", as of Optuna's trials.
            arguments: What Optuna's method takes besides, by name.

        Raises:
            TypeError, ValueError: The arguments make no sense.
        """


@runtime_checkable
class SamplerPlan(Protocol):
    """A sampler as the user passes it, before it knows the problem."""

    def bind(self, problem: Problem) -> Sampler:
        """Return a sampler for this problem, in its first state."""
