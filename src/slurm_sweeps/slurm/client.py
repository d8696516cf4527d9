"""Asking the Slurm controller, and asking things of it; every call has an end.

What Slurm says is read by pure functions (`parse_time_left`); that it doesn't answer is no error
here but an answer: None.

What scontrol says of a job and of nodes: the call, and pure functions that read its text.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .text import Gres, parse_gres, parse_nodelist

#: A controller that is restarted or overloaded may need this long.
TIMEOUT_S = 20.0

#: How often the time left is asked for again: an administrator may have changed the limit.
REFRESH_S = 120.0

#: Slurm's default for the time between TERM and KILL.
KILL_WAIT_S = 30.0

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")


def parse_time_left(text: str) -> float | None:
    """Read what `squeue -o %L` prints, `[[days-]hours:]minutes:seconds`, as seconds.

    None where there is no limit (UNLIMITED, NOT_SET) or the text says something else.
    """
    match = _TIME.match(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_kill_wait(text: str) -> float | None:
    """Find KillWait in what `scontrol show config` prints, as seconds."""
    match = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else None


class Fate(Enum):
    """What Slurm has in mind with a job whose processes it tells to end."""

    UNKNOWN = "unknown"  # it runs on as far as can be told, or met its time limit, or was preempted
    CANCELLED = "cancelled"  # somebody does not want it any more
    REQUEUED = "requeued"  # Slurm has queued it again already


def parse_fate(text: str, restarts: int) -> Fate:
    """Tell from `scontrol show job` what will become of a job that is being ended.

    While a job's processes are being ended, Slurm says COMPLETING whatever the cause (22.05). If it
    has queued the job again by itself, the count of restarts has risen. What is none of that, nor
    preemption, nor the time limit, is somebody's `scancel`.

    Args:
        text: What scontrol printed.
        restarts: How often the job had been restarted when it began.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    if int(fields.get("Restarts") or 0) > restarts:
        return Fate.REQUEUED
    if fields.get("JobState") not in ("CANCELLED", "COMPLETING"):
        return Fate.UNKNOWN
    run_s = parse_time_left(fields.get("RunTime", ""))
    limit_s = parse_time_left(fields.get("TimeLimit", ""))
    is_over_limit = run_s is not None and limit_s is not None and run_s >= limit_s
    is_preempted = fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
    return Fate.UNKNOWN if is_over_limit or is_preempted else Fate.CANCELLED


def read_fate(job_id: str) -> Fate:
    """Ask what will become of the job that this process runs in."""
    done = _run(["scontrol", "show", "job", job_id])
    if done is None or done.returncode != 0:
        return Fate.UNKNOWN
    return parse_fate(done.stdout, int(os.environ.get("SLURM_RESTART_COUNT") or 0))


def is_job_over(job_id: str) -> bool | None:
    """Ask whether a job has ended; None if Slurm can't be asked."""
    done = _run(["squeue", "--noheader", "--jobs", job_id, "--format=%T", "--states=all"])
    if done is None:
        return None
    if done.returncode != 0:
        return True if "Invalid job id" in done.stderr else None
    states = set(done.stdout.split())
    return not states & {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"}


def requeue_job(job_id: str) -> str | None:
    """Have Slurm queue a job again; return what went wrong, None if nothing did."""
    done = _run(["scontrol", "requeue", job_id])
    if done is None:
        return "scontrol did not answer"
    return None if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"


def cancel_step(step_id: str) -> None:
    """Have Slurm end a step (`<job>.<step>`), without waiting for it."""
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            ["scancel", step_id],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=process.wait, daemon=True).start()


class TimeLimit:
    """Knows when the job ends; asks Slurm from a thread of its own, now and then.

    Args:
        job_id: The job that this process runs in.

    Attributes:
        kill_wait_s: Seconds between the TERM by which Slurm ends a job and the KILL.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.kill_wait_s: float | None = KILL_WAIT_S
        self._ends_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slurm-sweeps-clock", daemon=True)

    def __enter__(self) -> TimeLimit:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def get_time_left(self, now: float) -> float | None:
        """Seconds until the job ends, None if that is unknown or never.

        Args:
            now: `time.monotonic()`.
        """
        return None if self._ends_at is None else self._ends_at - now

    def _run(self) -> None:
        done = _run(["scontrol", "show", "config"])
        if done is not None and done.returncode == 0:
            self.kill_wait_s = parse_kill_wait(done.stdout) or KILL_WAIT_S
        while True:
            done = _run(["squeue", "--noheader", "--jobs", self._job_id, "--format=%L"])
            if done is not None and done.returncode == 0:
                left = parse_time_left(done.stdout)
                self._ends_at = None if left is None else time.monotonic() + left
            if self._stop.wait(REFRESH_S):
                return


def _run(argv: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            argv,
            env={**os.environ, "SLURM_TIME_FORMAT": "standard"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class JobNode:
    """What `scontrol show job -d` says of one node of a job; `mem_mb` is 0 where not counted."""

    mem_mb: int
    gres: tuple[Gres, ...]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What `scontrol show node` says of a node, whoever uses it."""

    threads_per_core: int
    address: str


def parse_job_nodes(text: str) -> dict[str, JobNode]:
    """Read the per-node lines of `scontrol show job -d`: name to memory and GRES."""
    found: dict[str, JobNode] = {}
    lines = re.findall(r"^\s+Nodes=(\S+) CPU_IDs=\S* Mem=(\d+) GRES=(\S*)", text, re.MULTILINE)
    for names, mem, gres in lines:
        found |= dict.fromkeys(parse_nodelist(names), JobNode(int(mem), parse_gres(gres)))
    return found


def parse_node_facts(text: str) -> dict[str, NodeFacts]:
    """Read `scontrol --oneliner show node`: name to threads per core and address."""
    found: dict[str, NodeFacts] = {}
    for line in text.splitlines():
        pairs = re.findall(r"(?:^|\s)(NodeName|NodeAddr|ThreadsPerCore)=(\S+)", line)
        fields: dict[str, str] = dict(pairs)
        if "NodeName" in fields:
            name = fields["NodeName"]
            found[name] = NodeFacts(
                int(fields.get("ThreadsPerCore", 1)), fields.get("NodeAddr", name)
            )
    return found


def run_scontrol(words: Sequence[str], env: Mapping[str, str]) -> tuple[str, str]:
    """Run scontrol; give what it printed, and what went wrong (empty if nothing did).

    A controller that does not answer within 15 s counts as a failure.
    """
    argv = ["scontrol", *words]
    try:
        done = subprocess.run(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", _format_problem(argv, str(error))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        return "", _format_problem(argv, f"exit status {done.returncode}, {' '.join(last)}")
    return done.stdout, ""


def _format_problem(argv: Sequence[str], problem: str) -> str:
    return (
        f"`{' '.join(argv)}` failed ({problem}): each trial's share is worked out from the "
        f"environment alone, so say SlurmCfg(gpus=..., mem=...) if it is wrong"
    )
