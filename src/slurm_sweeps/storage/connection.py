"""Connections to the file: how it is opened, and how a transaction begins and ends."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StorageError
from .faults import VFS_VARIABLE, translate_errors
from .schema import prepare_schema


def open_connection(
    path: Path, create: bool, read_only: bool, timeout_s: float
) -> sqlite3.Connection:
    """Open the file and make sure that it holds our tables; `Database.open` tells the rest."""
    if create:
        _make_folder(path.parent)
    elif not os.path.exists(path):
        raise StorageError(
            f"there is no database at {path}; check local_dir (a sweep makes its database when it "
            "first runs)"
        )
    with translate_errors(path):
        connection = _connect(path, create, timeout_s)
        try:
            _set_pragmas(connection)
            prepare_schema(connection, path, create)
            connection.execute(f"PRAGMA query_only = {int(read_only)}")
        except BaseException:
            connection.close()
            raise
    return connection


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"the folder {folder} can't be made ({error.strerror}); choose another local_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(
            f"the folder {folder} can't be written; choose another local_dir, or change its "
            "permissions"
        )


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


@contextmanager
def begin(connection: sqlite3.Connection, path: Path, write: bool) -> Iterator[sqlite3.Connection]:
    """Run a block in one transaction.

    Args:
        connection: The connection. A block that only reads may lie in another transaction.
        path: Its file, for messages.
        write: Take the right to write before the first statement, so that the block never finds
            out half-way that another process writes. Else all reads of the block see one state.
    """
    if connection.in_transaction and not write:
        yield connection
        return
    with translate_errors(path):
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # after some errors SQLite has rolled back by itself
                connection.execute("ROLLBACK")
            raise
