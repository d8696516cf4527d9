"""What goes into the database and what comes out, as plain records.

Times are seconds since 1970 (UTC) as floats; memory is in MiB. A metric's value may be NaN or
infinite.
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
    """One run of a trial: where, when, and how it ended."""

    number: int  # the trial's position in its sweep, from 0; with the experiment it is the key
    _: KW_ONLY
    status: Status
    attempt: int = 1  # 2 and more for retries
    slot: int | None = None
    job_id: str | None = None  # of the Slurm job that it runs or ran in, if any
    host: str | None = None  # the first one
    gpus: str | None = None  # those it was given, as in CUDA_VISIBLE_DEVICES
    start_time: float | None = None
    end_time: float | None = None
    last_iteration: int | None = None  # of the trial's latest report, when this was written
    error: TrialError | None = None  # why it failed or was lost
    exit_code: int | None = None
    signal: int | None = None
    memory_mb: float | None = None  # peak; of its largest process where its step has no cgroup
    cpu_s: float | None = None  # with that of processes that it has waited for
    gpu_memory_mb: float | None = None  # peak of what it took of GPUs


@dataclass(frozen=True, slots=True)
class TrialRecord(AttemptRecord):
    """The state of a trial from now on, written once for every change of its status.

    What it is as an attempt is its latest one; a scheduled trial has not begun that.
    """

    trial_id: str  # 12 hex digits, unique in the experiment
    repetition: int  # how many trials with an equal cfg came before
    cfg_json: str  # the configuration as JSON text
    _: KW_ONLY
    lost_count: int = 0  # how many of its attempts were lost


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
    """The state of the whole experiment from now on, such as "running" or "completed"."""

    state: str
    ended_by: str | None = None  # before all trials were done, such as "time budget"


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Of what code a driver ran, and where."""

    started_at: float  # unique in the experiment
    told: Mapping[str, Any]  # what is known, JSON-able; see `experiment/provenance.py`
    diff: str = ""  # what of the code was not committed


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
    """A Slurm job whose nodes are a sweep's, from now on."""

    job_id: str
    restarts: int  # how often Slurm had queued it again when it came; with its id it is the key
    state: JobState
    _: KW_ONLY
    can_drive: bool  # whether it goes on with the sweep when the driver's job has ended
    nodes: str  # their names, for people
    offer: str  # what it has, as JSON text; see `describe_allocation`
    since: float  # when it came
    slots: int | None = None  # how many trials run there at once; None before that is known
    ends_at: float | None = None  # when Slurm ends it at the latest; None: never, or unknown
    ended_at: float | None = None  # when the sweep stopped using it
    note: str | None = None  # why it is refused, or has gone


#: What a writer takes.
Record = TrialRecord | ReportRecord | StateRecord | RunRecord | JobRecord


@dataclass(frozen=True, slots=True)
class LeaseOwner:
    """The driver that works on an experiment."""

    host: str
    pid: int
    job_id: str | None  # of its Slurm job, if it runs in one
    start: str  # which process this pid is: see `lease.read_process_start`
    nonce: str  # unique for each time a lease is taken


@dataclass(frozen=True, slots=True)
class Lease:
    """Who holds an experiment, and when it was last heard of."""

    owner: LeaseOwner
    heartbeat: float


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One experiment."""

    id: int
    name: str  # unique in the database
    created_at: float  # when it was first run
    updated_at: float  # when a driver last wrote to it
    state: str  # what it is at, in the driver's words
    settings: Mapping[str, Any]  # what the driver wrote down about the sweep
    lease: Lease | None  # who works on it, None when nobody does


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
