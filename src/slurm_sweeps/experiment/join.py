"""What a job does that joins a sweep: it lends its nodes, and may take the driver's place.

The driver reaches the job's nodes by srun, so there is nothing to do here but to look, every few
seconds, what has been written down. What follows from that is decided by `decide`, which is pure.

- A driver that has given its lease back is followed at once, by the job that lasts longest; a
  little later by the next one, as that may have gone. Whether one that is silent is gone can be
  seen on its own host; else Slurm is asked for its job, in the same order, once a minute at most.
- A signal by which a job is told to end is passed on: the driver has the trials there leave, and
  lets the job go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import sys
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import (
    AllocationError,
    ExperimentNotFoundError,
    SlurmSweepsError,
    StorageError,
    SweepFailedError,
    UsageError,
)
from ..running.background import StopSignals
from ..running.processes import PYTHON
from ..slurm.allocation import Allocation, describe_allocation
from ..slurm.client import cancel_waiting_jobs, is_job_over
from ..slurm.jobs import build_job_name
from ..storage.database import Database
from ..storage.faults import DatabaseBusyError
from ..storage.jobs import Standing, look, put_job, tell_driver
from ..storage.layout import Layout
from ..storage.lease import HEARTBEAT_INTERVAL_S, build_owner, is_gone
from ..storage.records import BY_A_PERSON, JobRecord, JobState

#: A driver that has written nothing for so long, in seconds, may be gone; each job asks, or takes
#: its place, so much later than the one before it, and asks not again within the last number.
ASK_AFTER_S, ASK_LATER_S, ASK_AGAIN_S = HEARTBEAT_INTERVAL_S + 3.0, 3.0, 60.0

#: How long a job stays without any driver, in seconds.
WAIT_S = 600.0

#: How long one that was told to end waits for the driver to let it go, in seconds.
LEAVE_S = 90.0


class Step(Enum):
    """What a job that lends does next."""

    STAY = "stay"
    OFFER = "offer its nodes, again"
    ASK = "ask Slurm for the driver's job"
    DRIVE = "take the driver's place"
    END = "end: all is done, or it is needed no more"
    YIELD = "end: it was told to, or its time is over"
    STOPPED = "end: a person has stopped the sweep"
    FAILED = "end: the sweep has failed"
    REFUSED = "end: the driver can't use it"
    LEFT = "end: no driver is there"

    @property
    def goes_on(self) -> bool:
        """Whether it lends on."""
        return self in (Step.STAY, Step.OFFER)


def decide(
    found: Standing, can_drive: bool, silent_s: float, told_s: float | None, wait_s: float
) -> Step:
    """Decide what a job that lends does next. Pure.

    Args:
        can_drive: Whether it can take the driver's place.
        silent_s: For how long no driver has given a sign of life, in seconds; that one gives its
            lease back is the last.
        told_s: How long ago it was told to end, in seconds; None if it was not.
        wait_s: How long it stays without a driver, in seconds.
    """
    experiment, job = found.experiment, found.job
    if job is not None and job.state is JobState.REFUSED:
        return Step.REFUSED
    if job is not None and job.state is JobState.RELEASED:
        return Step.END if job.note is None and told_s is None else Step.YIELD
    if experiment.lease is None:
        if experiment.state in _ENDS:
            return _ENDS[experiment.state]
        if experiment.settings.get("ended_by") in BY_A_PERSON:
            return Step.STOPPED
    is_lent = job is not None and job.state is not JobState.GONE
    if told_s is not None:
        may_wait = is_lent and experiment.lease is not None and told_s <= LEAVE_S
        return Step.STAY if may_wait else Step.YIELD
    is_free = experiment.lease is None
    if can_drive and is_free and silent_s >= ASK_LATER_S * found.rank:
        return Step.DRIVE
    if silent_s > wait_s:
        return Step.LEFT
    if not is_lent and experiment.state not in _ENDS:
        return Step.OFFER
    may_be_gone = not is_free and silent_s > ASK_AFTER_S + ASK_LATER_S * found.rank
    return Step.ASK if can_drive and may_be_gone else Step.STAY


_ENDS = {"completed": Step.END, "failed": Step.FAILED}


def describe_job(allocation: Allocation, state: JobState, can_drive: bool) -> JobRecord:
    """Describe the job that this process runs in."""
    return JobRecord(
        allocation.job_id,
        int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        state,
        can_drive=can_drive,
        nodes=",".join(node.name for node in allocation.nodes),
        offer=json.dumps(describe_allocation(allocation)),
        since=time.time(),
        ends_at=allocation.ends_at,
    )


def check_python(settings: Mapping[str, Any], can_drive: bool) -> None:
    """Raise UsageError where trials can't be started here, or go on, for want of their Python."""
    path, version = settings.get("python"), settings.get("python_version")
    if path and not os.access(path, os.X_OK):
        raise UsageError(
            f"the sweep's trials run {path}, which is not on this node: install it there, or "
            "start the sweep with a Python that all nodes have"
        )
    if can_drive and version and version != PYTHON:
        raise UsageError(
            f"this script runs Python {PYTHON} ({sys.executable}), and the sweep "
            f"that it joins Python {version} ({path}): start it with that one"
        )
    if can_drive and path and not _is_same_environment(path, sys.executable):
        raise UsageError(
            f"this script runs {sys.executable}, and the sweep that it joins {path}, which may "
            "have other modules: start it with that one, as it may come to drive the sweep"
        )


def _is_same_environment(one: str, other: str) -> bool:
    """Whether two Pythons lie in one folder, under whatever names and mounts."""
    return os.path.samefile(os.path.dirname(one), os.path.dirname(other))


def _is_still(path: Path, file: os.stat_result) -> bool:
    """Whether a path leads to a file: one that was removed is open still, and nobody writes it."""
    try:
        return os.path.samestat(os.stat(path), file)
    except FileNotFoundError:
        return False


class Lender:
    """One job that lends its nodes to an experiment, which is there.

    Args:
        can_drive: Whether it can take the driver's place, as one that runs the same script.
        wait_s: How long it stays without a driver, in seconds.
    """

    def __init__(
        self,
        layout: Layout,
        allocation: Allocation,
        can_drive: bool,
        notify: Callable[[str], None],
        wait_s: float = WAIT_S,
    ) -> None:
        self._layout = layout
        self._notify = notify
        self._wait_s = wait_s
        self._record = describe_job(allocation, JobState.WAITING, can_drive)
        self._owner = build_owner(allocation.job_id)
        self._heard_at, self._heartbeat = time.monotonic(), 0.0
        self._asked_at = -ASK_AGAIN_S
        self._told_at: float | None = None
        self._driver = ""  # the nonce of the lease that was told of

    def lend(self, signals: StopSignals) -> Step:
        """Lend until there is something else to do; return what.

        Args:
            signals: Entered: what tells the job to end.

        Raises:
            ExperimentNotFoundError: There is no such experiment.
            SweepFailedError: The sweep has failed.
            AllocationError: The driver can't use this job.
            UsageError: The trials' Python is not here.
            SlurmSweepsError: No driver has come for long.
        """
        name = self._layout.name
        with Database.open(self._layout.database) as database:
            file = os.stat(database.path)
            found = look(database, name, self._record)
            experiment = found.experiment
            check_python(experiment.settings, self._record.can_drive)
            step = self._choose(found)  # a sweep that is over is offered nothing
            while step.goes_on:
                if step is Step.OFFER:
                    tell_driver(database, experiment.id, "lend", self._record)
                try:
                    found = look(database, name, self._record)
                    was_removed = not _is_still(database.path, file)
                except ExperimentNotFoundError:
                    was_removed = True
                except DatabaseBusyError:  # its driver waits for that, too
                    if time.monotonic() - self._heard_at > self._wait_s:
                        raise
                    step = Step.STAY
                    continue
                if was_removed:
                    self._notify(f"experiment {name!r} was removed: there is nothing to lend for")
                    return Step.END
                experiment, step = found.experiment, self._choose(found)
                if step.goes_on and self._wait(signals, found.look_s):
                    leaving = dataclasses.replace(self._record, state=JobState.LEAVING)
                    tell_driver(database, experiment.id, "leave", leaving)
            if step is not Step.DRIVE:
                self._sign_off(database, found)
        self._part(step, found)
        return step

    def _sign_off(self, database: Database, found: Standing) -> None:
        """Where no driver writes that this job has gone, do so."""
        job, lease = found.job, found.experiment.lease
        is_silent = time.monotonic() - self._heard_at > self._wait_s
        if job is not None and not job.state.is_over and (lease is None or is_silent):
            gone = dataclasses.replace(job, state=JobState.GONE, ended_at=time.time())
            with contextlib.suppress(StorageError):
                put_job(database, found.experiment.id, gone)

    def _choose(self, found: Standing) -> Step:
        """Decide what is next, and ask for the driver where that needs to be known."""
        now, lease, can_drive = time.monotonic(), found.experiment.lease, self._record.can_drive
        heartbeat = 0.0 if lease is None else lease.heartbeat
        if heartbeat != self._heartbeat:
            self._heard_at, self._heartbeat = now, heartbeat
        if lease is not None and lease.owner.nonce != self._driver:
            self._driver = lease.owner.nonce
            where = f"job {lease.owner.job_id}" if lease.owner.job_id else lease.owner.host
            self._notify(
                f"job {self._record.job_id} lends {self._record.nodes} to {self._layout.name!r}, "
                f"which is driven by {where}"
            )
        told_s = None if self._told_at is None else now - self._told_at
        step = decide(found, can_drive, now - self._heard_at, told_s, self._wait_s)
        if lease is None or told_s is not None or step not in (Step.STAY, Step.ASK):
            return step
        may_ask = step is Step.ASK and now - self._asked_at > ASK_AGAIN_S
        if may_ask:
            self._asked_at = now
        ask = is_job_over if may_ask else lambda _: False  # it is taken to run on meanwhile
        gone = can_drive and is_gone(lease, time.time(), here=self._owner, is_job_over=ask)
        return Step.DRIVE if gone else Step.STAY

    def _wait(self, signals: StopSignals, wait_s: float) -> bool:
        """Wait for a while; return whether a signal came to end the job, the first time."""
        select.select([signals.fd], [], [], wait_s if self._told_at is None else 1.0)
        came = signals.take()
        if not came or self._told_at is not None:
            return False
        self._told_at = time.monotonic()
        self._notify(f"{came[0].name}: job {self._record.job_id} asks to be let go")
        return True

    def _part(self, step: Step, found: Standing) -> None:
        """Tell why the job lends no more; raise where that is an error."""
        job, name = self._record.job_id, self._layout.name
        if step is Step.REFUSED:
            note = found.job.note if found.job else ""
            raise AllocationError(f"job {job} can't be used by the driver of {name!r}: {note}")
        if step is Step.FAILED:
            raise SweepFailedError(
                f"the sweep {name!r} has failed: its driver's output tells why; nothing is lent"
            )
        if step is Step.LEFT:
            cancel_waiting_jobs(build_job_name(name, os.path.abspath(self._layout.folder)))
            raise SlurmSweepsError(
                f"no driver of {name!r} was heard of for {self._wait_s:.0f} s: job {job} ends"
            )
        if step is not Step.DRIVE:
            self._notify(f"job {job} lends no more: {step.value.partition(': ')[2]}")
