"""What a host and a worker have in common: the driver on one side, children on the other.

It hears the driver's records, sends its own so that each stays whole, sees which child has ended,
and loads `train`.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from resource import struct_rusage
from typing import cast

from ..errors import TrainError
from .channel import MALFORMED, Decoder, Record, encode, encode_parts
from .deadlines import Clock
from .forking import find_fork_hazard, note_seeding, silence_fork_warnings
from .processes import ChildWatch, adopt_orphans, freeze_memory, list_children
from .train import load_train
from .trial_process import Loaded


def describe_broken(error: BaseException) -> str:
    """Tell the driver why `train` can't be loaded: our own errors say it all in a sentence."""
    return str(error) if isinstance(error, TrainError) else traceback.format_exc()


class Parent(ABC):
    """Hears the driver on one side and its own children on the other: what all hosts do.

    Args:
        channel_in: File descriptor to read the driver's records from.
        channel_out: File descriptor to write records to.
        loaded: `train`, if it was loaded already, or if it is known that it can't be forked.
        begin_anew: Replaces this process by one that has loaded nothing, given why `train` can't be
            forked and what was heard so far. What was loaded would only be in the way: it holds
            ports, locks of files and memory that the trials' own interpreters need.
    """

    def __init__(
        self,
        channel_in: int,
        channel_out: int,
        loaded: Loaded | None = None,
        begin_anew: Callable[[str, bytes], object] | None = None,
    ) -> None:
        adopt_orphans()
        self._sender: Record = {}  # what tells it from others on the same channel
        self._in = channel_in
        self._out = channel_out
        self._loaded = loaded
        self._begin_anew = begin_anew
        self._decoder = Decoder()
        self._heard: list[Record] = []  # at once, last
        self._left_alone: set[int] = set()  # children that serve all trials, or can't be ended
        self._gone = False
        self._clock = Clock(time.monotonic)
        self._watch = ChildWatch()
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._watch.fd, select.POLLIN)

    def _take_events(self, timeout_ms: float | None = None) -> bool:
        """Serve whoever has something to say; return whether anybody had in time."""
        events = self._poll.poll(timeout_ms)
        self._clock.note_turn(math.inf if timeout_ms is None else timeout_ms / 1000)
        for fd, _ in events:
            if fd == self._in:
                data = os.read(self._in, 65536)
                self._gone = self._gone or not data
                self.hear(data)
            elif fd == self._watch.fd:
                for pid, status, used in self._watch.reap():
                    self._left_alone.discard(pid)
                    self._note_exit(pid, os.waitstatus_to_exitcode(status), used)
            else:
                self._serve_child(fd)
        return bool(events)

    def hear(self, data: bytes) -> None:
        """Do what the driver says in the next bytes of the channel."""
        self._heard = self._decoder.feed(data)
        if self._decoder.malformed:  # what it was to do would be waited for
            print(MALFORMED, file=sys.stderr, flush=True)
            self._gone = True
            return
        self._follow(self._heard)

    def greet(self) -> None:
        """Say that it has begun."""
        self._say(build_hello())

    @abstractmethod
    def _follow(self, records: Iterable[Record]) -> None:
        """Do what the driver says."""

    @abstractmethod
    def _serve_child(self, fd: int) -> None:
        """Go on with what a registered file descriptor is ready for."""

    @abstractmethod
    def _note_exit(self, pid: int, exit_code: int, used: struct_rusage) -> None:
        """Take note that a child has ended: one of ours, or what one has left behind."""

    def _say(self, record: Record) -> None:
        """Write to the driver as who this is: a rank, or a slot's worker."""
        self._send({**record, **self._sender})

    def _send(self, record: Record) -> None:
        """Write to the driver, so that a record stays whole beside what others write there.

        That of a rank other than 0 carries its `rank`; that of a slot whose neighbours' workers
        write to the same pipe, `slot`.
        """
        data = encode(record)
        # Up to PIPE_BUF a write is not torn by those of other workers: so it goes line by line.
        if "rank" in record:
            data = encode_parts(record, record["rank"])
        elif "slot" in record and len(data) > select.PIPE_BUF:
            data = encode_parts(record, record["slot"])
        try:
            for line in data.splitlines(keepends=True):
                while line:
                    line = line[os.write(self._out, line) :]
        except OSError:  # the driver is gone
            self._gone = True

    def _load(self, init: Record) -> Loaded:
        """Load `train` in this process, and see whether that can be forked then.

        Raises:
            Exception: Whatever loading raises.
        """
        file, digest, ahead = Path(init["train"]), init["digest"], not init.get("fresh")
        sys.path[:0] = [entry for entry in init.get("path", ()) if entry not in sys.path]
        sender = {"slot": init["slot"]} if "slot" in init else {}

        def notify(text: str) -> None:
            self._send(cast(Record, {"kind": "notice", "text": text, **sender}))

        train, random_state = note_seeding(lambda: load_train(file, digest, ahead, notify))
        handlers = self._watch.listen()  # loading may have replaced what that needs
        hazard = find_fork_hazard()
        if hazard and ahead and self._begin_anew is not None:
            self._begin_anew(hazard, b"".join(map(encode, self._heard)) + self._decoder.rest)
        silence_fork_warnings()
        freeze_memory()
        self._left_alone = set(list_children())
        return Loaded(None if hazard else train, hazard, handlers, random_state)


def build_hello() -> Record:
    """Tell the driver where this process is."""
    return {
        "kind": "hello",
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "pid": os.getpid(),
        "step": os.environ.get("SLURM_STEP_ID"),
    }
