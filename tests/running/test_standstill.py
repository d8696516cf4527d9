"""What is a hang: judged on a clock of the test's own, and read off processes that do hang."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster_tools.processes import wait_until
from slurm_sweeps.running.standstill import (
    BLOCKED_S,
    SPINNING_S,
    Activity,
    Standstill,
    ask_for_stack,
    read_activity,
)

TIMEOUT_S = 60.0


def watch(*seen: tuple[float, Activity | None]) -> list[str | None]:
    """Return what is said of what was seen at these times."""
    watched = Standstill(0.0)
    return [watched.judge(activity, now_s) for now_s, activity in seen]


def still(ran_ns: int = 5, waits: int = 3, blocked: bool = True) -> Activity:
    return Activity({1: ran_ns}, {1: waits}, blocked)


def test_blocked_for_long_is_a_hang_and_not_before() -> None:
    at = BLOCKED_S
    assert watch((0, still()), (at - 1, still()), (at, still())) == [None, None, "blocked"]


@pytest.mark.parametrize(
    "between",
    [
        still(ran_ns=6),
        still(blocked=False),
        None,  # it could not be read
        Activity({1: 5, 2: 1}, {1: 3, 2: 1}, True),  # another thread
    ],
)
def test_a_sign_of_life_starts_the_time_anew(between: Activity | None) -> None:
    times = (0.0, BLOCKED_S - 1, BLOCKED_S + 1, 2 * BLOCKED_S - 2)
    seen = [(now, still()) for now in times]
    seen[1] = (times[1], between)  # type: ignore[assignment]
    assert watch(*seen) == [None] * 4


def test_a_sleep_is_no_hang_however_long() -> None:
    asleep = still(blocked=False)
    assert watch(*((float(now), asleep) for now in range(0, 10_000, 50))) == [None] * 200


def test_computing_without_a_wait_is_said_once() -> None:
    seen = [(float(now), still(ran_ns=now, blocked=False)) for now in range(0, 2000, 100)]
    said = watch(*seen)
    assert [seen[i][0] for i, verdict in enumerate(said) if verdict] == [SPINNING_S]
    with_waits = [(now, still(int(now), int(now), False)) for now, _ in seen]
    assert watch(*with_waits) == [None] * len(seen)


# --- real processes -------------------------------------------------------------------------------

FORK = """
import os, subprocess, sys, threading, time
from slurm_sweeps.running.standstill import answer_with_stack, begin_watch, end_watch

lock = threading.Lock()
lock.acquire()

def fit():
    import sklearn.cluster
    sklearn.cluster.KMeans(4, n_init=1).fit([[i, i * i] for i in range(5000)])

def spin():
    while True: pass

def run_child():
    child = subprocess.Popen(["sleep", "600"])
    try:
        lock.acquire()
    finally:
        child.kill()

if sys.argv[1] == "fit()":
    fit()
pid = os.fork()
if pid == 0:
    answer_with_stack()
    begin_watch()
    eval(sys.argv[1])
    os._exit(0)
print(pid, flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""


@contextmanager
def fork_that(does: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Have a process fork one that does something; give the fork's process id."""
    with subprocess.Popen(
        [sys.executable, "-c", FORK, does],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield int(process.stdout.readline()), process
        process.stdin.close()


def is_blocked(pid: int) -> bool:
    activity = read_activity(pid)
    return activity is not None and activity.is_blocked


WAITS_FOR_CHILD = "os.wait() if os.fork() else time.sleep(600)"

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked into on Linux")


@linux
@pytest.mark.parametrize("does", ["lock.acquire()", "fit()"])
def test_a_fork_that_waits_for_a_thread_of_its_parent_hangs(does: str) -> None:
    with fork_that(does) as (pid, process):
        wait_until(lambda: is_blocked(pid), TIMEOUT_S, lambda: f"{read_activity(pid)}")
        before = read_activity(pid)
        assert before == read_activity(pid)
        ask_for_stack(pid)
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any('File "<string>"' in line for line in lines)  # where it is


@linux
@pytest.mark.parametrize(
    "does",
    [
        "time.sleep(600)",
        "threading.Event().wait(600)",
        "os.read(os.pipe()[0], 1)",
        WAITS_FOR_CHILD,
        "run_child()",
        "spin()",
    ],
)
def test_who_sleeps_reads_or_computes_does_not(does: str) -> None:
    with fork_that(does) as (pid, _):
        seen = [read_activity(pid)]

        def has_settled() -> bool:
            seen.append(read_activity(pid))
            if seen[-1] is None:  # it has only just begun
                return False
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            has_child = bool(children) == (does in ("run_child()", WAITS_FOR_CHILD))
            return has_child and (does == "spin()" or seen[-1] == seen[-2])

        wait_until(has_settled, TIMEOUT_S, lambda: f"{seen[-2:]}")
        assert not is_blocked(pid)


@linux
def test_who_has_reported_is_not_judged() -> None:
    does = "[end_watch(), print('reported', file=sys.stderr, flush=True), lock.acquire()]"
    with fork_that(does) as (pid, process):
        assert process.stderr is not None
        assert process.stderr.readline() == "reported\n"
        ask_for_stack(pid)  # which it ignores
        assert read_activity(pid) is None
        assert Path(f"/proc/{pid}/stat").exists()


def test_a_process_that_is_gone_is_not_judged() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait(TIMEOUT_S)
    assert read_activity(done.pid) is None
    ask_for_stack(done.pid)
