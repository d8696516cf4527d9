"""Whose an experiment is: while Slurm is asked, while a sweep is restored, while it is deleted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.cli import main
from slurm_sweeps.experiment import experiment as experiment_module
from slurm_sweeps.samplers import Problem, Sampler
from slurm_sweeps.storage import writer as writer_module
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import LeaseOwner, Record, StateRecord, TrialRecord
from slurm_sweeps.storage.rows import count_trials, write_records
from slurm_sweeps.storage.writer import Writer
from slurm_sweeps.trial import Status

WAIT_S = 60.0  # how long a test waits for what must come

ELSEWHERE = LeaseOwner("elsewhere", 1, "5", "", "nonce")
SPACE = {"x": ss.Uniform(0, 1)}


def train(cfg: dict[str, Any]) -> None:
    ss.log({"loss": cfg["x"]}, 1)


def train_from_checkpoint(cfg: dict[str, Any]) -> None:
    file = ss.checkpoint_dir() / "last.txt"
    first = int(file.read_text()) + 1 if file.exists() else 1
    for epoch in range(first, 4):
        file.write_text(str(epoch))
        ss.log({"loss": cfg["x"] / epoch}, epoch)


def run(folder: Path, name: str, n_trials: int = 1, **options: Any) -> ss.Result:
    options = {"train": train, "restore": "auto", **options}
    experiment = ss.Experiment(cfg=SPACE, name=name, local_dir=folder, seed=1, **options)
    return experiment.run(n_trials, 1, summary_interval_in_sec=WAIT_S)


def test_others_write_while_a_driver_asks_slurm(tmp_path: Path) -> None:
    run(tmp_path, "a")
    with Database.open(tmp_path / "slurm-sweeps.db") as database:
        assert database.take_lease(1, ELSEWHERE, time.time(), None)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/asked\nuntil [ -e {tmp_path}/answer ]; do sleep 0.1; done\n"
        "echo Invalid job id >&2; exit 1\n"
    )
    squeue.chmod(0o755)
    script = tmp_path / "script.py"
    script.write_text(
        "import slurm_sweeps as ss\n"
        "def train(cfg): ss.log({'loss': cfg['x']}, 1)\n"
        "if __name__ == '__main__':\n"
        "    cfg = {'x': ss.Uniform(0, 1)}\n"
        f"    ss.Experiment(train, cfg, 'a', {str(tmp_path)!r}, restore=True).run(2)\n"
    )
    env = {**os.environ, "PATH": f"{squeue.parent}:{os.environ['PATH']}"}
    with subprocess.Popen([sys.executable, script], env=env, stdout=subprocess.DEVNULL) as driver:
        wait_until((tmp_path / "asked").exists, WAIT_S, str)
        with Database.open(tmp_path / "slurm-sweeps.db", timeout_s=0.0) as database:
            database.create_experiment("b", {}, 0.0)
        (tmp_path / "answer").touch()
        assert driver.wait(WAIT_S) == 0
    assert len(ss.Result("a", tmp_path).trials) == 2


class Restoring:
    """A sampler that is asked to stop, from outside, while its sweep is rebuilt."""

    def __init__(self, database: Path) -> None:
        self.database = database

    def bind(self, problem: Problem) -> Sampler:
        with Database.open(self.database) as outsider:
            held = outsider.experiment("a")
            outsider.add_request(held.id, "stop", None, time.time())
            wait_until(lambda: not outsider.requests(held.id, unseen_only=True), WAIT_S, str)
            wait_until(lambda: outsider.experiment("a").lease != held.lease, WAIT_S, str)
        return ss.samplers.Random().bind(problem)


def test_a_stop_while_a_sweep_is_restored_is_obeyed_and_its_lease_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "HEARTBEAT_INTERVAL_S", 0.0)
    run(tmp_path, "a")

    with pytest.raises(ss.errors.SweepStopped):
        run(tmp_path, "a", 3, sampler=Restoring(tmp_path / "slurm-sweeps.db"))

    assert len(ss.Result("a", tmp_path).trials) < 3


def test_what_was_asked_of_an_earlier_driver_stops_no_other(tmp_path: Path) -> None:
    run(tmp_path, "a")
    with Database.open(tmp_path / "slurm-sweeps.db") as database:
        database.add_request(1, "stop", None, time.time())

    assert len(run(tmp_path, "a", 2).trials) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_each_state_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    states: list[str] = []

    class Watched(Writer):
        def put(self, record: Record) -> None:
            if isinstance(record, StateRecord):
                states.append(record.state)
            super().put(record)

    monkeypatch.setattr(experiment_module, "Writer", Watched)
    if fails:
        with pytest.raises(ss.errors.SweepFailedError):
            run(tmp_path, "a", 3, train=raise_an_error)
    else:
        run(tmp_path, "a")

    assert states == ["running", "failed" if fails else "completed"]
    with Database.open(tmp_path / "slurm-sweeps.db") as database:
        assert database.experiment("a").state == states[-1]


def raise_an_error(_cfg: dict[str, Any]) -> None:
    raise ValueError("always")


# Whose the folder is


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
@pytest.mark.parametrize("mode", [0o777, 0o707, 0o2770])
def test_a_local_dir_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A folder of a group that people share; sticky, nobody can exchange what is not his own."""
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, -1, 4711)
    folder.chmod(mode)
    with pytest.raises(ss.UsageError) as refused:
        run(folder, "a")
    assert f"{folder} can be written by others (mode {mode:o}): refused" in str(refused.value)
    assert list(folder.iterdir()) == []
    folder.chmod(mode | 0o1000)
    assert len(run(folder, "a").trials) == 1


def test_a_local_dir_that_only_the_users_own_group_can_write_is_taken(tmp_path: Path) -> None:
    """With umask 002, many systems make all folders so."""
    tmp_path.chmod(0o770)
    assert len(run(tmp_path, "a").trials) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_local_dir_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, -1)
    with pytest.raises(ss.UsageError, match=r"belongs to user 4711, not to you \(0\): refused"):
        run(tmp_path, "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_sweep_of_somebody_else_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of root that all can write, and where nobody else may enter."""
    tmp_path.chmod(0o1777)
    run(tmp_path, "a")
    os.chown(tmp_path / "a", 4711, -1)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    where = ["a", "--local-dir", str(tmp_path)]
    show = CliRunner().invoke(main, ["show", *where])
    assert show.exit_code == 0  # what it imports is out of reach, too, later
    for refuses in (lambda: run(tmp_path, "a"), lambda: run(tmp_path, "a", join=True)):
        with pytest.raises(ss.UsageError, match=r"belongs to user 4711, not to you \(0\): only"):
            refuses()
    refused = CliRunner().invoke(main, ["join", *where])
    assert (refused.exit_code, refused.output.count("belongs to user 4711, not to")) == (2, 1)
    tmp_path.chmod(0o700)
    os.seteuid(4711)
    try:
        with pytest.raises(ss.UsageError, match=r"out of your reach \(user 4711, Permission denie"):
            run(tmp_path, "a", join=True)
        told = [CliRunner().invoke(main, [verb, *where]).output for verb in ("join", "show")]
    finally:
        os.seteuid(0)
    assert all("is out of your reach (user 4711, Permission denied)" in text for text in told), told


# Deleting


def test_overwriting_a_folder_that_is_a_link_leaves_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "scratch")
    for _ in range(2):
        result = run(
            tmp_path / "out", "a", 2, train=train_from_checkpoint, restore=False, overwrite=True
        )
        assert [len((trial.metrics or {})["loss"]) for trial in result.trials] == [3, 3]
    assert len(list((tmp_path / "scratch").glob("*/checkpoints/last.txt"))) == 2


@pytest.mark.parametrize("taken", [True, False])
def test_rm_deletes_what_it_has_asked_about_and_nothing_else(tmp_path: Path, taken: bool) -> None:
    """Another driver comes while `rm` waits for the answer; it may be gone again by then."""
    run(tmp_path, "a")
    argv = [sys.executable, "-m", "slurm_sweeps", "rm", "a", "--local-dir", str(tmp_path)]
    with (
        Database.open(tmp_path / "slurm-sweeps.db") as database,
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as command,
    ):
        assert command.stdout is not None
        asked = b""
        while not asked.endswith(b"]: "):
            asked += command.stdout.read(1)
        assert database.take_lease(1, ELSEWHERE, time.time(), None)
        added = TrialRecord(1, "b" * 12, 0, "{}", status=Status.RUNNING)
        write_records(database, 1, [added], ELSEWHERE, time.time())
        if not taken:
            database.release_lease(1, ELSEWHERE)
        said, _ = command.communicate(b"y\n", WAIT_S)

        assert command.returncode == (1 if taken else 2), said
        wanted = b"in use by another driver: host 'elsewhere'" if taken else b"changed meanwhile"
        assert wanted in said
        assert sum(count_trials(database, 1).values()) == 2
        assert (database.experiment("a").lease is None) is not taken
        assert list((tmp_path / "a").iterdir())
