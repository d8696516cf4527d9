"""A sweep that goes on in another process, as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reliable_trains as trains
from reliable_sweeps import NAME, WAIT_S, Runs, Script, assert_complete, read_trials

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.errors import ExperimentExistsError, ExperimentLockedError, UsageError
from slurm_sweeps.running import launchers as launcher
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.lease import SILENT_S
from slurm_sweeps.storage.records import LeaseOwner, TrialRecord
from slurm_sweeps.storage.rows import write_records
from slurm_sweeps.trial import Status, compute_trial_id

MakeScript = Callable[..., Script]


def read_cfgs(database: Path) -> list[Any]:
    return [json.loads(trial.cfg_json) for trial in read_trials(database)]


def test_n_trials_is_the_total_and_what_is_done_stays(runs: Runs, tmp_path: Path) -> None:
    runs.run(trains.succeed, 3)
    before = read_trials(runs.database)
    runs.run(trains.succeed, 7)
    assert read_trials(runs.database)[:3] == before
    undisturbed = Runs(tmp_path / "undisturbed")
    undisturbed.run(trains.succeed, 7)
    assert read_cfgs(runs.database) == read_cfgs(undisturbed.database)


@pytest.mark.parametrize("wanted", [5, 2])
def test_what_is_complete_is_returned_without_a_worker(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    runs.run(trains.succeed, 5)
    before = read_trials(runs.database)

    def start(*_: object) -> None:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(launcher, "start_process", start)
    result = runs.run(trains.succeed, wanted)
    assert [trial.status for trial in result.trials] == [Status.COMPLETED] * 5
    assert read_trials(runs.database) == before


@pytest.mark.parametrize(
    ("left", "then"), [("running", "completed"), ("stopped", "completed"), ("failed", "failed")]
)
def test_what_was_done_when_its_driver_went_is_complete(runs: Runs, left: str, then: str) -> None:
    """Killed, or told to stop, as the last trials ended: nobody else would ever say that."""
    runs.run(trains.succeed, 2)
    with contextlib.closing(sqlite3.connect(runs.database)) as connection, connection:
        connection.execute("UPDATE experiments SET state = ?", (left,))
    runs.run(trains.succeed, 2)
    with Database.open(runs.database) as opened:
        assert opened.experiment(NAME).state == then


def test_the_unfinished_are_run_first(runs: Runs) -> None:
    runs.run(trains.kill_itself, 2)
    assert runs.statuses() == [Status.LOST] * 2
    runs.run(trains.succeed, 4, slots=1)
    trials = read_trials(runs.database)
    starts = [trial.start_time or 0.0 for trial in trials]
    assert starts == sorted(starts)
    assert [trial.attempt for trial in trials] == [5, 5, 1, 1]


def test_a_mended_train_is_taken_for_what_had_failed_too(runs: Runs) -> None:
    with pytest.raises(ss.errors.SweepFailedError):
        runs.run(trains.fail, 6)
    ended = len(read_trials(runs.database))
    runs.run(trains.succeed, 6)
    assert runs.statuses() == [Status.COMPLETED] * 6
    attempts = [trial.attempt for trial in read_trials(runs.database)]
    assert attempts == [2] * ended + [1] * (6 - ended)


@pytest.mark.parametrize(
    ("space", "difference"),
    [
        ({"x": ss.Uniform(0, 2)}, "cfg['x'] was Uniform(0.0, 1.0) and is now Uniform(0.0, 2.0)"),
        ({"x": ss.Uniform(0, 1), "n": ss.Choice([1, 2])}, "cfg['n'] is new: Choice([1, 2])"),
        ({"y": ss.Uniform(0, 1)}, "cfg['x'] was Uniform(0.0, 1.0) and is gone"),
        ({"x": 0.5}, "cfg['x'] was Uniform(0.0, 1.0) and is now 0.5"),
    ],
)
def test_a_changed_space_is_named(runs: Runs, space: dict[str, Any], difference: str) -> None:
    runs.run(trains.succeed, 1)
    before = read_trials(runs.database)
    with pytest.raises(UsageError, match="was begun with another search space") as caught:
        runs.run(trains.succeed, 2, space=space)
    assert difference in str(caught.value)
    assert "pass overwrite=True" in str(caught.value)
    assert read_trials(runs.database) == before


def test_a_checkpoint_survives_the_attempt(runs: Runs) -> None:
    (trial,) = runs.run(trains.go_on_from_checkpoint, 1).trials
    assert trial.attempt == 2
    x = trial.cfg["x"]
    assert trial.metrics is not None
    assert trial.metrics["loss"] == pytest.approx({epoch: epoch * x for epoch in range(1, 9)})
    assert trial.metrics["first"] == {
        **dict.fromkeys(range(1, 5), 1),
        **dict.fromkeys(range(5, 9), 5),
    }


# The lease


def test_a_second_driver_is_told_who_is_at_work(make_script: MakeScript) -> None:
    script = make_script("sweep", N_TRIALS=4, ITERATIONS=40, PAUSE_S=0.06, SLURM_JOB_NAME="x")
    with script.start() as first:
        script.wait_for_files("out/sweep/*/cfg.yml")
        before = script.printed()
        script.run(code=1)
        said = script.printed().removeprefix(before)
        assert "ExperimentLockedError: experiment 'sweep' in " in said
        assert f"host {socket.gethostname()!r}, pid {first.pid}, last heard of " in said
        assert first.wait(60) == 0
    assert_complete(script.database, 4, 40)


def test_a_dead_driver_is_taken_over_from_with_a_notice(make_script: MakeScript) -> None:
    script = make_script("sweep", N_TRIALS=4, ITERATIONS=10)
    with script.start() as first:
        script.wait_for_files("out/sweep/*/cfg.yml")
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    script.run()
    notice = f"took 'sweep' over from a driver that is gone (host {socket.gethostname()}, pid "
    assert f"{notice}{first.pid})" in script.printed()
    assert_complete(script.database, 4, 10)


def hold(database: Path, age_s: float, job_id: str | None = None) -> None:
    """Have a driver on another host hold the experiment, last heard of some time ago."""
    owner = LeaseOwner(host="another", pid=4711, job_id=job_id, start="", nonce="n")
    with Database.open(database) as opened:
        assert opened.take_lease(opened.experiment(NAME).id, owner, time.time() - age_s, None)


def test_on_another_host_silence_counts(runs: Runs, capfd: pytest.CaptureFixture[str]) -> None:
    runs.run(trains.succeed, 1)
    hold(runs.database, age_s=SILENT_S - 60)
    with pytest.raises(ExperimentLockedError, match="host 'another', pid 4711, last heard of 6"):
        runs.run(trains.succeed, 2)
    with Database.open(runs.database) as opened:
        held = opened.experiment(NAME)
        assert held.lease is not None
        opened.release_lease(held.id, held.lease.owner)
    hold(runs.database, age_s=SILENT_S + 5)
    runs.run(trains.succeed, 2)
    assert "is gone (host another, pid 4711)" in capfd.readouterr().out


@pytest.mark.parametrize(("restarts", "taken"), [("1", True), (None, False)])
def test_a_job_that_was_queued_again_takes_over_from_its_former_self(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, restarts: str | None, taken: bool
) -> None:
    """Asked about that job, Slurm would say that it runs."""
    runs.run(trains.succeed, 1)
    hold(runs.database, age_s=1, job_id="17")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2")
    if restarts:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if taken:
        runs.run(trains.succeed, 1)  # complete: no step is needed for it
        return
    with pytest.raises(ExperimentLockedError, match="Slurm job 17, last heard of"):
        runs.run(trains.succeed, 1)


def begin_as_job(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, job: str, restarts: str, **how: Any
) -> ss.Result:
    """Run a sweep that job 17 has begun, and that is complete: no step is needed for it."""
    space = {"x": ss.Uniform(0, 1)}
    with Database.open(runs.database, create=True) as database:
        settings = {"space": SearchSpace(space).describe(), "seed": 1, "job_id": "17"}
        database.create_experiment(NAME, settings, time.time())
        trial_id = compute_trial_id({"x": 0.5})
        done = TrialRecord(0, trial_id, 0, '{"x":0.5}', status=Status.COMPLETED)
        write_records(database, 1, [done])
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    monkeypatch.setenv("SLURM_JOB_CPUS_PER_NODE", "2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    return ss.Experiment(trains.succeed, space, NAME, runs.folder, **how).run(1)


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"restore": True}])
def test_a_job_that_was_queued_again_goes_on_with_what_it_has_begun(
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: dict[str, Any],
) -> None:
    (trial,) = begin_as_job(runs, monkeypatch, "17", "1", **how).trials
    assert trial.cfg == {"x": 0.5}
    said = "job 17 was queued again, and goes on with 'sweep', which it has begun"
    assert (said in capsys.readouterr().out) is ("restore" not in how)


@pytest.mark.parametrize(("job", "restarts"), [("17", "0"), ("18", "1")])
def test_no_other_job_goes_on_unasked(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, job: str, restarts: str
) -> None:
    with pytest.raises(ExperimentExistsError):
        begin_as_job(runs, monkeypatch, job, restarts)


SUSPENDED = """
import pathlib, time
import slurm_sweeps as ss
from slurm_sweeps.running import deadlines, driver

deadlines.GAP_S = driver.LEASE_GAP_S = 0.5

def train(cfg):
    ss.log({"loss": 1.0}, 1)
    pathlib.Path("began").touch()
    while not pathlib.Path("../go").exists():
        time.sleep(0.01)
    pathlib.Path("asks").touch()
    ss.log({"loss": 1.0}, 2)
    pathlib.Path("answered").touch()

if __name__ == "__main__":
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", "out").run(2, 2)
"""


def suspend(pid: int, database: Path) -> None:
    """Stop a driver, but not in a transaction: nobody could take its experiment then."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: read_states(pid) == {"T"}, WAIT_S, lambda: f"{pid} does not stop")
        with (
            contextlib.closing(sqlite3.connect(database, timeout=0)) as connection,
            contextlib.suppress(sqlite3.OperationalError),
        ):
            connection.execute("BEGIN IMMEDIATE")
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def read_states(pid: int) -> set[str]:
    """The states of a process's threads, such as T for one that is stopped."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return {stat.read_text().rpartition(")")[2].split()[0] for stat in stats}


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_driver_that_was_suspended_answers_nobody_before_it_has_its_lease(
    make_script: MakeScript, is_lost: bool
) -> None:
    """Trials that wait for an answer would write on into folders that are another driver's."""
    script = make_script("sweep", SUSPENDED)
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/began", 2)
        suspend(driver.pid, script.database)
        (script.folder / "out" / "sweep" / "go").touch()
        script.wait_for_files("out/sweep/*/asks", 2)
        time.sleep(0.6)  # longer than LEASE_GAP_S
        if is_lost:  # as another driver does after two minutes
            with Database.open(script.database) as database:
                found = database.experiment(NAME)
                other = LeaseOwner(host="another", pid=4711, job_id=None, start="", nonce="n")
                assert database.take_lease(found.id, other, time.time(), found.lease)
        os.kill(driver.pid, signal.SIGCONT)
        assert driver.wait(WAIT_S) == int(is_lost), script.printed()
    script.wait_until_gone()
    answered = list(script.folder.glob("out/sweep/*/answered"))
    assert len(answered) == (0 if is_lost else 2)
    assert ("is in use by another driver: host 'another'" in script.printed()) == is_lost
