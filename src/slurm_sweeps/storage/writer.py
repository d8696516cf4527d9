"""Writer: the thread through which a driver writes its database.

Answering a trial's report must not wait for a disk. So `put` only appends to a queue in memory,
and a thread writes what has gathered about ten times a second, in one transaction each time.

Invariants:

- Records are committed in the order in which they were put, whole groups at a time: whenever the
  driver dies, the database holds a consistent prefix.
- A record stays counted until it is committed, so what is in memory is bounded (`MAX_ROWS`).
- A file locked by another process is waited for as long as what is in memory has room. All else
  that goes wrong is final: the thread ends, and `check`, `put`, `flush` and `close` raise what it
  was.
- The lease is renewed from the first moment on, whatever the driver's main thread is at.
- Whoever waits for the thread waits as long as it makes progress, and `STUCK_S` without any.

The work in Python for each record is kept small and the rest is done by SQLite without the
interpreter's lock, for the driver's main thread answers reports meanwhile.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from ..errors import StorageError
from .database import Database
from .faults import DatabaseBusyError
from .lease import HEARTBEAT_INTERVAL_S
from .records import LeaseOwner, Record, ReportRecord, Request
from .rows import write_records

#: How long a group of records gathers before it is written.
COMMIT_INTERVAL_S = 0.1
#: How long one try waits for another process's lock.
LOCK_TIMEOUT_S = 1.0
#: A lock that is held for so long is worth telling.
NOTICE_AFTER_S = 3.0
#: How often requests from outside are looked for: jobs that lend their nodes wait for it.
POLL_INTERVAL_S = 0.2
#: Beyond so many rows in memory `put` waits.
MAX_ROWS = 500_000
#: When nothing at all was written for so long, waiting for it ends with an error.
STUCK_S = 300.0
#: A transaction takes about so many rows, to let others at the file between two of them.
GROUP_ROWS = 20_000


def _ignore(_: object) -> None:
    """The callback of someone who does not care."""


class Writer:
    """Writes records of one experiment from a thread and through a connection of its own.

    Args:
        owner: Whose lease to renew with every transaction, and at least every
            `HEARTBEAT_INTERVAL_S`; None to write without a lease.
        on_notice: Called with a sentence when the file has been locked for `NOTICE_AFTER_S`, and
            when it is free again. All callbacks are called from the writer's thread, and must not
            wait for anything: the lease is renewed there.
        on_request: Called with each request from outside.

    Raises:
        StorageError: The database can't be opened; methods raise it as the module's docstring says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        experiment_id: int,
        owner: LeaseOwner | None = None,
        *,
        clock: Callable[[], float] = time.time,
        on_notice: Callable[[str], object] = _ignore,
        on_request: Callable[[Request], object] = _ignore,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._experiment_id = experiment_id
        self._owner = owner
        self._clock = clock
        self._on_notice = on_notice
        self._on_request = on_request
        self._max_rows = max_rows

        # Guarded by the lock of `_changed`, which also wakes whoever waits for any of it.
        self._changed = threading.Condition()
        self._waiting: list[Record] = []
        self._rows = 0  # of all that is not committed
        self._put = 0
        self._committed = 0
        self._is_urgent = False
        self._give_up_at: float | None = None
        self._failure: StorageError | None = None
        self._has_ended = False
        self._renewed_at = time.monotonic()  # when the transaction began that did so last
        self._renew_after = -math.inf

        # Used by the thread alone.
        self._polled_at = time.monotonic()

        self._database = Database.open(path)
        self._database.set_timeout(LOCK_TIMEOUT_S)
        self._thread = threading.Thread(target=self._run, name="slurm-sweeps-writer", daemon=True)
        self._thread.start()

    # For the driver

    @property
    def n_put(self) -> int:
        """How many records were put so far."""
        return self._put

    @property
    def n_committed(self) -> int:
        """How many of them are in the database, always the first ones."""
        return self._committed

    def put(self, record: Record) -> None:
        """Hand a record over; returns at once unless `max_rows` are waiting."""
        rows = _count_rows(record)
        with self._changed:
            if self._rows >= self._max_rows:
                self._wait(lambda: self._rows < self._max_rows)
            self.check()
            if self._give_up_at is not None:
                path = self._database.path
                raise StorageError(f"the writer of {path} is closed; lost: {record!r}")
            self._waiting.append(record)
            self._rows += rows
            self._put += 1
            if self._rows >= GROUP_ROWS:
                self._changed.notify_all()

    def check(self) -> None:
        """Raise what went wrong for good, if anything did.

        It is an `ExperimentLockedError` if another driver has taken the experiment over.
        """
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Wait until all that was put before is committed."""
        with self._changed:
            goal = self._put
            self._hurry()
            self._wait(lambda: self._committed >= goal)
            self.check()

    def renew(self) -> None:
        """Renew the lease, and wait for it."""
        if self._owner is None:
            return
        with self._changed:
            asked_at = self._renew_after = time.monotonic()
            self._hurry()
            self._wait(lambda: self._renewed_at > asked_at)
            self.check()

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is left, end the thread and close its connection.

        Another process that has the file locked is waited for as long as `timeout_s`.
        """
        with self._changed:
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + timeout_s
            self._hurry()
            self._wait(lambda: self._has_ended)
        self._thread.join()
        self.check()

    def _hurry(self) -> None:
        self._is_urgent = True
        self._changed.notify_all()

    def _wait(self, is_done: Callable[[], bool]) -> None:
        """Wait for the thread as long as it writes anything within `STUCK_S`."""
        before = self._committed
        while not self._changed.wait_for(lambda: is_done() or self._has_ended, STUCK_S):
            if self._committed == before:
                raise StorageError(
                    f"{self._put - self._committed} records are not in {self._database.path} after "
                    f"{STUCK_S} s; it may be locked by another process, or its disk be slow. When "
                    "that is mended, go on with restore=True"
                )
            before = self._committed

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The thread

    def _run(self) -> None:
        failure = None
        try:
            with self._database:
                self._serve()
        except StorageError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the border of the thread: the driver hears it
            failure = _wrap_bug(error)
        with self._changed:
            self._failure = failure
            self._has_ended = True
            self._changed.notify_all()

    def _serve(self) -> None:
        is_closing = False
        while not is_closing:
            with self._changed:
                self._changed.wait_for(self._is_ripe, COMMIT_INTERVAL_S)
                records, self._waiting = self._waiting, []
                self._is_urgent = False
                is_closing = self._give_up_at is not None  # these are the last
            for group, rows in _split(records):
                self._commit(group, rows)
                self._do_chores()
            self._do_chores()

    def _is_ripe(self) -> bool:
        return self._is_urgent or self._rows >= GROUP_ROWS

    def _commit(self, group: Sequence[Record], rows: int) -> None:
        started_at = time.monotonic()
        noticed = False
        while not self._try_to_commit(group):
            waited_s = time.monotonic() - started_at
            if waited_s >= NOTICE_AFTER_S and not noticed:
                noticed = True
                self._on_notice(
                    f"{self._database.path} has been locked by another process for {waited_s:.0f} "
                    f"s; the trials run on, {self._rows} rows wait to be written (fuser or lsof "
                    "name that process)"
                )
        if noticed:
            waited_s = time.monotonic() - started_at
            self._on_notice(f"{self._database.path} is free again after {waited_s:.0f} s")
        with self._changed:
            self._rows -= rows
            self._committed += len(group)
            self._changed.notify_all()

    def _try_to_commit(self, group: Sequence[Record]) -> bool:
        began_at = time.monotonic()
        try:
            write_records(self._database, self._experiment_id, group, self._owner, self._clock())
        except DatabaseBusyError:
            if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                raise
            return False
        self._renewed_at = began_at
        return True

    def _do_chores(self) -> None:
        now = time.monotonic()
        try:
            is_asked = self._renewed_at <= self._renew_after
            is_due = is_asked or now - self._renewed_at >= HEARTBEAT_INTERVAL_S
            if self._owner is not None and is_due:
                self._database.renew_lease(self._experiment_id, self._owner, self._clock())
                with self._changed:
                    self._renewed_at = now
                    self._changed.notify_all()
            if now - self._polled_at >= POLL_INTERVAL_S:
                self._polled_at = now
                for request in self._database.take_requests(self._experiment_id, self._clock()):
                    self._on_request(request)
        except DatabaseBusyError:
            return  # the next round tries again


def _split(records: Sequence[Record]) -> Iterator[tuple[list[Record], int]]:
    """Portions of about `GROUP_ROWS` rows, and how many each has."""
    group: list[Record] = []
    rows = 0
    for record in records:
        group.append(record)
        rows += _count_rows(record)
        if rows >= GROUP_ROWS:
            yield group, rows
            group, rows = [], 0
    if group:
        yield group, rows


def _count_rows(record: Record) -> int:
    return 1 + len(record.metrics) if type(record) is ReportRecord else 1


def _wrap_bug(error: Exception) -> StorageError:
    wrapped = StorageError(f"the writer ended with {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
