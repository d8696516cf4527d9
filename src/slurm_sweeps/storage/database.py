"""Database: one connection to the file that holds all experiments of a `local_dir`.

Here are the connection, its transactions, and what concerns an experiment as a whole: its row, who
works on it, and what outsiders ask of its driver. `rows.py` has the trials and what they logged.

The rules that make it work on a cluster:

- One writer, the driver that holds the experiment's lease. Each of its transactions renews the
  lease, and is refused when someone else has taken it meanwhile: a driver that was suspended for
  an hour and wakes up again must not write over its successor.
- A transaction that writes waits for nothing but SQLite: while it lasts, all other drivers of the
  folder wait for it.
- Readers may be anywhere the file can be seen. They create nothing, hold no lock between two
  calls, and take long reads in portions, since a reader keeps the writer from committing.
- SQLite's rollback journal, not WAL: WAL needs memory shared by all who have the file open, which
  two hosts don't have.
- The file is never opened but by SQLite: POSIX drops all locks of a process on a file as soon as
  the process closes any descriptor of it (https://www.sqlite.org/howtocorrupt.html, 2.2).

All methods raise `DatabaseBusyError` when another process kept the file locked for the whole
timeout, and `StorageError` with file and remedy for all else that SQLite refuses. Those that take
the `owner` of a lease raise `ExperimentLockedError`, and change nothing, when the lease is not its
own any more. `now` is the time in seconds since 1970.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import (
    ExperimentExistsError,
    ExperimentLockedError,
    ExperimentNotFoundError,
    StorageError,
)
from ..trial import make_storable
from .faults import VFS_VARIABLE, describe_old, translate_errors
from .layout import DEFAULT_DIR, DIR_VARIABLE
from .records import ExperimentRecord, Lease, LeaseOwner, Request
from .schema import TABLES_BY_DEPENDENCE, prepare_schema

#: How long one call waits for another process's lock.
TIMEOUT_S = 10.0

_SELECT = (
    "SELECT id, name, created_at, updated_at, state, settings, "
    "lease_host, lease_pid, lease_job_id, lease_start, lease_nonce FROM experiments"
)
_SHOWN_NAMES = 20


class Database:
    """A connection, made by `Database.open`; it may change threads, but serves one at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Database:
        """Open a database.

        Args:
            create: Make the file and its folder if they are not there.
            read_only: Refuse to write. Such a connection still rolls back what a killed driver
                left half-written, where the file and its folder can be written.
            timeout_s: How long each call waits while another process has the file locked.

        Raises:
            StorageError: The file is not there (and `create` is False), can't be read or written,
                is no database of slurm_sweeps, or is of another version.
        """
        file = Path(path)
        if create:
            _make_folder(file.parent)
            _make_private(file)
        else:
            _check_is_there(file)
        with translate_errors(file):
            connection = _connect(file, create, timeout_s)
            try:
                _set_pragmas(connection)
                prepare_schema(connection, file, create)
                connection.execute(f"PRAGMA query_only = {int(read_only)}")
            except BaseException:
                connection.close()
                raise
        return cls(connection, file)

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_timeout(self, timeout_s: float) -> None:
        """Change how long each call waits while another process has the file locked."""
        with translate_errors(self.path):
            self._connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Let all reads of a `with` block see one state; keep it short, it holds up the writer.

        Such a block may lie in another one. Fetch all rows before it ends.
        """
        with translate_errors(self.path):
            if self._connection.in_transaction:
                yield self._connection
            else:
                with self._transaction("BEGIN"):
                    yield self._connection

    def fetch(self, sql: str, bound: Sequence[Any] = ()) -> list[Any]:
        """Read all rows of one statement."""
        with self.reading() as connection:
            return connection.execute(sql, bound).fetchall()

    @contextmanager
    def writing(
        self, experiment_id: int = 0, owner: LeaseOwner | None = None, now: float = 0.0
    ) -> Iterator[sqlite3.Connection]:
        """Write all that a `with` block writes, or nothing.

        The right to write is taken before the first statement, so that the block never finds out
        half-way that another process writes.

        Args:
            experiment_id: Whose lease to renew first; used, as `now`, with `owner` only.
            owner: The driver that must hold that lease; None where none is needed.
        """
        with translate_errors(self.path), self._transaction("BEGIN IMMEDIATE"):
            if owner is not None:
                self._renew(experiment_id, owner, now)
            yield self._connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # after some errors SQLite has rolled back itself
                self._connection.execute("ROLLBACK")
            raise

    def find_damage(self, limit: int = 10) -> list[str]:
        """Read the whole file for damage; a driver can't write meanwhile.

        Returns:
            SQLite's own words, at most `limit` times; nothing if all is sound.
        """
        with self.reading() as connection:
            rows = connection.execute(f"PRAGMA quick_check({int(limit)})").fetchall()
            lost = connection.execute("PRAGMA foreign_key_check").fetchmany(limit)
        said = [str(row[0]) for row in rows if row[0] != "ok"]
        return [*said, *(f"a row of {table} refers to no {other}" for table, _, other, _ in lost)]

    # Experiments

    def create_experiment(
        self, name: str, settings: Mapping[str, Any], now: float, owner: LeaseOwner | None = None
    ) -> ExperimentRecord:
        """Add an experiment, and let a driver take it in the same transaction.

        Raises:
            ExperimentExistsError: There is one of this name.
        """
        with self.writing() as connection:
            if _read_experiment(connection, "name", name) is not None:
                raise ExperimentExistsError(
                    f"experiment {name!r} is stored in {self.path} already; go on with it by "
                    "restore=True, replace it by overwrite=True, or choose another name"
                )
            added = connection.execute(
                "INSERT INTO experiments (name, created_at, updated_at, state, settings) "
                "VALUES (?, ?, ?, 'created', ?)",
                (name, now, now, json.dumps(dict(settings))),
            )
            if owner is not None:
                _write_lease(connection, int(added.lastrowid or 0), owner, now)
        return self.experiment(name)

    def experiments(self) -> list[ExperimentRecord]:
        """All experiments, the oldest first."""
        return [_build_experiment(row) for row in self.fetch(f"{_SELECT} ORDER BY created_at, id")]

    def experiment(self, name: str) -> ExperimentRecord:
        """The experiment of a name.

        Raises:
            ExperimentNotFoundError: There is none; the message lists what there is.
        """
        with self.reading() as connection:
            found = _read_experiment(connection, "name", name)
        if found is None:
            names = [each.name for each in self.experiments()]
            raise ExperimentNotFoundError(_format_not_found(name, self.path, names))
        return found

    def set_settings(
        self,
        experiment_id: int,
        settings: Mapping[str, Any],
        owner: LeaseOwner,
        now: float,
        cfgs: Mapping[int, str] | None = None,
    ) -> None:
        """Replace the settings of an experiment, and with them cfgs of trials, by number."""
        with self.writing(experiment_id, owner, now) as connection:
            connection.executemany(
                "UPDATE trials SET cfg = ? WHERE experiment_id = ? AND number = ?",
                [(cfg, experiment_id, number) for number, cfg in (cfgs or {}).items()],
            )
            connection.execute(
                "UPDATE experiments SET settings = ? WHERE id = ?",
                (json.dumps(dict(settings)), experiment_id),
            )

    def reset_experiment(
        self, experiment_id: int, settings: Mapping[str, Any], owner: LeaseOwner, now: float
    ) -> None:
        """Let an experiment begin anew, without trials, its lease kept; its folder stays.

        What was asked since the lease was taken is kept too: it is meant for its owner.
        """
        with self.writing(experiment_id, owner, now) as connection:
            _delete_rows(connection, experiment_id, "AND seen_at IS NOT NULL")
            connection.execute(
                "UPDATE experiments SET created_at = ?, state = 'created', settings = ? "
                "WHERE id = ?",
                (now, json.dumps(dict(settings)), experiment_id),
            )

    def delete_experiment(self, experiment_id: int, owner: LeaseOwner, now: float) -> None:
        """Remove an experiment and all that belongs to it from the database; its folder stays."""
        with self.writing(experiment_id, owner, now) as connection:
            _delete_rows(connection, experiment_id)
            connection.execute("DELETE FROM experiments WHERE id = ?", (experiment_id,))

    # Lease

    def take_lease(
        self, experiment_id: int, owner: LeaseOwner, now: float, found: Lease | None
    ) -> bool:
        """Take an experiment for one driver, if nothing has changed since it was looked at.

        What was asked of an earlier driver is dropped in the same transaction: it is not meant for
        this one, while all that comes later is.

        Args:
            found: The lease that was there, of a driver that is gone; None if it was free.

        Returns:
            Whether it was taken; if not, look again.
        """
        with self.writing() as connection:
            experiment = _read_experiment(connection, "id", experiment_id)
            if experiment is None or experiment.lease != found:
                return False
            _write_lease(connection, experiment_id, owner, now)
            connection.execute(
                "UPDATE requests SET seen_at = ? WHERE experiment_id = ? AND seen_at IS NULL",
                (now, experiment_id),
            )
        return True

    def correct_heartbeat(self, experiment_id: int, found: Lease, now: float) -> None:
        """Let a heartbeat from a clock that is ahead count from `now`, unless it beats again."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE experiments SET updated_at = ? "
                "WHERE id = ? AND lease_nonce = ? AND updated_at = ?",
                (now, experiment_id, found.owner.nonce, found.heartbeat),
            )

    def renew_lease(self, experiment_id: int, owner: LeaseOwner, now: float) -> None:
        """Say that the owner of the lease is alive; `write_records` does so too."""
        with self.writing(experiment_id, owner, now):
            pass

    def _renew(self, experiment_id: int, owner: LeaseOwner, now: float) -> None:
        renewed = self._connection.execute(
            "UPDATE experiments SET updated_at = ? WHERE id = ? AND lease_nonce = ?",
            (now, experiment_id, owner.nonce),
        ).rowcount
        if renewed:
            return
        found = _read_experiment(self._connection, "id", experiment_id)
        if found is not None and found.lease is not None:
            raise ExperimentLockedError(format_locked(found.name, self.path, found.lease, now))
        raise ExperimentLockedError(
            f"this driver has lost its experiment in {self.path}: another process removed it or "
            "gave it free; end this driver and start it again"
        )

    def release_lease(self, experiment_id: int, owner: LeaseOwner) -> None:
        """Give the experiment free; does nothing when another driver has it."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE experiments SET lease_host = NULL, lease_pid = NULL, lease_job_id = NULL, "
                "lease_start = NULL, lease_nonce = NULL WHERE id = ? AND lease_nonce = ?",
                (experiment_id, owner.nonce),
            )

    # Requests

    def add_request(self, experiment_id: int, kind: str, argument: str | None, now: float) -> None:
        """Ask something of the driver of an experiment, from outside; see `Request`."""
        with self.writing() as connection:
            write_request(connection, experiment_id, kind, argument, now)

    def requests(self, experiment_id: int, unseen_only: bool = False) -> list[Request]:
        """What was asked of the driver, the oldest first."""
        unseen = "AND seen_at IS NULL" if unseen_only else ""
        rows = self.fetch(
            "SELECT id, kind, argument, created_at FROM requests "
            f"WHERE experiment_id = ? {unseen} ORDER BY id",
            (experiment_id,),
        )
        return [Request(*row) for row in rows]

    def take_requests(self, experiment_id: int, now: float) -> list[Request]:
        """What was asked since the last time, the oldest first; each is handed out once."""
        waiting = self.requests(experiment_id, unseen_only=True)
        if waiting:
            with self.writing() as connection:
                connection.executemany(
                    "UPDATE requests SET seen_at = ? WHERE id = ?",
                    [(now, request.id) for request in waiting],
                )
        return waiting


def _check_is_there(file: Path) -> None:
    try:
        os.stat(file)
    except PermissionError as error:
        raise StorageError(
            f"{file} is out of your reach (user {os.geteuid()}, {error.strerror}): who owns it may "
            "let you in, or hand you a report"
        ) from error
    except OSError as error:
        with contextlib.suppress(OSError):  # of a current folder that is gone
            file = file.absolute()
        raise StorageError(
            f"there is no database at {file} (a sweep makes it when it first runs); "
            f"check local_dir: --local-dir or {DIR_VARIABLE} say it, else it is {DEFAULT_DIR} "
            f"in the current folder{describe_old(file.parent)}"
        ) from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)  # whatever the umask, see `Claim`
    except OSError as error:
        raise StorageError(
            f"the folder {folder} can't be made ({error.strerror}); choose another local_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"the folder {folder} can't be written; choose another local_dir")


def _make_private(path: Path) -> None:
    """Let nobody else read a new database, but the group whose folder it is in.

    SQLite's side files follow it. One that is there already stays as somebody has set it.
    """
    with contextlib.suppress(OSError):  # it is there, or SQLite says why it can't be made
        folder = path.parent.stat().st_mode
        if not folder & stat.S_IWOTH:
            mode = 0o640 if folder & (stat.S_IWGRP | stat.S_ISGID) else 0o600
            # None of our own can have locked it yet, so closing it drops no lock.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))


def _connect(path: Path, create: bool, timeout_s: float) -> sqlite3.Connection:
    # "rw" falls back to reading where the file may not be written; a reader needs more than "ro",
    # or it could not roll back what a killed driver left half-written.
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    vfs = os.environ.get(VFS_VARIABLE)
    if vfs:
        uri += f"&vfs={vfs}"
    return sqlite3.connect(
        uri, uri=True, timeout=timeout_s, isolation_level=None, check_same_thread=False
    )


def _set_pragmas(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")  # the file may come from someone else
    connection.execute("PRAGMA cache_size = -32768")  # in KiB


def _read_experiment(
    connection: sqlite3.Connection, column: str, key: str | int
) -> ExperimentRecord | None:
    row = connection.execute(f"{_SELECT} WHERE {column} = ?", (key,)).fetchone()
    return None if row is None else _build_experiment(row)


def _build_experiment(row: Sequence[Any]) -> ExperimentRecord:
    key, name, created_at, updated_at, state, settings, *lease = row
    held = None if lease[-1] is None else Lease(LeaseOwner(*lease), updated_at)
    return ExperimentRecord(
        key, name, created_at, updated_at, state, settings=json.loads(settings), lease=held
    )


def _write_lease(
    connection: sqlite3.Connection, experiment_id: int, owner: LeaseOwner, now: float
) -> None:
    host = make_storable(owner.host)
    connection.execute(
        "UPDATE experiments SET updated_at = ?, lease_host = ?, lease_pid = ?, lease_job_id = ?, "
        "lease_start = ?, lease_nonce = ? WHERE id = ?",
        (now, host, owner.pid, owner.job_id, owner.start, owner.nonce, experiment_id),
    )


def write_request(
    connection: sqlite3.Connection, experiment_id: int, kind: str, argument: str | None, now: float
) -> None:
    """Write what is asked of a driver, within a transaction; see `Database.add_request`."""
    connection.execute(
        "INSERT INTO requests (experiment_id, kind, argument, created_at) VALUES (?, ?, ?, ?)",
        (experiment_id, kind, argument, now),
    )


def _delete_rows(connection: sqlite3.Connection, key: int, which_requests: str = "") -> None:
    for table in TABLES_BY_DEPENDENCE:
        which = which_requests if table == "requests" else ""
        connection.execute(f"DELETE FROM {table} WHERE experiment_id = ? {which}", (key,))


def _format_not_found(name: str, path: Path, names: Sequence[str]) -> str:
    import difflib  # here: it is slow to import, and nearly never needed

    if close := difflib.get_close_matches(name, names, n=1):
        hint = f"did you mean {close[0]!r}?"
    else:
        shown = ", ".join(map(repr, names[:_SHOWN_NAMES])) or "none yet"
        hint = f"it holds {shown}{', …' if len(names) > _SHOWN_NAMES else ''}"
    return f"there is no experiment {name!r} in {path.absolute()}; {hint}"


def format_locked(name: str, path: Path, lease: Lease, now: float) -> str:
    """Say who works on an experiment."""
    owner = lease.owner
    job = f", Slurm job {owner.job_id}" if owner.job_id else ""
    age_s = max(0.0, now - lease.heartbeat)  # never negative, even if a clock was set back
    return (
        f"experiment {name!r} in {path} is in use by another driver: host {owner.host!r}, "
        f"pid {owner.pid}{job}, last heard of {age_s:.0f} s ago; wait until it ends, or end it; "
        "with join=True, or by 'slurm-sweeps join', a Slurm job lends it its nodes meanwhile"
    )
