"""No report that `log` has returned from is lost with a driver, whatever its database has then."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import random
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reliable_sweeps import (
    IS_CHAOS,
    WAIT_S,
    Script,
    assert_sound,
    read_attempts,
    read_curves,
    read_trials,
)

from cluster_tools.processes import wait_until
from slurm_sweeps.trial import Status
from sweep_scripts import choose

MakeScript = Callable[..., Script]

#: The checkpoints of docs/reliability.md; each trial writes down what it was answered. No trial is
#: between its checkpoint and its report while another process holds the lock.
SWEEP = """
import fcntl, multiprocessing, os, time
import slurm_sweeps as ss

T, PAUSE_S = int(os.environ["ITERATIONS"]), float(os.environ.get("PAUSE_S", "0.01"))

def train(cfg):
    if not os.environ.get("CHILD"):
        return work(cfg)
    child = multiprocessing.get_context("fork").Process(target=work, args=(cfg,))
    child.start()
    child.join()

def work(cfg):
    file, first = ss.checkpoint_dir() / "last", 1
    if file.exists():
        first = int(file.read_text()) + 1
    for epoch in range(first, T + 1):
        time.sleep(PAUSE_S)
        with open("../../lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            save(file, epoch)
            report(cfg, epoch)

def save(file, epoch):
    file.with_suffix(".new").write_text(str(epoch))
    file.with_suffix(".new").rename(file)

def report(cfg, epoch):
    try:
        ss.log({"loss": cfg["x"] / epoch, "options": len(cfg["options"])}, epoch)
    except ss.TrialPruned:
        write_down(epoch)
        raise
    write_down(epoch)

def write_down(epoch):
    with open("answered", "ab", buffering=0) as answered:
        answered.write(b"%d\\n" % epoch)

if __name__ == "__main__":
    cfg = {"x": ss.Uniform(0, 1), "options": {"b", "a"}}  # a set: what JSON can't hold
    asha = ss.ASHA("loss", "min", max_t=T, promote=bool(os.environ.get("PROMOTE")))
    ss.Experiment(
        train, cfg, "sweep", "out", restore="auto", seed=7,
        asha=asha if os.environ.get("ASHA") else None,
    ).run(int(os.environ["N_TRIALS"]), int(os.environ.get("SLOTS", "2")), summary_interval_in_sec=1)
"""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Keep a driver from storing anything."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.rollback()


@contextlib.contextmanager
def between_reports(script: Script) -> Iterator[None]:
    """Let no trial be killed between its checkpoint and its report, which then is in neither."""
    with (script.folder / "out" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kill_while_locked(script: Script, rounds: int, seed: int, in_log: bool = True) -> None:
    """Kill the driver again and again, so many answers after the last that it could store."""
    (script.folder / "out").mkdir(exist_ok=True)
    randomness = random.Random(seed)
    for killed in range(rounds):
        with script.start() as driver:
            wait_for_answers(script, driver, randomness.randint(1, 60))
            with locked(script.database):
                wait_for_answers(script, driver, randomness.choice([0, 5, 40]))
                if driver.poll() is not None:
                    assert killed, "the sweep was over before it could be disturbed"
                    return
                with contextlib.nullcontext() if in_log else between_reports(script):
                    os.kill(driver.pid, signal.SIGKILL)
                    script.wait_until_gone()


def wait_for_answers(script: Script, driver: subprocess.Popen[bytes], count: int) -> None:
    """Wait until trials have been answered so often from now on."""
    goal = count_answers(script) + count
    wait_until(
        lambda: count_answers(script) >= goal or driver.poll() is not None, WAIT_S, script.printed
    )


def count_answers(script: Script) -> int:
    return sum(map(len, read_answered(script).values()))


def read_answered(script: Script) -> dict[str, set[int]]:
    """What each trial was answered, by its id."""
    return {
        file.parent.name: set(map(int, file.read_text().split()))
        for file in script.folder.glob("out/sweep/*/answered")
    }


def assert_nothing_lost(script: Script) -> None:
    assert_sound(script.database)
    trials, curves = read_trials(script.database), read_curves(script.database)
    answered = read_answered(script)
    assert set(answered) <= {trial.trial_id for trial in trials}
    for trial in trials:
        assert answered[trial.trial_id] <= set(curves[trial.number]), trial
    assert all(each.end_time is not None for each in read_attempts(script.database))
    assert not list(script.folder.glob("out/sweep/slots/*.new"))


@pytest.mark.parametrize("child", ["", "1"])
def test_nothing_is_lost_of_what_was_answered(make_script: MakeScript, child: str) -> None:
    """The trial's own process reports, or one that it has started."""
    n_trials = 300 if IS_CHAOS else 20
    script = make_script("killed", SWEEP, N_TRIALS=n_trials, ITERATIONS=16, CHILD=child)
    kill_while_locked(script, 30 if IS_CHAOS else 2, seed=3)
    script.run()
    assert_nothing_lost(script)
    trials = read_trials(script.database)
    assert [trial.number for trial in trials] == list(range(n_trials))
    assert {trial.status for trial in trials} == {Status.COMPLETED}
    assert "reports and" in script.printed()


@pytest.mark.parametrize(
    ("promote", "child"),
    choose(itertools.product(("", "1"), repeat=2), {("", "1"), ("1", "")}),
)
def test_what_was_answered_decides_as_if_nobody_had_been_killed(
    make_script: MakeScript, promote: str, child: str
) -> None:
    """One slot, so that the reports come in the same order."""
    n_trials = 150 if IS_CHAOS else 25
    settings = {"N_TRIALS": n_trials, "ITERATIONS": 16, "ASHA": 1, "SLOTS": 1, "PROMOTE": promote}
    settings["CHILD"] = child
    script = make_script("killed", SWEEP, **settings)
    kill_while_locked(script, 15 if IS_CHAOS else 2, seed=1, in_log=False)
    script.run()
    assert_nothing_lost(script)
    undisturbed = make_script("undisturbed", SWEEP, **settings, PAUSE_S=0)
    undisturbed.run()
    ends = [(trial.trial_id, trial.status) for trial in read_trials(script.database)]
    assert ends == [(trial.trial_id, trial.status) for trial in read_trials(undisturbed.database)]
    assert read_curves(script.database) == read_curves(undisturbed.database)
