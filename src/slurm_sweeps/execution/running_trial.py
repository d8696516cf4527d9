"""The attempt at a trial that a worker runs now, as the worker holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field

from ..running.channel import Decoder, Record, encode


@dataclass(slots=True)
class RunningTrial:
    """Its process, its socket, and how far ending it has gone."""

    run: Record
    pid: int
    link: socket.socket
    decoder: Decoder
    said: Record | None = None  # how it ended, by its own account
    is_told_of: bool = False  # whether the driver knows how it ended; its exit may still be due
    told: str | None = None  # "prune", "pause" or "stop": what it was told to do
    ending: str | None = None  # "asked", "TERM" or "KILL": how far ending it has gone
    deadline: float | None = None  # when to go further
    awaits: int | None = None  # in ranks other than 0: the iteration whose decision is asked for
    decisions: deque[Record] = field(default_factory=lambda: deque(maxlen=10_000))

    def tell(self, record: Record) -> None:
        """Say something to the trial, which may have ended, or closed the socket."""
        with contextlib.suppress(OSError):  # its end is seen elsewhere
            self.link.setblocking(True)
            self.link.sendall(encode(record))
            self.link.setblocking(False)

    def set_deadline(self, ending: str, wait_s: float) -> None:
        """Set when to go further than `ending`; asking again doesn't put off what follows it."""
        if self.ending in (None, "asked") or ending != "asked":
            self.ending = ending
            self.deadline = time.monotonic() + wait_s

    def signal(self, number: signal.Signals) -> None:
        """Signal the trial's process; KILL goes to all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
