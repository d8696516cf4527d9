from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from slurm_sweeps.storage.lease import (
    SILENT_S,
    build_owner,
    is_gone,
    read_process_start,
)
from slurm_sweeps.storage.records import Lease, LeaseOwner

HERE = build_owner("17")
ELSEWHERE = dataclasses.replace(HERE, host="another")


def ask(owner: LeaseOwner, silent_s: float = 0.0, over: bool | None = None) -> bool:
    """Whether an owner that was heard of `silent_s` ago is gone."""
    return is_gone(Lease(owner, 1000.0), 1000.0 + silent_s, here=HERE, is_job_over=lambda _: over)


def test_an_owner_is_this_process() -> None:
    assert HERE.pid == os.getpid()
    assert HERE.job_id == "17"
    assert HERE.start == (read_process_start(os.getpid()) or "")
    assert build_owner().nonce != HERE.nonce


def test_a_lease_of_this_very_process_was_forgotten() -> None:
    assert ask(HERE)
    assert ask(dataclasses.replace(HERE, nonce="another run"))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.processes
def test_another_process_of_this_host_is_gone_when_it_is_dead(known: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = read_process_start(process.pid) if known else None
    owner = dataclasses.replace(HERE, pid=process.pid, start=start or "")

    assert not ask(owner, silent_s=1e6)
    process.communicate(b"\n")
    assert ask(owner)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.processes
def test_a_process_that_is_dead_but_not_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = dataclasses.replace(HERE, pid=process.pid, start=read_process_start(process.pid) or "")

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead now, and still there

    assert ask(owner)
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_pid_that_was_given_out_again() -> None:
    parent = os.getppid()
    alive = dataclasses.replace(HERE, pid=parent, start=read_process_start(parent) or "")

    assert not ask(alive)
    assert ask(dataclasses.replace(alive, start="another boot/17"))


def test_a_process_of_someone_else_is_not_gone() -> None:
    assert not ask(dataclasses.replace(HERE, pid=1, start=""))


@pytest.mark.parametrize(
    ("silent_s", "over", "gone"),
    [
        (0.0, None, False),
        (SILENT_S, None, False),
        (SILENT_S + 1, None, True),
        (-3600.0, None, False),
        (SILENT_S + 1, False, False),
        (0.0, True, True),
    ],
)
def test_another_host(silent_s: float, over: bool | None, gone: bool) -> None:
    assert ask(ELSEWHERE, silent_s, over) is gone


def test_slurm_is_asked_only_about_jobs() -> None:
    jobless = dataclasses.replace(ELSEWHERE, job_id=None)

    assert not ask(jobless, silent_s=0.0, over=True)
    assert ask(jobless, silent_s=SILENT_S + 1, over=False)
    assert read_process_start(2**22 + 1) is None
