"""A sampler of Optuna's for spaces that nobody knows ahead: trials ask for values as they run.

Each trial has one of Optuna's in a study in memory, which is asked what the trial asks. Of trials
of an earlier run, what they drew is known, and not from which ranges: those are learnt as trials
ask again, and the study is made anew with what can be told of them then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .optuna import Optuna, OptunaSampler, make_study
from .protocol import Observation


@dataclass(frozen=True, slots=True)
class DefineByRun(Optuna):
    """Draw what trials ask for, as one of Optuna's samplers does; see `Optuna`."""

    @property
    def _make(self) -> type[OptunaSampler]:
        return DefineByRunSampler


class DefineByRunSampler(OptunaSampler):
    """See the module's docstring."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._distributions: dict[str, Any] = {}  # the latest of each name
        self._untold: set[str] = set()  # names of which the study lacks what is known
        self._cfgs: dict[int, dict[str, Any]] = {}  # of the trials that were told of

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        """Return an empty configuration: nothing is known before the trial asks."""
        self._begin()
        return {}

    def suggest(
        self, number: int, drawn: Mapping[str, Any], name: str, method: str, arguments: Any
    ) -> Any:
        """Draw a value; see `SuggestingSampler.suggest`."""
        self._note_distribution(name, method, arguments)
        if self._is_default:
            seed = int(self._streams.go_to(number).integers(2**32)) + len(drawn)
            self._study.sampler = self._library.samplers.TPESampler(seed=seed % 2**32)
        if number not in self._running:
            if drawn:
                self._study.enqueue_trial(dict(drawn))
            self._running[number] = self._study.ask()
        return getattr(self._running[number], f"suggest_{method}")(name, **arguments)

    def _note_distribution(self, name: str, method: str, arguments: Any) -> None:
        types = self._library.distributions
        kinds = {
            "float": types.FloatDistribution,
            "int": types.IntDistribution,
            "categorical": types.CategoricalDistribution,
        }
        self._distributions[name] = kinds[method](**arguments)
        if name in self._untold:
            self._begin_study()

    def _begin_study(self) -> None:
        """Tell a new study all that can be told by now."""
        self._study = make_study(self._library, self._study.sampler, self._study.directions)
        self._running.clear()
        self._untold.clear()
        for number, cfg in self._cfgs.items():
            lower = self._told.get(number, [math.inf])
            if all(map(math.isfinite, lower)):
                values = [sign * value for sign, value in zip(self._signs, lower, strict=True)]
                self._study.add_trial(self._make_trial(cfg, values))

    def _note(self, cfg: dict[str, Any]) -> None:
        """Leave it to trials to draw the same again."""

    def _learn(self, trial: Observation) -> None:
        self._cfgs[trial.number] = trial.cfg
        super()._learn(trial)

    def _make_trial(self, cfg: dict[str, Any], values: list[float]) -> Any:
        known = {name: cfg[name] for name in cfg if self._can_be_told(name, cfg[name])}
        self._untold |= cfg.keys() - known
        ranges = {name: self._distributions[name] for name in known}
        return self._create(known, ranges, values)

    def _can_be_told(self, name: str, value: Any) -> bool:
        if name not in self._distributions:
            return False
        try:
            self._create({name: value}, {name: self._distributions[name]}, [0.0])
        except ValueError:  # of other ranges than now
            return False
        return True

    def _create(self, params: dict[str, Any], ranges: dict[str, Any], values: list[float]) -> Any:
        create = self._library.trial.create_trial
        return create(params=params, distributions=ranges, values=values)
