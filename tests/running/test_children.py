"""Processes that a trial has started, of any kind, log through it; what they can't do is told."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from worker_process import read_when_there, start_worker

from slurm_sweeps.running.relay import TRIAL_VARIABLE, Relay, call
from sweep_scripts import Scripts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children call on Linux only")

HELPERS = """
import asyncio, multiprocessing, subprocess, sys
import slurm_sweeps as ss

def report(n):
    ss.log({"loss": n}, n)
    assert ss.trial_dir().name == ss.trial_id() and ss.attempt() == 1 and not ss.should_stop()

def start(method):
    child = multiprocessing.get_context(method).Process(target=report, args=(1,))
    child.start(); child.join(); report(2)

def fork(): start("fork")
def spawn(): start("spawn")
def forkserver(): start("forkserver")
def pool():
    with multiprocessing.Pool(2) as children: children.map(report, (1, 2))
def grandchild():
    child = multiprocessing.get_context("spawn").Process(target=pool)
    child.start(); child.join()
def loky():
    from joblib import Parallel, delayed
    Parallel(n_jobs=2)(delayed(report)(n) for n in (1, 2))
def script():
    for n in (1, 2):
        command = [sys.executable, "-c", f"import slurm_sweeps as ss; ss.log({{'loss': {n}}}, {n})"]
        subprocess.run(command, check=True)
def task():
    async def run():
        await asyncio.to_thread(report, 1)
        report(2)
    asyncio.run(run())
"""

SWEEP = """
import slurm_sweeps as ss
import helpers

def train(cfg):
    getattr(helpers, cfg["how"])()

if __name__ == "__main__":
    hows = ["fork", "spawn", "forkserver", "pool", "grandchild", "loky", "script", "task"]
    result = ss.Experiment(train, {"how": ss.Grid(hows)}, "children").run(fail_fast=False)
    said = {t.trial_id: t.error and t.error.message for t in result.trials}
    print({t.cfg["how"]: (str(t.status), t.metrics, said[t.trial_id]) for t in result.trials})
"""


def test_children_of_all_kinds_log_through_their_trial(scripts: Scripts) -> None:
    scripts.write(HELPERS, "helpers.py")
    found = ast.literal_eval(scripts.run(SWEEP).stdout.splitlines()[-1])
    logged = ("completed", {"loss": {1: 1.0, 2: 2.0}}, None)
    assert found == dict.fromkeys(found, logged)
    assert len(found) == 8


def test_a_trial_and_its_children_count_iterations_together(scripts: Scripts) -> None:
    """Those that no one has said: also what `train` returns, which is the last of all."""
    scripts.write(HELPERS, "helpers.py")
    source = """
    import multiprocessing
    import slurm_sweeps as ss

    def report(*names):
        for name in names:
            ss.log({name: 1})

    def train(cfg):
        report("own")
        for name in ("first", "second"):
            child = multiprocessing.get_context(cfg["method"]).Process(
                target=report, args=(name, name)
            )
            child.start(); child.join(); report("own")
        ss.log({"said": 1}, 20)
        report("own")
        return 2.0

    if __name__ == "__main__":
        space = {"method": ss.Grid(["fork", "spawn"])}
        counted = ss.Experiment(train, space, "counted", metric="value", mode="min").run()
        for trial in counted.trials:
            print({name: list(curve) for name, curve in trial.metrics.items()})
    """
    counted = {"own": [1, 4, 7, 21], "first": [2, 3], "second": [5, 6], "said": [20], "value": [22]}
    printed = scripts.run(source).stdout.splitlines()[-2:]
    assert [ast.literal_eval(line) for line in printed] == [counted] * 2


def leave_in_a_child(_cfg: dict[str, Any]) -> None:
    """Log in a child, and take no note of how that ends."""
    import multiprocessing

    import slurm_sweeps as ss

    child = multiprocessing.get_context("fork").Process(target=ss.log, args=({"loss": 1}, 1))
    child.start()
    child.join()


@pytest.mark.parametrize(("do", "how"), [("prune", "pruned"), ("stop", "interrupted")])
def test_what_a_child_is_told_is_how_the_trial_ends(tmp_path: Path, do: str, how: str) -> None:
    def train(cfg: dict[str, Any]) -> None:
        leave(cfg)

    leave = leave_in_a_child
    leave.__module__ = "__main__"  # by value
    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        worker.wait_for("report")
        worker.decide(do, 1)
        assert worker.wait_for("ended")["how"] == how


@pytest.mark.parametrize("logs", [True, False])
def test_a_child_sees_the_request_to_stop(tmp_path: Path, logs: bool) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import multiprocessing
        import time
        from pathlib import Path

        import slurm_sweeps as ss

        def wait() -> None:
            ss.log({"loss": 1}, 1)
            Path("waits").write_text("yes\n")
            while not ss.should_stop():
                time.sleep(0.01)
            if cfg["logs"]:
                ss.log({"loss": 2}, 2)

        child = multiprocessing.get_context("fork").Process(target=wait)
        child.start()
        child.join()

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run({"logs": logs})
        worker.wait_for("report")
        worker.decide("go_on", 1)
        read_when_there(tmp_path / "trial-0" / "waits")
        worker.send({"kind": "stop", "number": 0, "grace_s": 30.0})
        if logs:
            assert worker.wait_for("report")["iteration"] == 2
            worker.decide("go_on", 2)
        assert worker.wait_for("ended")["how"] == "interrupted"


def test_a_child_that_can_not_reach_the_worker_fails(scripts: Scripts) -> None:
    done = scripts.run(
        f"""
        import os
        import slurm_sweeps as ss
        os.environ[{TRIAL_VARIABLE!r}] = '{{"address": "nobody"}}'
        ss.log({{"loss": 1}}, 1)
        """,
        code=1,
    )
    assert "was started by a trial, whose worker it can't reach" in done.stderr
    assert "iteration 1" not in done.stdout


def test_a_sweep_in_a_process_that_a_trial_has_started_fails_the_trial(scripts: Scripts) -> None:
    done = scripts.run(
        """
        import subprocess, sys
        import slurm_sweeps as ss

        def train(cfg):
            subprocess.run([sys.executable, *sys.argv])  # as launchers do, for each device

        if __name__ == "__main__":
            trial, = ss.Experiment(train, {"x": 1}, overwrite=True).run(fail_fast=False).trials
            print(trial.status, trial.error.message)
        """
    )
    said = "failed run was called in a process that a trial has started: a sweep would run inside"
    assert said in done.stdout


def test_strangers_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()
    address = ast.literal_eval(relay.describe(0, 1))["address"]
    with call(address):
        assert relay.accept() is not None
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with call(address) as stranger:
        assert relay.accept() is None
        stranger.settimeout(10)
        assert stranger.recv(1) == b""
    relay.hang_up(next(iter(relay.callers)))
    assert relay._listener is not None
    relay._listener.close()


@pytest.mark.parametrize(
    ("train", "status", "words"),
    [
        (
            "def train(cfg): cfg['x'] ** 2",
            "completed",
            "1 of 1 completed trials logged",
        ),
        (
            "def run(cfg): yield 1\ndef train(cfg): return run(cfg)",
            "failed",
            "a generator",
        ),
        (
            "async def run(cfg): pass\ndef train(cfg): return run(cfg)",
            "failed",
            "train has returned a coroutine, and nothing of it has run",
        ),
        (
            "class Train:\n    async def __call__(self, cfg): pass\ntrain = Train()",
            "refused",
            "is a generator or async function",
        ),
    ],
)
def test_a_trial_that_leaves_nothing_is_noticed(
    scripts: Scripts, train: str, status: str, words: str
) -> None:
    done = scripts.run(
        "import slurm_sweeps as ss\n"
        f"{train}\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        t, = ss.Experiment(train, {'x': 2}).run(fail_fast=False).trials\n"
        "        print(t.status, t.error)\n"
        "    except ss.UsageTypeError as error:\n"
        "        print('refused', error)\n"
    )
    assert status in done.stdout
    assert words in done.stdout
