"""Asking the Slurm controller, and asking things of it; every call has an end.

Slurm's commands read dozens of variables as options: one that a site or a profile sets
(`SLURM_CLUSTERS`, `SQUEUE_FORMAT`) would have them answer something else, or fail. So each gets the
environment without them. What they say is read by the pure functions of `text`. That Slurm doesn't
answer is no error here but an answer: None, or what is known without it.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import AllocationError
from .allocation import Allocation, parse_allocation
from .jobs import QUEUE_OPTIONS, JobQueue, parse_job_id, parse_job_queue, parse_submission_refusal
from .step import build_command_environment, build_submission_environment, is_outage
from .text import (
    JOBS_FORMAT,
    Fate,
    JobSight,
    parse_fate,
    parse_job_left,
    parse_jobs,
    parse_kill_wait,
    parse_step_limits,
    parse_steps,
    parse_time_left,
    parse_waiting_steps,
)

#: A controller that is restarted or overloaded may need this long.
TIMEOUT_S = 20.0

#: How often the time left is asked for again: an administrator may have changed the limit. When
#: somebody wants to know, it may be as often as the second.
REFRESH_S, SOON_S = 120.0, 2.0

#: Between two questions to a Slurm that is away, in seconds: doubled each time, up to the last.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0

#: Slurm's default for the time between TERM and KILL.
KILL_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command of Slurm printed, and what went wrong: empty if nothing did.

    `said` is what one that has failed wrote to its standard error.
    """

    text: str
    problem: str = ""
    said: str = ""


def ask(env: Mapping[str, str], *argv: str) -> Reply:
    """Run a command of Slurm; one that does not answer within 20 s has failed."""
    return _start(build_command_environment(env), argv)()


def _start(env: Mapping[str, str], argv: Sequence[str]) -> Callable[[], Reply]:
    """Start a command; return what waits for its reply."""
    command, pipe = f"`{' '.join(argv)}`", subprocess.PIPE
    try:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )
    except OSError as error:
        reply = Reply("", f"{command} failed ({error})")
        return lambda: reply

    def wait() -> Reply:
        with process:
            try:
                text, said = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return Reply("", f"{command} has not answered within {TIMEOUT_S:.0f} s")
        if process.returncode == 0:
            return Reply(text)
        last = " ".join(said.strip().splitlines()[-1:])
        return Reply("", f"{command} failed (exit status {process.returncode}, {last})", said)

    return wait


def ask_patiently(
    env: Mapping[str, str], commands: Sequence[str], outage_s: float, notify: Callable[[str], None]
) -> list[Reply]:
    """Run commands of Slurm at once, and again while Slurm is away; say that it is, and was.

    Raises:
        AllocationError: It is away for longer than `outage_s` seconds.
    """
    env = build_command_environment(env)
    began, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        replies = [wait() for wait in [_start(env, each.split()) for each in commands]]
        problem = next((reply.problem for reply in replies if is_outage(reply.problem)), "")
        if not problem:
            break
        if time.monotonic() - began + pause_s > outage_s:
            raise AllocationError(
                f"Slurm is away, and nothing can be asked of it: {problem}. "
                "SlurmCfg(outage_in_sec=...) says how long to wait for it"
            )
        if pause_s == FIRST_PAUSE_S:
            notify(f"Slurm is away, and waited for: {problem}")
        time.sleep(pause_s)
        pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)
    if pause_s > FIRST_PAUSE_S:
        notify(f"Slurm is back, after {time.monotonic() - began:.0f} s")
    return replies


def read_allocation(
    env: Mapping[str, str], outage_s: float = 0.0, notify: Callable[[str], None] = print
) -> Allocation | None:
    """Learn the allocation that an environment describes, asking scontrol for the rest.

    A Slurm that is away is waited for, as by `ask_patiently`.

    Returns:
        The allocation, or None outside of Slurm. If scontrol can't be run, or tells nothing, what
        the environment tells alone, with a notice.

    Raises:
        AllocationError: As `parse_allocation`; or Slurm is away for too long.
    """
    if parse_allocation(env) is None:
        return None
    commands = (
        f"scontrol show job -d {_name_job(env['SLURM_JOB_ID'])}",
        f"scontrol --oneliner show node {env['SLURM_JOB_NODELIST']}",
        "scontrol show config",
    )
    job, nodes, config = ask_patiently(env, commands, outage_s, notify)
    left_s = parse_job_left(job.text)
    ends_at = None if left_s is None else time.time() + left_s
    max_steps, ports = parse_step_limits(config.text)
    allocation = parse_allocation(env, job.text, nodes.text)
    if allocation is not None:
        allocation = replace(allocation, max_steps=max_steps, srun_ports=ports, ends_at=ends_at)
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


def _name_job(job_id: str) -> str:
    """Say a job's id so that Slurm takes it for that job alone.

    One task of an array has the array's number as its id, by which `squeue --jobs`, `scontrol show
    job` and `scontrol requeue` take all of its tasks (22.05).
    """
    is_own_array = os.environ.get("SLURM_ARRAY_JOB_ID") == os.environ.get("SLURM_JOB_ID") == job_id
    return f"{job_id}_{os.environ['SLURM_ARRAY_TASK_ID']}" if is_own_array else job_id


def is_job_over(job_id: str) -> bool | None:
    """Ask whether a job has ended; None if Slurm can't be asked."""
    options = ("--noheader", f"--jobs={job_id}", JOBS_FORMAT, "--states=all")
    reply = ask(os.environ, "squeue", *options)
    if reply.problem:
        return True if "Invalid job id" in reply.problem else None
    sight = parse_jobs(reply.text).get(job_id)  # of an array's number all of its tasks are shown
    return sight is None or not (sight.is_there or sight.state == "COMPLETING")


def requeue(job_id: str, outage_s: float, notify: Callable[[str], None]) -> None:
    """Have this job queued again, unless somebody has cancelled it or Slurm does so by itself.

    A Slurm that is away is waited for, as long as `outage_s` seconds or until it ends the job.
    """

    def ask_of_job(verb: str) -> Reply:
        command = f"scontrol {verb} {_name_job(job_id)}"
        return ask_patiently(os.environ, [command], outage_s, notify)[0]

    problem, restarts = "", int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    try:
        fate = parse_fate(ask_of_job("show job").text, restarts)
        if fate is Fate.CANCELLED:
            notify(f"job {job_id} was cancelled: it is not queued again")
            return
        if fate is not Fate.REQUEUED:
            problem = ask_of_job("requeue").problem
    except AllocationError as error:
        problem = str(error)
    if not problem:
        notify(f"job {job_id} is queued again; it goes on where it stopped")
    else:
        notify(f"job {job_id} could not be queued again: {problem}")


def cancel_step(step_id: str) -> None:
    """Have Slurm end a step (`<job>.<step>`), without waiting for it."""
    _start_thread(ask, os.environ, "scancel", step_id)


def _start_thread(job: Callable[..., object], *args: object) -> threading.Thread | None:
    """Start a thread; None where the system starts none for now, nor any command therefore."""
    thread = threading.Thread(target=job, args=args, daemon=True)
    with contextlib.suppress(RuntimeError):
        thread.start()
        return thread
    return None


def end_steps_of_slots(jobs: Collection[str], timeout_s: float = TIMEOUT_S) -> str:
    """End what steps a driver that is gone has left in jobs, and wait until they have ended.

    Returns:
        What went wrong, or is there still; empty if all is well.
    """
    mine, what = ("squeue", "--noheader", f"--user={os.getuid()}"), ("--steps", "--format=%i %j")
    deadline, ended = time.monotonic() + timeout_s, False
    # The steps of an array's tasks are shown by the tasks' names, `<array>_<task>`.
    ids = dict(each.split() for each in ask(os.environ, *mine, "--format=%i %A").text.splitlines())
    while True:
        reply = ask(os.environ, *mine, *what)
        found = [(ids.get(job, job), step) for job, step in parse_steps(reply.text)]
        left = [f"{job}.{step}" for job, step in found if job in jobs]
        if reply.problem or not left:
            return reply.problem
        if time.monotonic() > deadline:
            return f"the steps {', '.join(left)} have not ended within {timeout_s:.0f} s"
        if not ended:
            ended = not ask(os.environ, "scancel", *left).problem
        time.sleep(0.2)


class JobWatch:
    """Asks Slurm for all jobs of this user at once, from a thread of its own.

    Attributes:
        asked_at: When it was asked (monotonic) what it has answered last.
        seen: What it has answered, by the job's id; who is not in it is over.
    """

    def __init__(self) -> None:
        self.asked_at = -math.inf
        self.seen: Mapping[str, JobSight] = {}
        self._began_at = -math.inf
        self._thread: threading.Thread | None = None

    def refresh(self, every_s: float) -> None:
        """Ask again, unless that was done in the last `every_s` seconds."""
        is_asking = self._thread is not None and self._thread.is_alive()
        if not is_asking and time.monotonic() - self._began_at > every_s:
            self._began_at = time.monotonic()
            self._thread = _start_thread(self._ask)

    def _ask(self) -> None:
        asked_at, options = time.monotonic(), ("--noheader", f"--user={os.getuid()}", JOBS_FORMAT)
        reply = ask(os.environ, "squeue", *options)
        if not reply.problem:
            self.seen = parse_jobs(reply.text)
            self.asked_at = asked_at


class StepQueue:
    """Which steps of a job find no room; asks Slurm from a thread of its own, while that is wanted.

    Attributes:
        waiting: The process ids of their sruns.
        problem: Why Slurm does not tell; empty if it does.
    """

    def __init__(self, job_id: str) -> None:
        self.waiting: frozenset[int] = frozenset()
        self.problem = ""
        self._job_id = job_id
        self._asked_at = -math.inf
        self._thread: threading.Thread | None = None

    def ask_again(self) -> None:
        """Bring the answers up to date, soon; they are those of a few seconds ago at most."""
        is_asking = self._thread is not None and self._thread.is_alive()
        if not is_asking and time.monotonic() - self._asked_at > SOON_S:
            self._asked_at = time.monotonic()
            self._thread = _start_thread(self._ask)

    def _ask(self) -> None:
        reply = ask(os.environ, "scontrol", "--oneliner", "show", "step", self._job_id)
        self.waiting, self.problem = parse_waiting_steps(reply.text), reply.problem


class JobClock:
    """Knows when this process's job ends, and whether it runs; asks Slurm from a thread of its own.

    Attributes:
        kill_wait_s: Seconds between the TERM by which Slurm ends a job and the KILL.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self.kill_wait_s = KILL_WAIT_S
        self._ends_at = math.inf  # by `time.monotonic`
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

    def get_time_left(self) -> float:
        """Seconds until the job ends; infinite: unknown or never."""
        return self._ends_at - time.monotonic()

    def forget(self) -> None:
        """Believe nothing that was heard before now: the job may have been suspended."""
        self._ends_at, self._asked_at = math.inf, -math.inf
        self._wake.set()

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
        options = ("--noheader", f"--jobs={_name_job(self._job_id)}", "--format=%L %T")
        while not self._is_over:
            asked_at = time.monotonic()
            reply = ask(os.environ, "squeue", *options)
            left, _, state = reply.text.strip().partition(" ")
            if not is_outage(reply.problem):
                left_s = parse_time_left(left)
                self._ends_at = math.inf if left_s is None else time.monotonic() + left_s
                self._state, self._asked_at = state, asked_at
            time.sleep(SOON_S)
            self._wake.wait(REFRESH_S)
            self._wake.clear()


def check_can_submit() -> None:
    """Raise AllocationError where Slurm's commands are not."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if not shutil.which(name)]
    if missing:
        raise AllocationError(
            f"SlurmCfg(jobs=…) submits jobs, and there is no {missing[0]} on PATH: start the sweep "
            "where Slurm's commands are, or leave jobs out to run the trials here"
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """A job that was submitted, or else what sbatch says of why it was not."""

    job_id: str | None
    refusal: str = ""


def submit_job(argv: Sequence[str]) -> Submission:
    """Submit a job (`jobs.build_sbatch_argv`), with nothing of the job around this process."""
    reply = _start(build_submission_environment(os.environ), argv)()
    job_id = parse_job_id(reply.text)
    if job_id is not None:
        return Submission(job_id)
    problem = reply.problem or f"sbatch printed no job id but {reply.text.strip()!r}"
    return Submission(None, parse_submission_refusal(reply.said) or problem)


def read_job_queue(name: str) -> JobQueue | None:
    """Ask for this user's jobs of a name; None if Slurm can't be asked."""
    options = ("--noheader", f"--user={os.getuid()}", f"--name={name}", *QUEUE_OPTIONS)
    reply = ask(os.environ, "squeue", *options)
    return None if reply.problem else parse_job_queue(reply.text)


def cancel_jobs(*ids: str) -> str:
    """Cancel jobs; return what went wrong, empty if nothing did."""
    return ask(os.environ, "scancel", *ids).problem


def cancel_waiting_jobs(name: str) -> str:
    """Cancel this user's jobs of a name that have not begun; return what went wrong."""
    options = ("--state=PENDING", f"--user={os.getuid()}", f"--name={name}")
    return ask(os.environ, "scancel", *options).problem
