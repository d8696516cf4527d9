"""Where the processes that a trial has started reach its worker, to call what `train` may call.

A child, however it was made (forked, spawned, by joblib or as another script), can't use the
trial's own sockets: it has not got them, or the trial may be reading there itself. It finds the
address of its worker in its environment, connects, and hears which trial that runs, and where the
child's own journal is: a number goes with it, which is another one's when the child has ended.
The address is one of Linux's abstract ones: no file, no port; and of those who connect, only
processes of the same user are heard.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from ..errors import SlurmSweepsError
from ..storage.layout import build_child_journal_path, build_rank_journal_path
from .channel import MALFORMED, Decoder, Record, encode

#: The variable that tells a trial's children of their trial.
TRIAL_VARIABLE = "SLURM_SWEEPS_TRIAL"


class Caller:
    """Who calls `log` in a trial, as the worker holds it: its own process, or a child.

    Args:
        child: Its number among those that call, from 1; 0 is the trial's own process.

    Attributes:
        awaits: In ranks other than 0: the iteration whose decision is asked for.
    """

    def __init__(self, link: socket.socket, child: int = 0) -> None:
        self.link = link
        self.child = child
        self.decoder = Decoder()
        self.awaits: int | None = None
        self.decisions: deque[Record] = deque(maxlen=10_000)

    def tell(self, record: Record) -> None:
        """Say something to the process, which may have ended, or closed the socket."""
        with contextlib.suppress(OSError):  # its end is seen elsewhere
            self.link.setblocking(True)
            self.link.sendall(encode(record))
            self.link.setblocking(False)

    def read(self) -> bytes | None:
        """Read what is there: nothing at the end, None if there is nothing yet."""
        try:
            return self.link.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def answer(self) -> None:
        """In ranks other than 0: give the decision that is waited for, once it is there.

        Such a rank asks when its own `log` is called, which it may never do.
        """
        while self.awaits is not None and self.decisions:
            decision = self.decisions.popleft()
            if decision["iteration"] >= self.awaits or decision["do"] != "go_on":
                self.awaits = None
                self.tell(decision)


class Relay:
    """A worker's end: listens, and holds the children that have called."""

    def __init__(self) -> None:
        self.callers: dict[int, Caller] = {}  # by file descriptor
        self._listener: socket.socket | None = None
        if sys.platform == "linux":
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind("")  # the kernel finds a free name
            self._listener.listen(256)
            self._listener.setblocking(False)

    @property
    def fds(self) -> Iterable[int]:
        """All that is open here: what listens, first, and what has called."""
        return (*(() if self._listener is None else (self._listener.fileno(),)), *self.callers)

    def describe(self, rank: int, world_size: int) -> str:
        """Write what a trial's children have to know to call, for their environment."""
        address = "" if self._listener is None else self._listener.getsockname()[1:].decode()
        where = {"rank": rank, "world_size": world_size, "started_in": find_folder()}
        return json.dumps({**where, "address": address})

    def accept(self) -> Caller | None:
        """Take the next call; None if there is none any more, or it is somebody else's."""
        if self._listener is None:
            return None
        try:
            link, _ = self._listener.accept()
        except OSError:
            return None
        _, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user != os.geteuid():
            link.close()
            return None
        link.setblocking(False)
        taken = {caller.child for caller in self.callers.values()}
        child = next(number for number in count(1) if number not in taken)
        self.callers[link.fileno()] = Caller(link, child)
        return self.callers[link.fileno()]

    def hang_up(self, fd: int) -> None:
        """Forget a child that has ended."""
        self.callers.pop(fd).link.close()


def describe_to_child(run: Record, rank: int, child: int) -> Record:
    """Tell a process that the trial has started what runs, and where its own journal is."""
    its: Record = {**run, "env": {}}
    if "journal" in run:
        path = build_rank_journal_path(Path(run["journal"]), rank)
        its["journal"] = str(build_child_journal_path(path, child))
    return its


def find_folder() -> str:
    """Return the current folder; nothing if it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def hear_run(link: socket.socket) -> Record | None:
    """Wait for the worker to say what runs; None if it says nothing any more.

    What it says next, a request to stop perhaps, stays in the socket for the session.

    Raises:
        SlurmSweepsError: It speaks another language.
    """
    decoder = Decoder()
    while True:
        data = link.recv(65536, socket.MSG_PEEK)
        if not data:
            return None
        for record in decoder.feed(link.recv(data.find(b"\n") + 1 or len(data))):
            if record["kind"] == "run":  # and not what came too late for the trial before
                return record
        if decoder.malformed:
            raise SlurmSweepsError(MALFORMED)


def call(address: str) -> socket.socket:
    """In a child of a trial: connect to the worker.

    Raises:
        OSError: It is gone, or can't be reached from here.
    """
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(b"\0" + address.encode())
    except OSError:
        link.close()
        raise
    return link
