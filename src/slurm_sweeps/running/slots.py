"""A slot as the driver sees it: its worker, its trial, and its record of failures.

The crew: all slots with their workers, from the first start to the last goodbye.

A worker that dies is started again after a pause that grows; a node on which workers keep dying
before any of their trials has ended is left out. Workers that die of the same cause, all at once,
count as one: only the death of a worker that was started after the last one is one more. What a
dead worker means for its trial is the driver's business.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ..errors import LaunchError
from ..storage.records import TrialRecord
from ..sweep import Ended, TrialState
from ..trial import Status, TrialError, describe_value, make_storable
from .channel import Link, Record
from .launchers import Launcher, allow_open_files

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


#: A node is left out when this many workers on it in a row have ended before any of their trials.
MAX_NODE_FAILURES = 3

#: A step that Slurm has no room for is asked for again after so many seconds.
STALL_S = 5.0

#: How many files the driver may have open: for itself, and for the pipes of each slot.
FILES, FILES_PER_SLOT = 200, 6

#: A worker that was told to go has this long before it is killed, in seconds.
LEAVE_S = 2.0

#: A slot in one of these states has a worker.
WITH_WORKER = frozenset({SlotState.STARTING, SlotState.READY, SlotState.BUSY, SlotState.LEAVING})


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that is gone.

    Args:
        why: In words.
        exit_code: Of its process.
        said: What it wrote last that explains it.
    """

    why: str
    exit_code: int | None
    said: str


@dataclass(slots=True)
class _Node:
    """A node's record: how many workers in a row ended there without a trial of theirs ending."""

    failures: int = 0
    failed_at: float = field(default=float("-inf"))


class Crew:
    """See the module's docstring.

    Args:
        launcher: Starts workers.
        init: The `init` record for each of them, without its `step`.
        selector: Where their streams are registered, with their link as data.
        notify: Tells the user something, once.

    Attributes:
        any_ready: Whether any worker has ever loaded `train`.
    """

    def __init__(
        self,
        launcher: Launcher,
        init: Record,
        selector: selectors.BaseSelector,
        notify: Callable[[str], None],
    ) -> None:
        allow_open_files(FILES + FILES_PER_SLOT * launcher.slots)
        self.slots = [LiveSlot(i, launcher.get_nodes(i)) for i in range(launcher.slots)]
        self._launcher = launcher
        self._init = init
        self._selector = selector
        self._notify = notify
        self.any_ready = False
        self._malformed = 0
        self._nodes = {node: _Node() for slot in self.slots for node in slot.nodes}

    @property
    def malformed(self) -> int:
        """How many records of workers made no sense, and were left aside."""
        return self._malformed + sum(link.malformed for link in self._links)

    @property
    def _links(self) -> list[Link]:
        """What leads to workers, each once."""
        links = {id(slot.link): slot.link for slot in self.slots if slot.link is not None}
        return list(links.values())

    @property
    def is_out(self) -> bool:
        """Whether no slot is left."""
        return all(slot.state is SlotState.OUT for slot in self.slots)

    @property
    def idle(self) -> Iterator[LiveSlot]:
        """The slots that wait for a trial."""
        return (slot for slot in self.slots if slot.is_idle)

    def has_unsent(self) -> bool:
        """Send what pipes did not take before; return whether something is still left."""
        left = [slot.link.send_rest() for slot in self.slots if slot.link is not None]
        return any(left)

    def find_slot(self, link: Link, record: Record) -> LiveSlot | None:
        """Return the slot whose worker said something; None for nobody's, an edited record."""
        index = record.get("slot", min(link.slots, default=None))
        return self.slots[index] if index in link.slots else None

    def start(self, wanted: int, now: float) -> None:
        """See that as many slots have workers as there is work for, where there are as many."""
        for slot in self.slots:
            if wanted <= 0:
                return
            if slot.state in WITH_WORKER:
                wanted -= 1
            elif slot.state is SlotState.DOWN and now >= slot.start_at:
                wanted -= 1
                self._start_one(slot)

    def _start_one(self, slot: LiveSlot) -> None:
        slot.worker_since = time.monotonic()
        try:
            link = self._launcher.start(slot.index)
        except LaunchError as error:  # out of processes, perhaps; those that run may end soon
            self._note_failure(slot)
            if not any(other.state in WITH_WORKER for other in self.slots):
                raise
            self._notify(f"slot {slot.index} has to wait: {error}")
            return
        slot.link, slot.state = link, SlotState.STARTING
        slot.ready_ranks.clear()
        if not link.slots:
            for fd in link.streams:
                self._selector.register(fd, selectors.EVENT_READ, link)
        link.slots.add(slot.index)
        slot.send({**self._init, "step": self._launcher.describe_slot(slot.index)})

    def note_hello(self, slot: LiveSlot, record: Record) -> None:
        """A worker has begun: take down where."""
        if slot.link is not None:
            slot.link.has_begun = True
        if record.get("rank", 0) == 0:
            slot.host, slot.step = record["host"], record.get("step")

    def note_ready(self, slot: LiveSlot, record: Record) -> bool:
        """A rank's worker is ready; return whether all of the slot are now."""
        slot.ready_ranks.add(record.get("rank", 0))
        slot.note_place(record)
        if len(slot.ready_ranks) < self._launcher.world_size:
            return False
        slot.state = SlotState.READY
        self.any_ready = True
        return True

    def note_success(self, slot: LiveSlot) -> bool:
        """A trial of the slot has ended; return whether its worker takes another."""
        slot.failures = 0
        for node in slot.nodes:
            self._nodes[node].failures = 0
        if self._launcher.fresh_workers and slot.link is not None:
            slot.state = SlotState.LEAVING
            slot.link.close_input()
            return False
        slot.state = SlotState.READY
        return True

    def look_for_stalls(self, now: float) -> None:
        """See to workers that may not begin for long, as srun waits for room.

        That is so right after the death of an srun, until Slurm has cleared its step away. By
        itself srun looks again after minutes (launch.c of 22.05), so it is started anew.
        """
        for slot in self.slots:
            link = slot.link
            if slot.state is not SlotState.STARTING or link is None or link.has_begun:
                continue
            stall = self._launcher.find_stall(link.tail.decode(errors="replace"))
            if not stall:
                continue
            if slot.failures == 0:
                self._notify(stall)
            if now - slot.worker_since > STALL_S:
                self._unregister(link)
                link.end()
                waiting, link.slots = link.slots, set()
                for index in waiting:
                    self.slots[index].link = None
                    self.slots[index].note_failure(now)

    def lose(self, slot: LiveSlot, why: str) -> Loss | None:
        """A worker is gone, or has to go: end what is left of it and of its trial.

        Returns:
            What is known of it; None if it left as it was told to.

        Raises:
            LaunchError: No worker could be started on any slot.
        """
        link, state = slot.link, slot.state
        if link is None:
            return None
        slot.link = None
        link.slots.discard(slot.index)
        if link.slots:
            return self._lose_one_of_many(slot, link, why)
        self._unregister(link)
        if state is SlotState.LEAVING:
            slot.state = SlotState.DOWN
            link.end(LEAVE_S)
            self._malformed += link.malformed
            return None
        code = link.end()
        self._malformed += link.malformed
        self._note_failure(slot)
        if slot.trial is not None or link.has_lost_trials:
            self._launcher.clean_up(slot.index, slot.step, slot.trial_pid)
        said = link.tail.decode(errors="replace").strip()
        loss = Loss(why, code, self._launcher.explain(said) or said)
        if state is SlotState.STARTING:
            self._give_up_if_none_starts(loss)
        return loss

    def _lose_one_of_many(self, slot: LiveSlot, link: Link, why: str) -> Loss:
        """A worker is gone, or has to go, whose link leads to others too."""
        link.send({"kind": "kill", "slot": slot.index})  # a trial of its own dies with it
        self._note_failure(slot)
        link.has_lost_trials |= slot.trial is not None
        return Loss(why, link.process.poll(), link.tail.decode(errors="replace").strip())

    def _unregister(self, link: Link) -> None:
        for fd in link.streams:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)

    def _note_failure(self, slot: LiveSlot) -> None:
        now = time.monotonic()
        slot.note_failure(now)
        for node in map(self._nodes.__getitem__, slot.nodes):
            if slot.worker_since > node.failed_at:
                node.failures += 1
                node.failed_at = now

    def _give_up_if_none_starts(self, loss: Loss) -> None:
        if self.any_ready or any(slot.state in WITH_WORKER for slot in self.slots):
            return
        said = loss.said or "nothing"
        raise LaunchError(
            f"no worker could be started (exit code {loss.exit_code}); it said: {said}"
        )

    def leave_nodes_out(self, slot: LiveSlot) -> None:
        """After a loss: leave out the slot's nodes if too many workers have died there."""
        for node in slot.nodes:
            if self._nodes[node].failures < MAX_NODE_FAILURES:
                continue
            for other in self.slots:
                if node in other.nodes and other.link is None:
                    other.state = SlotState.OUT
            self._notify(
                f"{node} is left out from now on: {MAX_NODE_FAILURES} workers in a row ended there "
                "before any of their trials did"
            )

    def dismiss(self) -> None:
        """Let all workers leave by themselves for a moment, then see to it."""
        links = self._links
        for link in links:
            link.close_input()
        deadline = time.monotonic() + LEAVE_S
        for link in links:
            link.wait(max(0.0, deadline - time.monotonic()))
        for link in links:
            link.end()
        for slot in self.slots:
            if slot.link is not None and slot.trial is not None:
                self._launcher.clean_up(slot.index, slot.step, slot.trial_pid)
