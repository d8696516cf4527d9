"""Optuna: a study with all trials, which optuna-dashboard shows and `load_study` reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from ..trial import Status
from ..views.formats import list_spaces
from .feed import SweepNews, TrialNews, describe_sweep, describe_trial, simplify


@dataclass(frozen=True, slots=True)
class Optuna:
    """A study in a database.

    Args:
        url: The storage, `"sqlite:///study.db"`; a path without `://` is a SQLite file.
        study: Its name; None is the experiment's.
    """

    url: str = "sqlite:///optuna.db"
    study: str | None = None

    NEEDS: ClassVar[tuple[str, str]] = ("optuna", "optuna")

    def open(self) -> _Study:
        """Import Optuna, and open the storage."""
        import optuna

        url = self.url if "://" in self.url else f"sqlite:///{self.url}"
        return _Study(optuna, optuna.storages.RDBStorage(url), self.study)


class _Study:
    def __init__(self, library: Any, storage: Any, name: str | None) -> None:
        self._library = library
        self._storage = storage
        self._name = name
        self._study_id = 0
        self._goals: Sequence[tuple[str, str]] = []
        self._spaces: Mapping[str, Mapping[str, Any]] = {}
        self._open: dict[int, Status] = {}

    def begin(self, sweep: SweepNews, place: str | None) -> str:  # noqa: ARG002 - the protocol's
        """Make the study, or find it; one of that name that is another experiment's is left."""
        self._goals = sweep.goals
        self._spaces = list_spaces(sweep.record.settings.get("space"))
        made, name = f"{sweep.record.created_at}", self._name or sweep.name
        names = self._storage.get_all_studies()
        found = next((study for study in names if study.study_name == name), None)
        if found is not None and found.user_attrs.get("slurm_sweeps") != made:
            raise ValueError(
                f"there is a study {name!r} in this storage that is not of this experiment: name "
                "another storage or study, or delete it"
            )
        if found is None:
            modes = [mode for _, mode in self._goals] or ["min"]
            word = self._library.study.StudyDirection
            directions = [word.MINIMIZE if mode == "min" else word.MAXIMIZE for mode in modes]
            self._study_id = self._storage.create_new_study(directions, name)
            self._set_attr("slurm_sweeps", made)
            return f"{name} {self._study_id}"
        self._study_id = found._study_id
        return f"{name} {self._study_id}"

    def _set_attr(self, name: str, value: Any) -> None:
        self._storage.set_study_user_attr(self._study_id, name, value)

    def send(self, trial: TrialNews) -> str:
        """Make or find the trial, add its values, and end it if it has ended for good."""
        frozen = None if trial.place is None else self._storage.get_trial(int(trial.place))
        if frozen is None or frozen.state.is_finished():  # it was run again
            key = self._create(trial, {} if frozen is None else frozen.intermediate_values)
        else:
            key = int(trial.place or 0)
        first = self._goals[0][0] if self._goals else None
        for metric, iteration, value, _ in trial.points:
            if metric == first:
                self._storage.set_trial_intermediate_value(key, iteration, value)
        for name, value in describe_trial(trial.record).items():
            self._storage.set_trial_user_attr(key, name, value)
        if not self._spaces:  # what trials have drawn as they ran is told, not from what
            for name, value in trial.cfg.items():
                self._storage.set_trial_user_attr(key, f"cfg/{name}", simplify(value))
        if trial.record.status.is_final:
            self._finish(key, trial.record.status, [trial.best.get(m) for m, _ in self._goals])
            self._open.pop(key, None)
        else:
            self._open[key] = trial.record.status
        return str(key)

    def _create(self, trial: TrialNews, values: Mapping[int, float]) -> int:
        varying = {name: value for name, value in trial.cfg.items() if name in self._spaces}
        params = {name: simplify(value) for name, value in varying.items()}
        distributions = {
            name: self._build_distribution(self._spaces[name], value)
            for name, value in params.items()
        }
        template = self._library.trial.FrozenTrial(
            number=-1,
            trial_id=-1,
            state=self._library.trial.TrialState.RUNNING,
            value=None,
            datetime_start=datetime.fromtimestamp(trial.record.start_time or 0.0),
            datetime_complete=None,
            params=params,
            distributions=distributions,
            user_attrs={"trial_id": trial.record.trial_id},
            system_attrs={},
            intermediate_values=dict(values),
        )
        return int(self._storage.create_new_trial(self._study_id, template))

    def _build_distribution(self, space: Mapping[str, Any], value: Any) -> Any:
        """Write a space as Optuna has it; what Optuna has not is the value's own place."""
        kinds = self._library.distributions
        if space["options"] is not None:
            options = dict.fromkeys([simplify(each) for each in space["options"]] + [value])
            return kinds.CategoricalDistribution(list(options))
        if not isinstance(value, int | float):
            return kinds.CategoricalDistribution([value])
        low, high = space["low"], space["high"]
        low, high = (value, value) if low is None else (min(low, value), max(high, value))
        if space["is_integer"]:
            return kinds.IntDistribution(int(low), int(high), log=space["is_log"] and low >= 1)
        return kinds.FloatDistribution(low, high, log=space["is_log"] and low > 0)

    def _finish(self, key: int, status: Status, values: list[float | None]) -> None:
        states = self._library.trial.TrialState
        known = [value for value in values if value is not None and math.isfinite(value)]
        is_whole = bool(values) and len(known) == len(values)
        if status is Status.COMPLETED and is_whole:
            self._storage.set_trial_state_values(key, states.COMPLETE, known)
        elif status.is_cut_short:
            value = known if is_whole and len(values) == 1 else None
            self._storage.set_trial_state_values(key, states.PRUNED, value)
        else:
            self._storage.set_trial_state_values(key, states.FAIL)

    def end(self, sweep: SweepNews) -> None:
        """End what is not run any more, and keep what the experiment is at."""
        for key, status in self._open.items():
            if status is not Status.RUNNING:
                self._finish(key, status, [])
        self._open.clear()
        for name, value in describe_sweep(sweep).items():
            self._set_attr(name, value)
