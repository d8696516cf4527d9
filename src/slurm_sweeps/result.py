"""Result: what a sweep found, while it runs or afterwards, from any host that sees its database.

Only the database is read: nothing is unpickled, nothing is made, and no lock is held between two
calls. Each call reads anew, so that the result of a running sweep grows. What a driver that is gone
has left running is interrupted, as in all views.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import Goal, check_integer, check_real
from .errors import ExperimentNotFoundError, StorageError, UsageError, raises_short
from .storage import rows
from .storage.database import Database
from .storage.faults import describe_old
from .storage.layout import Layout
from .storage.records import ExperimentRecord, TrialRecord
from .trial import Trial

if TYPE_CHECKING:
    import pandas as pd

    from .replay.forecast import Forecast
    from .replay.sensitivity import Sensitivity
    from .replay.verify import Verdict
    from .replay.whatif import WhatIf
    from .rules.protocol import PrunerPlan
    from .views.compare import Comparison
    from .views.pictures.data import SweepData


class Result:
    """The trials of one experiment.

    Args:
        experiment: The experiment's name.
        local_dir: The folder that was the experiment's `local_dir`. None: the environment variable
            `SLURM_SWEEPS_DIR`, else `./slurm-sweeps`.
        revive: Makes a cfg as `train` received it of one that was read from JSON; None leaves it as
            it is. `Experiment.run` passes the one of its search space.

    Raises:
        ExperimentNotFoundError: There is no such experiment; the message lists what there is.
        UsageError: The name can't be an experiment's.
        StorageError: The database can't be read.
    """

    def __init__(
        self,
        experiment: str,
        local_dir: str | os.PathLike[str] | None = None,
        *,
        revive: Callable[[Any], dict[str, Any]] | None = None,
    ) -> None:
        self._layout = Layout(local_dir, experiment)
        self._revive = revive
        with self._open():
            pass  # says at once what is wrong

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Say where the DataFrame is that `run` returned in version 0.1."""
            hint = "" if name.startswith("_") else "; Result.to_dataframe() makes a DataFrame"
            raise AttributeError(f"'Result' object has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        return f"Result({self._layout.name!r}, local_dir={str(self._layout.local_dir)!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # what revives may hold anything
        return Result, (self.experiment, self.local_dir)

    def _repr_html_(self) -> str:
        from .views.screens import draw_html
        from .views.summary import read_summary

        now = time.time()
        with self._open() as (database, _):
            return draw_html(read_summary(database, self._layout, 10, now), True, now)

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
        from .views.ranking import list_goals
        from .views.sight import look_at_driver

        with self._open() as (database, experiment):
            key, sight = experiment.id, look_at_driver(experiment, time.time())
            goal = next(iter(list_goals(experiment.settings)), None)
            # no snapshot of all: it would hold up the writer for as long as this takes
            trials = []
            for record in map(sight.settle, rows.read_trials(database, key)):
                metrics = rows.read_metrics_of_trial(database, key, record.number)
                trials.append(self._build_trial(record, metrics, _find_best(metrics, goal)))
            return trials

    @property
    def provenance(self) -> dict[str, Any]:
        """Of what code the latest driver ran, and where; empty where that is not known (yet).

        `script`, `command`, `folder`, `git` (`root`, `commit`, `branch`, `dirty`, `changed`,
        `untracked`; None without git), `diff` (of what git tracks, up to 500,000 characters),
        `host`, `job_id`, `platform`, `python`, `executable`, `slurm_sweeps`, `packages` (name and
        version), `started_at` (a datetime in UTC).
        """
        with self._open() as (database, experiment):
            runs = rows.read_driver_runs(database, experiment.id)
        return {
            name: value
            for run in runs[-1:]
            for name, value in (
                *run.told.items(),
                ("diff", run.diff),
                ("started_at", _build_time(run.started_at)),
            )
        }

    @property
    def best_cfg(self) -> dict[str, Any]:
        """The configuration of `best_trial()`."""
        return self.best_trial().cfg

    def best_trial(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "best",
        completed_only: bool = False,
    ) -> Trial:
        """Find the trial with the best value of a metric, whatever became of it.

        A trial that is infeasible is never the best. Where the cfg has a `Repeat`, configurations
        are compared: the best has the best mean among those with at least half as many runs as any
        has, of runs that have completed or come to a high rung. Of its trials the best one is
        returned, with that mean as its `value`.

        Args:
            metric: The metric's name; by default the experiment's.
            mode: "min" or "max"; by default the experiment's, if this is its metric.
            scope: "best" chooses by each trial's best finite value at any iteration, "last" by the
                value of its last one, if that is finite.
            completed_only: Leave out trials that were pruned, paused, failed or lost, and those
                that still run. By default any may win: one that was pruned has the best value
                rarely, but a good one early, or on a noisy curve, is one.

        Returns:
            The best trial (of equal ones the earliest), with its metrics; `value` and
            `best_iteration` are what it was chosen by.

        Raises:
            ValueError: Neither the arguments nor the experiment say what is best, or it has several
                objectives, see `front`; or no trial has logged a finite value of this metric.
        """
        return self.best_trials(1, metric, mode, scope, completed_only)[0]

    @raises_short
    def best_trials(
        self,
        k: int,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "best",
        completed_only: bool = False,
    ) -> list[Trial]:
        """Find the `k` best trials, the best first; fewer where there are fewer.

        See `best_trial` for the other arguments, and for what is raised.
        """
        from .views.ranking import choose_goal, describe_unlogged, read_ranking
        from .views.sight import look_at_driver
        from .views.summary import find_failures

        limit = check_integer("best_trials", "k", k, 1)

        with self._open() as (database, experiment):
            goal = choose_goal(experiment, metric, mode)
            with database.reading():
                key, sight = experiment.id, look_at_driver(experiment, time.time())
                ranking = read_ranking(database, experiment, goal, limit, scope, completed_only)
                if not ranking:
                    told = describe_unlogged(database, experiment, goal.metric, completed_only)
                    failures = find_failures(database, key, self._layout, is_over=True)
                    why = [f"newest failure, {each.title}; see {each.log}" for each in failures[:1]]
                    raise UsageError("; ".join([told, *why]))
                return [
                    self._build_trial(
                        sight.settle(record),
                        rows.read_metrics_of_trial(database, key, record.number),
                        (best.value, best.iteration),
                    )
                    for record, best in ranking
                ]

    def export_best(
        self,
        path: str | os.PathLike[str],
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "best",
        completed_only: bool = False,
    ) -> Path:
        """Copy what is left of the best trial into a folder of its own.

        That is `cfg.yml`, `checkpoints/`, its logs, `trial.json` (id, status, value, iteration,
        metrics) and, if there is one, the sweep's `report.html`. What else `train` wrote into its
        working directory is in `best_trial().path`.

        See `best_trial` for the other arguments.

        Args:
            path: The folder, which is made; it may be there if it is empty.

        Returns:
            The path.

        Raises:
            ValueError: As `best_trial` says, or the folder is not empty.
            StorageError: Something can't be copied; nothing is left of it then.
        """
        trial = self.best_trial(metric, mode, scope, completed_only)
        copy_trial(trial, self._layout, Path(path))
        return Path(path)

    def compare(
        self, top: int = 5, metric: str | None = None, mode: str | None = None
    ) -> Comparison:
        """Compare the best configurations of a sweep with a `Repeat`, by all of their runs.

        Needs SciPy: `pip install 'slurm-sweeps[model]'`. Differences to the best are paired: those
        of runs with the same value of the Repeat. The best was chosen by the same runs that it is
        compared by, which flatters it a little.

        Args:
            top: How many configurations; 1 or more.
            metric: What to compare by; None for the sweep's.
            mode: Which is good, as in `best_trial`.

        Returns:
            What came out; printed, it is a table and a sentence.

        Raises:
            UsageError: The cfg has no Repeat, nothing was logged yet, or SciPy is missing.
        """
        from .views.compare import compare
        from .views.ranking import choose_goal, describe_unlogged, read_configurations

        limit = check_integer("compare", "top", top, 1)
        with self._open() as (database, experiment):
            if experiment.settings.get("repeat") is None:
                raise UsageError(
                    f"experiment {self.experiment!r} has run each configuration once: give its cfg "
                    "a Repeat, such as 'seed': ss.Repeat(5), to compare them by several runs"
                )
            goal = choose_goal(experiment, metric, mode)
            with database.reading():
                found = read_configurations(database, experiment, goal)
                if not found:
                    raise UsageError(describe_unlogged(database, experiment, goal.metric))
        return compare(found[:limit], goal.metric)

    def front(self, completed_only: bool = False) -> list[Trial]:
        """Find the trials that no other one dominates, where the sweep has several objectives.

        A trial dominates another if it is as good in all objectives and better in one. Each stands
        where it was last, at its last value of each objective; one that is infeasible, or lacks a
        finite value of one of them, does not count.

        Args:
            completed_only: Leave out trials that were pruned, paused, failed or lost, and those
                that still run, before the front is found.

        Returns:
            The trials in the order of the first objective, the best first, with their metrics;
            `value` and `best_iteration` are the last of the first objective. Empty where none
            counts.

        Raises:
            ValueError: The experiment has no several objectives.
        """
        from .views.ranking import list_goals, read_front

        with self._open() as (database, experiment):
            objectives = list_goals(experiment.settings)
            if len(objectives) < 2:
                raise UsageError(
                    f"experiment {self.experiment!r} has no several objectives: best_trial() has "
                    "the best by its metric; pass metric=[…] and mode=[…] to the experiment"
                )
            with database.reading():
                key, trials = experiment.id, []
                for number in read_front(database, key, objectives, completed_only):
                    record = rows.read_trial(database, key, number)
                    metrics = rows.read_metrics_of_trial(database, key, number)
                    curve = metrics[objectives[0].metric]
                    last = max(curve)
                    if record is not None:
                        trials.append(self._build_trial(record, metrics, (curve[last], last)))
                return trials

    def what_if(self, rule: PrunerPlan) -> WhatIf:
        """Judge the stored reports by another rule: what it would have stopped, saved and lost.

        What would have followed from a stop is left out (other trials would have begun sooner), and
        of trials that were stopped in fact nobody knows how they would have gone on.

        Args:
            rule: `ASHA`, `Hyperband`, `MedianStopping` or one of your own, of any metric that was
                logged. One that pauses trials (`promote=True`) can't be judged so.

        Returns:
            What came out; printed, it is a few sentences.

        Raises:
            UsageError: The rule pauses trials.
        """
        from .replay.story import read_story
        from .replay.whatif import judge_again

        with self._open() as (database, record):
            return judge_again(read_story(database, record, rule.metric), rule)

    @raises_short
    def forecast(
        self,
        slots: int | Sequence[int] | None = None,
        hours: float | Sequence[float] | None = None,
        *,
        seed: int = 0,
    ) -> Forecast:
        """Say what more time and more slots will bring, with bands of 80 %.

        The sweep is played on, some 25 to 100 times, with its own curves and paces, drawn again.

        Args:
            slots: How many trials run at once, each number in turn, 1 or more; None: as many as
                do now.
            hours: After how many hours from now on it is looked at, each more than 0. As many
                trials begin as there is time for; a grid has no more than its points.
            seed: Of what is drawn, 0 or more. The same sweep and seed give the same answer.

        Returns:
            What is likely: first until the sweep is done as it was set up, where that is to come,
            then after the hours. Printed, it is a table.

        Raises:
            UsageError: Fewer than 10 trials have reported, or none has come to its end; the sweep
                is done, and no hours are said; it is after several metrics or none, or has a
                `Repeat`; its rule is one of your own, which isn't stored; or so much is asked that
                it would take minutes.
        """
        from .replay.forecast import forecast, list_metrics
        from .replay.story import read_story
        from .storage.jobs import read_jobs
        from .views.sight import look_at_driver

        wanted = [slots] if isinstance(slots, int) else list(slots or ())
        wanted = [check_integer("forecast", "slots", each, 1) for each in wanted]
        times = [hours] if isinstance(hours, int | float) else list(hours or ())
        for each in times:
            if check_real("forecast", "hours", each) <= 0:
                raise UsageError(f"forecast: hours must be more than 0, got {each!r}")
        seed = check_integer("forecast", "seed", seed, 0)
        with self._open() as (database, record):
            names = list_metrics(record.settings)[-1]
            sight = look_at_driver(record, time.time()).add_slots(read_jobs(database, record.id))
            story = read_story(database, record, names if len(names) > 1 else names[0])
        story = replace(story, trials=[sight.settle(trial) for trial in story.trials])
        slots = sight.slots or record.settings.get("more_slots") or 1
        return forecast(story, sight.last_sign, wanted or [slots], times, seed)

    def verify(self) -> Verdict:
        """Derive what is stored once more from the reports and the seed, and compare.

        Returns:
            What came out: true if nothing differs; printed, it is a line for each difference.

        Raises:
            UsageError: Trials were judged by a rule of the user's own, which isn't stored.
        """
        from .replay.story import build_plan, read_story
        from .replay.verify import verify
        from .storage.aggregates import list_wrong

        with self._open() as (database, record):
            wrong = list_wrong(database.fetch, record.id)
            described = record.settings.get("asha")
            plan = build_plan(described) if described else None
            races = record.settings["metric"] if record.settings.get("repeat") else None
            story = read_story(database, record, plan.metric if plan else races)
            return verify(story, plan, wrong)

    @raises_short
    def sensitivity(self, metric: str | None = None) -> Sensitivity:
        """Estimate how far a metric depends on each parameter: first-order and total indices.

        Of the points of `samplers.Saltelli` both follow; of `samplers.Sobol`, `LatinHypercube` and
        `Random` the first-order indices alone (RBD-FAST). Only completed trials count, each with
        its last value. Needs SALib: `pip install 'slurm-sweeps[sensitivity]'`.

        Args:
            metric: The metric's name; by default the experiment's, else the first that was logged.

        Returns:
            What came out; printed, it is a table.

        Raises:
            UsageError: The points are those of another sampler, parameters depend on each other,
                too many trials have no value, the metric is the same in all, or SALib is missing.

        Source: Saltelli et al., "Variance based sensitivity analysis of model output" (2010);
        Tissot and Prieur, "Bias correction for the estimation of sensitivity indices based on
        random balance designs" (2012).
        """
        from .views.pictures.importance import read_sensitivity

        return read_sensitivity(self._read_sweep(metric, None))

    def to_dataframe(self, metric: str | None = None, mode: str | None = None) -> pd.DataFrame:
        """Tabulate the trials.

        Args:
            metric: A metric to give a `best/` column beside the experiment's own.
            mode: Whether "min" or "max" is best for it.

        Returns:
            One row a trial, by number, with the columns

            - `trial_id` and `status`, strings
            - `start_time` and `end_time` of the latest attempt, datetimes in UTC, NaT if unknown
            - `runtime`, timedelta: from start to end, or to now for a running trial; of one that
              was interrupted as its driver was killed, to the driver's last sign of life
            - `iterations`, int: how many iterations it has logged
            - `memory_mb`, `cpu_sec`, `gpu_memory_mb`, float: what the latest attempt used, its peak
              in MiB and its CPU time in seconds; NaN if unknown
            - `cfg/<key>`: the configuration, keys of nested dicts joined by dots
            - `last/<metric>`, `min/<metric>`, `max/<metric>`, float: the value at the last
              iteration, the lowest and the highest finite one; NaN if it was not logged
            - `best/<metric>`, float: the same as min or max, for the metrics where it is known
              which of them is best: the experiment's, and the one that is passed
        """
        from .storage.frames import build_trials_frame
        from .views.ranking import choose_goal, list_goals
        from .views.sight import look_at_driver

        with self._open() as (database, experiment):
            goals = [*list_goals(experiment.settings)]
            if metric is not None:
                goals.append(choose_goal(experiment, metric, mode))
            sight = look_at_driver(experiment, time.time())
            with database.reading():
                stored = rows.read_trial_rows(database, experiment.id)
                aggregates = rows.read_aggregate_tables(database, experiment.id)
        trials = [sight.settle_row(row) for row in stored]
        return build_trials_frame(trials, aggregates, dict(goals), sight.last_sign)

    def metrics_dataframe(self) -> pd.DataFrame:
        """Tabulate all that was logged.

        Returns:
            One row for each trial, metric and iteration, in this order, with the columns
            `trial_id` (string), `iteration` (int), `metric` (string), `value` (float),
            `logged_at` (datetime in UTC).
        """
        from .storage.frames import build_metrics_frame

        with self._open() as (database, experiment):
            key = experiment.id
            table = rows.read_metric_rows(database, key)
            # after the rows: what was added meanwhile is among them
            names = {number: name for name, number in rows.read_metric_ids(database, key).items()}
            trial_ids = {
                number: trial_id for number, trial_id, *_ in rows.read_trial_rows(database, key)
            }
        return build_metrics_frame(table, names, trial_ids)

    @raises_short
    def report(
        self,
        path: str | os.PathLike[str] = "report.html",
        metric: str | None = None,
        mode: str | None = None,
    ) -> Path:
        """Write one HTML file that shows the whole sweep and needs nothing beside it.

        Args:
            path: Where to write.
            metric: The metric to look at; by default the experiment's, else the first that was
                logged.
            mode: Whether "min" or "max" is best for it; by default the experiment's, if it is
                its metric.

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
        return self._plot("learning_curves", metric, mode)

    def plot_best_over_time(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot the best value over wall-clock time and over all iterations; a plotly Figure."""
        return self._plot("best_over_time", metric, mode)

    def plot_parameters(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot each parameter against the trials' best values; a plotly Figure."""
        return self._plot("parameters", metric, mode)

    def plot_parallel_coordinates(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot all parameters and the metric as parallel coordinates; a plotly Figure."""
        return self._plot("parallel_coordinates", metric, mode)

    def plot_importance(self, metric: str | None = None, mode: str | None = None) -> Any:
        """Plot which parameters mattered; a plotly Figure."""
        return self._plot("importance", metric, mode)

    def plot_sensitivity(self, metric: str | None = None) -> Any:
        """Plot the indices that `sensitivity` estimates; a plotly Figure."""
        return self._plot("sensitivity", metric)

    def plot_front(self) -> Any:
        """Plot the trials by their objectives, two at a time, and the front; a plotly Figure."""
        return self._plot("front")

    def plot_slots(self) -> Any:
        """Plot which slot ran which trial when; a plotly Figure."""
        return self._plot("slots")

    @raises_short
    def _plot(self, what: str, metric: str | None = None, mode: str | None = None) -> Any:
        from .views.report import PICTURES, check_installed
        from .views.screens import let_be_seen

        check_installed("plotly")
        from plotly.graph_objects import Figure

        return let_be_seen(Figure(PICTURES[what](self._read_sweep(metric, mode))))

    def _read_sweep(self, metric: str | None, mode: str | None) -> SweepData:
        from .views.pictures.data import read_sweep_data

        if mode not in (None, "min", "max"):
            raise UsageError(f"mode must be 'min' or 'max', not {mode!r}")
        with self._open() as (database, experiment):
            return read_sweep_data(database, experiment, time.time(), metric, mode)

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[Database, ExperimentRecord]]:
        path = self._layout.database
        if not path.exists():
            raise ExperimentNotFoundError(
                f"there is no experiment {self.experiment!r}: {path} does not exist; "
                f"check local_dir{describe_old(path.parent)}"
            )
        with Database.open(path, read_only=True) as database:
            yield database, database.experiment(self.experiment)

    def _build_trial(
        self,
        record: TrialRecord,
        metrics: dict[str, dict[int, float]],
        best: tuple[float | None, int | None],
    ) -> Trial:
        cfg, files = json.loads(record.cfg_json), self._layout.trial(record.trial_id)
        if self._revive is not None:
            with contextlib.suppress(UsageError):  # of another space: begun anew meanwhile
                cfg = self._revive(cfg)
        value, best_iteration = best
        return Trial(
            cfg=cfg,
            start_time=_build_time(record.start_time),
            end_time=_build_time(record.end_time),
            status=record.status,
            metrics=metrics,
            repetition=record.repetition,
            number=record.number,
            attempt=record.attempt,
            host=record.host,
            error=record.error,
            value=value,
            best_iteration=best_iteration,
            path=files.folder,
            checkpoint_dir=files.checkpoints,
            _id=record.trial_id,
            memory_mb=record.memory_mb,
            cpu_sec=record.cpu_s,
            gpu_memory_mb=record.gpu_memory_mb,
        )


def _find_best(
    metrics: Mapping[str, Mapping[int, float]], goal: Goal | None
) -> tuple[float | None, int | None]:
    """Find the best finite value of a trial, and the first iteration that it has it at."""
    curve = metrics.get(goal.metric, {}) if goal else {}
    finite = [at for at, value in curve.items() if math.isfinite(value)]
    if goal is None or not finite:
        return None, None
    best = min(finite, key=lambda at: (goal.sign * curve[at], at))
    return curve[best], best


def copy_trial(trial: Trial, layout: Layout, target: Path) -> None:
    """Copy what is left of a trial into a folder, wholly or not at all."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there and not empty: choose another folder, or remove it")
    files = layout.trial(trial.trial_id)
    told = {
        "experiment": layout.name,
        "trial_id": trial.trial_id,
        "status": trial.status,
        "value": trial.value,
        "iteration": trial.best_iteration,
        "metrics": {
            name: {at: value if math.isfinite(value) else None for at, value in curve.items()}
            for name, curve in (trial.metrics or {}).items()
        },
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as draft:
            copied = Path(draft, "copied")
            copied.mkdir()
            for file in (files.cfg, *files.folder.glob("std*.log"), layout.report):
                if file.exists():
                    shutil.copy2(file, copied)
            if files.checkpoints.exists():
                shutil.copytree(files.checkpoints, copied / files.checkpoints.name, symlinks=True)
            (copied / "trial.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
            copied.rename(target)
    except (OSError, shutil.Error) as error:
        raise StorageError(
            f"trial {trial.trial_id} can't be copied to {target}: {error}"
        ) from error


def _build_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=timezone.utc)
