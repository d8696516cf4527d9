"""The slots of a sweep: their workers, their trials, and their record of failures.

A slot is a place where one trial runs at a time. Launchers lend them (`Slots.lend`), and may take
them back while the sweep runs (`Slots.withdraw`). A slot's number is never given to another one; on
the channel it goes by the number that its launcher knows it by.

A worker that dies is started again after a pause that grows; a node on which workers keep dying
before any of their trials has ended is left out for a while, and Slurm's own faults are waited out
(`nodes`). Workers that die of the same cause, all at once, count as one: only the death of a worker
that was started after the last one is one more. All that follows from it comes as one value
(`Loss`).

Nothing here costs more for having many slots: they are kept by their status, and what becomes due
waits in heaps. A `SlotState` knows what it is at, and only `Slots` changes that.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from ..errors import OUT_OF_MEMORY, LaunchError
from ..sweep_types import Ended, TrialState
from ..trial import Status, TrialError
from .channel import ALIVE_EVERY_S, Connection, Record
from .deadlines import LEAVE_S
from .launchers import Launcher, SlotPlace
from .nodes import Nodes, double
from .usage import tells_of_killed_step

#: Seconds before a slot's dead worker is started again: doubled each time, up to the last.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0

#: A step that Slurm has no room for is asked for again after so many seconds; after so many times
#: its slot is taken off the plan, and tried again after minutes: doubled each time, up to the last.
STALL_S = 5.0
MAX_STALLS = 8
FIRST_REST_S, LONGEST_REST_S = 300.0, 3600.0

#: What may pass is asked for so often before it is believed, if no worker has ever begun: 30 s.
MAX_REFUSALS = 5

#: A worker that has not begun after so many seconds, while nobody says why, is started anew.
BEGIN_S = 600.0

#: One that has begun and has not loaded `train` after so many seconds is told of; after the second
#: number it is given up. Imports may take minutes where many nodes read the same disk.
TELL_LOAD_S, LOAD_S = 300.0, 1800.0

#: How often it is looked whether hosts have begun, and whether they live, in seconds.
LOOK_S = 0.5

#: A worker that has said that it is there and is silent for so many seconds is told of; after the
#: second number it is given up. That of a stopped process, or of one on a crowded machine, may well
#: be heard again before; Slurm gives a node as long (SlurmdTimeout).
ASK_AFTER_S, SILENT_S = 60.0, 300.0

#: No worker is started for so many seconds where a job seems to be gone: it is, or Slurm knows.
TAKEN_S = 15.0

#: Slurm has this long to end the step around a worker that was told to go after its one trial.
EXIT_S = 30.0


class SlotStatus(Enum):
    """What a slot is at."""

    DOWN = "down"  # no worker; one may be started
    STARTING = "starting"  # a worker that has not said yet that it is ready
    READY = "ready"  # waits for a trial
    BUSY = "busy"  # runs a trial
    LEAVING = "leaving"  # its worker was told to go, after its one trial


@dataclass(slots=True, eq=False)
class SlotState:
    """One slot. Points in time are those of the driver's clock, in seconds."""

    number: int  # in the sweep, from 0
    launcher: Launcher  # who lends it
    place: SlotPlace  # which of the launcher's slots it is
    status: SlotStatus = SlotStatus.DOWN
    connection: Connection | None = None  # to its worker, while there is one
    host: str | None = None  # where its worker said it runs
    step: str | None = None  # the job step that the worker runs in, if it does
    found: Record = field(default_factory=Record)  # what its next trial will find there
    ready_ranks: set[int] = field(default_factory=set)
    trial: TrialState | None = None
    trial_pid: int | None = None  # of the trial's (first) process, on its own host
    ends: dict[int, Record] = field(default_factory=dict)  # what each rank said of the trial's
    highest: int = 0  # the highest iteration that its trial has logged in this attempt
    kept: int = 0  # how many records its trial knows to be in the database
    failures: int = 0  # how many workers in a row ended before any trial of theirs did
    start_at: float = 0.0  # when to start a worker again
    worker_since: float = 0.0  # when its latest worker was started
    deadline: float | None = None  # when what is to end here is waited for no more
    heard_at: dict[int, float] = field(default_factory=dict)  # when each rank said it is there
    refusal: str | None = None  # why Slurm did not start the latest, where that won't pass

    def send(self, record: Mapping[str, Any]) -> None:
        """Say something to the slot's worker, if there is one."""
        if self.connection is not None:
            self.connection.send({**record, "slot": self.place.number})

    def count(self, report: Record) -> int:
        """Return which iteration a report, or an end with one, is of."""
        iteration = report.get("iteration", 1)
        if "counts" in report:
            iteration = max(iteration, self.highest + 1)
        self.highest = max(self.highest, iteration)
        return iteration

    def note_place(self, record: Record) -> None:
        """Take down what the next trial here will find, as its worker says."""
        if "gpus" in record:
            self.found["gpus"] = record["gpus"]
        if "port" in record and "address" in record:
            self.found |= {"port": record["port"], "address": record["address"]}


def compute_pause(failures: int) -> float:
    """Return after how many seconds a worker is started again, that many having died in a row."""
    return double(FIRST_PAUSE_S, LONGEST_PAUSE_S, failures)


@dataclass(frozen=True, slots=True)
class Loss:
    """All that follows from workers that are gone: trials lost with them, and what to tell."""

    ends: list[tuple[SlotState, Ended]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def add_ends(
        self,
        slots: Iterable[SlotState],
        why: str,
        code: int | None,
        said: str,
        status: Status = Status.LOST,
    ) -> None:
        """Add the trials of slots whose worker is gone; interrupted is nobody's fault."""
        kind, text = "WorkerLost", f"the worker {why}{_format_code(code)}"
        if tells_of_killed_step(said):
            kind, text = OUT_OF_MEMORY, f"{text}: its job step ran out of memory"
        error = TrialError(kind, text, said)
        ended = Ended(status, error)
        self.ends.extend((slot, ended) for slot in slots if slot.trial is not None)


class Slots:
    """See the module's docstring.

    Args:
        init: The `init` record for every worker, without what its launcher adds.
        selector: Where their streams are registered, with their connection as data.
        notify: Tells the user something, once, unless its second argument is True.
        keep: Appends noise to a log, without waiting for the disk.
        clock: Tells the time, in which all waits are measured.

    Attributes:
        any_ready: Whether a worker has ever loaded `train`.
        any_taken: Whether workers have ended as if a job that was lent were gone.
        n_ever: How many slots there have been: the number of the next one.
    """

    def __init__(
        self,
        init: Mapping[str, Any],
        selector: selectors.BaseSelector,
        notify: Callable[..., None],
        keep: Callable[[Path, bytes], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._init = init
        self._selector = selector
        self._notify = notify
        self._keep = keep
        self._clock = clock
        self.any_ready = self.any_taken = False
        self.n_ever = 0
        self._malformed = 0
        self._all: dict[int, SlotState] = {}
        self._of_launcher: dict[Launcher, list[SlotState]] = {}
        self._by_status: dict[SlotStatus, dict[int, SlotState]] = {s: {} for s in SlotStatus}
        self._served: dict[Connection, dict[int, SlotState]] = {}  # by the launcher's numbers
        self._nodes = Nodes()
        # When, and which; what has changed since is skipped.
        self._to_start: list[tuple[float, int]] = []
        self._deadlines: list[tuple[float, int]] = []
        self._look_at = self._listen_at = 0.0
        self._gone: set[Connection] = set()  # those whose process had ended at the latest look

    def __len__(self) -> int:
        return len(self._all)

    # --- slots come and go ------------------------------------------------------------------------

    def lend(self, launcher: Launcher) -> None:
        """Add the slots of a launcher."""
        for place in launcher.slots:
            slot = SlotState(self.n_ever, launcher, place)
            self.n_ever += 1
            self._of_launcher.setdefault(launcher, []).append(slot)
            self._all[slot.number] = slot
            self._set(slot, SlotStatus.DOWN)

    def list_lent(self, launcher: Launcher) -> list[SlotState]:
        """Return the slots that a launcher lends."""
        return list(self._of_launcher.get(launcher, ()))

    def let_go(self, launcher: Launcher) -> bool:
        """Have a launcher's hosts leave in which no trial runs; return whether all have left.

        They are told by the end of their input: tasks of an srun that is killed with its group do
        not read that, and stay (22.05).
        """
        slots = self.list_lent(launcher)
        for slot in slots:
            slot.start_at = math.inf
        for connection in {slot.connection for slot in slots} - {None}:
            served = self.list_served(connection) if connection else []
            if any(slot.status in (SlotStatus.BUSY, SlotStatus.LEAVING) for slot in served):
                continue
            for slot in served:
                self._set(slot, SlotStatus.LEAVING)
                self.expect_end(slot, self._clock() + EXIT_S)
            if connection:
                connection.close_input()
        return all(slot.status is SlotStatus.DOWN for slot in slots)

    def withdraw(self, slots: Iterable[SlotState]) -> Loss:
        """Take slots away, with their workers; their trials are interrupted."""
        loss = Loss()
        slots = list(slots)
        for group, code, connection in self._part(slots):
            loss.add_ends(group, "was withdrawn", code, connection.said, Status.INTERRUPTED)
        for slot in slots:
            del self._all[slot.number], self._by_status[slot.status][slot.number]
            self._of_launcher[slot.launcher].remove(slot)
            if not self._of_launcher[slot.launcher]:
                del self._of_launcher[slot.launcher]
                self._nodes.forget(n for place in slot.launcher.slots for n in place.nodes)
        return loss

    # --- what they are at -------------------------------------------------------------------------

    @property
    def malformed(self) -> int:
        """How many records of workers made no sense, and were left aside."""
        return self._malformed + sum(connection.malformed for connection in self._served)

    @property
    def is_out(self) -> bool:
        """Whether no slot is left: workers keep dying wherever there is one."""
        now = self._clock()
        return (
            bool(self._all)
            and not self._n_with_worker
            and all(self._nodes.are_left_out(slot.place.nodes, now) for slot in self._all.values())
        )

    @property
    def idle(self) -> list[SlotState]:
        """The slots that wait for a trial."""
        return list(self._by_status[SlotStatus.READY].values())

    @property
    def busy(self) -> list[SlotState]:
        """The slots that run one."""
        return list(self._by_status[SlotStatus.BUSY].values())

    @property
    def with_worker(self) -> list[SlotState]:
        """The slots that have a worker."""
        return [slot for served in self._served.values() for slot in served.values()]

    @property
    def _n_with_worker(self) -> int:
        return len(self) - len(self._by_status[SlotStatus.DOWN])

    def find(self, connection: Connection, record: Record) -> SlotState | None:
        """Return the slot whose worker said something; None for nobody's, an edited record."""
        served = self._served.get(connection, {})
        number = record.get("slot")
        return served.get(min(served, default=-1) if number is None else number)

    def list_served(self, connection: Connection) -> list[SlotState]:
        """Return the slots that a connection leads to, in order."""
        served = self._served.get(connection, {})
        return [served[number] for number in sorted(served)]

    def _set(self, slot: SlotState, status: SlotStatus) -> None:
        self._by_status[slot.status].pop(slot.number, None)
        slot.status = status
        self._by_status[status][slot.number] = slot
        if status is SlotStatus.DOWN:
            heappush(self._to_start, (slot.start_at, slot.number))

    def begin(self, slot: SlotState, trial: TrialState) -> None:
        """Take down that a trial begins here."""
        self._set(slot, SlotStatus.BUSY)
        slot.trial = trial
        slot.trial_pid = slot.deadline = None
        slot.highest = 0
        slot.ends.clear()

    def expect_end(self, slot: SlotState, deadline: float) -> None:
        """Set until when to wait for a slot's trial, or its worker, to end (the clock's)."""
        slot.deadline = deadline
        heappush(self._deadlines, (deadline, slot.number))

    def pop_overdue(self, now: float) -> list[SlotState]:
        """Return the slots where something should have ended by now, each once."""
        overdue = []
        while self._deadlines and self._deadlines[0][0] < now:
            deadline, number = heappop(self._deadlines)
            slot = self._all.get(number)
            if slot is not None and slot.deadline == deadline and slot.connection is not None:
                overdue.append(slot)
                slot.deadline = None
        return overdue

    # --- workers start ----------------------------------------------------------------------------

    def may_start(self, now: float) -> bool:
        """Whether there is a slot whose worker could be started, if there is work for it."""
        return bool(self._to_start) and self._to_start[0][0] <= now

    def start(self, wanted: float, now: float) -> None:
        """See that as many slots have workers as there is work for, where there are as many."""
        while self._n_with_worker < wanted and self.may_start(now):
            start_at, number = heappop(self._to_start)
            slot = self._by_status[SlotStatus.DOWN].get(number)
            if slot is None or slot.start_at != start_at:
                continue
            not_before = self._nodes.find_start(slot.place.nodes)
            if not_before > now:
                self._put_off(slot, not_before)
            else:
                self._start_one(slot)

    def _start_one(self, slot: SlotState) -> None:
        slot.worker_since = self._clock()
        self._nodes.note_start(slot.place.nodes, slot.worker_since)
        try:
            connection = slot.launcher.start(slot.place.number)
        except LaunchError as error:  # out of processes, perhaps; those that run may end soon
            self._note_failure(slot)
            if not self._n_with_worker:
                raise
            self._notify(f"slot {slot.number} has to wait: {error}")
            return
        slot.connection = connection
        self._set(slot, SlotStatus.STARTING)
        slot.ready_ranks.clear()
        slot.heard_at.clear()
        if connection not in self._served:
            self._served[connection] = {}
            connection.attach(self._selector, self._keep)
        self._served[connection][slot.place.number] = slot
        fresh = slot.launcher.fresh_workers
        place = slot.launcher.describe_slot(slot.place.number)
        slot.send({"kind": "init", **self._init, "fresh": fresh, **place})

    def note_hello(self, slot: SlotState, record: Record) -> None:
        """A worker has begun: take down where."""
        now = self._clock()
        if slot.connection is not None and slot.connection.begun_at is None:
            slot.connection.begun_at = now
        for text in self._nodes.note_begun(slot.place.nodes, now):
            self._notify(text, True)
            self._hasten(slot.place.nodes, now)
        if record.get("rank", 0) == 0:
            slot.host, slot.step = record["host"], record.get("step")
            slot.launcher.note_step(slot.step)

    def note_ready(self, slot: SlotState, record: Record) -> bool:
        """A rank's worker is ready; return whether all of the slot are now."""
        slot.ready_ranks.add(record.get("rank", 0))
        if record.get("rank", 0) == 0:
            slot.note_place(record)
        if len(slot.ready_ranks) < slot.launcher.world_size:
            return False
        if slot.status is not SlotStatus.STARTING:  # an edited record
            return False
        self._set(slot, SlotStatus.READY)
        self.any_ready = True
        return True

    def note_success(self, slot: SlotState) -> bool:
        """A trial of the slot has ended; return whether its worker takes another."""
        slot.failures = 0
        for text in self._nodes.note_success(slot.place.nodes):
            self._notify(text, True)
        if slot.launcher.fresh_workers and slot.connection is not None:
            self._set(slot, SlotStatus.LEAVING)
            slot.connection.close_input()
            self.expect_end(slot, self._clock() + EXIT_S)
            return False
        self._set(slot, SlotStatus.READY)
        return True

    def look(self, now: float) -> list[SlotState]:
        """See to hosts every `LOOK_S`; return the slots of those that are dead.

        The end of a host's output says that it has ended, unless something that it has forked holds
        that open. It is dead at the second look in a row, when what it said last has been heard.
        """
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        self._look_for_stalls(now)
        for text in self._nodes.take_refusals(now):
            self._notify(text, True)
        self._check_outage(now)
        before, self._gone = self._gone, {each for each in self._served if each.has_exited()}
        return [slot for each in before & self._gone for slot in self._served[each].values()]

    def _look_for_stalls(self, now: float) -> None:
        """See to workers that may not begin for long, as srun waits for room.

        That is so right after the death of an srun, until Slurm has cleared its step away. By
        itself srun looks again after minutes (launch.c of 22.05), so it is started anew.
        """
        off: dict[str, list[str]] = {}  # slots that are taken off the plan, by reason
        for slot in list(self._by_status[SlotStatus.STARTING].values()):
            connection, waited_s = slot.connection, now - slot.worker_since
            if connection is None or connection.begun_at is not None or waited_s < STALL_S:
                continue
            found = slot.launcher.look_at_start(connection.process.pid, connection.said)
            if found.is_outage and found.refusal:
                self._nodes.note_refusal(slot.place.nodes, found.refusal, slot.worker_since, now)
            if found.stall or waited_s > BEGIN_S:
                why = found.stall or "nothing is heard from there"
                off.setdefault(why, []).extend(self._note_stall(connection, why, now))
        for why, slots in off.items():
            if slots:
                self._notify(f"taken off the plan, slot {', '.join(slots)}: {why}")

    def _note_stall(self, connection: Connection, why: str, now: float) -> Iterator[str]:
        """End what waits, and ask again later; rarely, if that was in vain too often: yield it."""
        for group, _, _ in self._part(self.list_served(connection)):
            for slot in group:
                self._nodes.note_stall(slot.place.nodes, why, slot.worker_since)
                self._pause(slot, now)
                times = slot.failures - MAX_STALLS + 1
                if times > 0:
                    self._put_off(slot, now + double(FIRST_REST_S, LONGEST_REST_S, times))
                if times == 1:
                    yield str(slot.number)

    def note_alive(self, slot: SlotState, record: Record) -> None:
        """A rank's worker says that it is there; from now on it is missed when it doesn't."""
        slot.heard_at[record.get("rank", 0)] = self._clock()

    def find_silent(self, now: float) -> list[SlotState]:
        """Return the slots that are silent for `SILENT_S`; tell of those that are for long.

        Those that do not become ready for `LOAD_S` are among them.
        """
        if now < self._listen_at:
            return []
        self._listen_at = now + ALIVE_EVERY_S
        heard = [(slot, min(slot.heard_at.values(), default=now)) for slot in self.with_worker]
        quiet = [slot for slot, heard_at in heard if now - heard_at > ASK_AFTER_S]
        if quiet:
            nodes = ", ".join(dict.fromkeys(node for slot in quiet for node in slot.place.nodes))
            self._notify(
                f"nothing is heard from {len(quiet)} worker(s) on {nodes}: who is silent for "
                f"{SILENT_S:.0f} s while the job runs is given up"
            )
        silent = [slot for slot, heard_at in heard if now - heard_at > SILENT_S]
        return silent + self._find_loading(now)

    def _find_loading(self, now: float) -> list[SlotState]:
        """Return the slots that load `train` for `LOAD_S`; tell of those that do for long."""
        slots = self._by_status[SlotStatus.STARTING].values()
        begun = [(slot, self._find_begin(slot)) for slot in slots]
        slow = [slot for slot, begun_at in begun if now - begun_at > TELL_LOAD_S]
        if slow:
            where = ", ".join(dict.fromkeys(slot.host or slot.place.nodes[0] for slot in slow))
            self._notify(
                f"{len(slow)} worker(s) on {where} have not loaded train after {TELL_LOAD_S:.0f} "
                f"s: who has not after {LOAD_S:.0f} s is given up. The logs of their slots may "
                "show why"
            )
        return [slot for slot, begun_at in begun if now - begun_at > LOAD_S]

    def find_refusal(self, slots: Iterable[SlotState]) -> str | None:
        """Return why Slurm starts no worker on any of these; None if it ever has, or may yet."""
        why = None
        for slot in slots:
            if slot.host is not None:
                return None
            if slot.refusal and self._nodes.count_refusals(slot.place.nodes) >= MAX_REFUSALS:
                why = slot.refusal
        return why

    def _find_begin(self, slot: SlotState) -> float:
        """Return since when a slot's worker, which is not ready, loads `train`; if it does yet."""
        if slot.connection is None or slot.connection.begun_at is None:
            return math.inf
        return max(slot.connection.begun_at, slot.worker_since)

    def is_quiet(self, slot: SlotState) -> bool:
        """Whether a worker that says that it is there has not said so of late."""
        heard_at = min(slot.heard_at.values(), default=math.inf)
        return self._clock() - heard_at > 2 * ALIVE_EVERY_S

    def excuse_silence(self, slots: Iterable[SlotState], now: float) -> None:
        """Count silence from now on: nobody could be heard before, as in a suspended job.

        They stay quiet all the same, so that what is overdue there is not ended unasked.
        """
        for slot in slots:
            slot.heard_at = dict.fromkeys(slot.heard_at, now - 2 * ALIVE_EVERY_S)
            if slot.connection is not None and slot.connection.begun_at is not None:
                slot.connection.begun_at = now

    def give_up(self, silent: Iterable[SlotState]) -> Loss:
        """Lose silent workers; Slurm has to end what may be left of their steps."""
        by_reason: dict[str, list[SlotState]] = {}
        for slot in silent:
            loads = slot.status is SlotStatus.STARTING
            why = (
                f"had not loaded train after {LOAD_S:.0f} s"
                if loads
                else f"was silent for {SILENT_S:.0f} s"
            )
            by_reason.setdefault(why, []).append(slot)
            if slot.connection is not None:
                slot.connection.has_lost_trials = True
        loss = Loss()
        for why, slots in by_reason.items():
            each = self.lose(slots, f"{why} and was given up")
            loss.ends.extend(each.ends)
            loss.notices.extend(each.notices)
        return loss

    # --- workers end ------------------------------------------------------------------------------

    def lose(self, slots: Iterable[SlotState], why: str, code: int | None = None) -> Loss:
        """Workers are gone, or have to go: end what is left of them and of their trials.

        Args:
            slots: Theirs.
            why: In words, behind "the worker".
            code: The exit code of one that another process has seen end.

        Raises:
            LaunchError: No worker could be started on any slot.
        """
        loss = Loss()
        for group, own_code, connection in self._part(slots):
            ended_with = own_code if code is None else code
            diagnosis = group[0].launcher.diagnose(connection.said)
            said = diagnosis.cause or connection.said
            began = any(slot.status is not SlotStatus.STARTING for slot in group)
            refusal = diagnosis.refusal if connection.begun_at is None else None
            if diagnosis.is_taken:
                self._leave_alone(group)
                loss.add_ends(group, why, ended_with, said, Status.INTERRUPTED)
                continue
            is_lent = group[0].launcher.is_lent  # it may come to nothing, and others go on
            # Of the first one that is started, it may be what was asked that is wrong.
            is_new = self._nodes.count_refusals(group[0].place.nodes) < MAX_REFUSALS
            is_fault = is_lent or diagnosis.is_outage or (diagnosis.may_pass and is_new)
            is_over = diagnosis.is_final and self._n_with_worker == len(group) and not is_lent
            if refusal and (self.any_ready or is_fault) and not is_over:
                may_pass = diagnosis.is_outage or diagnosis.may_pass
                group[0].refusal = None if may_pass else refusal
                self._wait_out(group, refusal)
                continue
            for slot in group:
                if slot.status is SlotStatus.LEAVING:  # as it was told to
                    self._set(slot, SlotStatus.DOWN)
                else:
                    self._note_failure(slot)
                    loss.notices.append(_describe_loss(slot, why, ended_with, said))
            if is_over or not (began or self.any_ready or self._n_with_worker or is_lent):
                raise LaunchError(
                    f"no worker could be started: it {why}{_format_code(ended_with)}; it said: "
                    f"{said or 'nothing'}"
                )
            loss.add_ends(group, why, ended_with, said)
            for slot in group:
                loss.notices.extend(self._nodes.leave_out(slot.place.nodes, self._clock()))
        return loss

    def _leave_alone(self, slots: Iterable[SlotState]) -> None:
        """The job of these workers seems to be gone, which Slurm is asked about."""
        self.any_taken = True
        for slot in slots:
            self._put_off(slot, max(slot.start_at, self._clock() + TAKEN_S))

    def _wait_out(self, slots: Iterable[SlotState], why: str) -> None:
        """Slurm does not start these workers now: nobody's fault."""
        now = self._clock()
        for slot in slots:
            self._nodes.note_refusal(slot.place.nodes, why, slot.worker_since, now)
            self._put_off(slot, self._nodes.find_start(slot.place.nodes))

    def _check_outage(self, now: float) -> None:
        """Raise a LaunchError where nothing runs since Slurm starts no worker for too long."""
        refusal = self._nodes.find_refusal()
        if refusal is None or self._n_with_worker > len(self._by_status[SlotStatus.STARTING]):
            return
        since, why = refusal
        limit_s = max(slot.launcher.outage_s for slot in self._all.values())
        if now - since > limit_s:
            raise LaunchError(
                f"Slurm has started no worker for {now - since:.0f} s: {why}. restore=True goes on "
                "from here; SlurmCfg(outage_in_sec=...) says how long to wait"
            )

    def _part(
        self, slots: Iterable[SlotState]
    ) -> Iterator[tuple[list[SlotState], int | None, Connection]]:
        """Let go of workers; yield those of one process, its exit code, and what led to it.

        A process that serves other slots too is told to end these workers; else it is ended.
        """
        groups: dict[Connection, list[SlotState]] = {}
        for slot in slots:
            if slot.connection is not None:
                groups.setdefault(slot.connection, []).append(slot)
        for connection, group in groups.items():
            for slot in group:
                slot.connection = slot.deadline = None
                del self._served[connection][slot.place.number]
            connection.has_lost_trials |= any(slot.trial is not None for slot in group)
            if self._served[connection]:
                for slot in group:  # a trial of its own dies with it
                    connection.send({"kind": "kill", "slot": slot.place.number})
                    if slot.trial_pid is not None and slot.step is None:
                        slot.launcher.clean_up(None, slot.trial_pid)
                code = None
            else:
                is_leaving = group[0].status is SlotStatus.LEAVING
                code = self._end(connection, LEAVE_S if is_leaving else 0.0)
                self._clean_up(group, connection.has_lost_trials)
            yield group, code, connection

    def _clean_up(self, slots: Iterable[SlotState], has_lost_trials: bool) -> None:
        """Have what lost trials may have left ended, once for each job step."""
        steps = set()
        for slot in slots:
            if (has_lost_trials or slot.trial is not None) and slot.step not in steps:
                slot.launcher.clean_up(slot.step, slot.trial_pid)
                steps |= {slot.step} - {None}

    def _end(self, connection: Connection, grace_s: float = 0.0) -> int | None:
        self._served.pop(connection, None)
        code = connection.end(grace_s)
        self._malformed += connection.malformed
        if code is None:
            self._notify(
                f"process {connection.process.pid} was killed and does not end: it hangs in the "
                "kernel, on a disk perhaps, and is left to itself"
            )
        return code

    def _note_failure(self, slot: SlotState) -> None:
        now = self._clock()
        self._pause(slot, now)
        self._nodes.note_death(slot.place.nodes, slot.worker_since, now)

    def _pause(self, slot: SlotState, now: float) -> None:
        """Take down that a worker died, and when the next may start."""
        slot.failures += 1
        self._put_off(slot, now + compute_pause(slot.failures))

    def _put_off(self, slot: SlotState, until: float) -> None:
        slot.start_at = until
        self._set(slot, SlotStatus.DOWN)

    def _hasten(self, nodes: Iterable[str], now: float) -> None:
        """Start what waited for others on a node only."""
        for slot in list(self._by_status[SlotStatus.DOWN].values()):
            if not slot.failures and not set(nodes).isdisjoint(slot.place.nodes):
                self._put_off(slot, now)

    def let_leave(self) -> None:
        """Let all workers leave by themselves for a moment, and end what trials have started."""
        for connection in self._served:
            connection.close_input()
        deadline = self._clock() + LEAVE_S
        for connection in self._served:
            connection.wait(max(0.0, deadline - self._clock()))

    def dismiss(self) -> None:
        """Let all workers leave by themselves for a moment, then see to it."""
        self.let_leave()
        slots = self.with_worker
        for connection in list(self._served):
            self._end(connection)
        self._clean_up(slots, has_lost_trials=False)


def _describe_loss(slot: SlotState, why: str, code: int | None, said: str) -> str:
    where = slot.host or ", ".join(slot.place.nodes)
    last = f": {said.splitlines()[-1]}" if said else ""
    return f"the worker of slot {slot.number} on {where} {why}{_format_code(code)}{last}"


def _format_code(code: int | None) -> str:
    """Tell an exit code, unless it is not known, as of a worker whose host lives on."""
    return "" if code is None else f" (exit code {code})"
