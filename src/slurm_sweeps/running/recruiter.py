"""Keeps as many submitted jobs as there is work for, beside the driver's loop.

Every few seconds Slurm is asked for the jobs of this sweep, which it knows by their name; what
follows is decided by `plan_hiring` and done at once, all in one thread. A job is hired when it
waits or runs; it is of use when a trial has begun in it. One that Slurm does not take, or that ends
before it was of use, makes the pause before the next one longer.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ..errors import LaunchError, StorageError
from ..slurm.client import TIMEOUT_S, cancel_jobs, cancel_waiting_jobs, read_job_queue, submit_job
from ..slurm.config import SlurmCfg
from ..slurm.jobs import (
    JobQueue,
    Jobs,
    build_job_name,
    build_sbatch_argv,
    format_job_script,
    may_be_accepted_later,
    plan_hiring,
)
from ..storage.layout import Layout
from .background import Background
from .nodes import double

#: How often Slurm is asked for the jobs, in seconds; sooner when one is missed.
POLL_S, SOON_S = 15.0, 2.0

#: Before the next job is submitted after one that was refused, or of no use: doubled each time.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 600.0

#: When so many jobs in a row have ended before they were of use, and none runs, it is given up.
MAX_USELESS = 5

#: How long a job stays while no driver is heard of, in seconds.
WAIT_S = 45.0

_JOIN = (sys.executable, "-m", "slurm_sweeps", "join")
_GO_ON = "restore=True goes on from here"

#: So much of the end of what a job has printed is told.
TAIL_LINES = 3


@dataclass(frozen=True, slots=True)
class _Round:
    """What a look at the queue has found, None if Slurm is away, and what was done."""

    queue: JobQueue | None
    submitted: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    refusal: str = ""


def build_recruiter(
    cfg: SlurmCfg, layout: Layout, notify: Callable[[str], None]
) -> Recruiter | None:
    """Return who submits the jobs of a sweep; None where that is not the driver."""
    if cfg.jobs is None:
        return None
    return Recruiter(cfg.jobs, cfg.jobs.guess_slots(cfg.ntasks), layout, cfg.outage_in_sec, notify)


class Recruiter:
    """See the module's docstring.

    Args:
        slots_per_job: What one is taken to hold until the first has come.
        outage_s: How long there may be no job, as Slurm takes none, until the sweep ends.
    """

    def __init__(
        self,
        jobs: Jobs,
        slots_per_job: int,
        layout: Layout,
        outage_s: float,
        notify: Callable[[str], None],
    ) -> None:
        self._jobs = jobs
        self._slots_per_job = slots_per_job
        self._layout = layout = Layout(os.path.abspath(layout.local_dir), layout.name)
        self._outage_s = outage_s
        self._notify = notify
        self._name = build_job_name(layout.name, str(self._layout.folder))
        log = str(layout.jobs).replace("%", "%%")
        self._argv = build_sbatch_argv(
            jobs, self._name, f"{log}/job-%j.log", str(self._layout.job_script)
        )
        self._background = Background("slurm-sweeps-jobs")
        self._rounds: SimpleQueue[_Round] = SimpleQueue()
        self._is_asking = self._is_over = False
        self._problem = ""  # of what is done last
        self._look_at = self._submit_at = -math.inf
        self._known: set[str] = set()  # hired, as far as is known
        self._useful: set[str] = set()  # those in which a trial has begun
        self._useless = 0  # jobs in a row that have ended and were of no use
        self._refusals = 0  # in a row
        self._without_since: float | None = None  # since when there is none, though there should be

    def begin(self) -> None:
        """Write the jobs' script, or raise StorageError."""
        layout = self._layout
        join = [*_JOIN, f"--local-dir={layout.local_dir}", f"--wait-in-sec={WAIT_S:g}"]
        join += ["--", layout.name]
        text = format_job_script(
            layout.name, self._jobs.setup, self._argv, str(layout.folder), join
        )
        try:
            layout.jobs.mkdir(parents=True, exist_ok=True)
            layout.job_script.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"can't write the jobs' script {layout.job_script}: {error}"
            ) from error
        self._notify(
            f"jobs are submitted as there is work for them, {self._jobs.most} at the most, with "
            f"{layout.job_script}"
        )

    def note_job(self, job_id: str, slots: int) -> None:
        """A job has come, with so many slots."""
        self._known.add(job_id)
        self._slots_per_job = max(1, slots)

    def note_use(self, job_id: str) -> None:
        """A trial has begun in a job."""
        self._useful.add(job_id)
        self._useless = 0

    def note_end(self, now: float) -> None:
        """A job has gone: see soon whether there should be another."""
        self._look_at = min(self._look_at, now + SOON_S)

    def look(self, now: float, count_work: Callable[[int], int], lends: bool) -> None:
        """Take in what was found and done, and look again when it is time.

        Args:
            now: The time, in seconds on the clock of all calls.
            count_work: Returns how many trials run, or could be started now; at most so many.
            lends: Whether there is a job that lends its nodes, whoever has submitted it.

        Raises:
            LaunchError: There is no job, and going on makes no sense.
        """
        self._background.check()
        while not self._rounds.empty():
            self._is_asking = False
            self._take(self._rounds.get(), now, lends)
        if now >= self._look_at and not (self._is_asking or self._is_over):
            self._is_asking = True
            self._look_at = now + POLL_S
            slots = self._slots_per_job
            work = count_work(self._jobs.most * slots)
            self._background.put(partial(self._go_round, work, slots, now >= self._submit_at))

    def stop(self) -> None:
        """Submit no more, and cancel what waits; jobs that run leave by themselves."""
        if not self._is_over:
            self._is_over = True
            self._background.put(self._cancel_waiting)

    def close(self) -> None:
        """Wait for the end of that, if Slurm answers."""
        if not self._background.close(2 * TIMEOUT_S):
            self._problem = "Slurm does not answer"
        if self._problem:
            self._notify(f"jobs named {self._name} may be left in the queue: {self._problem}")

    # --- in the thread ----------------------------------------------------------------------------

    def _cancel_waiting(self) -> None:
        self._problem = cancel_waiting_jobs(self._name)

    def _go_round(self, work: int, slots_per_job: int, may_submit: bool) -> None:
        queue = read_job_queue(self._name)
        if queue is None:
            self._rounds.put(_Round(None))
            return
        plan = plan_hiring(queue, work, slots_per_job, self._jobs.most)
        if plan.cancel and not self._is_over:
            cancel_jobs(*plan.cancel)
        submitted, refusal = [], ""
        for _ in range(plan.submit if may_submit else 0):
            if self._is_over or refusal:
                break
            submission = submit_job(self._argv)
            refusal = submission.refusal
            if submission.job_id is not None:
                submitted.append(submission.job_id)
        self._rounds.put(_Round(queue, tuple(submitted), plan.cancel, refusal))

    # --- in the driver's loop ---------------------------------------------------------------------

    def _take(self, found: _Round, now: float, lends: bool) -> None:
        if found.queue is None:
            self._pause("Slurm does not tell which jobs there are", now, lends or bool(self._known))
            return
        before, self._known = self._known, {*found.queue.ids, *found.submitted} - {*found.cancelled}
        goes_on = lends or bool(self._known)
        ended = before - {*found.cancelled} - self._known
        self._judge_ended(ended, found.queue.failed, now, goes_on)
        if found.refusal:
            text = f"sbatch submits no job: {found.refusal}"
            if not goes_on and not may_be_accepted_later(found.refusal):
                raise LaunchError(f"{text}. Mend SlurmCfg(jobs=ss.Jobs(args=…)); {_GO_ON}")
            self._pause(text, now, goes_on)
        else:
            self._without_since = None
            self._refusals = 0 if found.submitted else self._refusals
        if found.queue.waiting and not found.queue.running and found.queue.reason != "None":
            text = f"no job of this sweep runs: they wait in the queue ({found.queue.reason})"
            if found.queue.may_never_begin:
                text += ": they may never begin, unless SlurmCfg(jobs=ss.Jobs(args=…)) asks for "
                text += "what there is"
            self._notify(text)

    def _judge_ended(
        self, ended: Collection[str], failed: Mapping[str, str], now: float, goes_on: bool
    ) -> None:
        """Count jobs that were of no use; one that has neither printed nor failed never began."""
        for job_id in sorted(ended, key=int):
            log = self._layout.job_log(job_id)
            if job_id in self._useful or not (log.exists() or job_id in failed):
                continue
            self._useless += 1
            self._submit_at = now + double(FIRST_PAUSE_S, LONGEST_PAUSE_S, self._useless)
            said = f"the end of {log}: {_read_tail(log)}"
            if not log.exists():  # where a node doesn't see the folder nothing can be printed
                said = f"it has failed ({failed[job_id]}), and printed nothing: do all nodes "
                said += f"see {log.parent}?"
            text = f"job {job_id} has ended before any trial began in it; {said}"
            if self._useless >= MAX_USELESS and not goes_on:
                raise LaunchError(f"{self._useless} jobs in a row were of no use: {text}; {_GO_ON}")
            self._notify(text)

    def _pause(self, text: str, now: float, goes_on: bool) -> None:
        """Nothing was submitted: say it, and try again later, unless that is so for too long."""
        self._without_since = None if goes_on else self._without_since or now
        if self._without_since is not None and now - self._without_since > self._outage_s:
            raise LaunchError(f"for {self._outage_s:.0f} s there was no job: {text}; {_GO_ON}")
        self._refusals += 1
        self._submit_at = now + double(FIRST_PAUSE_S, LONGEST_PAUSE_S, self._refusals)
        self._notify(f"{text}. It is tried again and again")


def _read_tail(log: Path) -> str:
    try:
        text = log.read_bytes()[-10_000:].decode(errors="replace")
    except OSError as error:
        return str(error)
    return " / ".join(text.strip().splitlines()[-TAIL_LINES:]) or "nothing"
