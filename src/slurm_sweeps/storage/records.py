"""What goes into the database and what comes out, as plain records.

Times are seconds since 1970 (UTC) as floats. A metric's value may be NaN or infinite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import Any

from ..trial import Status, TrialError

#: What a sweep was stopped by when someone asked for it from outside.
STOP_REQUEST = "stop request"

#: What ends a sweep because a person wants it to end.
BY_A_PERSON = ("SIGINT", STOP_REQUEST)


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One run of a trial: where, when, and how it ended.

    Args:
        number: The trial's position in its sweep, from 0; with the experiment it is the key.
        attempt: 1 for the first run, 2 and more for retries.
        host: The (first) host it runs or ran on.
        job_id: The Slurm job that it runs or ran in, if any.
        gpus: The GPUs it was given, as in CUDA_VISIBLE_DEVICES.
        last_iteration: That of the trial's latest report, when this was written.
        error: Why it failed or was lost.
        memory_mb: Its peak, in MiB; of its largest process where its job step has no cgroup.
        cpu_s: CPU time, with that of processes that it has waited for.
        gpu_memory_mb: The peak of what it took of GPUs, in MiB.
    """

    number: int
    _: KW_ONLY
    status: Status
    attempt: int = 1
    slot: int | None = None
    job_id: str | None = None
    host: str | None = None
    gpus: str | None = None
    start_time: float | None = None
    end_time: float | None = None
    last_iteration: int | None = None
    error: TrialError | None = None
    exit_code: int | None = None
    signal: int | None = None
    memory_mb: float | None = None
    cpu_s: float | None = None
    gpu_memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord(AttemptRecord):
    """The state of a trial from now on, written once for every change of its status.

    What it is as an attempt is its latest one; a scheduled trial has not begun that.

    Args:
        trial_id: 12 hex digits, unique in the experiment.
        repetition: How many trials with an equal cfg came before.
        cfg_json: The configuration as JSON text.
        lost_count: How many of its attempts were lost.
    """

    trial_id: str
    repetition: int
    cfg_json: str
    _: KW_ONLY
    lost_count: int = 0


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """What a trial logged at one iteration; replaces what it logged there before."""

    number: int
    attempt: int
    iteration: int
    metrics: dict[str, float]
    logged_at: float


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The state of the whole experiment from now on, such as "running" or "completed".

    Args:
        ended_by: What has ended it before all trials were done, such as "time budget".
    """

    state: str
    ended_by: str | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Of what code a driver ran, and where.

    Args:
        started_at: When it began, unique in the experiment.
        told: What is known, JSON-able; see `experiment/provenance.py`.
        diff: What of the code was not committed, as text.
    """

    started_at: float
    told: Mapping[str, Any]
    diff: str = ""


class JobState(str, Enum):
    """What a job is to a sweep."""

    WAITING = "waiting"  # it has offered its nodes
    LENDING = "lending"  # the driver runs trials there
    DRIVING = "driving"  # the driver runs in it, and trials too
    LEAVING = "leaving"  # it is about to end: nothing new is started there
    RELEASED = "released"  # the sweep needs it no more; it ends by itself
    REFUSED = "refused"  # the driver can't use it, see the note
    GONE = "gone"  # it ended while it was needed

    @property
    def is_over(self) -> bool:
        """Whether the sweep has nothing to do with it any more."""
        return self in (JobState.RELEASED, JobState.REFUSED, JobState.GONE)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A Slurm job whose nodes are a sweep's, from now on.

    Args:
        restarts: How often Slurm had queued it again when it came; with its id it is the key.
        can_drive: Whether it goes on with the sweep when the driver's job has ended.
        nodes: The names of its nodes, for people.
        offer: What it has, as JSON text; see `describe_allocation`.
        since: When it came, in seconds since 1970.
        slots: How many trials run there at once; None before that is known.
        ends_at: When Slurm ends it at the latest; None where that isn't known, or never.
        ended_at: When the sweep stopped using it.
        note: Why it is refused, or has gone.
    """

    job_id: str
    restarts: int
    state: JobState
    _: KW_ONLY
    can_drive: bool
    nodes: str
    offer: str
    since: float
    slots: int | None = None
    ends_at: float | None = None
    ended_at: float | None = None
    note: str | None = None


#: What a writer takes.
Record = TrialRecord | ReportRecord | StateRecord | RunRecord | JobRecord


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """The driver that works on an experiment.

    Args:
        job_id: Its Slurm job, if it runs in one.
        start: Which process this pid is: the machine's boot, the process's PID namespace and its
            start, so that no other process of this pid is taken for it; empty if unknown.
        nonce: Unique for each time a lease is taken.
    """

    host: str
    pid: int
    job_id: str | None
    start: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds an experiment, and when it was last heard of."""

    owner: LeaseOwner
    heartbeat: float


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One experiment.

    Args:
        name: Unique in the database.
        created_at: When it was first run.
        updated_at: When a driver last wrote to it.
        state: What it is at, in the driver's words.
        settings: What the driver wrote down about the sweep.
        lease: Who works on it, None when nobody does.
    """

    id: int
    name: str
    created_at: float
    updated_at: float
    state: str
    settings: Mapping[str, Any]
    lease: Lease | None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What is known of one metric of one trial without reading its rows.

    The last is so by iteration. The extremes are taken over finite values only (None where there is
    none), each at its earliest iteration.
    """

    number: int
    count: int
    last_iteration: int
    last_value: float
    min_value: float | None
    min_iteration: int | None
    max_value: float | None
    max_iteration: int | None


@dataclass(frozen=True, slots=True)
class Request:
    """What someone outside asks of a running driver.

    Args:
        kind: "stop", "prune", "retry" or "add"; "lend" or "leave" from a job.
        argument: A trial's id, for "add" a part of a cfg as JSON, from a job its record as JSON,
            where the kind needs one.
    """

    id: int
    kind: str
    argument: str | None
    created_at: float
