"""How a trial is brought to its end, and what that end counts as.

One that was told to leave and doesn't is sent TERM, then KILL. How long a trial may take, and how
long it may be silent, the worker of its first rank judges: it is the trial's parent, every report
passes through it, and its clock stands still while the job is suspended. What it finds goes to the
driver, which has all ranks end the trial alike; the others can't judge, as they never report.

Status is recorded, never guessed: the trial says how it ended, or the worker, its parent, saw its
exit status. What the two don't explain (a KILL out of nowhere) is `lost`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OUT_OF_MEMORY
from ..storage.layout import TrialLayout
from . import standstill
from .channel import Record, append_to
from .deadlines import Clock
from .relay import Caller
from .standstill import Standstill
from .usage import tells_of_killed_child

#: What is beyond its limits has so long for each of its processes but the last to write where its
#: threads are, in seconds: they write to the same file.
EACH_STACK_S = 0.1
#: Of so many processes, the first ones.
MOST_STACKS = 40
#: How often a worker wakes, so that its clock tells a suspension from a wait, in seconds.
LOOK_S = 5.0

#: Signals that a process brings upon itself: a crash, which is a failure of `train`.
CRASHES = (
    *(signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE),
    *(signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
)


class TimeLimits:
    """Those of one attempt, in seconds of any clock.

    Args:
        init: The `init` record: `max_trial_s`, `max_silence_s`, where there are any.
        now_s: When the attempt begins.

    Attributes:
        due: When the next of them is reached; infinity for never.
    """

    def __init__(self, init: Mapping[str, Any], now_s: float) -> None:
        self._trial_s = init.get("max_trial_s", math.inf)
        self._silence_s = init.get("max_silence_s", math.inf)
        self._ends_at = now_s + self._trial_s
        self.note_answer(now_s)

    def note_report(self) -> None:
        """The trial has reported, and waits for the driver's word: it isn't silent meanwhile."""
        self.due = self._ends_at

    def note_answer(self, now_s: float) -> None:
        """It has the word, and nothing else of it is waited for."""
        self.due = min(self._ends_at, now_s + self._silence_s)

    def judge(self, now_s: float) -> Record | None:
        """Say how the attempt fails if one of the limits is reached."""
        if now_s < self.due:
            return None
        if now_s >= self._ends_at:
            message = f"the trial took longer than max_trial_sec={self._trial_s:g}"
            return {"error_type": "TrialTimeout", "message": message}
        message = f"the trial reported nothing for max_silence_sec={self._silence_s:g}"
        return {"error_type": "TrialSilent", "message": message}


@dataclass(eq=False, repr=False)
class RunningTrial:
    """A trial as its worker holds it: its process, its socket, and how far ending it has gone."""

    init: Record  # of its worker
    run: Record
    pid: int
    own: Caller  # its own process; its children call at the worker's relay
    clock: Clock
    askers: deque[Caller] = field(default_factory=deque)  # whose reports await the driver's word
    is_shared: bool = False  # whether a child has called
    child_left: bool = False  # whether a child was told to leave, which train may not notice
    child_failed: Record | None = None  # what a child gave as the end of all of it
    said: Record | None = None  # how it ended, by its own account
    is_told_of: bool = False  # whether the driver knows how it ended; its exit may still be due
    limits: TimeLimits | None = None  # of a first rank's, until one is reached
    used: Record = field(default_factory=Record)  # of its share
    overrun: Record | None = None  # how it fails if it was beyond one of them
    to_show: list[int] = field(default_factory=list)  # whose stacks are to be written yet
    told: str | None = None  # "prune", "pause" or "stop": what it was told to do
    ending: str | None = None  # "asked", "TERM" or "KILL": how far ending it has gone
    deadline: float | None = None  # when to go further
    watch: Standstill | None = None  # of a fork
    begins_anew: bool = False  # whether it hangs, and is ended to start in a fresh interpreter

    def set_deadline(self, ending: str, wait_s: float) -> None:
        """Set when to go further than `ending`; asking again doesn't put off what follows it."""
        if self.ending in (None, "asked") or ending != "asked":
            self.ending = ending
            self.deadline = self.clock() + wait_s

    def signal(self, number: signal.Signals) -> None:
        """Signal the trial's process; KILL goes to all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def note_told(self, do: str) -> None:
        """Remember that it was told to leave, and from when on it is made to."""
        if do == "go_on" or self.told in ("prune", "pause"):
            return
        self.told = do
        self.set_deadline("asked", self.init["prune_grace_s"])

    def go_further(self) -> None:
        """End it if its time to leave by itself is over: TERM, then KILL."""
        if self.deadline is None or self.clock() < self.deadline:
            return
        if self.to_show:
            standstill.ask_for_stack(self.to_show.pop(0))
            self.deadline = self.clock() + (EACH_STACK_S if self.to_show else 10 * EACH_STACK_S)
        elif self.ending == "asked":
            self.set_deadline("TERM", self.init["term_grace_s"])
            self.signal(signal.SIGTERM)
        else:
            self.set_deadline("KILL", 1.0)
            self.signal(signal.SIGKILL)

    def end_overrun(self, overrun: Record, rank: int) -> None:
        """End it as the driver says, when its processes have shown where they are."""
        self.to_show = standstill.find_who_answers(self.pid)[:MOST_STACKS]
        log = TrialLayout(Path(self.run["dir"])).stderr(rank)
        what = f"its {log.name} has the stacks of its threads"
        if not self.to_show:
            what = "no Python that could show its stacks runs in it"
        self.overrun = {
            "how": "failed",
            "error_type": overrun["error_type"],
            "message": f"{overrun['message']}; {what}",
        }
        append_to(log, f"slurm_sweeps: {overrun['message']}; it is ended\n".encode())
        self.set_deadline("asked", 0.0)

    def choose_wait_s(self) -> float:
        """Return for how long nothing is to be done for it by itself, in seconds."""
        wait_s = math.inf if self.deadline is None else max(0.0, self.deadline - self.clock())
        if self.watch is not None:
            wait_s = min(wait_s, standstill.LOOK_EVERY_S)
        if self.limits is not None:
            wait_s = min(wait_s, LOOK_S, max(0.0, self.limits.due - self.clock()))
        return wait_s

    @property
    def has_lost_child(self) -> bool:
        """Whether it says that it failed since a process of it was killed."""
        said = self.said
        if said is None or said["how"] != "failed":
            return False
        return tells_of_killed_child(f"{said['error_type']}: {said['message']}")

    @property
    def has_done_well(self) -> bool:
        """Whether it says that nothing is left to do."""
        return self.said is not None and self.said["how"] in ("completed", "pruned")

    def judge(self, exit_code: int, oom: bool) -> Record:
        """Decide how the attempt ended; what a child has said, or was told, is for all of it."""
        if self.overrun is not None and not self.has_done_well and self.told in (None, "stop"):
            return self.overrun
        if self.child_left and self.told == "stop":
            return {"how": "interrupted"}
        return judge(self.child_failed or self.said, self.told, exit_code, oom)


def judge(said: Record | None, told: str | None, exit_code: int, oom: bool) -> Record:
    """Decide how an attempt ended.

    Args:
        said: What the trial said of its end, if it could.
        told: "prune", "pause" or "stop" if it was told to leave.
        exit_code: Its exit status; negative is the number of the signal that ended it.
        oom: Whether the kernel's out-of-memory killer struck here while it ran.
    """
    if told in ("prune", "pause"):
        return {"how": "pruned"}
    if said is not None:
        return _blame_memory(said) if oom and said["how"] == "failed" else said
    if exit_code == 0:
        return {"how": "completed", "exit_code": 0}
    if exit_code > 0:
        return {
            "how": "failed",
            "exit_code": exit_code,
            "error_type": "ExitStatus",
            "message": f"the trial's process exited with status {exit_code}; see its stderr.log",
        }
    return _judge_signal(-exit_code, told, oom)


def _blame_memory(said: Record) -> Record:
    """A trial that failed since the kernel had killed a process of it."""
    message = f"the kernel killed a process of the trial: {said['error_type']}: {said['message']}"
    return {**said, "error_type": OUT_OF_MEMORY, "message": message}


def name_signal(number: int) -> str:
    """Return a signal's name."""
    try:
        return signal.Signals(number).name
    except ValueError:  # of the real-time ones Python names only the first and the last
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _judge_signal(number: int, told: str | None, oom: bool) -> Record:
    name = name_signal(number)
    end: Record = {"signal": number, "error_type": name}
    if number in CRASHES:
        message = f"the trial's process crashed ({name}, {signal.strsignal(number)})"
        return {**end, "how": "failed", "message": message}
    if told == "stop":
        return {**end, "how": "interrupted", "message": f"ended by {name} when told to stop"}
    if number == signal.SIGKILL and oom:
        message = "the kernel killed the trial's process: out of memory"
        return {**end, "how": "lost", "error_type": OUT_OF_MEMORY, "message": message}
    return {**end, "how": "lost", "message": f"the trial's process was killed by {name}"}
