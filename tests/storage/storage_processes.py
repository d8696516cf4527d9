"""Other processes that use a database: `python storage_processes.py ROLE PATH [ARGUMENT]`.

Each prints a line when it has done what its role says and goes on when it is told to by a line or
the end of its standard input.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slurm_sweeps.storage.rows import write_records


@contextmanager
def start(
    role: str, path: Path, argument: str = "", env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a role in a process of its own until the block ends."""
    process = subprocess.Popen(
        [sys.executable, __file__, role, str(path), argument],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Let a process go on, and wait until it has done so."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert read_line(process) == "done"


def lock(path: str, _: str) -> None:
    """Keep everybody from reading and writing."""
    _hold(path, ["BEGIN EXCLUSIVE"])


def read(path: str, _: str) -> None:
    """Be in the middle of a long read."""
    _hold(path, ["BEGIN", "SELECT count(*) FROM experiments"])


def stay(path: str, _: str) -> None:
    """Have the file open."""
    _hold(path, ["SELECT count(*) FROM experiments"])


def _hold(path: str, statements: list[str]) -> None:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    for statement in statements:
        connection.execute(statement).fetchall()
    print("ready", flush=True)
    sys.stdin.readline()
    connection.close()
    print("done", flush=True)
    sys.stdin.readline()


def write(path: str, first: str) -> None:
    """Write the endless sequence from a place on, as fast as it goes, until killed."""
    from storage_samples import make_record

    from slurm_sweeps.storage import writer as writer_module
    from slurm_sweeps.storage.writer import Writer

    writer_module.COMMIT_INTERVAL_S = 0.0  # as many commits to be killed in as there can be
    writer = Writer(path, 1, max_rows=2000)
    for index in range(int(first), sys.maxsize):
        writer.put(make_record(index))
        if index % 100 == 99:
            writer.flush()
            print(index + 1, flush=True)


def open_(path: str, _: str) -> None:
    """Open or make a database, write to it, and say what came of it."""
    from slurm_sweeps.errors import StorageError
    from slurm_sweeps.storage.database import Database
    from slurm_sweeps.storage.records import StateRecord

    try:
        with Database.open(path, create=True, timeout_s=0.1) as database:
            write_records(database, 1, [StateRecord("running")])
            print("fine", flush=True)
    except StorageError as error:
        print(type(error).__name__, error, flush=True)


if __name__ == "__main__":
    roles = {"lock": lock, "read": read, "stay": stay, "write": write, "open": open_}
    roles[sys.argv[1]](sys.argv[2], sys.argv[3])
