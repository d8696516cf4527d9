"""MLflow: a parent run for an experiment, with a child for each trial."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from ..trial import Status
from .feed import SweepNews, TrialNews, describe_sweep, describe_trial

#: So many values, and so many of a cfg, MLflow takes at once; and so many characters of one.
MOST_METRICS, MOST_PARAMS, MOST_CHARACTERS = 1000, 100, 500

#: MLflow's words.
STATUSES = {
    Status.RUNNING: "RUNNING",
    Status.PAUSED: "SCHEDULED",
    Status.FAILED: "FAILED",
    Status.LOST: "KILLED",
    Status.INTERRUPTED: "KILLED",
}
STATES = {"failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED", "completed": "FINISHED"}


@dataclass(frozen=True, slots=True)
class MLflow:
    """A tracking server, or a database.

    Args:
        uri: MLflow's tracking URI, `"sqlite:///mlruns.db"` or `"http://host:5000"`. None: what
            `MLFLOW_TRACKING_URI` says, else MLflow's own default.
        experiment: MLflow's experiment; None is the sweep's name.
    """

    uri: str | None = None
    experiment: str | None = None

    NEEDS: ClassVar[tuple[str, str]] = ("mlflow", "mlflow")

    def open(self) -> _Runs:
        """Import MLflow, and reach the server."""
        from mlflow.tracking import MlflowClient

        return _Runs(MlflowClient(self.uri), self.experiment)


class _Runs:
    def __init__(self, client: Any, experiment: str | None) -> None:
        self._client = client
        self._wanted = experiment
        self._experiment = ""
        self._parent = ""

    def begin(self, sweep: SweepNews, place: str | None) -> str:
        """Make the parent run, or find it."""
        if place is not None and self._is_there(place):
            self._parent = place
            self._experiment = self._client.get_run(place).info.experiment_id
            self._client.update_run(place, status="RUNNING")
            return place
        name = self._wanted or sweep.name
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._parent = self._create(sweep.name, sweep.record.created_at)
        return self._parent

    def _is_there(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            stage = self._client.get_run(run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return str(stage) == "active"

    def _create(self, name: str, began_at: float | None, **tags: str) -> str:
        run = self._client.create_run(
            self._experiment,
            start_time=None if began_at is None else round(began_at * 1000),
            tags={key.replace("__", "."): value for key, value in tags.items()},
            run_name=name,
        )
        return str(run.info.run_id)

    def send(self, trial: TrialNews) -> str:
        """Log what is new of a trial into its run."""
        from mlflow.entities import Metric, Param

        record, run_id = trial.record, trial.place
        if run_id is None:
            run_id = self._create(
                record.trial_id, record.start_time, mlflow__parentRunId=self._parent
            )
            params = (
                Param(_clean(name), str(value)[:MOST_CHARACTERS])
                for name, value in trial.cfg.items()
            )
            while some := list(islice(params, MOST_PARAMS)):
                self._client.log_batch(run_id, params=some)
        metrics = (
            Metric(_clean(metric), value, round(at * 1000), iteration)
            for metric, iteration, value, at in trial.points
        )
        while batch := list(islice(metrics, MOST_METRICS)):
            self._client.log_batch(run_id, metrics=batch)
        self._tag(run_id, {"slurm_sweeps.trial_id": record.trial_id, **describe_trial(record)})
        if trial.runs:
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._end(run_id, STATUSES.get(record.status, "FINISHED"), record.end_time)
        return run_id

    def _tag(self, run_id: str, told: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [
            RunTag(name, str(value)[:MOST_CHARACTERS])
            for name, value in told.items()
            if value is not None
        ]
        self._client.log_batch(run_id, tags=tags)

    def _end(self, run_id: str, status: str, at: float | None) -> None:
        self._client.set_terminated(run_id, status, None if at is None else round(at * 1000))

    def end(self, sweep: SweepNews) -> None:
        """Say in the parent run what the experiment is at."""
        self._tag(self._parent, describe_sweep(sweep))
        status = STATES.get(sweep.record.state)
        if status is not None:
            self._end(self._parent, status, sweep.record.updated_at)


def _clean(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. /]", "_", name)
