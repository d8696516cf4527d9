"""What is done ahead or at the same time: a trial's exit, and the start of the first host."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worker_process import TIMEOUT_S, WorkerProcess, start_worker

import slurm_sweeps as ss
from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.errors import StorageError
from slurm_sweeps.running.launchers import LocalLauncher, open_launcher
from slurm_sweeps.running.train import encode_cfg
from slurm_sweeps.slurm.config import LocalCfg, SlurmCfg
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from sweep_scripts import Scripts


@contextlib.contextmanager
def start_slow_leaver(folder: Path) -> Iterator[WorkerProcess]:
    """A worker whose trials are done, but whose processes don't exit before `let_go` is called."""
    os.mkfifo(folder / "gate")

    def train(cfg: dict[str, Any]) -> None:
        import os

        import slurm_sweeps as ss

        exit_at_once = os._exit

        def exit_late(code: int) -> None:
            with open("../gate") as gate:
                gate.read()
            exit_at_once(code)

        os._exit = exit_late
        ss.log({"loss": 1.0}, 1)
        if cfg.get("fails"):
            raise ValueError

    with start_worker(folder, train) as worker:
        worker.wait_for("ready")
        yield worker


def list_children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def let_go(folder: Path) -> None:
    """Let the process that waits exit; blocks until there is one."""
    (folder / "gate").write_text("")


def test_an_end_is_told_before_the_exit_and_the_next_trial_waits_for_the_exit(
    tmp_path: Path,
) -> None:
    with start_slow_leaver(tmp_path) as worker:
        first = worker.run(number=0)["pid"]
        worker.wait_for("report")
        worker.decide("prune", 1)
        assert worker.wait_for("ended")["how"] == "pruned"
        assert read_process(first)
        directory = str(tmp_path / "trial-1")
        run = {"trial_id": "trial-1", "number": 1, "attempt": 1, "dir": directory}
        worker.send({"kind": "run", **run, "env": {}, "cfg": encode_cfg({}), "cfg_yml": ""})
        worker.send({"kind": "stop", "number": 1, "grace_s": TIMEOUT_S})  # heard in its turn
        let_go(tmp_path)
        started = worker.wait_for("started")
        assert started["number"] == 1
        assert not read_process(first)
        worker.wait_for("report")
        worker.decide("go_on", 1, number=1)
        let_go(tmp_path)
        assert worker.wait_for("ended")["how"] == "interrupted"


@pytest.mark.parametrize(
    ("cfg", "do", "how"), [({}, "pause", "pruned"), ({"fails": True}, "go_on", "failed")]
)
def test_a_trial_that_may_be_run_again_has_gone_when_its_end_is_told(
    tmp_path: Path, cfg: dict[str, Any], do: str, how: str
) -> None:
    with start_slow_leaver(tmp_path) as worker:
        pid = worker.run(cfg)["pid"]
        worker.wait_for("report")
        worker.decide(do, 1)
        let_go(tmp_path)
        assert worker.wait_for("ended")["how"] == how
        assert not read_process(pid)


@pytest.mark.parametrize("slurm", [False, True])
def test_a_host_is_started_ahead_and_ends_with_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: bool
) -> None:
    srun = tmp_path / "srun"
    srun.touch(0o755 if slurm else 0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    opened = open_launcher(Layout(tmp_path, "ahead"), SlurmCfg(), LocalCfg(), 3)
    before = set(list_children(os.getpid()))
    with opened as launcher:
        # Where there is a Slurm, this may be a login node.
        assert slurm == any("run on this host, 3 at once" in text for text in launcher.notices)
        (ahead,) = set(list_children(os.getpid())) - before
        hosts = [launcher.start(place.number) for place in launcher.slots]
        assert [host.process.pid for host in hosts] == [ahead] * 3
    assert not read_process(ahead)


def test_slots_that_are_dealt_the_same_gpus_have_one_host(tmp_path: Path) -> None:
    launcher = LocalLauncher(3, Layout(tmp_path, "gpus"), LocalCfg(1), ("5", "7"))
    try:
        hosts = [launcher.start(slot) for slot in (0, 1, 2)]
        assert hosts[0] is hosts[2] is not hosts[1]
        hosts[0].end()
        assert launcher.start(2) is not hosts[0]  # which has ended
        gpus = [launcher.describe_slot(slot)["env"]["CUDA_VISIBLE_DEVICES"] for slot in (0, 1, 2)]
        assert gpus == ["5", "7", "5"]
    finally:
        launcher.close()


def test_waiting_for_a_worker_that_does_not_end_has_an_end(tmp_path: Path) -> None:
    link = LocalLauncher(1, Layout(tmp_path, "waits")).start(0)
    link.wait(0.01)
    assert link.process.returncode is None
    link.end()
    wait_until(lambda: not read_process(link.process.pid), TIMEOUT_S, lambda: "still there")


def test_the_first_worker_starts_before_the_database_is_opened(scripts: Scripts) -> None:
    """So the first trial waits for the longer of the two, not for both."""
    database = scripts.folder / "out" / "slurm-sweeps.db"
    database.parent.mkdir()
    Database.open(database, create=True).close()
    with contextlib.closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody can write
        with scripts.start(
            """
            import slurm_sweeps as ss

            def train(cfg):
                ss.log({"loss": 1.0}, 1)

            if __name__ == "__main__":
                ss.Experiment(train, {}, "early", "out").run(1, 1)
            """
        ) as driver:
            wait_until(
                lambda: bool(list_children(driver.pid)),
                TIMEOUT_S,
                lambda: f"no worker; the script: {driver.poll()}",
            )
            other.rollback()
            assert driver.wait(TIMEOUT_S) == 0, driver.stdout and driver.stdout.read()


def test_a_worker_that_was_started_early_ends_with_a_sweep_that_can_not_begin(
    tmp_path: Path,
) -> None:
    before = set(list_children(os.getpid()))
    experiment = ss.Experiment(print, {}, "early", tmp_path)
    (tmp_path / "slurm-sweeps.db").write_text("no database")
    with pytest.raises(StorageError):
        experiment.run(1, 1)
    assert set(list_children(os.getpid())) <= before
