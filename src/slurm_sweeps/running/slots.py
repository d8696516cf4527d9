"""The crew: all slots with their workers, from the first start to the last goodbye.

A worker that dies is started again after a pause that grows; a node on which workers keep dying
before any of their trials has ended is left out. Workers that die of the same cause, all at once,
count as one: only the death of a worker that was started after the last one is one more. What a
dead worker means for its trial is the driver's business.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..errors import LaunchError
from ..execution.link import Link
from ..execution.live_slot import LiveSlot, SlotState
from .channel import Record
from .launchers import Launcher, allow_open_files

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
