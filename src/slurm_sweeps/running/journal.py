"""A slot's journal: what its trials have reported, until the driver has it on its disk.

`log` returns when the driver has answered, which is a moment before its database has the report. So
that none is lost with a driver that is killed, each trial also appends its reports, and its end,
to a file in the experiment's folder. What a process has written outlives it, so nothing is forced
to the disk; a report is lost only if the driver and the trial's node both crash in that moment. The
next driver hands in what its database lacks (`experiment/hand_in.py`).

A journal holds records as the channel has them: `run`, which says what its trial is, then `report`
and `ended`. Each process that writes has its own: each rank of a trial (those other than rank 0
write their end only), and each process that a trial has started and that calls. What such a child
says of the end is for all of its rank.

When the database has come further, decisions say how far (`put`, `kept`); what it has is cut off.
"""

from __future__ import annotations

import os
import stat
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterable
from functools import partial
from heapq import merge
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ..storage.layout import build_draft_path
from .channel import Decoder, Record, encode

#: A journal longer than this is cut, in bytes.
MAX_BYTES = 64 * 2**10


#: A disk that takes a record for longer than this, in seconds, is waited for no more.
PATIENCE_S = 0.25

#: What comes sooner than this after what was written before, in seconds, is written at once: to
#: hand it to the thread takes a tenth of what `log` does.
AT_ONCE_S = 0.005


#: What a journal says of a trial, so that it can be told what it is.
HEAD = ("kind", "trial_id", "number", "attempt", "repetition", "dir", "slot", "host", "gpus", "at")


class Journal:
    """The end of a slot's journal that one process writes to.

    A thread writes, so that a disk that hangs holds up no trial: what it has not taken in time is
    written when it can be.

    Args:
        head: What goes before the first record: the trial's `run`.
    """

    def __init__(self, path: str, head: bytes) -> None:
        self._path = path
        self.begin(head)
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._done: SimpleQueue[OSError | None] = SimpleQueue()  # an answer for each of them
        self._n_awaited = 0
        self._is_late = False
        self._has_thread = False
        self._wrote_at = time.time()
        self._error: OSError | None = None  # that nobody was told
        self._fd = -1
        self._size = 0
        self._cut_at: tuple[int, int] | None = None  # the record, of those put; its end in bytes

    def begin(self, head: bytes) -> None:
        """Put another trial's `run` before the next record; only once `is_settled`."""
        self._head = head

    @property
    def is_settled(self) -> bool:
        """Whether all is written."""
        return not self._n_awaited

    def append(self, data: bytes) -> None:
        """Begin to append an encoded record; `settle` waits until it is written."""
        now, before = time.time(), self._wrote_at
        self._wrote_at = now
        line = b'%b,"at":%.6f}\n' % (data[:-2], now)  # of a JSON object
        if now - before > AT_ONCE_S or self._n_awaited:
            self._hand_over(partial(self._write, line))
            return
        try:
            self._write(line)
        except OSError as error:
            self._error = error

    def settle(self) -> OSError | None:
        """Wait until all is written, unless that was waited for in vain before.

        Returns:
            Why something could not be written.
        """
        if self._n_awaited:
            self._await_thread()
        error, self._error = self._error, None
        return error

    def _await_thread(self) -> None:
        try:
            while self._n_awaited:
                self._error = self._done.get(not self._is_late, PATIENCE_S) or self._error
                self._n_awaited -= 1
            self._is_late = False
        except Empty:
            self._is_late = True

    def note(self, put: int, kept: int) -> None:
        """Take note, once settled, how far the driver's database has come; that can be cut off.

        Args:
            put: Which record of all those that the driver has put into its database the latest is.
            kept: How many of them are there for good.
        """
        if self._n_awaited:
            return
        if self._cut_at is None:
            if self._size > MAX_BYTES:
                self._cut_at = (put, self._size)
        elif kept >= self._cut_at[0]:
            self._hand_over(partial(self._cut, self._cut_at[1]))
            self._cut_at = None

    def _hand_over(self, job: Callable[[], None]) -> None:
        self._n_awaited += 1
        self._jobs.put(job)
        if not self._has_thread:
            try:
                start_new_thread(self._work, ())  # which none of `threading` waits for
                self._has_thread = True
            except RuntimeError:  # of `ulimit -u`: then the disk is waited for
                self._do(self._jobs.get())

    # What the thread does, or nobody else at that time

    def _work(self) -> None:
        while True:
            self._do(self._jobs.get())

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except OSError as error:
            self._done.put(error)
        else:
            self._done.put(None)

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        self._size += os.write(self._fd, self._head + data)
        self._head = b""

    def _cut(self, begin: int) -> None:
        """Begin the file anew with what stands behind its first so many bytes."""
        rest = os.pread(self._fd, self._size - begin, begin)
        draft = build_draft_path(Path(self._path))
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
        fd = os.open(draft, flags, 0o600)
        try:
            if os.write(fd, rest) == len(rest):
                os.rename(draft, self._path)
                fd, self._fd, self._size = self._fd, fd, len(rest)
        finally:
            os.close(fd)


def build_head(run: Record) -> bytes:
    """Write what a journal says of the trial of a `run` record."""
    head: Any = {name: run[name] for name in HEAD if name in run}  # type: ignore[literal-required]
    return encode({**head, "cfg": run.get("stored", run["cfg"])})


def read_journals(files: Iterable[Path]) -> tuple[list[Record], int]:
    """Read all records of some journals.

    Returns:
        The records, in order for each journal, and by time between them; and how many pieces were
        cut short, as the last one of a process that is killed may be, or are none of ours. A file
        that is another user's counts as one.
    """
    journals: list[list[Record]] = []
    n_strange = 0
    for file in files:
        decoder = Decoder()
        try:
            journals.append(
                decoder.feed(_read(file) + b"\x1e")
            )  # the last one shows what was cut short
        except OSError:
            n_strange += 1
        n_strange += decoder.malformed or bool(decoder.take_noise())
    return list(merge(*journals, key=lambda record: record.get("at") or 0.0)), n_strange


def _read(file: Path) -> bytes:
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not hold us
    with open(fd, "rb") as opened:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{file} is none that this user has written")
        return opened.read()
