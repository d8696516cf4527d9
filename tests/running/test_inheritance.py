"""What a trial finds of what modules did when the worker imported them: as if it had by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from worker_process import start_worker

from cluster_tools.processes import read_process


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Write a module `at_import` that the workers to come find."""
    (folder / "at_import.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "at_import", raising=False)


IGNORES_CHILDREN = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
TAKES_THE_WAKE_UP_PIPE = """
import asyncio, signal
async def warm_up():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    await asyncio.sleep(0)
    loop.remove_signal_handler(signal.SIGINT)
asyncio.run(warm_up())
"""


@pytest.mark.parametrize("code", [IGNORES_CHILDREN, TAKES_THE_WAKE_UP_PIPE])
def test_signals_that_a_module_takes_do_not_stop_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    write_module(tmp_path, monkeypatch, code)

    def train(_cfg: dict[str, Any]) -> None:
        import signal

        import at_import  # type: ignore[import-not-found] # written by the test

        import slurm_sweeps as ss

        at_import.signal.SIGCHLD  # noqa: B018 - used
        ss.log({"ignored": float(signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN)}, 1)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(3):
            worker.run(number=number)
            ignored = worker.wait_for("report")["metrics"]["ignored"]
            assert ignored == float(code == IGNORES_CHILDREN)  # as it is by hand
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"


def test_processes_that_a_module_has_started_serve_all_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import multiprocessing\nMANAGER = multiprocessing.Manager()\nSEEN = MANAGER.list()\n"
    write_module(tmp_path, monkeypatch, code)

    def train(_cfg: dict[str, Any]) -> None:
        import at_import

        import slurm_sweeps as ss

        at_import.SEEN.append(ss.trial_id())
        ss.log({"seen": len(at_import.SEEN), "pid": at_import.MANAGER._process.pid}, 1)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(3):
            worker.run(number=number)
            metrics = worker.wait_for("report")["metrics"]
            assert metrics["seen"] == number + 1
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
    assert read_process(int(metrics["pid"])) is None


HAS_A_FOLDER = """
import atexit, pathlib, tempfile
FOLDER = tempfile.TemporaryDirectory(dir={folder!r})
FILE = pathlib.Path(FOLDER.name, "data")
FILE.write_text("1")
atexit.register(lambda: open({folder!r} + "/at-exit", "a").write("the worker's"))
"""


def test_what_a_module_does_at_exit_is_not_done_by_trials_but_what_they_ask_for_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, HAS_A_FOLDER.format(folder=str(tmp_path)))

    def train(_cfg: dict[str, Any]) -> None:
        import atexit
        import tempfile
        from pathlib import Path

        import at_import

        assert at_import.FILE.read_text() == "1"
        Path("of-module").write_text(at_import.FOLDER.name)
        folder = tempfile.TemporaryDirectory()
        train.keep = folder  # type: ignore[attr-defined] # so that only the exit ends it
        Path("own").write_text(folder.name)
        atexit.register(lambda: Path("at-exit").write_text("the trial's"))

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(2):
            worker.run(number=number)
            assert worker.wait_for("ended")["how"] == "completed"
            folder = tmp_path / f"trial-{number}"
            worker.run(number=10 + number)  # which begins when the one before has exited
            assert worker.wait_for("ended")["how"] == "completed"
            assert not Path((folder / "own").read_text()).exists()
            assert (folder / "at-exit").read_text() == "the trial's"
        assert not (tmp_path / "at-exit").exists()
    assert (tmp_path / "at-exit").read_text() == "the worker's"
    assert not Path((folder / "of-module").read_text()).exists()


DRAWS = """
import random
import numpy, torch
def draw():
    numbers = (random.random(), numpy.random.random(), torch.rand(1).item())
    return dict(zip(("python", "numpy", "torch"), numbers))
"""
SEEDS = "random.seed(0); numpy.random.seed(0); torch.manual_seed(0)\n"


@pytest.mark.parametrize("seeds", ["", SEEDS, SEEDS + "random.seed()"])
def test_random_numbers_are_new_in_each_trial_unless_the_user_has_seeded_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: str
) -> None:
    write_module(tmp_path, monkeypatch, DRAWS + seeds)

    def train(_cfg: dict[str, Any]) -> None:
        import at_import

        import slurm_sweeps as ss

        ss.log(at_import.draw(), 1)

    drawn = []
    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(3):
            worker.run(number=number)
            drawn.append(worker.wait_for("report")["metrics"])
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
    different = {name: len({draw[name] for draw in drawn}) for name in drawn[0]}
    of_seeded = 1 if seeds else 3
    of_python = 1 if seeds == SEEDS else 3
    assert different == {"python": of_python, "numpy": of_seeded, "torch": of_seeded}
    if seeds == SEEDS:
        assert drawn[0]["python"] == pytest.approx(0.8444218515250481)  # as by hand
        assert drawn[0]["numpy"] == pytest.approx(0.5488135039273248)


HOLDS_WHAT_TRIALS_NEED = """
import atexit, fcntl, os, pathlib, subprocess, sys, threading
FOLDER = pathlib.Path({folder!r})
FILE = open(FOLDER / "data", "a")
os.set_inheritable(FILE.fileno(), True)  # as libraries in C do
fcntl.flock(FILE, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.environ["SET_AT_IMPORT"] = "yes" + os.environ.get("SET_AT_IMPORT", "")
sys.path.insert(0, "somewhere")
threading.Thread(target=threading.Event().wait, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
(FOLDER / "pids").open("a").write(f"{{child.pid}} ")
atexit.register(lambda: (FOLDER / "ends").open("a").write(f"{{os.getpid()}} "))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are seen on Linux only")
def test_fresh_interpreters_find_nothing_taken_by_their_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = HOLDS_WHAT_TRIALS_NEED.format(folder=str(tmp_path))
    write_module(tmp_path, monkeypatch, code)

    def train(_cfg: dict[str, Any]) -> None:
        import os
        import sys

        import at_import

        import slurm_sweeps as ss

        at_import.child.kill()
        ss.log({"set": len(os.environ["SET_AT_IMPORT"]), "n": sys.path.count("somewhere")}, 1)

    with start_worker(tmp_path, train) as worker:
        assert "has started threads" in worker.wait_for("notice")["text"]
        worker.wait_for("ready")
        for number in range(2):
            worker.run(number=number)
            assert worker.wait_for("report")["metrics"] == {"set": 3.0, "n": 1.0}
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
        assert (tmp_path / "ends").read_text().split()[0] == str(worker.process.pid)
        assert read_process(int((tmp_path / "pids").read_text().split()[0])) is None
