"""Experiment: checks what the user said, wires the parts, and runs the sweep.

The order of `run` is the order of what can go wrong: first what can be checked on paper (settings,
the space, whether the trials fit), then the database and its lease, and only then processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from ..checks import check_flag, check_seed
from ..errors import (
    ExperimentLockedError,
    LaunchError,
    StorageError,
    SweepFailedError,
    SweepStopped,
    UsageError,
    raises_short,
)
from ..programs.program import Program
from ..result import Result
from ..rules.feasible import AtLeast, AtMost, check_feasible
from ..rules.protocol import PrunerPlan
from ..running.background import StopSignals
from ..running.deadlines import Patience
from ..running.driver import TARGET, TIME_BUDGET, Driver
from ..running.launchers import Launcher, open_launcher, watch_time_limit
from ..running.lent import Lending
from ..running.script import describe_left_out, end_if_under_way
from ..running.session import fail, is_in_child
from ..running.train import check_travels, describe_size, pickle_train
from ..samplers import SamplerPlan
from ..search.draws import check_where, fill_points, list_guesses
from ..search.repeat import find_repeats
from ..search.search_space import SearchSpace
from ..slurm.allocation import Allocation
from ..slurm.client import end_steps_of_slots, requeue
from ..slurm.config import LocalCfg, SlurmCfg
from ..storage.database import Database
from ..storage.jobs import read_jobs
from ..storage.layout import Layout
from ..storage.records import (
    BY_A_PERSON,
    ExperimentRecord,
    JobState,
    Request,
    RunRecord,
    StateRecord,
)
from ..storage.rows import read_driver_runs
from ..storage.writer import Writer
from ..track.feed import Tracker
from ..track.follow import Follower
from ..views.screens import LiveView, is_notebook
from .arguments import (
    RunCfg,
    check_arguments,
    check_backend,
    check_keep,
    check_repeats,
    check_summary,
    check_trackers,
    choose_changed,
    choose_goals,
    choose_pruner,
    choose_steps,
)
from .claim import Claim, Held
from .join import Lender, Step, describe_job
from .keep import Keep, Keeper
from .on_end import OnEnd
from .provenance import record_run
from .search import Search
from .snapshot import Code, write_code
from .warm_start import Known, read_skipped, read_warm_start

if TYPE_CHECKING:
    import pandas as pd

#: What a sweep is stopped by that ended as its user wanted; None is nothing.
AS_WANTED = (None, TIME_BUDGET, TARGET)

#: Exit code of a script whose sweep was stopped before it was done, by other than Ctrl-C: a job
#: that is to be submitted again (EX_TEMPFAIL of sysexits.h).
EXIT_STOPPED = 75
#: Exit code after Ctrl-C, as shells have it.
EXIT_CTRL_C = 130


class Experiment:
    """A sweep: one `train` function, tried with many configurations.

    Args:
        train: Called as `train(cfg)` in a process of its own for each trial; reports with `log`. A
            number, or a dict of numbers, that it returns is its last report; a number has the name
            of `metric`, or "value".
        cfg: What it is called with: a dict, nested as one likes, with search spaces
            (`Uniform(0, 1)`, …) where values are to be tried. Without any, `n_trials` repetitions
            of the same trial are run.
        name: The experiment's name, unique in `local_dir`, also the name of its folder.
        local_dir: Folder for the database and the trials' files; all nodes must see it. None: the
            environment variable `SLURM_SWEEPS_DIR`, else `./slurm-sweeps`.
        asha: Stops unpromising trials early; None runs every trial to its end.
        slurm_cfg: What each trial gets of a Slurm allocation; None is one task.
        restore: Go on with the experiment of this name: what was unfinished is run again.
            "auto" restores it if it exists and creates it otherwise.
        overwrite: Delete the experiment of this name and begin anew. A job that Slurm has queued
            again goes on with what it has begun, with neither of the two.
        seed: Makes the sweep repeatable; 0 or more. None draws one, which is kept with the
            experiment, so that a restored sweep goes on as it would have.
        local_cfg: What each trial gets of a machine that is used without Slurm.
        sampler: Proposes configurations; None is random, or grid where the cfg has grids.
        pruner: The same as `asha`, under the name that suits `MedianStopping`, `Hyperband` or a
            rule of one's own.
        points_to_evaluate: Configurations to try first. What one leaves out is drawn.
        warm_start: An earlier sweep's result, or its `to_dataframe()`: its trials inform the
            sampler, and none of their points in a finite space is tried again.
        skip: Earlier sweeps whose configurations are not run again (those of completed, pruned and
            infeasible trials): `skip=[ss.Result("older")]` runs only what is new.
        metric: What the sweep is after: the name of the metric by which sampler, `target`, the
            table's best and `best_trial()` go; by default the pruner's. Where both are given, the
            pruner judges by its own and the best is chosen by this one. A list of two or more
            makes a sweep of several objectives: none is the best, but there is a `Result.front()`.
        mode: "min" if smaller values of it are better, "max" if larger ones are; for several
            metrics one word for all, or a list with one for each.
        keep: Whose checkpoints to keep; None keeps all.
        snapshot: Copy the files of the git repository around the script into the experiment's
            folder, once, and let trials import from there: editing the code while the sweep runs,
            or waits to go on, changes nothing.
        feasible: Bounds by metric, such as `{"memory_gb": ss.AtMost(24)}`: a trial that reports a
            value beyond one ends there as infeasible, which is no failure; it is never the best,
            and samplers that learn avoid what is like it.
        where: A function of a configuration, as `train` gets it, that says whether it may be tried:
            one that it refuses is drawn again, whichever the sampler is. It is called in this
            process, and must say the same of the same configuration each time.
        changed_space: The `cfg` of an experiment that is restored may have grown: wider ranges,
            more options, new parameters. "extend", or a dict, nested as `cfg` is, that says what
            new parameters were in the earlier trials, `{"momentum": 0.9}`; these stay, and inform
            sampler and rule. None: the space must be the one that it was begun with.
        join: Let any number of Slurm jobs that run this script share the work. The first one drives
            the sweep, each other lends it its nodes, and takes its place when its job has ended. It
            restores what exists, as `restore="auto"`. `run` returns in the job that drove the sweep
            to its end; the others end in it, with code 0.
        backend: An argument of version 0.1, whose place `slurm_cfg` has taken; only None.

    Raises:
        UsageError: A value makes no sense. (`ValueError`)
        UsageTypeError: A value is of a wrong type. (`TypeError`)
        ExperimentExistsError: There is an experiment of this name, and neither `restore` nor
            `overwrite` was given.
        ExperimentNotFoundError: `restore=True`, and there is none.
    """

    @raises_short
    def __init__(
        self,
        train: Callable[[dict[str, Any]], Any],
        cfg: dict[str, Any],
        name: str = "MySweep",
        local_dir: str | os.PathLike[str] | None = None,
        asha: PrunerPlan | None = None,
        slurm_cfg: SlurmCfg | None = None,
        restore: bool | str = False,
        overwrite: bool = False,
        *,
        seed: int | None = None,
        local_cfg: LocalCfg | None = None,
        sampler: SamplerPlan | None = None,
        pruner: PrunerPlan | None = None,
        points_to_evaluate: Sequence[dict[str, Any]] = (),
        warm_start: Result | pd.DataFrame | None = None,
        skip: Sequence[Result] = (),
        metric: str | Sequence[str] | None = None,
        mode: str | Sequence[str] | None = None,
        keep: Keep | None = None,
        snapshot: bool = False,
        feasible: Mapping[str, AtMost | AtLeast] | None = None,
        where: Callable[[dict[str, Any]], Any] | None = None,
        changed_space: str | Mapping[str, Any] | None = None,
        join: bool = False,
        backend: None = None,
    ) -> None:
        end_if_under_way()
        check_backend(backend)
        asha = choose_pruner(asha, pruner)
        goals = choose_goals(metric, mode, asha)
        check_arguments(train, slurm_cfg, local_cfg, restore, overwrite, join)
        restore = restore or ("auto" if join else False)
        self._join = join
        self._with_restore = "" if restore else ', with restore="auto"'
        if not join:  # one that joins may draw nothing
            import numpy  # noqa: F401 - is loaded by now when `run` begins
        seed = check_seed("Experiment", seed)
        changed = choose_changed(changed_space, restore)
        self._train = train
        space = SearchSpace(cfg, where)
        repeats = find_repeats(space)
        check_repeats(repeats, goals, asha, keep)
        proposed = space if repeats is None else repeats.space
        rarity = check_where(proposed)
        fill_points(points_to_evaluate, proposed, 0)  # say early what makes no sense
        list_guesses(proposed, 0)
        known: Sequence[Known] = ()
        self._notices: list[str] = [] if rarity is None else [rarity]
        if isinstance(train, Program):
            unnamed = train.check_goals([goal.metric for goal in goals])
            self._notices += filter(None, [train.check(space.names), unnamed])
            slurm_cfg = choose_steps(train.launch, slurm_cfg)
        if warm_start is not None:
            names = tuple(goal.metric for goal in goals)
            known = read_warm_start(warm_start, proposed, names, self._notices.append)
        skipped = read_skipped(skip, proposed, self._notices.append) if skip else {}
        points = tuple(points_to_evaluate)
        self._keep = check_keep(keep, goals)
        self._snapshot = check_flag("Experiment", "snapshot", snapshot)
        bounds = check_feasible(feasible)
        self._search = Search(
            space,
            goals,
            asha,
            sampler,
            seed,
            points,
            tuple(known),
            bounds,
            skipped,
            repeats,
            changed,
        )
        self._layout = Layout(local_dir, name)
        self._slurm_cfg = slurm_cfg or SlurmCfg()
        self._local_cfg = local_cfg or LocalCfg()
        self._claim = Claim(self._layout, restore, overwrite, self._search.describe)
        self._claim.check()
        self._say: Callable[[str], str] = str

    def _tell_as(self, say: Callable[[str], str], again: str) -> None:
        """Word messages as `say` does, and name the command that goes on: that of a sweep file."""
        self._say, self._search = say, dataclasses.replace(self._search, again=again)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._layout.name

    @property
    def local_dir(self) -> Path:
        """The folder of the database and the experiment's folder."""
        return self._layout.local_dir

    @raises_short
    def run(
        self,
        n_trials: int | None = 1,
        max_concurrent_trials: int | None = None,
        summary_interval_in_sec: float = 5.0,
        nr_of_rows_in_summary: int | None = None,
        summarize_cfg_and_metrics: bool | list[str] = True,
        *,
        max_retries: int = 0,
        fail_fast: bool = True,
        grace_period_in_sec: float = 60.0,
        report: bool = False,
        time_budget_in_sec: float | None = None,
        target: float | None = None,
        max_trial_sec: float | None = None,
        max_silence_sec: float | None = None,
        out_of_memory: str = "fail",
        track: Sequence[Tracker] = (),
        on_end: str | None = None,
    ) -> Result:
        """Run the sweep until all trials have ended.

        Args:
            n_trials: How many trials there are to be in total, those of a restored experiment
                included. A grid's points are all run once whatever it says, unless a `sampler`
                draws from it. None: a grid's points, else as many as come before the time is up or
                the target reached.
            max_concurrent_trials: How many run at once. None: the CPUs that this process may use,
                or, in a Slurm allocation, its tasks divided by the tasks of a trial.
            summary_interval_in_sec: Seconds between two summaries.
            nr_of_rows_in_summary: Rows of its table of trials. None: as many as the terminal has
                room for, 10 in a file or a notebook.
            summarize_cfg_and_metrics: Whether it shows cfg and metrics, or the names of those that
                it shows.
            max_retries: How often a trial that fails is run again; its failures before a restore
                count.
            fail_fast: Stop when the first trials have all failed and none has logged a metric.
            grace_period_in_sec: When told to stop (Ctrl-C, TERM, USR1, HUP): how long trials have
                to reach their next report.
            report: Keep an HTML report in the experiment's folder, `report.html`, up to date: it
                is written anew about once a minute, and at the end.
            time_budget_in_sec: When so many seconds have passed, nothing new is started and running
                trials are asked to leave at their next report, as by a stop; `run` then returns.
            target: The same when a trial reports the experiment's metric at this value or better.
            max_trial_sec: An attempt at a trial that takes longer, in seconds, is ended and has
                failed with `TrialTimeout`. The stacks of its threads, and those of the processes
                that it has forked, are in its `stderr.log`, those of every rank. A time in which
                the job is suspended doesn't count. None: it may take as long as it does.
            max_silence_sec: The same, with `TrialSilent`, for one that reports nothing for so long,
                from its start, between two reports, and after the last one: it waits for data or
                for other ranks that never come, say. Reports of local trials then take a little
                longer, as they pass through the trial's worker.
            out_of_memory: "fail": a trial that runs out of memory fails as any other, with
                `OutOfMemory` as its error; one that the kernel has killed for it is lost, and run
                again, as its neighbours may have taken the memory. "infeasible": either ends as
                infeasible, which is no failure and not tried again, and samplers avoid such
                configurations.
            track: Tools to send the sweep to while it runs, from a process beside this one:
                `ss.track.TensorBoard("runs")`, `.MLflow("sqlite:///mlruns.db")`,
                `.WandB(project="p")`, `.Optuna("study.db")`.
            on_end: A command of the shell to run when the sweep is over, however it ended; it has
                60 s. In its environment are `SLURM_SWEEPS_NAME`, `_STATE` ("completed", "stopped"
                or "failed"), `_ENDED_BY`, `_BEST_VALUE`, `_BEST_TRIAL` and `_FOLDER`.

        Returns:
            The result, which can be read again later with `Result(name, local_dir)`.

        Raises:
            SweepStopped: The driver was told to stop; a `SystemExit` with code 130 after Ctrl-C,
                else 75. In a notebook the result is returned instead. With `join`, its code is 0
                in a job that did not drive the sweep to its end.
            SweepFailedError: Going on makes no sense; what is done is kept.
            TrainError: `train` can't be pickled, or not be loaded in a worker.
            AllocationError: A trial doesn't fit the allocation.
            ExperimentLockedError: Another driver is at work on this experiment.
            StorageError: The database can't be written.
            UsageError: This process was started by a trial, or `multiprocessing` imports the script
                for a process that it has spawned.
        """
        _refuse_in_child()
        cfg = RunCfg(
            n_trials,
            max_concurrent_trials,
            max_retries,
            fail_fast,
            grace_period_in_sec,
            time_budget_in_sec,
            target,
            max_trial_sec,
            max_silence_sec,
            out_of_memory,
        )
        self._search.check_run(cfg)
        check_summary(
            summary_interval_in_sec, nr_of_rows_in_summary, summarize_cfg_and_metrics, report
        )
        check_trackers(track)
        ending = OnEnd(on_end, self._layout)
        view = LiveView(
            self._layout.database,
            self.name,
            interval_s=summary_interval_in_sec,
            rows=nr_of_rows_in_summary,
            columns=summarize_cfg_and_metrics,
            report=self._layout.report if report else None,
            say=self._say,
        )
        with contextlib.closing(view):
            with ending.run_after(view.notify), StopSignals() as signals:
                try:
                    stopped_by = self._run(cfg, view, signals, track, ending)
                except SweepStopped:  # this job has lent its nodes, and does so no more
                    if not is_notebook():
                        raise
                    stopped_by = None
                except SweepFailedError as error:
                    raise SweepFailedError(f"{error}{describe_left_out()}") from None
                except KeyboardInterrupt:  # nobody listened to the first Ctrl-C in time
                    if is_notebook():
                        raise
                    raise SweepStopped(EXIT_CTRL_C) from None
            if stopped_by not in AS_WANTED and not is_notebook():
                self._leave(stopped_by, view.notify)
        return Result(self.name, self.local_dir, revive=self._search.space.revive)

    def _run(
        self,
        cfg: RunCfg,
        view: LiveView,
        signals: StopSignals,
        track: Sequence[Tracker],
        ending: OnEnd,
    ) -> str | None:
        """Run the sweep; return what stopped it, or came when it was done; None if nothing did."""
        stopped_by = None
        requests: SimpleQueue[Request] = SimpleQueue()

        def take(request: Request) -> None:
            requests.put(request)
            signals.wake()

        with contextlib.ExitStack() as beside:
            early = not self._layout.train.exists()  # else it may be done already
            cfgs, most = (self._slurm_cfg, self._local_cfg), cfg.max_concurrent_trials
            opened = open_launcher(self._layout, *cfgs, most, early, view.notify)
            launcher = beside.enter_context(opened)
            train = pickle_train(self._train)
            space = self._search.space
            check_travels(space.template, space.build(lambda _: 0.5))
            held = self._hold(launcher.allocation, signals, view.notify)
            database, record, owner = beside.enter_context(held)
            # The writer keeps the lease and hears requests while the sweep is restored, which may
            # take long; a job that lends its nodes waits for the driver to hear it.
            writer = Writer(database.path, record.id, owner, on_notice=view.notify, on_request=take)
            beside.enter_context(writer)
            jobs, ntasks = self._slurm_cfg.jobs, self._slurm_cfg.ntasks
            slots = len(launcher.slots), jobs.most * jobs.guess_slots(ntasks) if jobs else 0
            sweep = self._search.build_sweep(database, record, owner, cfg, *slots, view.notify)
            beside.enter_context(self._keep_best(record.id, view.notify))
            followers = [
                beside.enter_context(Follower(tracker, self._layout, view.notify))
                for tracker in track
            ]
            if not sweep.is_done:
                beside.enter_context(record_run(writer))
                code = self._write(train, read_driver_runs(database, record.id))
                patience = Patience(
                    cfg.grace_period_s,
                    min(30.0, cfg.grace_period_s),
                    max_trial_s=cfg.max_trial_s,
                    max_silence_s=cfg.max_silence_s,
                )
                doubts = self._search.list_doubts(cfg.n_trials, sweep.cfg.n_trials)
                size = filter(None, [describe_size(len(train)), self._find_missing(launcher)])
                del train  # it may be large, and is in its file
                notices = (*self._notices, *code.notices, *launcher.notices, *doubts, *size)
                lending = self._describe_lending(database, record, launcher, most)
                with watch_time_limit() as limit:
                    driver = Driver(
                        sweep,
                        launcher,
                        writer,
                        self._layout,
                        code.digest,
                        view.notify,
                        patience,
                        limit,
                        requests,
                        cfg.time_budget_s,
                        code.path,
                        lending,
                    )
                    ending.has_run = True
                    self._drive(driver, signals, writer, view, notices)
                stopped_by = driver.stopped_by
            else:
                if record.state in (
                    "running",
                    "stopped",
                ):  # its driver went as the last trials ended
                    writer.put(StateRecord("completed"))
                    writer.flush()
                view.show_once()
                view.notify(self._say_nothing_to_do(sweep.drawn))
                if self._join and launcher.job_id and record.state == "completed":
                    view.notify(f"the sweep {self.name!r} is over: job {launcher.job_id} ends")
                    raise SweepStopped(0)
            for follower in followers:
                follower.finish(in_a_hurry=stopped_by not in AS_WANTED)
        late = signals.take()
        if late and stopped_by in AS_WANTED:
            view.notify(f"{late[0].name}: the sweep was over already, and is kept")
            stopped_by = late[0].name
        return stopped_by

    def _find_missing(self, launcher: Launcher) -> str | None:
        """Say that a program is not on this host, which is for its nodes to know; raise if none."""
        missing = self._train.find_missing() if isinstance(self._train, Program) else None
        if missing and launcher.allocation is None and self._slurm_cfg.jobs is None:
            raise UsageError(missing)
        return missing and f"{missing}; if the nodes have none either, every trial fails"

    def _say_nothing_to_do(self, count: int) -> str:
        more = "" if self._search.is_of_fixed_size else "a larger n_trials runs more, "
        return (
            f"there is nothing to do: all trials of {self.name!r} are done, {count}, and kept in "
            f"{self.local_dir} ('slurm-sweeps show {self.name}'); {more}another name begins anew"
        )

    @contextlib.contextmanager
    def _hold(
        self, job: Allocation | None, signals: StopSignals, notify: Callable[[str], None]
    ) -> Iterator[Held]:
        """Hold the experiment's lease; with `join`, lend the job's nodes to whoever else does."""
        with contextlib.ExitStack() as stack:
            held = None
            while held is None:
                try:
                    held = stack.enter_context(self._claim.hold(notify))
                except ExperimentLockedError:
                    if not self._join or job is None:
                        raise
                    self._lend(job, signals, notify)
            yield held

    def _lend(self, job: Allocation, signals: StopSignals, notify: Callable[[str], None]) -> None:
        """Lend a job's nodes until it is time to drive; else end the script."""
        with Database.open(self._layout.database, read_only=True) as database:
            self._search.check_same(self.name, database.experiment(self.name).settings)
        step = Lender(self._layout, job, can_drive=True, notify=notify).lend(signals)
        if step is Step.YIELD:
            self._leave("time limit", notify)
        if step is not Step.DRIVE:
            raise SweepStopped(0 if step is Step.END else EXIT_STOPPED)

    def _describe_lending(
        self, database: Database, record: ExperimentRecord, launcher: Launcher, most: int | None
    ) -> Lending:
        """Tell the driver of its own job and of those that lend; end what is left in these."""
        job, own = launcher.allocation, None
        jobs = read_jobs(database, record.id)
        if job is not None:
            own = describe_job(job, JobState.DRIVING, self._join)
            key = own.job_id, own.restarts
            before = [each.since for each in jobs if (each.job_id, each.restarts) == key]
            since = min([*before, own.since])  # it may have lent until now
            own = dataclasses.replace(own, slots=len(launcher.slots), since=since)
        used = {each.job_id for each in jobs if each.state in (JobState.LENDING, JobState.LEAVING)}
        used -= set() if job is None else {job.job_id}
        problem = end_steps_of_slots(used) if used else ""
        if problem:
            raise LaunchError(f"what an earlier driver has left may still run: {problem}")
        return Lending(self._slurm_cfg, most, own, jobs)

    def _keep_best(
        self, experiment_id: int, notify: Callable[[str], None]
    ) -> contextlib.AbstractContextManager[object]:
        goal = self._search.goal
        if self._keep is None or goal is None:
            return contextlib.nullcontext()
        return Keeper(self._keep, goal, self._layout, experiment_id, notify).begin()

    def _write(self, train: bytes, runs: Sequence[RunRecord]) -> Code:
        """Write `train` for the workers, and a snapshot of the code, unless they are kept."""
        try:
            self._layout.slots.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"can't write into {self._layout.folder}: {error}. Choose a local_dir that you can "
                "write, on a disk that has room"
            ) from error
        return write_code(self._train, train, self._snapshot, self._layout, runs)

    def _drive(
        self,
        driver: Driver,
        signals: StopSignals,
        writer: Writer,
        view: LiveView,
        notices: Iterable[str],
    ) -> None:
        """Run the sweep, and keep what it is at, for the last look of the view too."""
        with view:
            for text in notices:
                view.notify(text)
            writer.put(StateRecord("running"))
            try:
                driver.run(signals)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                with contextlib.suppress(StorageError):  # which would hide this one
                    writer.put(StateRecord("stopped" if stopped else "failed"))
                    writer.flush()
                raise
            state = "completed" if driver.stopped_by in AS_WANTED else "stopped"
            writer.put(StateRecord(state, driver.stopped_by))
            writer.flush()

    def _leave(self, stopped_by: str, notify: Callable[[str], None]) -> NoReturn:
        """End the script of a sweep that was stopped; have its job queued again if asked to."""
        job_id = os.environ.get("SLURM_JOB_ID")
        if job_id and self._slurm_cfg.requeue and stopped_by not in BY_A_PERSON:
            requeue(job_id, self._slurm_cfg.outage_in_sec, notify)
        elif job_id and not self._join and stopped_by not in BY_A_PERSON:
            notify(
                f"to go on, submit the job again{self._with_restore}; with SlurmCfg(requeue=True) "
                "it is queued again by itself"
            )
        raise SweepStopped(EXIT_CTRL_C if stopped_by == "SIGINT" else EXIT_STOPPED)


def _refuse_in_child() -> None:
    """Raise if this process is a child of a trial, or of another sweep, that runs the script."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UsageError(
            "run was called while multiprocessing imports the script in a process that it has "
            'spawned: put what starts the sweep under if __name__ == "__main__":'
        )
    if is_in_child():
        error = UsageError(
            "run was called in a process that a trial has started: a sweep would run inside of "
            "the trial. Lightning's strategy='ddp' starts the script again for each device: use "
            "'ddp_spawn' or 'ddp_fork', or a task for each with SlurmCfg(ntasks=…)"
        )
        fail(error)
        raise error
