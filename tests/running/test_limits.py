"""Trials that take too long, or say nothing: when that is so, how they end, and what they leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from worker_process import TIMEOUT_S, WorkerProcess, read_when_there, start_worker

import slurm_sweeps as ss
from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.running.channel import Record
from slurm_sweeps.running.deadlines import Clock
from slurm_sweeps.running.ends import TimeLimits
from slurm_sweeps.trial import Status

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked into on Linux")


# --- when -----------------------------------------------------------------------------------------


def judge(limits: TimeLimits, now_s: float) -> str | None:
    found = limits.judge(now_s)
    return found and found["error_type"]


def test_a_trial_has_its_time_from_its_start() -> None:
    limits = TimeLimits({"max_trial_s": 10.0}, 100.0)
    limits.note_report()
    limits.note_answer(109.0)
    assert judge(limits, 109.9) is None
    assert judge(limits, 110.0) == "TrialTimeout"


def test_silence_counts_from_the_last_answer_and_not_while_one_is_due() -> None:
    limits = TimeLimits({"max_silence_s": 10.0}, 100.0)
    assert judge(limits, 109.9) is None
    limits.note_report()
    assert judge(limits, 1e9) is None
    limits.note_answer(200.0)
    assert judge(limits, 209.9) is None
    assert judge(limits, 210.0) == "TrialSilent"


def test_of_two_limits_the_nearer_one_counts() -> None:
    limits = TimeLimits({"max_trial_s": 15.0, "max_silence_s": 10.0}, 0.0)
    limits.note_report()
    assert (judge(limits, 14.9), limits.due) == (None, 15.0)
    limits.note_answer(6.0)
    assert judge(limits, 15.0) == "TrialTimeout"
    assert TimeLimits({}, 0.0).due == float("inf")


def test_a_suspended_job_takes_none_of_the_time() -> None:
    time_s = 0.0
    clock = Clock(lambda: time_s)
    limits = TimeLimits({"max_trial_s": 20.0}, clock())
    for time_s in (5.0, 1000.0, 1004.0):  # noqa: B007 - the clock reads it
        clock.note_turn(5.0)
        assert judge(limits, clock()) is None
    time_s = 1011.0
    assert judge(limits, clock()) == "TrialTimeout"


# --- how, with real processes -------------------------------------------------------------------


def hang(_cfg: dict[str, Any]) -> None:
    """Say that it is there, and hang as threads and children of it do, whatever is sent to it."""

    def wait_in_a_thread() -> None:
        time.sleep(600)

    def wait_in_a_child() -> None:
        time.sleep(600)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait_in_a_thread, daemon=True).start()
    pid = os.fork()
    if pid == 0:
        wait_in_a_child()
    Path("there").write_text(f"{pid}\n")
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def follow_overrun(worker: WorkerProcess) -> Record:
    """Do what a driver does about a trial beyond its limits; return how that ended."""
    told = worker.wait_for("overrun")
    worker.send({name: told[name] for name in ("kind", "number", "error_type", "message")})  # type: ignore[literal-required]
    return worker.wait_for("ended")


@linux
def test_a_trial_beyond_its_time_shows_where_it_is_with_its_children(tmp_path: Path) -> None:
    with start_worker(tmp_path, hang, max_trial_s=1.5, term_grace_s=0.2) as worker:
        worker.wait_for("ready")
        worker.run()
        child = int(read_when_there(tmp_path / "trial-0" / "there"))
        end = follow_overrun(worker)
        assert (end["how"], end["error_type"]) == ("failed", "TrialTimeout")
        assert end["message"] == (
            "the trial took longer than max_trial_sec=1.5; its stderr.log has the stacks of its "
            "threads"
        )
        wait_until(lambda: read_process(child) is None, TIMEOUT_S, lambda: "its child lives")
        log = (tmp_path / "trial-0" / "stderr.log").read_text()
        assert log.startswith("slurm_sweeps: the trial took longer than max_trial_sec=1.5; it is")
        for function in ("hang", "wait_in_a_thread", "wait_in_a_child"):
            assert f" in {function}\n" in log
        worker.run(number=1)  # the next one has a worker as before
        assert follow_overrun(worker)["error_type"] == "TrialTimeout"


@linux
def test_fresh_interpreters_show_where_they_are_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, name='warmer', daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(_cfg: dict[str, Any]) -> None:
        import threaded  # noqa: F401 - what keeps it from being forked

        time.sleep(600)

    with start_worker(tmp_path / "experiment", train, max_trial_s=4.0, term_grace_s=0.2) as worker:
        assert "fresh interpreter" in worker.wait_for("notice")["text"]
        worker.wait_for("ready")
        worker.run()
        assert follow_overrun(worker)["error_type"] == "TrialTimeout"
    assert " in train\n" in (tmp_path / "experiment" / "trial-0" / "stderr.log").read_text()


def test_a_trial_that_waits_for_the_driver_is_not_silent(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        ss.log({"loss": 1.0}, 1)
        Path("goes-on").write_text("yes\n")
        time.sleep(600)

    silence_s = 1.0
    with start_worker(tmp_path, train, max_silence_s=silence_s, term_grace_s=0.2) as worker:
        worker.wait_for("ready")
        worker.run()
        worker.wait_for("report")
        time.sleep(2 * silence_s)  # a driver that thinks: the next record would be "overrun"
        worker.decide("go_on", 1)
        read_when_there(tmp_path / "trial-0" / "goes-on")
        end = follow_overrun(worker)
        assert (end["how"], end["error_type"]) == ("failed", "TrialSilent")
        assert "reported nothing for max_silence_sec=1;" in end["message"]


def test_one_that_has_ended_before_it_could_be_ended_has_done_well(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        while not ss.should_stop() and not Path("go").exists():
            time.sleep(0.01)

    with start_worker(tmp_path, train, max_trial_s=0.5) as worker:
        worker.wait_for("ready")
        worker.run()
        told = worker.wait_for("overrun")
        (tmp_path / "trial-0" / "go").touch()
        assert worker.wait_for("ended")["how"] == "completed"
        worker.send({**told, "kind": "overrun"})  # crosses its end, and is for nobody
        worker.run(number=1)
        assert worker.wait_for("overrun")["number"] == 1


def test_another_rank_ends_when_it_is_told_and_not_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "1")
    limits = {"max_trial_s": 0.3, "max_silence_s": 0.3, "term_grace_s": 0.2}
    with start_worker(tmp_path, hang, 2, **limits) as worker:
        worker.wait_for("ready")
        worker.run()
        read_when_there(tmp_path / "trial-0" / "there")
        why = {"error_type": "TrialSilent", "message": "as rank 0 was silent"}
        worker.send({"kind": "overrun", "number": 0, **why})  # type: ignore[typeddict-item]
        end = worker.wait_for("ended")
        assert (end["rank"], end["how"], end["error_type"]) == (1, "failed", "TrialSilent")
    assert " in hang\n" in (tmp_path / "trial-0" / "stderr.1.log").read_text()


@linux
@pytest.mark.chaos  # takes half a minute
def test_a_worker_that_is_suspended_takes_none_of_the_time(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        began, mine = time.monotonic(), time.process_time()
        while time.process_time() - mine < 600:
            Path("ran").write_text(f"{time.monotonic() - began}\n")
            time.sleep(0.1)

    with start_worker(tmp_path, train, max_trial_s=10.0) as worker:
        worker.wait_for("ready")
        pid = worker.run()["pid"]
        read_when_there(tmp_path / "trial-0" / "ran")
        for each in (pid, worker.process.pid):
            os.kill(each, signal.SIGSTOP)
        time.sleep(20.0)  # more than the worker takes for a wait, and twice the limit
        for each in (worker.process.pid, pid):
            os.kill(each, signal.SIGCONT)
        assert follow_overrun(worker)["error_type"] == "TrialTimeout"
    assert float(read_when_there(tmp_path / "trial-0" / "ran")) > 24.0


# --- whole sweeps -----------------------------------------------------------------------------


def test_a_trial_that_took_too_long_is_retried_as_others_are(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> float:
        while ss.attempt() == 1 and not ss.should_stop():
            time.sleep(0.01)
        return 1.0

    result = ss.Experiment(train, {"x": 1}, "slow", tmp_path).run(1, max_retries=1, max_trial_sec=3)
    (trial,) = result.trials
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 2)


def test_a_silent_program_is_ended_and_has_no_stacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = ss.Program(["sh", "-c", "echo loss=1; sleep 600"], metrics=r"loss=(?P<loss>\S+)")
    experiment = ss.Experiment(program, {"x": 1}, "silent", tmp_path)
    (trial,) = experiment.run(1, max_silence_sec=1.5, fail_fast=False).trials
    assert (trial.status, trial.metrics) == (Status.FAILED, {"loss": {1: 1.0}})
    assert trial.error is not None
    assert trial.error.type == "TrialSilent"
    assert trial.error.message.endswith("no Python that could show its stacks runs in it")
    assert "TrialSilent" in capsys.readouterr().out
