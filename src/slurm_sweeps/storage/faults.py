"""What SQLite's errors mean for a person: which file, what to do.

SQLite's messages are told apart by their text: Python 3.10 does not give the error codes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import StorageError

#: SQLite's own way to lock where the file system has none; see https://sqlite.org/vfs.html.
#: All who use the database must set it.
VFS_VARIABLE = "SLURM_SWEEPS_SQLITE_VFS"

#: (a word of what SQLite says, what that means and what to do); the first that fits counts.
_REMEDIES = (
    ("not a database", "is not a database; move it away, or choose another local_dir"),
    ("malformed", "is damaged; save what is left with: sqlite3 '{path}' .recover"),
    ("full", "can't grow, its disk is full; free some space, then go on with restore=True"),
    ("readonly", "can't be written; check the permissions of the file and of its folder"),
    ("unable to open", "can't be opened; check that its folder is there and that you may use both"),
    (
        "disk I/O",
        "can't be read or written; check its disk, your quota there and the network file system, "
        "then go on with restore=True",
    ),
    ("FOREIGN KEY", "has no such trial or experiment (any more); it was removed, or never written"),
    ("UNIQUE", "holds such an entry already"),
)


class DatabaseBusyError(StorageError):
    """Another process has locked the database; it is worth trying again."""


class EmptyDatabaseError(StorageError):
    """The file holds no tables: the process that made it ended before it could make them."""


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `StorageError` that names the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain_error(error, path) from error


def describe_old(folder: Path) -> str:
    """Say that there is a database of version 0.1 where one is looked for; empty if there is none.

    That version's own folder was `slurm_sweeps`.
    """
    for file in (folder / "slurm_sweeps.db", folder.parent / "slurm_sweeps" / "slurm_sweeps.db"):
        if os.path.exists(file):
            return f". {file} is of version 0.1, which alone reads it: slurm-sweeps==0.1.3"
    return ""


def explain_error(error: sqlite3.Error, path: Path) -> StorageError:
    """Say what an error of SQLite means for the database at `path`."""
    said = str(error)
    locked = "locked" in said or "locking" in said
    if locked or "disk I/O" in said:
        refusal = find_lock_refusal(path.parent)
        if refusal is not None:
            return StorageError(
                f"{path} can't be locked, its file system refuses it ({refusal}); choose a "
                f"local_dir on another file system, or set {VFS_VARIABLE}=unix-dotfile for all who "
                "use this database"
            )
    if locked:
        return DatabaseBusyError(_format_busy(path, said))
    if not os.path.exists(path) and ("readonly" in said or "disk I/O" in said):
        return StorageError(
            f"{path} was removed or renamed while it was in use (SQLite: {said}); put it back, "
            "then go on with restore=True"
        )
    for word, remedy in _REMEDIES:
        if word in said:
            remedy = _explain_disk(path, word) or remedy
            return StorageError(f"{path} {remedy.format(path=path)} (SQLite: {said})")
    return StorageError(f"{path} can't be used (SQLite: {type(error).__name__}: {said})")


def _explain_disk(path: Path, word: str) -> str | None:
    """Tell what SQLite does not: why a disk does not let it write."""
    if word not in ("full", "readonly", "unable to open", "disk I/O"):
        return None
    with contextlib.suppress(OSError):
        disk = os.statvfs(path.parent)
        if disk.f_flag & os.ST_RDONLY:
            return "is on a disk that is mounted read-only; choose another local_dir"
        if disk.f_files and not disk.f_favail:
            return (
                "is on a disk that takes no more files (no inodes are left); remove some, then go "
                "on with restore=True"
            )
        if word == "readonly" and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
            return (
                "was replaced by another file while it was in use; put the first one back, then go "
                "on with restore=True"
            )
    return None


def _format_busy(path: Path, said: str) -> str:
    lock = path.with_name(f"{path.name}.lock")  # made by SQLite's unix-dotfile
    with contextlib.suppress(OSError):
        age_s = max(0.0, time.time() - lock.stat().st_mtime)
        return (
            f"{path} is locked by {lock}, which is {age_s:.0f} s old (SQLite: {said}). It is held "
            "for seconds only: if it is older than a minute, and squeue and ps show no sweep that "
            f"uses this folder, who held it was killed: rmdir '{lock}'"
        )
    return (
        f"{path} is locked by another process (SQLite: {said}); wait until it is done, or find it "
        f"with: fuser -v '{path}'"
    )


def find_lock_refusal(folder: Path) -> str | None:
    """Try to lock a new file in a folder as SQLite would, with a POSIX advisory lock.

    The database itself is never opened for this: closing it would drop this process's locks.

    Returns:
        What the file system said; None if it locks, if the folder can't be written, or if
        `VFS_VARIABLE` chooses another way to lock.
    """
    import tempfile  # here: it is slow to import, and nearly never needed

    if VFS_VARIABLE in os.environ:
        return None
    with (
        contextlib.suppress(OSError),
        tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-test-") as file,
    ):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return str(error)
    return None
