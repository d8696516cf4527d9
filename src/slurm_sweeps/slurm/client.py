"""Asking the Slurm controller, and asking things of it; every call has an end.

Slurm's commands read dozens of variables as options: one that a site or a profile sets
(`SLURM_CLUSTERS`, `SQUEUE_FORMAT`) would have them answer something else, or fail. So each gets the
environment without them. What they say is read by the pure functions of `text`. That Slurm doesn't
answer is no error here but an answer: None, or what is known without it.
"""

from __future__ import annotations

import math
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .allocation import Allocation, parse_allocation
from .step import build_command_environment, is_outage
from .text import Fate, parse_fate, parse_kill_wait, parse_time_left

#: A controller that is restarted or overloaded may need this long.
TIMEOUT_S = 20.0

#: How often the time left is asked for again: an administrator may have changed the limit. When
#: somebody wants to know, it may be as often as the second.
REFRESH_S, SOON_S = 120.0, 2.0

#: Slurm's default for the time between TERM and KILL.
KILL_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command of Slurm printed, and what went wrong: empty if nothing did."""

    text: str
    problem: str = ""


def ask(env: Mapping[str, str], *argv: str) -> Reply:
    """Run a command of Slurm; one that does not answer within 20 s has failed."""
    try:
        done = subprocess.run(
            argv,
            env=build_command_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Reply("", f"`{' '.join(argv)}` failed ({error})")
    if done.returncode == 0:
        return Reply(done.stdout)
    last = " ".join(done.stderr.strip().splitlines()[-1:])
    return Reply("", f"`{' '.join(argv)}` failed (exit status {done.returncode}, {last})")


def read_allocation(env: Mapping[str, str]) -> Allocation | None:
    """Learn the allocation that an environment describes, asking scontrol for the rest.

    Returns:
        The allocation, or None outside of Slurm. If scontrol can't be run, or does not answer
        within 20 s, what the environment tells alone, with a notice.

    Raises:
        AllocationError: As `parse_allocation`.
    """
    if parse_allocation(env) is None:
        return None
    job = ask(env, "scontrol", "show", "job", "-d", env["SLURM_JOB_ID"])
    nodes = ask(env, "scontrol", "--oneliner", "show", "node", env["SLURM_JOB_NODELIST"])
    allocation = parse_allocation(env, job.text, nodes.text)
    problem = job.problem or nodes.problem
    if not problem and "NodeName=" not in nodes.text:  # a site may hide its nodes
        problem = "`scontrol show node` tells nothing"
    if allocation is None or not problem:
        return allocation
    notice = (
        f"{problem}: each trial's share is worked out from the environment alone, and cores are "
        f"taken for pairs of CPUs, so say SlurmCfg(gpus=..., mem=...) if it is wrong"
    )
    return replace(allocation, notices=(notice, *allocation.notices))


def read_fate(job_id: str) -> Fate:
    """Ask what will become of the job that this process runs in."""
    reply = ask(os.environ, "scontrol", "show", "job", job_id)
    return parse_fate(reply.text, int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def is_job_over(job_id: str) -> bool | None:
    """Ask whether a job has ended; None if Slurm can't be asked."""
    options = ("--noheader", f"--jobs={job_id}", "--format=%T", "--states=all")
    reply = ask(os.environ, "squeue", *options)
    if reply.problem:
        return True if "Invalid job id" in reply.problem else None
    states = set(reply.text.split())
    return not states & {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"}


def requeue_job(job_id: str) -> str:
    """Have Slurm queue a job again; return what went wrong, empty if nothing did."""
    return ask(os.environ, "scontrol", "requeue", job_id).problem


def cancel_step(step_id: str) -> None:
    """Have Slurm end a step (`<job>.<step>`), without waiting for it."""
    threading.Thread(target=ask, args=(os.environ, "scancel", step_id), daemon=True).start()


class JobClock:
    """Knows when this process's job ends, and whether it runs; asks Slurm from a thread of its own.

    Attributes:
        kill_wait_s: Seconds between the TERM by which Slurm ends a job and the KILL.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.kill_wait_s = KILL_WAIT_S
        self._ends_at: float | None = None
        self._state = ""
        self._asked_at = -math.inf  # when Slurm was asked what it has answered
        self._is_over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slurm-sweeps-clock", daemon=True)

    def __enter__(self) -> JobClock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._wake.set()

    def get_time_left(self, now: float) -> float | None:
        """Seconds from `now` (`time.monotonic()`) until the job ends; None: unknown or never."""
        return None if self._ends_at is None else self._ends_at - now

    def runs(self, since: float) -> bool | None:
        """Whether the job runs, as Slurm has said when it was asked after `since` (monotonic).

        False for one that is suspended; True too where nothing can be learnt from Slurm. None: it
        has not answered since; it is asked again.
        """
        if self._asked_at > since:
            return self._state in ("RUNNING", "")
        self._wake.set()
        return None

    def _run(self) -> None:
        config = ask(os.environ, "scontrol", "show", "config")
        self.kill_wait_s = parse_kill_wait(config.text) or KILL_WAIT_S
        options = ("--noheader", f"--jobs={self._job_id}", "--format=%L %T")
        while not self._is_over:
            asked_at = time.monotonic()
            reply = ask(os.environ, "squeue", *options)
            left, _, state = reply.text.strip().partition(" ")
            if not is_outage(reply.problem):
                left_s = parse_time_left(left)
                self._ends_at = None if left_s is None else time.monotonic() + left_s
                self._state, self._asked_at = state, asked_at
            time.sleep(SOON_S)
            self._wake.wait(REFRESH_S)
            self._wake.clear()
