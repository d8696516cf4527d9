"""A real worker process: what it says of its trials, whatever they do, and that nothing is left.

The functions that play `train` are local to their tests: those are carried by value, so the
worker's process needs nothing of this module.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worker_process import TIMEOUT_S, WorkerProcess, read_when_there, start_worker

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.running.channel import encode
from slurm_sweeps.running.journal import read_journals


def wait_until_gone(*pids: int) -> None:
    wait_until(
        lambda: not any(read_process(pid) for pid in pids),
        TIMEOUT_S,
        lambda: f"still there: {[read_process(pid) for pid in pids]}",
    )


def test_a_trial_from_its_start_to_its_end(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import os

        import slurm_sweeps as ss

        print("to the log", cfg, ss.trial_id(), ss.attempt(), os.getcwd() == str(ss.trial_dir()))
        ss.log({"loss": cfg["x"]}, 1)
        ss.log({"loss": float("nan")}, 2)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        started = worker.run({"x": 0.5}, attempt=3)
        assert started["pid"] != worker.process.pid
        report = worker.wait_for("report")
        assert (report["iteration"], report["metrics"]) == (1, {"loss": 0.5})
        worker.decide("go_on", 1)  # another attempt's: left aside
        worker.send({"kind": "decision", "number": 0, "attempt": 3, "iteration": 1, "do": "go_on"})
        assert worker.wait_for("report")["iteration"] == 2
        worker.send({"kind": "decision", "number": 0, "attempt": 3, "iteration": 2, "do": "go_on"})
        ended = worker.wait_for("ended")
        assert (ended["number"], ended["how"]) == (0, "completed")
        # Its prints are in its log and not on the channel.
        log = (tmp_path / "trial-0" / "stdout.log").read_text()
        assert log == "to the log {'x': 0.5} trial-0 3 True\n"
        assert (worker.stdout, worker.stderr) == (b"", b"")


def test_trials_one_after_another_in_the_same_worker(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import random

        import numpy

        import slurm_sweeps as ss

        ss.log({"python": random.random(), "numpy": numpy.random.random()}, 1)

    seen = set()
    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(3):
            worker.run(number=number)
            seen |= set(worker.wait_for("report")["metrics"].values())
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
    assert len(seen) == 6  # each trial has random numbers of its own


def test_a_process_that_nothing_is_left_in_runs_the_next_trial(tmp_path: Path) -> None:
    """Each with its own folder, environment and journal; one that was told to leave ends."""

    class Train:
        leaves_nothing = True

        def __call__(self, cfg: dict[str, Any]) -> None:
            import os

            import slurm_sweeps as ss

            print(os.getpid(), ss.trial_id(), os.environ.get("X"), os.environ.get("Y"))
            if cfg:
                ss.log(cfg, 1)

    journal = tmp_path / "slot-0.journal"
    with start_worker(tmp_path, Train()) as worker:
        worker.wait_for("ready")
        for number, env in enumerate([{"X": "0"}, {"X": "1", "Y": "1"}, {}]):
            worker.run(number=number, env=env, journal=str(journal))
            assert worker.wait_for("ended")["how"] == "completed"
        for number, do, how in ((3, "prune", "pruned"), (4, "go_on", "completed")):
            worker.run({"loss": 1.0}, number=number, journal=str(journal))
            worker.wait_for("report")
            worker.decide(do, 1, number)
            assert worker.wait_for("ended")["how"] == how
    said = [(tmp_path / f"trial-{i}" / "stdout.log").read_text().split() for i in range(5)]
    assert [words[1:] for words in said] == [
        *(["trial-0", "0", "None"], ["trial-1", "1", "1"], ["trial-2", "None", "None"]),
        *(["trial-3", "None", "None"], ["trial-4", "None", "None"]),
    ]
    pids = [words[0] for words in said]
    assert pids[0] == pids[1] == pids[2] == pids[3] != pids[4]
    records, n_strange = read_journals([journal])
    assert n_strange == 0
    assert [(record["kind"], record["number"]) for record in records] == [
        *((kind, number) for number in range(3) for kind in ("run", "ended")),
        *((kind, number) for number in (3, 4) for kind in ("run", "report", "ended")),
    ]


def test_a_process_that_was_told_to_leave_in_the_last_moment_is_not_kept(tmp_path: Path) -> None:
    class Train:
        leaves_nothing = True

        def __call__(self, _cfg: dict[str, Any]) -> None:
            import os
            import select

            from slurm_sweeps.running import session

            print(os.getpid())
            select.select([session._active._link], [], [])  # the request is there, and not read

    pids = []
    with start_worker(tmp_path, Train()) as worker:
        worker.wait_for("ready")
        for number in range(2):
            worker.run(number=number)
            worker.send({"kind": "stop", "number": number, "grace_s": 30.0})
            assert worker.wait_for("ended")["how"] == "completed"
            pids.append((tmp_path / f"trial-{number}" / "stdout.log").read_text())
    assert pids[0] != pids[1]


def test_an_exception_is_a_failure_and_is_told(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        def inner() -> None:
            raise ValueError(f"x is {cfg['x']}")

        inner()

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run({"x": "\udcff"})
        end = worker.wait_for("ended")
    assert (end["how"], end["error_type"], end["exit_code"]) == ("failed", "ValueError", 1)
    assert end["message"] == "x is \udcff"
    assert "in inner" in end["traceback"]
    assert "attempt.py" not in end["traceback"]  # our own frames are of no interest
    assert "ValueError: x is \\udcff" in (tmp_path / "trial-0" / "stderr.log").read_text()


@pytest.mark.parametrize(
    ("code", "how", "exit_code"),
    [(None, "completed", None), (0, "completed", None), (3, "failed", 3), ("bad", "failed", 1)],
)
def test_sys_exit_in_train(tmp_path: Path, code: Any, how: str, exit_code: int | None) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import sys

        sys.exit(code)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        end = worker.wait_for("ended")
    assert (end["how"], end.get("exit_code")) == (how, exit_code)


@pytest.mark.parametrize(
    ("code", "how", "error_type"),
    [
        ("os._exit(0)", "completed", None),
        ("os._exit(7)", "failed", "ExitStatus"),
        ("os.kill(os.getpid(), 9)", "lost", "SIGKILL"),
        ("os.abort()", "failed", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "failed", "SIGSEGV"),
        ("os.kill(os.getpid(), 40)", "lost", "SIGRTMIN+6"),
        ("os.close(1); os.close(2); raise ValueError('x')", "failed", "ValueError"),
        ("raise KeyboardInterrupt", "failed", "KeyboardInterrupt"),
        ("os.closerange(3, 1000)", "completed", None),
        # It can't say so any more but in its log.
        ("os.closerange(3, 1000); ss.log({}, 1)", "failed", "ExitStatus"),
        ("os.closerange(0, 1000); os._exit(5)", "failed", "ExitStatus"),
        ("exec('class S(Exception):\\n def __str__(s): 1/0'); raise S", "failed", "S"),
        ("def f(): f()\nf()", "failed", "RecursionError"),
    ],
)
def test_trials_that_end_in_another_way(
    tmp_path: Path, code: str, how: str, error_type: str | None
) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import os
        import resource

        import slurm_sweeps as ss

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        exec(cfg["code"], {"os": os, "ss": ss})

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number in range(2):  # the worker is none the worse for it
            worker.run({"code": code}, number)
            end = worker.wait_for("ended")
            assert (end["how"], end.get("error_type")) == (how, error_type)


def test_a_killed_trial_takes_its_children_with_it(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import os
        import subprocess
        import time

        child = subprocess.Popen(["sleep", "600"])
        with open("pids", "w") as file:
            print(os.getpid(), child.pid, file=file)
        time.sleep(600)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        trial, child = map(int, read_when_there(tmp_path / "trial-0" / "pids").split())
        os.kill(trial, signal.SIGKILL)
        end = worker.wait_for("ended")
        assert (end["how"], end["signal"]) == ("lost", signal.SIGKILL)
        assert end["message"] == "the trial's process was killed by SIGKILL"
        assert read_process(trial) is read_process(child) is None


def test_children_and_daemons_of_a_trial_are_gone_when_the_next_starts(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import os
        import subprocess

        if not cfg["leaves"]:
            return
        child = subprocess.Popen(["sleep", "600"])
        read, write = os.pipe()
        if os.fork() == 0:  # a daemon, as the book has it
            os.setsid()
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
                os.execvp("sleep", ["sleep", "600"])
            os._exit(0)
        with open("pids", "w") as file:
            print(child.pid, os.read(read, 100).decode(), file=file)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run({"leaves": True})
        assert worker.wait_for("ended")["how"] == "completed"
        worker.run({"leaves": False}, number=1)
        child, daemon = map(int, (tmp_path / "trial-0" / "pids").read_text().split())
        assert read_process(child) is read_process(daemon) is None


def test_a_fork_that_returns_from_train_is_not_the_end_of_the_trial(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import os

        pid = os.fork()
        if pid == 0:
            return
        os.waitpid(pid, 0)
        raise ValueError("the trial's own end")

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        end = worker.wait_for("ended")
        assert (end["how"], end["message"]) == ("failed", "the trial's own end")


def test_children_that_a_trial_forks_are_ended_by_term(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import multiprocessing
        import os
        import signal
        import threading
        import time

        def fork_and_end() -> None:
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
            child.start()
            child.terminate()
            child.join()
            print(child.exitcode)

        fork_and_end()
        thread = threading.Thread(target=fork_and_end)
        thread.start()
        thread.join()
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))  # its own handler stays, as always
        fork_and_end()

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        assert worker.wait_for("ended")["how"] == "completed"
    assert (tmp_path / "trial-0" / "stdout.log").read_text().split() == ["-15", "-15", "5"]


def test_a_trial_that_prints_a_lot_and_anything_to_standard_output(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import os

        import slurm_sweeps as ss

        os.write(1, b'\x1e{"kind":"ended","how":"completed"}\n\x1e\xff\x00\n')
        block = bytes(range(256)) * 4096
        for _ in range(100):
            os.write(1, block)
        ss.log({"loss": 1}, 1)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        assert worker.wait_for("report")["iteration"] == 1
        worker.decide("go_on", 1)
        assert worker.wait_for("ended")["how"] == "completed"
        assert worker.stdout == b""
    assert (tmp_path / "trial-0" / "stdout.log").stat().st_size > 100 * 2**20


def test_prints_of_what_train_imports_go_to_the_log_of_the_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os\nprint('hello from an import', flush=True)\nos.write(1, b'\\x1e and this\\n')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(_cfg: dict[str, Any]) -> None:
        import noisy  # noqa: F401 - that is all it is here for

    with start_worker(tmp_path / "experiment", train) as worker:
        worker.wait_for("ready")
        worker.run()
        assert worker.wait_for("ended")["how"] == "completed"
        worker.close_input()
        assert worker.wait_for_end() == 0
    assert worker.stdout == b""
    assert worker.stderr == b"hello from an import\n\x1e and this\n"


def test_a_trial_has_the_command_line_of_the_users_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["sweep.py", "--epochs", "3", "\udcff"])
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(_cfg: dict[str, Any]) -> None:
        import sys

        import slurm_sweeps as ss

        ss.log({str(len(sys.argv)): float(sys.argv[2])}, 1)

    def train_in_fresh(cfg: dict[str, Any]) -> None:
        import threaded  # noqa: F401 - no fork is possible then

        train(cfg)

    for folder, function in {"forked": train, "fresh": train_in_fresh}.items():
        with start_worker(tmp_path / folder, function) as worker:
            if folder == "fresh":
                worker.wait_for("notice")
            worker.wait_for("ready")
            worker.run()
            assert worker.wait_for("report")["metrics"] == {"4": 3.0}


# --- told to leave --------------------------------------------------------------------------------


def test_a_pruned_trial_leaves(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import slurm_sweeps as ss

        try:
            ss.log({"loss": 1}, 1)
        finally:
            print("cleaned up")

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        worker.wait_for("report")
        worker.decide("prune", 1)
        assert worker.wait_for("ended")["how"] == "pruned"
    assert (tmp_path / "trial-0" / "stdout.log").read_text() == "cleaned up\n"
    assert (tmp_path / "trial-0" / "stderr.log").read_text() == ""


def test_a_trial_that_swallows_being_pruned_is_ended_after_a_grace_time(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import signal
        import time

        import slurm_sweeps as ss

        if cfg["deaf"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            try:
                ss.log({"loss": 1}, 1)
            except Exception:  # noqa: BLE001 - the very mistake that is tried here
                time.sleep(0.01)

    with start_worker(tmp_path, train, prune_grace_s=0.2, term_grace_s=0.2) as worker:
        worker.wait_for("ready")
        for number, deaf in enumerate((False, True)):
            worker.run({"deaf": deaf}, number)
            worker.wait_for("report")
            worker.decide("prune", 1, number)
            assert (
                "goes on after ss.log has raised TrialPruned" in worker.wait_for("notice")["text"]
            )
            assert worker.wait_for("ended")["how"] == "pruned"


def test_a_trial_that_is_told_to_stop_and_does(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import time

        import slurm_sweeps as ss

        ss.log({"loss": 1}, 1)
        while not ss.should_stop():
            time.sleep(0.01)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        worker.run()
        worker.wait_for("report")
        worker.decide("go_on", 1)
        worker.send({"kind": "stop", "number": 0, "grace_s": 60.0})
        assert worker.wait_for("ended")["how"] == "interrupted"


def test_a_trial_that_is_told_to_stop_and_does_not(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import signal
        import time

        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open("there", "w") as file:
            print(file=file)
        time.sleep(600)

    with start_worker(tmp_path, train, term_grace_s=0.2) as worker:
        worker.wait_for("ready")
        worker.run()
        read_when_there(tmp_path / "trial-0" / "there")
        worker.send({"kind": "stop", "number": 0, "grace_s": 0.2})
        end = worker.wait_for("ended")
        assert (end["how"], end["signal"]) == ("interrupted", signal.SIGKILL)


def test_a_thread_that_outlives_train_is_waited_for_and_not_for_ever(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import threading
        import time

        def write() -> None:
            time.sleep(cfg["s"])
            print("written")

        threading.Thread(target=write).start()

    with start_worker(tmp_path, train, exit_grace_s=3.0, term_grace_s=0.2) as worker:
        worker.wait_for("ready")
        for number, seconds in enumerate((0.1, 600)):
            worker.run({"s": seconds}, number)
            assert worker.wait_for("ended")["how"] == "completed"
    assert (tmp_path / "trial-0" / "stdout.log").read_text() == "written\n"


# --- the other end goes ---------------------------------------------------------------------------


def run_long(tmp_path: Path, worker: WorkerProcess) -> list[int]:
    worker.wait_for("ready")
    worker.run()
    return [int(pid) for pid in read_when_there(tmp_path / "trial-0" / "pids").split()]


def long_train(_cfg: dict[str, Any]) -> None:
    import os
    import signal
    import subprocess
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    orphan = subprocess.Popen(
        ["sh", "-c", "setsid sleep 600 & echo $!"], stdout=subprocess.PIPE, text=True
    )
    assert orphan.stdout is not None
    with open("pids", "w") as file:
        print(os.getpid(), child.pid, orphan.stdout.readline(), file=file, end="")
    time.sleep(600)


def test_when_the_driver_goes_everything_goes(tmp_path: Path) -> None:
    with start_worker(tmp_path, localize(long_train)) as worker:
        pids = run_long(tmp_path, worker)
        worker.close_input()
        assert worker.wait_for_end() == 0
        assert [read_process(pid) for pid in pids] == [None] * 3


@pytest.mark.parametrize(
    ("lasting", "code"),
    [
        # It is not there in the process that begins anew without it.
        ("import threading\nthreading.Thread(target=threading.Event().wait).start()\n", 0),
        ("import atexit, threading\natexit.register(threading.Event().wait)\n", -signal.SIGALRM),
    ],
)
def test_what_an_import_leaves_behind_does_not_keep_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lasting: str, code: int
) -> None:
    (tmp_path / "lasting.py").write_text(lasting)
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(_cfg: dict[str, Any]) -> None:
        import lasting  # noqa: F401 - what it leaves is what matters

    with start_worker(tmp_path / "experiment", train) as worker:
        if code == 0:
            worker.wait_for("notice")
        worker.wait_for("ready")
        worker.close_input()
        assert worker.wait_for_end() == code


def test_when_the_worker_is_killed_its_trial_goes(tmp_path: Path) -> None:
    with start_worker(tmp_path, localize(long_train)) as worker:
        trial, child, orphan = run_long(tmp_path, worker)
        try:
            worker.process.kill()
            wait_until_gone(trial)
        finally:  # what it started is for the driver to end; there is none here
            for pid in (child, orphan):
                os.kill(pid, signal.SIGKILL)


def localize(train: Any) -> Any:
    """Make a function that is carried by value, like one of `__main__`."""
    import types

    copy = types.FunctionType(train.__code__, {"__builtins__": __builtins__}, train.__name__)
    copy.__module__ = "__main__"
    return copy


def test_noise_and_records_for_others_are_left_aside(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        pass

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        assert worker.process.stdin is not None
        worker.process.stdin.write(b"TaskProlog says hello\n" + b"\xff" * 99)
        worker.process.stdin.write(encode({"kind": "ready"}))  # not for a worker, but a record
        worker.send({"kind": "decision", "number": 9, "attempt": 1, "iteration": 1, "do": "prune"})
        worker.send({"kind": "stop", "number": 9, "grace_s": 0.0})
        worker.run()
        assert worker.wait_for("ended")["how"] == "completed"


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "run", "number": 0, "attempt": 1, "trial_id": "", "dir": ""},
        {"kind": "decision", "number": 0, "attempt": 1, "iteration": 1},
        {"kind": "news"},
    ],
)
def test_a_worker_that_does_not_understand_its_driver_says_so_and_ends(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    """As after an upgrade of the package while the sweep runs: what it lacks is waited for."""

    def train(_cfg: dict[str, Any]) -> None:
        import slurm_sweeps as ss

        ss.log({"loss": 1.0}, 1)

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        trial = worker.run()["pid"]
        worker.wait_for("report")
        worker.send(said)  # type: ignore[arg-type] # it lacks something
        assert worker.wait_for_end() == 0
        assert "may have been upgraded while the sweep runs" in worker.stderr.decode()
        wait_until_gone(trial)


# --- when train can't be loaded, or not be forked -------------------------------------------------


def test_a_module_that_the_worker_lacks_is_told_with_its_traceback(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        pass

    train.__module__ = "module_that_is_not_there"
    train.__qualname__ = "train"
    import sys
    import types

    module = types.ModuleType("module_that_is_not_there")
    module.train = train  # type: ignore[attr-defined] # a module of the driver's alone
    sys.modules[module.__name__] = module
    try:
        with start_worker(tmp_path, train) as worker:
            broken = worker.wait_for("broken")
    finally:
        del sys.modules[module.__name__]
    assert "ModuleNotFoundError: No module named 'module_that_is_not_there'" in broken["traceback"]


FRESH = "importing what train needs has started threads (warmer): "


def test_fresh_interpreters_where_forking_is_not_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import os, threading\n"
        "GPUS = os.environ.get('CUDA_VISIBLE_DEVICES')\n"
        "threading.Thread(target=threading.Event().wait, name='warmer', daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def train(cfg: dict[str, Any]) -> None:
        import threaded

        import slurm_sweeps as ss

        print(threaded.GPUS, ss.trial_id())
        ss.log({"size": len(cfg["text"])}, 1)
        if cfg.get("fail"):
            raise ValueError("no")

    with start_worker(tmp_path / "experiment", train) as worker:
        notice = worker.wait_for("notice")
        assert notice["text"] == f"{FRESH}every trial gets a fresh interpreter instead of a fork"
        worker.wait_for("ready")
        # A cfg of a megabyte: no command line would hold it.
        for number, fail in enumerate((False, True)):
            cfg = {"text": "x" * 2**20, "fail": fail}
            started = worker.run(cfg, number, env={"CUDA_VISIBLE_DEVICES": "3"})
            report = worker.wait_for("report")
            assert report["metrics"] == {"size": float(2**20)}
            assert os.path.exists(f"/proc/{started['pid']}/exe")
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == ("failed" if fail else "completed")
    # The import in the fresh interpreter sees the trial's environment.
    log = tmp_path / "experiment" / "trial-0" / "stdout.log"
    assert log.read_text() == "3 trial-0\n"


def test_a_path_entry_that_is_no_text_and_the_current_folder_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "helper_a.py").write_text("A = 1\n")
    (tmp_path / "helper_b.py").write_text("B = 2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", tmp_path / "beside", *sys.path])

    def train(_cfg: dict[str, Any]) -> None:
        name_a, name_b = "helper_a", "helper_b"  # not seen by those who look ahead
        a, b = __import__(name_a), __import__(name_b)
        print(a.A + b.B)

    with start_worker(tmp_path / "experiment", train) as worker:
        worker.wait_for("ready")
        worker.run()
        assert worker.wait_for("ended")["how"] == "completed"
    assert (tmp_path / "experiment" / "trial-0" / "stdout.log").read_text() == "3\n"


HANGS_IN_A_FORK = """
import os, threading
from slurm_sweeps.running import standstill

standstill.LOOK_EVERY_S, standstill.BLOCKED_S = 0.05, 0.3
PID = os.getpid()
LOCK = threading.Lock()
LOCK.acquire()

def use():
    if os.getpid() != PID:
        LOCK.acquire()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked into on Linux")
def test_a_fork_that_hangs_starts_anew_as_a_fresh_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging.py").write_text(HANGS_IN_A_FORK)
    monkeypatch.syspath_prepend(tmp_path)

    def train(_cfg: dict[str, Any]) -> None:
        import hanging

        import slurm_sweeps as ss

        hanging.use()
        ss.log({"loss": 1.0}, 1)

    with start_worker(tmp_path / "experiment", train) as worker:
        worker.wait_for("ready")
        first = worker.run()
        assert "hangs in its fork" in worker.wait_for("notice")["text"]
        assert worker.wait_for("started")["pid"] != first["pid"]
        for number in range(2):
            if number == 1:
                worker.run(number=number)  # no fork any more
            assert worker.wait_for("report")["metrics"] == {"loss": 1.0}
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
    log = (tmp_path / "experiment" / "trial-0" / "stderr.log").read_text()
    assert 'hanging.py", line 12 in use' in log


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked into on Linux")
def test_another_rank_is_let_alone_once_its_trial_has_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may never report, and wait for locks as long as it likes."""
    (tmp_path / "hanging.py").write_text(HANGS_IN_A_FORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SLURM_PROCID", "1")

    def train(_cfg: dict[str, Any]) -> None:
        import time
        from pathlib import Path

        import hanging

        while not Path("../go").exists():
            time.sleep(0.01)
        hanging.use()

    with start_worker(tmp_path, train, world_size=2) as worker:
        worker.wait_for("ready")
        worker.run()
        worker.decide("go_on", 1)
        (tmp_path / "go").touch()
        time.sleep(1.0)  # thrice what it takes to judge a trial that hangs
        worker.send({"kind": "stop", "number": 0, "grace_s": 0.0})
        assert worker.wait_for("ended")["how"] == "interrupted"
