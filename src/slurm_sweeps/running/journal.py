"""A slot's journal: what its trials have reported, until the driver has it on its disk.

`log` returns when the driver has answered, which is a moment before its database has the report. So
that none is lost with a driver that is killed, each trial also appends its reports, and its end,
to a file in the experiment's folder. What a process has written outlives it, so nothing is forced
to the disk; a report is lost only if the driver and the trial's node both crash in that moment. The
next driver hands in what its database lacks (`experiment/hand_in.py`).

A journal holds records as the channel has them: `run`, which says what its trial is, then `report`
and `ended`. Each rank of a trial has its own; those other than rank 0 write their end only.

When the database has come further, decisions say how far (`put`, `kept`); what it has is cut off.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from ..storage.layout import build_draft_path
from .channel import Decoder, Record

#: A journal longer than this is cut, in bytes.
MAX_BYTES = 64 * 2**10


class Journal:
    """The end of a slot's journal that one process writes to.

    Args:
        path: The file.
        head: What goes before the first record: the trial's `run`.
    """

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        self._head = head
        self._fd = -1
        self._size = 0
        self._cut_at: tuple[int, int] | None = None  # the record, of those put; its end in bytes

    def append(self, data: bytes) -> None:
        """Append an encoded record.

        Raises:
            OSError: That can't be done.
        """
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
            self._size = os.fstat(self._fd).st_size
        self._size += os.write(self._fd, self._head + data)
        self._head = b""

    def cut(self, put: int, kept: int) -> None:
        """Drop what the driver's database has, if it is much.

        Args:
            put: Which record of all those that the driver has put into its database the latest is.
            kept: How many of them are there for good.
        """
        if self._cut_at is None:
            if self._size > MAX_BYTES:
                self._cut_at = (put, self._size)
        elif kept >= self._cut_at[0]:
            rest = os.pread(self._fd, self._size - self._cut_at[1], self._cut_at[1])
            self._cut_at = None
            with contextlib.suppress(OSError):  # it is only longer then
                self._replace(rest)

    def _replace(self, rest: bytes) -> None:
        draft = build_draft_path(self._path)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
        fd = os.open(draft, flags, 0o600)
        try:
            whole = os.write(fd, rest) == len(rest)
            if whole:
                os.rename(draft, self._path)
        except OSError:
            os.close(fd)
            raise
        if not whole:
            os.close(fd)
            return
        os.close(self._fd)
        self._fd, self._size = fd, len(rest)


def read_journals(files: Iterable[Path]) -> tuple[list[Record], int]:
    """Read all records of some journals.

    Returns:
        The records, in order for each journal; and how many pieces were cut short, as the last one
        of a process that is killed may be, or are none of ours. A file that is another user's
        counts as one.
    """
    records: list[Record] = []
    n_strange = 0
    for file in files:
        decoder = Decoder()
        try:
            records += decoder.feed(_read(file) + b"\x1e")  # the last one shows what was cut short
        except OSError:
            n_strange += 1
        n_strange += decoder.malformed or bool(decoder.take_noise())
    return records, n_strange


def _read(file: Path) -> bytes:
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not hold us
    with open(fd, "rb") as opened:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError(f"{file} is none that this user has written")
        return opened.read()
