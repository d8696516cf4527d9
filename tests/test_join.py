"""What a job that lends its nodes does next, and what `slurm-sweeps join` refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.cli import main
from slurm_sweeps.errors import UsageError
from slurm_sweeps.experiment.join import (
    ASK_AFTER_S,
    ASK_LATER_S,
    LEAVE_S,
    Lender,
    Step,
    check_python,
    decide,
)
from slurm_sweeps.running.background import StopSignals
from slurm_sweeps.slurm.allocation import Allocation, Node
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.faults import DatabaseBusyError
from slurm_sweeps.storage.jobs import Standing, look, put_job, tell_driver
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import (
    ExperimentRecord,
    JobRecord,
    JobState,
    Lease,
    LeaseOwner,
)

LEASE = Lease(LeaseOwner("n1", 1, "1", "", "nonce"), 0.0)
JOB = JobRecord(
    "2", 0, JobState.LENDING, can_drive=True, nodes="n2", offer="{}", since=0.0, slots=2
)
RUNNING = ExperimentRecord(1, "big", 0.0, 0.0, "running", {}, LEASE)
FREE = dataclasses.replace(RUNNING, lease=None)


def choose(experiment: ExperimentRecord, job: JobRecord | None, rank: int = 0, **said: Any) -> Step:
    found = Standing(experiment, job, rank, 2.0)
    return decide(
        found,
        **{"can_drive": True, "silent_s": 0.0, "told_s": None, "wait_s": 600.0, **said},
    )


def with_state(state: JobState, note: str | None = None) -> JobRecord:
    return dataclasses.replace(JOB, state=state, note=note)


def ended(state: str, by: str | None = None) -> ExperimentRecord:
    return dataclasses.replace(FREE, state=state, settings={"ended_by": by})


@pytest.mark.parametrize(
    ("experiment", "job", "said", "step"),
    [
        (RUNNING, JOB, {}, Step.STAY),
        (RUNNING, None, {}, Step.OFFER),
        (RUNNING, with_state(JobState.GONE), {}, Step.OFFER),
        (dataclasses.replace(RUNNING, state="completed"), None, {}, Step.STAY),  # others just look
        (RUNNING, with_state(JobState.REFUSED, "too small"), {}, Step.REFUSED),
        (RUNNING, with_state(JobState.RELEASED), {}, Step.END),
        (RUNNING, with_state(JobState.RELEASED, "its time is over"), {}, Step.YIELD),
        (RUNNING, with_state(JobState.RELEASED), {"told_s": 1.0}, Step.YIELD),
        # The driver's job has ended.
        (FREE, JOB, {}, Step.DRIVE),
        (FREE, JOB, {"rank": 1}, Step.STAY),  # another one lasts longer
        (FREE, JOB, {"rank": 1, "silent_s": ASK_LATER_S}, Step.DRIVE),  # and doesn't come
        (FREE, None, {"rank": 1}, Step.OFFER),
        (ended("stopped", "SIGTERM"), JOB, {}, Step.DRIVE),
        (ended("stopped", "time limit"), JOB, {}, Step.DRIVE),
        (FREE, JOB, {"can_drive": False}, Step.STAY),
        (FREE, JOB, {"can_drive": False, "silent_s": 601.0}, Step.LEFT),
        # The sweep has.
        (ended("completed"), JOB, {}, Step.END),
        (ended("completed"), JOB, {"told_s": 1.0}, Step.END),
        (ended("failed"), JOB, {}, Step.FAILED),
        (ended("stopped", "SIGINT"), JOB, {}, Step.STOPPED),
        (ended("stopped", "stop request"), JOB, {}, Step.STOPPED),
        # Nobody hears of the driver.
        (RUNNING, JOB, {"silent_s": ASK_AFTER_S + 1.0}, Step.ASK),
        (RUNNING, JOB, {"silent_s": ASK_AFTER_S + 1.0, "rank": 2}, Step.STAY),
        (RUNNING, JOB, {"silent_s": ASK_AFTER_S + 2 * ASK_LATER_S + 1.0, "rank": 2}, Step.ASK),
        (RUNNING, JOB, {"silent_s": 100.0, "can_drive": False}, Step.STAY),
        (RUNNING, JOB, {"silent_s": 601.0, "can_drive": False}, Step.LEFT),
        # It was told to end itself.
        (RUNNING, with_state(JobState.LEAVING), {"told_s": 1.0}, Step.STAY),
        (RUNNING, with_state(JobState.LEAVING), {"told_s": LEAVE_S + 1.0}, Step.YIELD),
        (FREE, with_state(JobState.LEAVING), {"told_s": 1.0}, Step.YIELD),
        (RUNNING, with_state(JobState.GONE), {"told_s": 1.0}, Step.YIELD),
        (RUNNING, None, {"told_s": 1.0}, Step.YIELD),
    ],
)
def test_what_a_job_that_lends_does_next(
    experiment: ExperimentRecord, job: JobRecord | None, said: dict[str, Any], step: Step
) -> None:
    assert choose(experiment, job, **said) is step


def test_who_lasts_longest_is_the_first_to_drive(tmp_path: Path) -> None:
    """Of those that last as long, who came first; who only lends is before nobody."""
    ends = {"1": 5e9, "2": 6e9, "3": 6e9, "4": None, "5": 7e9}
    jobs = [
        dataclasses.replace(JOB, job_id=name, ends_at=end, since=float(name), can_drive=name != "5")
        for name, end in ends.items()
    ]
    with Database.open(tmp_path / "jobs.db", create=True) as database:
        key = database.create_experiment("big", {}, 0.0).id
        for job in jobs:
            put_job(database, key, job)
        found = {job.job_id: look(database, "big", job) for job in jobs}
    ranks = {name: standing.rank for name, standing in found.items()}
    assert ranks == {"4": 0, "2": 1, "3": 2, "1": 3, "5": 1}
    assert found["4"].look_s < 1.0 <= found["5"].look_s  # who is next looks often


def test_the_trials_python_must_be_there_and_the_same_for_who_may_drive() -> None:
    check_python({}, can_drive=True)  # an older sweep has not said
    check_python({"python": sys.executable, "python_version": "2.7"}, can_drive=False)
    with pytest.raises(UsageError, match="/no/python, which is not on this node"):
        check_python({"python": "/no/python"}, can_drive=False)
    with pytest.raises(UsageError, match=r"that it joins Python 2\.7"):
        check_python({"python": sys.executable, "python_version": "2.7"}, can_drive=True)


def test_who_may_drive_has_the_sweeps_environment(tmp_path: Path) -> None:
    """Under whatever name, and by whatever way: a link to its folder is the same folder."""
    folder = Path(sys.executable).parent
    (tmp_path / "link").symlink_to(folder)
    check_python({"python": str(tmp_path / "link" / Path(sys.executable).name)}, can_drive=True)
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    check_python({"python": str(other)}, can_drive=False)
    with pytest.raises(UsageError, match=f"joins {other}, which may have other modules"):
        check_python({"python": str(other)}, can_drive=True)


def test_join_says_what_it_can_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> str:
        done = CliRunner().invoke(main, ["join", "big", "--local-dir", str(tmp_path / "out")])
        assert done.exit_code in (1, 2)
        return done.output

    assert "there is no database" in run()
    with Database.open(tmp_path / "out" / "slurm-sweeps.db", create=True) as database:
        database.create_experiment("bigger", {}, 0.0)
    assert "did you mean 'bigger'" in run()
    with Database.open(tmp_path / "out" / "slurm-sweeps.db") as database:
        database.create_experiment("big", {}, 0.0)
    assert "this process is in none" in run()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "out").chmod(0o777)
    assert "can be written by others" in run()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert "inside job step 7.0" in run()


def test_join_contradicts_overwrite_and_restores(tmp_path: Path) -> None:
    def build(**kwargs: Any) -> ss.Experiment:
        return ss.Experiment(print, {"x": ss.Uniform(0, 1)}, "big", tmp_path, **kwargs)

    with pytest.raises(UsageError, match="join and overwrite contradict"):
        build(join=True, overwrite=True)
    with pytest.raises(TypeError, match=re.escape("join")):
        build(join="yes")
    with Database.open(tmp_path / "slurm-sweeps.db", create=True) as database:
        database.create_experiment("big", {"space": {}}, 0.0)
    assert build(join=True).name == "big"


def test_jobs_tells_where_a_driver_is_that_is_in_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    owner = build_owner()
    with Database.open(tmp_path / "slurm-sweeps.db", create=True) as database:
        database.create_experiment("e", {}, time.time(), owner)
    told = CliRunner().invoke(main, ["jobs", "e", "--local-dir", str(tmp_path)])
    assert f"the driver is process {owner.pid} on {owner.host}\n" in told.output


def lend(
    folder: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]
) -> tuple[Step, list[str]]:
    """Lend to the sweep of a folder; do something once the offer is made; return what was told."""

    def tell(*given: Any) -> None:
        tell_driver(*given)
        meanwhile()

    monkeypatch.setattr("slurm_sweeps.experiment.join.tell_driver", tell)
    told: list[str] = []
    job = Allocation("7", (Node("n1", 2),))
    with StopSignals() as signals:
        step = Lender(Layout(folder, "big"), job, False, told.append).lend(signals)
    return step, told


def begin(folder: Path) -> Path:
    file = Layout(folder, "big").database
    with Database.open(file, create=True) as database:
        database.create_experiment("big", {}, time.time(), LEASE.owner)
    return file


@pytest.mark.parametrize("another", [False, True])
def test_a_job_ends_whose_sweep_was_removed_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, another: bool
) -> None:
    """Which it has open still; there may be another one in its place."""
    file = begin(tmp_path)

    def remove() -> None:
        file.rename(tmp_path / "old")
        if another:
            begin(tmp_path)

    step, told = lend(tmp_path, monkeypatch, remove)
    assert step is Step.END
    assert told[1:] == ["experiment 'big' was removed: there is nothing to lend for"]


def test_a_job_waits_while_the_file_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than one look does, as the driver does."""
    file, waited = begin(tmp_path), []
    monkeypatch.setattr("slurm_sweeps.storage.jobs.LOOK_TIMEOUT_S", 0.01)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:

        def fail(*given: Any) -> Standing:
            """Look, and free the file after the third failure."""
            try:
                return look(*given)
            except DatabaseBusyError:
                waited.append(given)
                if len(waited) == 3:
                    other.execute("UPDATE experiments SET state = 'completed', lease_nonce = NULL")
                    other.execute("COMMIT")
                raise

        monkeypatch.setattr("slurm_sweeps.experiment.join.look", fail)
        step, _ = lend(tmp_path, monkeypatch, lambda: other.execute("BEGIN EXCLUSIVE"))
    assert (step, len(waited)) == (Step.END, 3)
