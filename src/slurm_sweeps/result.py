"""Result: what a sweep found, while it runs or afterwards, from any host that sees its database.

Only the database is read: nothing is unpickled, nothing is made, and no lock is held between two
calls. Each call reads anew, so that the result of a running sweep grows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ExperimentNotFoundError, UsageError
from .storage import rows
from .storage.database import Database
from .storage.faults import describe_old
from .storage.layout import Layout
from .storage.records import ExperimentRecord, TrialRecord
from .trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from .views.pictures.data import SweepData

MODES = ("min", "max")


class Result:
    """The trials of one experiment.

    Args:
        experiment: The experiment's name.
        local_dir: The folder that was the experiment's `local_dir`. None: the environment variable
            `SLURM_SWEEPS_DIR`, else `./slurm-sweeps`.

    Raises:
        ExperimentNotFoundError: There is no such experiment; the message lists what there is.
        UsageError: The name can't be an experiment's.
        StorageError: The database can't be read.
    """

    def __init__(self, experiment: str, local_dir: str | os.PathLike[str] | None = None) -> None:
        self._layout = Layout(local_dir, experiment)
        with self._open() as database:
            database.experiment(experiment)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say where the DataFrame is that `run` returned in version 0.1."""
            hint = "" if name.startswith("_") else "; Result.to_dataframe() makes a DataFrame"
            raise AttributeError(f"'Result' object has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        return f"Result({self._layout.name!r}, local_dir={str(self._layout.local_dir)!r})"

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return self._layout.name

    @property
    def local_dir(self) -> Path:
        """The folder that holds the database and the experiment's folder."""
        return self._layout.local_dir

    @property
    def trials(self) -> list[Trial]:
        """All trials by number, their metrics included.

        Read anew each time: keep it in a variable to go through it. For millions of metric rows
        `to_dataframe` and `metrics_dataframe` need much less memory.
        """
        with self._open() as database:
            key = database.experiment(self.experiment).id
            # no snapshot of all: it would hold up the writer for as long as this takes
            return [
                build_trial(record, rows.read_metrics_of_trial(database, key, record.number))
                for record in rows.read_trials(database, key)
            ]

    def best_trial(self, metric: str | None = None, mode: str | None = None) -> Trial:
        """Find the trial with the best value of a metric, whatever became of it.

        Args:
            metric: The metric's name; by default the one that ASHA was given.
            mode: "min" or "max"; by default ASHA's, if this is ASHA's metric.

        Returns:
            The trial that has logged the best finite value at any iteration (of equal ones the
            earliest trial), with its metrics.

        Raises:
            ValueError: Neither the arguments nor ASHA say what is best, or no trial has logged a
                finite value of this metric.
        """
        from .views.summary import read_ranking

        with self._open() as database:
            experiment = database.experiment(self.experiment)
            metric, mode = choose_goal(experiment, metric, mode)
            with database.reading():
                ranking = read_ranking(database, experiment.id, metric, mode, limit=1)
                if not ranking:
                    raise UsageError(self._format_unlogged(metric, database, experiment.id))
                record, _ = ranking[0]
                metrics = rows.read_metrics_of_trial(database, experiment.id, record.number)
        return build_trial(record, metrics)

    def to_dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Tabulate the trials.

        Args:
            metric: A metric to give a `best/` column beside ASHA's own.
            mode: Whether "min" or "max" is best for it.

        Returns:
            One row a trial, by number, with the columns

            - `trial_id` and `status`, strings
            - `start_time` and `end_time` of the latest attempt, datetimes in UTC, NaT if unknown
            - `runtime`, timedelta: from start to end, or to now for a running trial
            - `iterations`, int: how many iterations it has logged
            - `cfg/<key>`: the configuration, keys of nested dicts joined by dots
            - `last/<metric>`, `min/<metric>`, `max/<metric>`, float: the value at the last
              iteration, the lowest and the highest finite one; NaN if it was not logged
            - `best/<metric>`, float: the same as min or max, for the metrics where it is known
              which of them is best: ASHA's, and the one that is passed
        """
        from .storage.frames import build_trials_frame

        with self._open() as database:
            experiment = database.experiment(self.experiment)
            modes = _find_modes(experiment.settings)
            if metric is not None:
                metric, mode = choose_goal(experiment, metric, mode)
                modes[metric] = mode
            with database.reading():
                trials = rows.read_trial_rows(database, experiment.id)
                aggregates = rows.read_aggregate_tables(database, experiment.id)
        return build_trials_frame(trials, aggregates, modes, time.time())

    def metrics_dataframe(self) -> pd.DataFrame:
        """Tabulate all that was logged.

        Returns:
            One row for each trial, metric and iteration, in this order, with the columns
            `trial_id` (string), `iteration` (int), `metric` (string), `value` (float),
            `logged_at` (datetime in UTC).
        """
        from .storage.frames import build_metrics_frame

        with self._open() as database:
            key = database.experiment(self.experiment).id
            table = rows.read_metric_rows(database, key)
            # after the rows: what was added meanwhile is among them
            names = {number: name for name, number in rows.read_metric_ids(database, key).items()}
            trial_ids = {
                number: trial_id for number, trial_id, *_ in rows.read_trial_rows(database, key)
            }
        return build_metrics_frame(table, names, trial_ids)

    def report(
        self,
        path: str | os.PathLike[str] = "report.html",
        metric: str | None = None,
        mode: str | None = None,
    ) -> Path:
        """Write one HTML file that shows the whole sweep and needs nothing beside it.

        Args:
            path: Where to write.
            metric: The metric to look at; by default ASHA's, else the first that was logged.
            mode: Whether "min" or "max" is best for it; by default ASHA's, if it is ASHA's metric.

        Returns:
            The path.

        Raises:
            UsageError: plotly or jinja2 is not installed, or `mode` is neither "min" nor "max".
            StorageError: The file can't be written.
        """
        from .views.report import check_installed, write_report

        check_installed()
        write_report(self._read_sweep(metric, mode), self._layout.folder, Path(path))
        return Path(path)

    def plot_learning_curves(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot each trial's metric over its iterations; a plotly Figure."""
        from .views.pictures.curves import draw_learning_curves

        return self._plot(draw_learning_curves, metric, mode)

    def plot_best_over_time(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot the best value over wall-clock time and over all iterations; a plotly Figure."""
        from .views.pictures.curves import draw_best_over_time

        return self._plot(draw_best_over_time, metric, mode)

    def plot_parameters(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot each parameter against the trials' best values; a plotly Figure."""
        from .views.pictures.parameters import draw_parameters

        return self._plot(draw_parameters, metric, mode)

    def plot_parallel_coordinates(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot all parameters and the metric as parallel coordinates; a plotly Figure."""
        from .views.pictures.parameters import draw_parallel_coordinates

        return self._plot(draw_parallel_coordinates, metric, mode)

    def plot_importance(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot which parameters mattered; a plotly Figure."""
        from .views.pictures.importance import compute_importance, draw_importance

        return self._plot(lambda data: draw_importance(compute_importance(data)), metric, mode)

    def plot_slots(self) -> Any:
        """Plot which slot ran which trial when; a plotly Figure."""
        from .views.pictures.slots import compute_occupation, draw_slots

        return self._plot(lambda data: draw_slots(compute_occupation(data)), None, None)

    def _plot(
        self, draw: Callable[[SweepData], dict[str, Any]], metric: str | None, mode: str | None
    ) -> Any:
        from .views.report import check_installed

        check_installed("plotly")
        from plotly.graph_objects import Figure

        return Figure(draw(self._read_sweep(metric, mode)))

    def _read_sweep(self, metric: str | None, mode: str | None) -> SweepData:
        from .views.pictures.data import read_sweep_data

        if mode is not None and mode not in MODES:
            raise UsageError(f"mode must be 'min' or 'max', not {mode!r}")
        with self._open() as database:
            experiment = database.experiment(self.experiment)
            return read_sweep_data(database, experiment, time.time(), metric, mode)

    def _open(self) -> Database:
        path = self._layout.database
        if not path.exists():
            raise ExperimentNotFoundError(
                f"there is no experiment {self.experiment!r}: {path} does not exist; "
                f"check local_dir{describe_old(path.parent)}"
            )
        return Database.open(path, read_only=True)

    def _format_unlogged(self, metric: str, database: Database, key: int) -> str:
        names = list(rows.read_metric_ids(database, key))
        where = f"experiment {self.experiment!r} in {self._layout.database}"
        if metric in names:
            return f"no trial of {where} has logged a finite value of {metric!r}"
        if not names:
            return f"no trial of {where} has logged anything yet, so none of {metric!r}"
        return f"no trial of {where} has logged {metric!r}; logged are {names!r}"


def choose_goal(
    experiment: ExperimentRecord, metric: str | None, mode: str | None
) -> tuple[str, str]:
    """Complete a metric and a mode by what the experiment was set up with.

    Raises:
        UsageError: One of them is missing in both, or the mode is neither "min" nor "max".
    """
    modes = _find_modes(experiment.settings)
    if metric is None:
        metric = next(iter(modes), None)
    if metric is None:
        raise UsageError(
            f"experiment {experiment.name!r} has no ASHA that names a metric; "
            "pass metric= and mode='min' or mode='max'"
        )
    mode = modes.get(metric) if mode is None else mode
    if mode is None:
        raise UsageError(
            f"experiment {experiment.name!r} does not say whether a low or a high {metric!r} is "
            "best; pass mode='min' or mode='max'"
        )
    if mode not in MODES:
        raise UsageError(f"mode must be 'min' or 'max', not {mode!r}")
    return metric, mode


def _find_modes(settings: Mapping[str, Any]) -> dict[str, str]:
    metric, mode = settings.get("metric"), settings.get("mode")
    return {} if metric is None or mode is None else {metric: mode}


def build_trial(record: TrialRecord, metrics: dict[str, dict[int, float]] | None) -> Trial:
    """Make the public `Trial` of a stored one; times are in UTC."""
    return Trial(
        cfg=json.loads(record.cfg_json),
        start_time=_build_time(record.start_time),
        end_time=_build_time(record.end_time),
        status=record.status,
        metrics=metrics,
        repetition=record.repetition,
        number=record.number,
        attempt=record.attempt,
        host=record.host,
        error=record.error,
    )


def _build_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=timezone.utc)
