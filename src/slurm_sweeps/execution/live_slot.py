"""A slot as the driver sees it: its worker, its trial, and its record of failures."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import Enum

from ..running.channel import Record, make_storable
from ..storage.records import TrialRecord
from ..sweep import Ended, TrialState
from ..trial import Status, TrialError, describe_value
from .link import Link

#: Seconds before a slot's dead worker is started again: doubled each time, up to the last.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0


#: How a rank fails that has lost another one: Python's errors, and what gloo and NCCL say.
_LOST_PEER = re.compile(
    r"Connection\w*Error|BrokenPipe|EOFError|DistNetworkError|ncclRemoteError|Broken pipe"
    r"|connection (was )?(closed|reset|refused|aborted|lost)|(closed|reset) by (remote )?peer",
    re.IGNORECASE,
)

_encode_json = json.JSONEncoder(default=describe_value).encode


class SlotState(Enum):
    """What a slot is at."""

    DOWN = "down"  # no worker; one may be started
    STARTING = "starting"  # a worker that has not said yet that it is ready
    READY = "ready"  # waits for a trial
    BUSY = "busy"  # runs a trial
    LEAVING = "leaving"  # its worker was told to go, after its one trial
    OUT = "out"  # left out for good


@dataclass(slots=True)
class LiveSlot:
    """One slot.

    Args:
        index: Its number, from 0.
        nodes: The nodes it is on.
        state: What it is at.
        link: What leads to its worker, while there is one.
        host: Where its worker said it runs.
        trial: The trial that it runs.
        trial_pid: The (first) process of that trial, on its own host.
        ready_ranks: The ranks whose workers are ready.
        ends: What the ranks said of the trial's end so far, by rank.
        failures: How many workers in a row ended before any trial of theirs did.
        start_at: When to start a worker again (monotonic seconds).
        worker_since: When its latest worker was started (monotonic seconds).
        started_at: When the trial began (seconds since 1970).
        gpus: The GPUs of the trial here, as in CUDA_VISIBLE_DEVICES.
        port: The MASTER_PORT of the next trial here, if it runs in a job step.
        address: Its MASTER_ADDR.
        step: The id of the job step that the worker runs in, if it does.
        deadline: When the driver stops waiting for the trial's end (monotonic seconds).
    """

    index: int
    nodes: tuple[str, ...]
    state: SlotState = SlotState.DOWN
    link: Link | None = None
    host: str | None = None
    trial: TrialState | None = None
    trial_pid: int | None = None
    ready_ranks: set[int] = field(default_factory=set)
    ends: dict[int, Record] = field(default_factory=dict)
    failures: int = 0
    start_at: float = 0.0
    worker_since: float = 0.0
    started_at: float | None = None
    gpus: str | None = None
    port: int | None = None
    address: str | None = None
    step: str | None = None
    deadline: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether it could take a trial now."""
        return self.state is SlotState.READY and self.trial is None

    def send(self, record: Record) -> None:
        """Say something to the slot's worker, if there is one."""
        if self.link is not None:
            self.link.send({**record, "slot": self.index})

    def begin(self, trial: TrialState, now: float, gpus: str | None) -> None:
        """Take down that a trial begins here, at `now` (seconds since 1970)."""
        self.state = SlotState.BUSY
        self.trial, self.started_at, self.gpus = trial, now, gpus
        self.trial_pid = self.deadline = None
        self.ends.clear()

    def note_place(self, record: Record) -> None:
        """Take down what the next trial here will find, from a worker in a job step."""
        if record.get("port") is not None:
            self.port, self.address = record["port"], record["address"]
            self.gpus = record.get("gpus")

    def note_failure(self, now: float) -> None:
        """Count a worker that died, and set when the next may start."""
        self.failures += 1
        self.start_at = now + min(FIRST_PAUSE_S * 2 ** (self.failures - 1), LONGEST_PAUSE_S)
        self.state = SlotState.DOWN


def judge_ends(ends: dict[int, Record]) -> Record:
    """Decide how a trial of several ranks ended, from what each rank's worker said.

    The first rank that failed or was killed decides: what the others say then follows from it. One
    that lost a connection speaks only where no other reason is known: as a rank unwinds its stack
    it hangs up, and the others may fail of that before it has come to its end. A killed rank is a
    failure of the trial: the others live and its worker saw it, so nothing is unknown. Where no
    rank failed, rank 0 speaks for all.

    Args:
        ends: The `ended` records by rank; `at` in them is when that was (seconds since 1970).
    """
    if len(ends) == 1:
        return next(iter(ends.values()))
    broken = [end for end in ends.values() if end["how"] in ("failed", "lost")]
    if not broken:
        return ends[0]
    first = min(broken, key=lambda end: (_is_lost_peer(end), float(end.get("at", float("inf")))))
    rank = first.get("rank", 0)
    return {**first, "how": "failed", "message": f"rank {rank}: {first.get('message', '')}"}


def _is_lost_peer(end: Record) -> bool:
    said = f"{end.get('error_type', '')}: {end.get('message', '')}"
    return end["how"] == "failed" and _LOST_PEER.search(said) is not None


def build_trial_record(slot: LiveSlot, trial: TrialState, status: Status) -> TrialRecord:
    """Describe a trial in this slot for the database."""
    return TrialRecord(
        number=trial.number,
        trial_id=trial.trial_id,
        repetition=trial.repetition,
        cfg_json=_encode_json(trial.cfg),
        status=status,
        attempt=trial.attempt,
        lost_count=trial.lost_count,
        slot=slot.index,
        host=slot.host,
        gpus=slot.gpus,
        start_time=slot.started_at,
    )


def parse_end(end: Record) -> Ended:
    """Read an `ended` record."""
    error = None
    if end.get("error_type"):
        texts = (str(end.get(key, "")) for key in ("error_type", "message", "traceback"))
        error = TrialError(*map(make_storable, texts))
    return Ended(Status(end["how"]), error, end.get("exit_code"), end.get("signal"))
