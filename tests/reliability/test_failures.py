"""Trials, workers and whole machines' worth of workers that fail, and what follows from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import reliable_trains as trains
from reliable_sweeps import NAME, Runs, Script, read_attempts, read_trials

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.errors import LaunchError, SweepFailedError
from slurm_sweeps.result import Result
from slurm_sweeps.running import driver as driver_module
from slurm_sweeps.running import launchers as launcher
from slurm_sweeps.running.slots import FIRST_PAUSE_S, LONGEST_PAUSE_S, compute_pause
from slurm_sweeps.slurm.config import LocalCfg
from slurm_sweeps.trial import TRANSITIONS, Status


def test_which_status_may_follow_which() -> None:
    """The whole table; every status has its line."""
    table = {
        before.value: {after.value for after in allowed} for before, allowed in TRANSITIONS.items()
    }
    assert table == {
        "scheduled": {"running"},
        "running": {"completed", "pruned", "failed", "lost", "interrupted", "paused", "infeasible"},
        "failed": {"scheduled"},
        "lost": {"scheduled"},
        "interrupted": {"scheduled"},
        "paused": {"scheduled"},
        "completed": set(),
        "pruned": set(),
        "infeasible": set(),
    }
    assert set(table) == {status.value for status in Status}
    assert {status.value for status in Status if status.is_final} == {
        "completed",
        "pruned",
        "infeasible",
        "failed",
    }


def test_a_retry_keeps_id_and_folder_and_replaces_what_it_logs_again(runs: Runs) -> None:
    (trial,) = runs.run(trains.succeed_on_attempt_3, 1, max_retries=2).trials
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 3)
    assert trial.metrics == {"loss": {1: 0.3, 2: 0.03, 9: 9.0}}
    saved = runs.folder / NAME / trial.trial_id / "checkpoints"
    assert sorted(file.name for file in saved.iterdir()) == ["attempt1", "attempt2", "attempt3"]
    attempts = read_attempts(runs.database)
    assert [(a.attempt, a.status) for a in attempts] == [
        (1, Status.FAILED),
        (2, Status.FAILED),
        (3, Status.COMPLETED),
    ]
    assert [a.error.message for a in attempts if a.error] == [
        "not at attempt 1",
        "not at attempt 2",
    ]


def test_no_more_retries_than_asked_and_more_when_restored_with_more(runs: Runs) -> None:
    assert runs.run(trains.succeed_on_attempt_3, 1, max_retries=1).trials[0].attempt == 2
    assert runs.statuses() == [Status.FAILED]
    runs.run(trains.succeed_on_attempt_3, 1, max_retries=1)  # complete: nothing is run
    assert len(read_attempts(runs.database)) == 2
    runs.run(trains.succeed_on_attempt_3, 1, max_retries=2)
    assert runs.statuses() == [Status.COMPLETED]


def test_a_trial_that_is_lost_again_and_again_is_given_up(runs: Runs) -> None:
    (trial,) = runs.run(trains.kill_itself, 1).trials
    assert (trial.status, trial.attempt) == (Status.LOST, 4)
    assert trial.error is not None
    assert trial.error.message == "the trial's process was killed by SIGKILL"
    assert not trial.is_terminated()
    runs.run(trains.kill_itself, 1)  # restored, it has one more chance
    assert len(read_attempts(runs.database)) == 5
    runs.run(trains.succeed, 1)
    assert runs.statuses() == [Status.COMPLETED]


#: A driver that goes into a cgroup of its own accord, with its workers and their trials.
IN_A_CGROUP = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
sys.path.append(sys.argv[2])
import reliable_trains, slurm_sweeps as ss
train, out_of_memory = getattr(reliable_trains, sys.argv[4]), sys.argv[5]
experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", sys.argv[3])
experiment.run(1, fail_fast=False, out_of_memory=out_of_memory)
"""


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A memory cgroup for 200 MB, with nothing in it yet."""
    folder = Path("/sys/fs/cgroup/memory")
    if not os.access(folder / "cgroup.procs", os.W_OK):
        pytest.skip(f"no memory cgroup (version 1) can be made in {folder}")
    mine = folder / f"slurm-sweeps-test-{os.getpid()}"
    mine.mkdir()
    (mine / "memory.limit_in_bytes").write_text(str(200 << 20))
    yield mine
    mine.rmdir()


@pytest.mark.parametrize(
    ("train", "out_of_memory", "status", "attempt", "message"),
    [
        ("take_memory", "fail", "lost", 4, "the kernel killed the trial's process: out of memory"),
        (
            "take_memory",
            "infeasible",
            "infeasible",
            1,
            "the kernel killed the trial's process",
        ),
        (
            *("take_memory_in_a_child", "fail", "failed", 1),
            "the kernel killed a process of the trial: BrokenProcessPool: A process in the",
        ),
    ],
)
def test_out_of_memory_is_said_as_such(
    runs: Runs,
    little_memory: Path,
    train: str,
    out_of_memory: str,
    status: str,
    attempt: int,
    message: str,
) -> None:
    # In a process of its own: the kernel picks the largest one, which the tests themselves may be.
    folders = [str(little_memory), str(Path(trains.__file__).parent), str(runs.folder)]
    argv = [sys.executable, "-c", IN_A_CGROUP, *folders, train, out_of_memory]
    done = subprocess.run(argv, check=True, timeout=120, capture_output=True, text=True)
    (trial,) = Result(NAME, runs.folder).trials
    assert (trial.status, trial.attempt) == (status, attempt)
    assert trial.error is not None
    assert trial.error.type == "OutOfMemory"
    assert trial.error.message.startswith(message)
    assert "OutOfMemory" in str(trial)
    assert f"1 {status} (1 out of memory)" in done.stdout


def test_fail_fast_is_the_default_and_can_be_declined(runs: Runs) -> None:
    with pytest.raises(SweepFailedError, match="the first 4 trials have all failed") as caught:
        runs.run(trains.fail, 20, slots=4)
    assert "4 of them with ValueError: never with ['x']" in str(caught.value)
    assert "Traceback (most recent call last)" in str(caught.value)
    ended = runs.statuses().count(Status.FAILED)
    runs.run(trains.fail, 20, fail_fast=False)
    assert runs.statuses() == [Status.FAILED] * 20
    assert ended < 20


def test_a_restored_sweep_that_has_worked_does_not_fail_fast(runs: Runs) -> None:
    runs.run(trains.succeed, 1)
    runs.run(trains.fail, 8)
    assert runs.statuses() == [Status.COMPLETED] + [Status.FAILED] * 7


def test_trials_that_have_logged_are_no_reason_to_fail_fast(runs: Runs) -> None:
    runs.run(trains.fail_after_a_report, 6)
    assert runs.statuses() == [Status.FAILED] * 6


def test_workers_that_die_all_at_once_are_all_started_again(runs: Runs) -> None:
    runs.run(trains.kill_all_workers_at_once, 4, slots=4)
    assert runs.statuses() == [Status.COMPLETED] * 4
    lost = [a for a in read_attempts(runs.database) if a.status is Status.LOST]
    assert [a.error.type for a in lost if a.error] == ["WorkerLost"] * 4


def test_a_host_that_is_killed_costs_its_trials_once_and_leaves_nothing(runs: Runs) -> None:
    runs.run(trains.kill_the_host, 3, slots=3)
    assert runs.statuses() == [Status.COMPLETED] * 3
    lost = [a for a in read_attempts(runs.database) if a.status is Status.LOST]
    assert [a.error.type for a in lost if a.error] == ["WorkerLost"] * 3
    children = [int(file.name) for file in runs.folder.glob("*/met/*")]
    assert len(children) == 3
    for pid in children:
        wait_until(lambda pid=pid: read_process(pid) is None, 60, lambda: "it lives")


FORKS_AT_IMPORT = """
import multiprocessing, time
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=True).start()
"""

KILLS_ITS_HOST = """
import os, pathlib, signal, time
import forks_at_import
import slurm_sweeps as ss

def train(cfg):
    forks_at_import.time.sleep(0)
    if ss.attempt() == 1:
        worker = os.getppid()
        status = pathlib.Path(f"/proc/{worker}/stat").read_text()
        os.kill(int(status.rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(600)
    ss.log({"loss": 1.0}, 1)

if __name__ == "__main__":
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", "out").run(1, 2)
"""


def test_a_host_that_is_killed_is_missed_though_its_child_holds_its_output(
    make_script: Callable[..., Script],
) -> None:
    script = make_script("sweep", KILLS_ITS_HOST)
    (script.folder / "forks_at_import.py").write_text(FORKS_AT_IMPORT)
    assert "ended by itself (exit code -9)" in script.run()
    (trial,) = read_trials(script.database)
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 2)
    script.wait_until_gone()


STOPS_AS_IT_LOADS = """
import os, pathlib, signal
here = pathlib.Path(__file__).parent
if (here / "killed").exists() and not (here / "stopped").exists():
    (here / "stopped").touch()
    os.kill(os.getpid(), signal.SIGSTOP)
"""

LOADS_AGAIN = """
import os, pathlib, signal, time
import stops_as_it_loads
import slurm_sweeps as ss
from slurm_sweeps.running import slots

slots.ALIVE_EVERY_S, slots.TELL_LOAD_S, slots.LOAD_S = 0.2, 1.0, 4.0

def train(cfg):
    if ss.attempt() == 1:
        (stops_as_it_loads.here / "killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    ss.log({"loss": 1.0}, 1)

if __name__ == "__main__":
    ss.Experiment(train, {}, "sweep", "out").run(1, 1)
"""


def test_a_host_that_is_silent_while_it_loads_is_given_up(
    make_script: Callable[..., Script],
) -> None:
    """As where its link ends without a word, or an import hangs."""
    script = make_script("sweep", LOADS_AGAIN)
    (script.folder / "stops_as_it_loads.py").write_text(STOPS_AS_IT_LOADS)
    printed = script.run()
    assert "have not loaded train after 1 s: who has not after 4 s is given up" in printed
    assert "had not loaded train after 4 s and was given up" in printed
    (trial,) = read_trials(script.database)
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 2)
    script.wait_until_gone()


def test_a_driver_of_another_version_than_its_workers_is_told_so(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module.Driver, "_build_init", lambda _: {"train": "elsewhere"})
    with pytest.raises(LaunchError, match="may have been upgraded while the sweep runs"):
        runs.run(trains.succeed, 2)


def test_with_no_slot_left_the_run_ends_and_can_be_restored(
    runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SweepFailedError, match="no slot is left: on every node, workers kept"):
        runs.run(trains.kill_its_worker, 3, slots=1)
    printed = capfd.readouterr().out
    assert "is left out for 60 s: 3 workers in a row ended there" in printed
    attempts = read_attempts(runs.database)
    assert [a.status for a in attempts if a.status is Status.LOST] == [Status.LOST] * 3
    runs.run(trains.succeed, 3)
    assert runs.statuses() == [Status.COMPLETED] * 3
    assert json.loads(read_trials(runs.database)[0].cfg_json)["x"] <= 1


def test_the_pause_before_a_worker_is_started_again_grows() -> None:
    pauses = [compute_pause(failures) for failures in range(1, 2000)]
    assert pauses[:4] == [FIRST_PAUSE_S * factor for factor in (1, 2, 4, 8)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_worker_that_can_not_be_started_now_is_started_later(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As where a user's processes are limited: the slots that could be filled go on."""
    start, calls = launcher.start_process, iter(range(100))

    def start_some(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:  # the host of the other GPU
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return start(*args, **kwargs)

    monkeypatch.setattr(launcher, "start_process", start_some)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runs.run(trains.succeed, 12, local_cfg=LocalCfg(gpus=1))
    assert runs.statuses() == [Status.COMPLETED] * 12
    printed = capfd.readouterr().out
    assert "slot 1 has to wait: can't start a worker with " in printed
    assert "Resource temporarily unavailable" in printed


FEW_PROCESSES = """
import slurm_sweeps as ss, sys, time

def train(cfg):
    for iteration in (1, 2):
        time.sleep(0.2)  # a journal is written by a thread then; and all four run at once
        ss.log({"loss": 1.0}, iteration)

if __name__ == "__main__":
    trials = ss.Experiment(train, {}, "sweep", "out").run(8, 4).trials
    assert [(trial.status, trial.attempt) for trial in trials] == [("completed", 1)] * 8
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root may be another user"
)
def test_near_the_limit_of_processes_slots_wait_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """Of `ulimit -u`, which does not bind root: four slots and their trials need twice as many."""
    (tmp_path / "sweep.py").write_text(FEW_PROCESSES)
    tmp_path.chmod(0o777)
    user = [f"--{which}=54321" for which in ("reuid", "regid")]
    may_read = [f"--{which}-caps=+dac_override,+dac_read_search" for which in ("inh", "ambient")]
    limited = ["setpriv", *user, *may_read, "--clear-groups", "prlimit", "--nproc=12"]
    done = subprocess.run(
        [*limited, sys.executable, "sweep.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no process can be started for a trial (Resource temporarily" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_no_worker_at_all_is_an_error(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> Any:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(launcher, "start_process", start)
    with pytest.raises(LaunchError, match="can't start a worker with "):
        runs.run(trains.succeed, 2)


@pytest.mark.parametrize("code", [2**40, -(2**31), 256, "text"])
def test_exit_codes_of_all_sizes_can_be_kept(runs: Runs, code: object) -> None:
    (trial,) = runs.run(trains.leave_with, 1, space={"code": code}).trials
    assert trial.status is Status.FAILED


def test_the_limit_of_open_files_is_raised_for_many_slots() -> None:
    script = """
import resource
from slurm_sweeps.running.launchers import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 2000))
for count in (50, 1000, 5000):
    allow_open_files(count)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["100", "1000", "2000"]
