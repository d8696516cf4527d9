"""SweepData: all of a sweep that its pictures and its report are made of, read once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...checks import Goal
from ...storage import rows
from ...storage.database import Database
from ...storage.records import AttemptRecord, ExperimentRecord, RunRecord, TrialRecord
from ...trial import Status, flatten_cfg
from ..compare import Runs, rank_configurations
from ..formats import Parameter, list_parameters
from ..ranking import get_best, list_goals
from ..sight import look_at_driver, read_runs

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SweepData:
    """A sweep as arrays, one entry a trial, in the order of `trials`."""

    experiment: ExperimentRecord
    metric: str | None  # that the pictures are about; None where nothing was ever logged
    mode: str | None  # "min" or "max"; None where nobody said which is best
    now: float  # when this was read, seconds since 1970
    last_sign: float  # when its driver was last known to be alive; `now` while it is
    trials: Sequence[TrialRecord]  # by number
    cfgs: Sequence[Mapping[str, Any]]  # nested keys joined by dots
    # The best finite value of the metric, the last one where `mode` is None; else NaN, as of an
    # infeasible trial.
    best: Floats
    best_iteration: Ints  # where that was; -1 where there is none
    last: Mapping[str, Floats]  # the latest value of each metric, NaN where it was not logged
    iterations: Ints  # how many each has logged
    reports: npt.NDArray[np.void]  # structured: `REPORT_FIELDS` of the metric, by trial, iteration
    attempts: Sequence[AttemptRecord]  # all, by trial, see `read_runs`
    parameters: Sequence[Parameter]  # what varies
    driver_runs: Sequence[RunRecord] = ()  # of what code each driver ran

    @property
    def objectives(self) -> tuple[Goal, ...]:
        """Where the sweep is after several metrics, all of them; else none."""
        goals = list_goals(self.experiment.settings)
        return goals if len(goals) > 1 else ()

    @property
    def statuses(self) -> list[str]:
        """The status of each trial."""
        return [trial.status.value for trial in self.trials]

    @property
    def runtimes_s(self) -> list[float | None]:
        """How long each trial ran, or has run by now, all of its attempts together."""
        found: dict[int, float] = {}
        for each in self.attempts:
            end = self.last_sign if each.status is Status.RUNNING else each.end_time
            if each.start_time is not None and end is not None:
                found[each.number] = found.get(each.number, 0.0) + max(0.0, end - each.start_time)
        return [found.get(trial.number) for trial in self.trials]

    @property
    def infeasible(self) -> list[int]:
        """The positions of the trials that can't be the best."""
        return [at for at, t in enumerate(self.trials) if t.status is Status.INFEASIBLE]

    @property
    def begun_at(self) -> float:
        """When the first attempt of all began, seconds since 1970."""
        times = [each.start_time for each in self.attempts if each.start_time is not None]
        return min(times, default=self.experiment.created_at)

    @property
    def asha(self) -> Mapping[str, Any]:
        """The settings of ASHA; empty where there is none."""
        return self.experiment.settings.get("asha") or {}

    @property
    def is_log(self) -> bool:
        """Whether the metric's values are better seen on a logarithmic axis."""
        values = self.reports["value"][np.isfinite(self.reports["value"])]
        return len(values) > 1 and values.min() > 0 and values.max() / values.min() > 300

    @property
    def ranking(self) -> list[int]:
        """The positions of the trials that have a best value, the best first."""
        known = np.flatnonzero(np.isfinite(self.best))
        keys = -self.best[known] if self.mode == "max" else self.best[known]
        ranked: list[int] = known[np.argsort(keys, kind="stable")].tolist()
        first = [self.trials.index(runs.best[0]) for runs in self.configurations]
        return list(dict.fromkeys([*first, *ranked]))

    @property
    def configurations(self) -> list[Runs]:
        """Where configurations are run several times, these, the best first."""
        repeat = self.experiment.settings.get("repeat")
        if repeat is None or self.mode is None:
            return []
        known = np.flatnonzero(np.isfinite(self.best)).tolist()
        found = (
            (self.trials[at], float(self.best[at]), int(self.best_iteration[at])) for at in known
        )
        return rank_configurations(found, repeat, self.mode)


def read_sweep_data(
    database: Database,
    experiment: ExperimentRecord,
    now: float,
    metric: str | None = None,
    mode: str | None = None,
) -> SweepData:
    """Read a sweep, by default to look at its own metric, else at the first that was logged."""
    own = experiment.settings.get("metric")
    metric = metric or own or next(iter(rows.read_metric_ids(database, experiment.id)), None)
    if mode is None and metric is not None:
        mode = dict(list_goals(experiment.settings)).get(metric)
    sight = look_at_driver(experiment, now)
    trials = [sight.settle(trial) for trial in rows.read_trials(database, experiment.id)]
    best, best_iteration = _read_best(database, experiment.id, metric, mode, trials)
    last, iterations = _read_last(database, experiment.id, len(trials))
    cfgs = [flatten_cfg(json.loads(trial.cfg_json)) for trial in trials]
    return SweepData(
        experiment=replace(experiment, state=sight.state),
        metric=metric,
        mode=mode,
        now=now,
        last_sign=sight.last_sign,
        trials=trials,
        cfgs=cfgs,
        best=best,
        best_iteration=best_iteration,
        last=last,
        iterations=iterations,
        reports=_read_reports(database, experiment.id, metric, len(trials)),
        attempts=[a for a in read_runs(database, experiment, now) if a.number < len(trials)],
        parameters=list_parameters(experiment.settings.get("space"), cfgs),
        driver_runs=rows.read_driver_runs(database, experiment.id),
    )


def _read_best(
    database: Database,
    experiment_id: int,
    metric: str | None,
    mode: str | None,
    trials: Sequence[TrialRecord],
) -> tuple[Floats, Ints]:
    count = len(trials)
    best, at = np.full(count, np.nan), np.full(count, -1, dtype=np.int64)
    for each in rows.read_aggregates(database, experiment_id, metric) if metric else ():
        last = each.last_value, each.last_iteration
        found = last if mode is None else get_best(each, mode)
        if each.number >= count or trials[each.number].status is Status.INFEASIBLE:
            continue
        if found is not None:
            best[each.number], at[each.number] = found
    best[~np.isfinite(best)] = np.nan
    return best, at


def _read_last(
    database: Database, experiment_id: int, count: int
) -> tuple[dict[str, Floats], Ints]:
    iterations = np.zeros(count, dtype=np.int64)
    last = {}
    for name, table in rows.read_aggregate_tables(database, experiment_id).items():
        table = table[table["number"] < count]  # of trials that were added meanwhile nothing
        np.maximum.at(iterations, table["number"], table["count"])
        last[name] = np.full(count, np.nan)
        last[name][table["number"]] = table["last"]
    return last, iterations


def _read_reports(
    database: Database, experiment_id: int, metric: str | None, count: int
) -> npt.NDArray[np.void]:
    found = rows.read_reports(database, experiment_id, metric, range(count)) if metric else ()
    return np.concatenate([np.empty(0, dtype=rows.REPORT_FIELDS), *found])
