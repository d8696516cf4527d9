"""Whether a forked trial hangs, for a reason that nobody foresaw, before its first report.

A fork of a process with threads may wait for ever for one that is not there: nothing is raised,
nothing ends it. Seen from outside, all its threads wait for locks (futexes) without a limit, none
has run for long, and it has no child that could give a lock back. Whoever sleeps, reads, polls or
waits for a process waits elsewhere: `time.sleep(3600)` and `event.wait(3600)` are no standstill. A
trial that blocks like this for a reason of its own does so again in the fresh interpreter that it
then gets, where nobody looks.

A hang may also be a spin, which from outside is the same as a long computation. That is only said.

`Standstill` decides from what it is shown, `read_activity` reads it. Linux only: elsewhere nothing
is read, and so nothing judged.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from pathlib import Path
from typing import NamedTuple

from .processes import iterate_descendants

#: How often to look, in seconds. A look takes well under a millisecond.
LOOK_EVERY_S = 5.0
#: How long all threads must have waited for locks, and how long they may compute without a word.
BLOCKED_S = 60.0
SPINNING_S = 600.0
#: Makes a trial write where its threads are, and is answered by a fork until its first report; two
#: that nothing else uses, where there are some.
STACK_SIGNAL = signal.SIGRTMAX - 6 if hasattr(signal, "SIGRTMAX") else None
WATCH_SIGNAL = signal.SIGRTMAX - 5 if hasattr(signal, "SIGRTMAX") else None

#: What is said of a trial, by what was found.
NOTICES = {
    "blocked": "trial {trial} hangs in its fork, each of its threads waiting for a lock; it and "
    "later ones of its slot get fresh interpreters instead. Something that train imports can't be "
    "forked",
    "spinning": "trial {trial} has computed for long without a report or a wait. If it hangs, "
    "something that train imports can't be forked: import it inside train, after a statement",
}

#: The number of the system call `futex`, by machine.
_FUTEX = {"x86_64": "202", "aarch64": "98", "ppc64le": "221"}.get(os.uname().machine)


class Activity(NamedTuple):
    """What a process has done so far, and what it does now."""

    ran_ns: dict[int, int]  # CPU time of each thread
    waits: dict[int, int]  # how often each has given up the CPU by itself, in calls that wait
    is_blocked: bool  # whether each waits for a lock without a limit, and it has no children


class Standstill:
    """Watches one process, from its start to its first report, by any clock."""

    def __init__(self, now_s: float) -> None:
        self._last: Activity | None = None
        self._blocked_since = self._spinning_since = now_s
        self._look_at = now_s + LOOK_EVERY_S  # most trials have reported by then
        self._has_said = False

    def look(self, pid: int, now_s: float) -> str | None:
        """Judge what a process does now, every few seconds; see `judge`."""
        if now_s < self._look_at:
            return None
        self._look_at = now_s + LOOK_EVERY_S
        return self.judge(read_activity(pid), now_s)

    def judge(self, activity: Activity | None, now_s: float) -> str | None:
        """Say what is wrong, once for each kind.

        Returns:
            "blocked": it hangs, and may be ended. "spinning": it may hang. None: nothing is known.
        """
        last, self._last = self._last, activity
        if activity is None or last is None:
            self._blocked_since = self._spinning_since = now_s
            return None
        if not activity.is_blocked or activity.ran_ns != last.ran_ns:
            self._blocked_since = now_s
        if activity.waits != last.waits or activity.ran_ns == last.ran_ns:
            self._spinning_since = now_s
        if now_s - self._blocked_since >= BLOCKED_S:
            self._blocked_since = now_s
            return "blocked"
        if now_s - self._spinning_since >= SPINNING_S and not self._has_said:
            self._has_said = True
            return "spinning"
        return None


def begin_watch() -> None:
    """Have this process's forks looked at until their first report."""
    _register(WATCH_SIGNAL)


def end_watch() -> None:
    """In a trial: what has reported isn't looked at any more. Costs a microsecond."""
    if WATCH_SIGNAL is not None:
        faulthandler.unregister(WATCH_SIGNAL)


def answer_with_stack() -> None:
    """Let this process and its forks write where their threads are, to standard error, if asked."""
    _register(STACK_SIGNAL)


def keep_stack() -> None:
    """In a trial whose own process only waits for a program: where it is tells nothing."""
    if STACK_SIGNAL is not None:
        faulthandler.unregister(STACK_SIGNAL)


def _register(number: int | None) -> None:
    if number is not None:
        signal.signal(number, signal.SIG_IGN)  # what it is again when that is over
        faulthandler.register(number, file=2, all_threads=True)


def find_who_answers(pid: int) -> list[int]:
    """List those of a trial's processes that can write where they are, its own first."""
    family = [pid, *iterate_descendants(pid)]
    return [each for each in family if STACK_SIGNAL and _catches(each, STACK_SIGNAL)]


def ask_for_stack(pid: int) -> None:
    """Have a process that answers write where it is; it goes on."""
    if STACK_SIGNAL is not None and _catches(pid, STACK_SIGNAL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; who has none may be ended by it."""
    with contextlib.suppress(OSError, IndexError):
        caught = int(_read_status(Path("/proc", str(pid)), "SigCgt"), 16)
        return bool(caught >> (number - 1) & 1)
    return False


def read_activity(pid: int) -> Activity | None:
    """Read what a trial does; None if it has reported, has ended, or can't be looked into."""
    process = Path("/proc", str(pid))
    try:
        if WATCH_SIGNAL is None or not _catches(pid, WATCH_SIGNAL):
            return None
        threads = list((process / "task").iterdir())
        return Activity(
            {int(t.name): int((t / "schedstat").read_text().split()[0]) for t in threads},
            {int(t.name): int(_read_status(t, "voluntary_ctxt_switches")) for t in threads},
            all(map(_waits_for_lock, threads)),
        )
    except (OSError, ValueError, IndexError):
        return None


def _read_status(task: Path, name: str) -> str:
    return (task / "status").read_text().partition(f"\n{name}:")[2].split()[0]


def _waits_for_lock(thread: Path) -> bool:
    if (thread / "children").read_text():
        return False
    call = (thread / "syscall").read_text().split()
    return call[0] == _FUTEX and call[4] == "0x0"  # its fourth argument: until when
