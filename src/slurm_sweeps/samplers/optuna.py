"""Any of Optuna's samplers, asked for configurations and told how they went.

Optuna sees each space as its unit in [0, 1] and each choice as the number of its option; what these
stand for stays with the search space. A study in memory holds what it was told: of each trial its
metric's last value, as if the trial were complete, which serves far better than Optuna's own way
with pruned trials. The database remains the only store: a sweep that goes on tells it all again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import UsageError, UsageTypeError
from ..search.draws import Drawing, Streams
from ..search.search_space import SearchSpace
from ..search.tree import Leaf
from ..trial import Status
from .protocol import HOW_TO_NAME_A_GOAL, Observation, Problem, import_extra
from .simple import NumberedSampler

#: What to do instead of using samplers of Optuna's that go by the values themselves.
INSTEAD = {
    "GridSampler": "put ss.Grid([…]) into the cfg, and leave sampler out",
    "BruteForceSampler": "put ss.Grid([…]) into the cfg, and leave sampler out",
    "PartialFixedSampler": "put the values that are fixed into the cfg in place of their spaces",
}


#: So often Optuna is asked for one configuration.
MAX_ASKED = 32


@dataclass(frozen=True, slots=True)
class Optuna:
    """Propose what one of Optuna's samplers does.

    Needs Optuna (`pip install 'slurm-sweeps[optuna]'`) and a metric (the experiment's). A trial
    that failed, diverged or is infeasible counts as the worst seen (constraints of Optuna's own
    are not used: not all of its samplers have them). An ask takes what the sampler takes, which
    grows with the trials: 20 ms are usual at 1,000; reports wait for it.

    Args:
        sampler: An object of a class of `optuna.samplers`, with its own seed; it is told numbers as
            their units in [0, 1]. None is a tree-structured Parzen estimator of one dimension at
            a time, which the sweep's seed makes repeatable.
    """

    sampler: Any = None

    def bind(self, problem: Problem) -> OptunaSampler:
        """Return a sampler for this problem.

        Raises:
            UsageError: There is no metric to learn, Optuna is missing, or its sampler goes by the
                values themselves.
            UsageTypeError: `sampler` is none of Optuna's.
        """
        if problem.metric is None:
            raise UsageError(f"samplers.Optuna() needs a metric to learn: {HOW_TO_NAME_A_GOAL}")
        library = import_extra("optuna", "samplers.Optuna()", "Optuna", "optuna")
        if self.sampler is not None and not isinstance(self.sampler, library.samplers.BaseSampler):
            raise UsageTypeError(
                "samplers.Optuna(sampler) takes an object such as optuna.samplers.GPSampler(), "
                f"got {self.sampler!r}"
            )
        for kind in type(self.sampler).__mro__:
            if kind.__name__ in INSTEAD and kind.__module__.startswith("optuna."):
                raise UsageError(
                    f"samplers.Optuna({kind.__name__}(…)) can't work here, where it is told "
                    f"numbers as their units in [0, 1]: {INSTEAD[kind.__name__]}"
                )
        return self._make(self, problem, library)

    @property
    def _make(self) -> type[OptunaSampler]:
        return OptunaSampler


class OptunaSampler(NumberedSampler):
    """One of Optuna's samplers at work on one problem; see `Optuna`."""

    def __init__(self, plan: Optuna, problem: Problem, library: ModuleType) -> None:
        super().__init__(problem)
        self._library = library
        self._is_default = plan.sampler is None
        modes = [goal.mode for goal in problem.goals] or [problem.mode or "min"]
        directions = ["maximize" if mode == "max" else "minimize" for mode in modes]
        self._study = make_study(library, plan.sampler, directions)
        self._signs = [-1.0 if mode == "max" else 1.0 for mode in modes]
        self._asking = _Asking(self._study, problem.space, library)
        self._streams = Streams(problem.seed, "optuna")
        self._running: dict[int, Any] = {}
        self._told: dict[int, list[float]] = {}
        self._worst = [-math.inf for _ in modes]  # lower is better

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        number = self._begin()
        rng = self._streams.go_to(number)
        if self._is_default:
            # A fresh one for each trial: what it draws depends on what was told, and on the number.
            self._study.sampler = self._library.samplers.TPESampler(
                seed=int(rng.integers(2**32)), multivariate=False, constant_liar=False
            )
        self._asking.begin(rng)
        cfg = self._unseen.find(self._asking)
        trial = self._asking.take(cfg)
        if trial is not None:
            self._running[number] = trial
        return cfg

    def _learn(self, trial: Observation) -> None:
        if not trial.status.tells_value:
            return
        number, lower = trial.number, self._read(trial)
        if self._told.get(number) == lower:
            return
        self._told[number] = lower
        self._worst = list(map(max, self._worst, lower))
        known = all(map(math.isfinite, lower))  # else there is nothing to compare to
        told = [sign * value for sign, value in zip(self._signs, lower, strict=True)]
        if (running := self._running.pop(number, None)) is not None:
            state = self._library.trial.TrialState
            if known:
                self._study.tell(running, told, state=state.COMPLETE)
            else:
                self._study.tell(running, state=state.FAIL)
        # What Optuna was told it keeps: news of a trial that was paused come as a further trial.
        elif known and (complete := self._make_trial(trial.cfg, told)) is not None:
            self._study.add_trial(complete)

    def _read(self, trial: Observation) -> list[float]:
        """Return a trial's last values, lower is better; the worst seen where there is none."""
        value = (math.nan if trial.value is None else trial.value,)
        last = trial.points[max(trial.points)] if trial.points else value
        is_known = len(last) == len(self._signs) and all(map(math.isfinite, last))
        if trial.status is Status.INFEASIBLE or not is_known:
            return self._worst
        return [sign * value for sign, value in zip(self._signs, last, strict=True)]

    def _make_trial(self, cfg: dict[str, Any], values: list[float]) -> Any:
        return self._asking.make_trial(cfg, values)


class _Asking(Drawing):
    """Configurations as Optuna proposes them; each leaf of the space is one of its parameters."""

    def __init__(self, study: Any, space: SearchSpace, library: ModuleType) -> None:
        super().__init__(space, np.random.default_rng(0))
        self._study = study
        self._library = library
        self._names: dict[Leaf, str] = {}
        seen: Counter[str] = Counter()
        for leaf in space.leaves:  # leaves in different options may share a path
            seen[leaf.path] += 1
            again = f" #{seen[leaf.path]}" if seen[leaf.path] > 1 else ""
            self._names[leaf] = leaf.path + again
        self._n_drawn = 0
        self._trial: Any = None
        self._cfg: dict[str, Any] | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """Begin to propose for another trial."""
        self.rng, self._n_drawn = rng, 0

    def draw(self) -> dict[str, Any]:
        """Return the next proposal; the one before it was not wanted.

        After `MAX_ASKED` of them, none of which `where` has allowed, it is drawn at random: some
        samplers propose the same again and again.
        """
        self._drop()
        self._n_drawn += 1
        if self._n_drawn > MAX_ASKED:
            return super().draw()
        self._trial = self._study.ask()
        self._cfg = super().draw()
        return self._cfg

    def take(self, cfg: dict[str, Any]) -> Any:
        """Return Optuna's trial behind a configuration; None if it is not the last one drawn."""
        if cfg is not self._cfg:
            self._drop()
        trial, self._trial, self._cfg = self._trial, None, None
        return trial

    def make_trial(self, cfg: dict[str, Any], values: list[float]) -> Any:
        """Return a complete trial of Optuna's; None for a configuration of another space."""
        try:
            units = self._space.to_units(cfg)
        except UsageError:
            return None
        params: dict[str, Any] = {}
        distributions: dict[str, Any] = {}
        types = self._library.distributions
        for leaf, unit in units.items():
            name = self._names[leaf]
            if not leaf.n_options:
                params[name], distributions[name] = unit, types.FloatDistribution(0.0, 1.0)
            else:
                params[name] = leaf.pick_option(unit)
                distributions[name] = types.CategoricalDistribution(range(leaf.n_options))
        return self._library.trial.create_trial(
            params=params, distributions=distributions, values=values
        )

    def _pick(self, leaf: Leaf) -> float:
        if self._trial is None:
            return float(self.rng.random())
        name = self._names[leaf]
        if not leaf.n_options:
            return float(self._trial.suggest_float(name, 0.0, 1.0))
        return leaf.find_unit(self._trial.suggest_categorical(name, range(leaf.n_options)))

    def _drop(self) -> None:
        if self._trial is not None:
            self._study.tell(self._trial, state=self._library.trial.TrialState.FAIL)
            self._trial = None


def make_study(library: ModuleType, sampler: Any, directions: Sequence[Any]) -> Any:
    """Return a study in memory, made without a word on the screen."""
    level = library.logging.get_verbosity()
    library.logging.set_verbosity(max(level, library.logging.WARNING))
    try:
        return library.create_study(
            sampler=sampler or library.samplers.RandomSampler(),
            pruner=library.pruners.NopPruner(),
            directions=directions,
        )
    finally:
        library.logging.set_verbosity(level)
