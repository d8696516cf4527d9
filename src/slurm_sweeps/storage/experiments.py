"""The experiments' table: adding, finding, the lease, and what outsiders ask of a driver.

The functions take a connection; those that write need a transaction around them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ExperimentExistsError, ExperimentLockedError, ExperimentNotFoundError
from .records import (
    ExperimentRecord,
    Lease,
    LeaseOwner,
    Request,
)
from .schema import TABLES_BY_DEPENDENCE
from .writing import clean_text

_SELECT = (
    "SELECT id, name, created_at, updated_at, state, settings, "
    "lease_host, lease_pid, lease_job_id, lease_start, lease_nonce FROM experiments"
)
_SHOWN_NAMES = 20


def add_experiment(
    connection: sqlite3.Connection,
    path: Path,
    name: str,
    settings: Mapping[str, Any],
    now: float,
    state: str,
) -> int:
    """Add an experiment and return its key, or raise ExperimentExistsError."""
    if connection.execute("SELECT 1 FROM experiments WHERE name = ?", (name,)).fetchone():
        raise ExperimentExistsError(
            f"experiment {name!r} is stored in {path} already; go on with it by restore=True, "
            "replace it by overwrite=True, or choose another name"
        )
    added = connection.execute(
        "INSERT INTO experiments (name, created_at, updated_at, state, settings) "
        "VALUES (?, ?, ?, ?, ?)",
        (name, now, now, state, json.dumps(dict(settings))),
    )
    return int(added.lastrowid or 0)


def read_experiments(connection: sqlite3.Connection) -> list[ExperimentRecord]:
    """All experiments, the oldest first."""
    return [_build_experiment(row) for row in connection.execute(f"{_SELECT} ORDER BY id")]


def read_experiment(connection: sqlite3.Connection, path: Path, name: str) -> ExperimentRecord:
    """The experiment of a name, or ExperimentNotFoundError."""
    row = connection.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    if row is None:
        names = [name for (name,) in connection.execute("SELECT name FROM experiments ORDER BY id")]
        raise ExperimentNotFoundError(format_not_found(name, path, names))
    return _build_experiment(row)


def _build_experiment(row: Sequence[Any]) -> ExperimentRecord:
    key, name, created_at, updated_at, state, settings, *lease = row
    held = lease[-1] is not None
    return ExperimentRecord(
        id=key,
        name=name,
        created_at=created_at,
        updated_at=updated_at,
        state=state,
        settings=json.loads(settings),
        lease=Lease(LeaseOwner(*lease), updated_at) if held else None,
    )


def write_settings(
    connection: sqlite3.Connection, experiment_id: int, settings: Mapping[str, Any]
) -> None:
    """Replace the settings of an experiment."""
    connection.execute(
        "UPDATE experiments SET settings = ? WHERE id = ?",
        (json.dumps(dict(settings)), experiment_id),
    )


def delete_experiment(connection: sqlite3.Connection, path: Path, name: str) -> None:
    """Remove an experiment and all that belongs to it, or raise ExperimentNotFoundError."""
    key = read_experiment(connection, path, name).id
    for table in TABLES_BY_DEPENDENCE:
        connection.execute(f"DELETE FROM {table} WHERE experiment_id = ?", (key,))
    connection.execute("DELETE FROM experiments WHERE id = ?", (key,))


def format_not_found(name: str, path: Path, names: Sequence[str]) -> str:
    """Say that there is no such experiment, and what there is."""
    import difflib  # here: it is slow to import, and nearly never needed

    message = f"there is no experiment {name!r} in {path}; "
    if not names:
        return message + "it holds none yet"
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        message += f"did you mean {close[0]!r}? "
    shown = ", ".join(repr(each) for each in names[:_SHOWN_NAMES])
    more = ", …" if len(names) > _SHOWN_NAMES else ""
    return f"{message}There are: {shown}{more}"


def take_lease(
    connection: sqlite3.Connection, experiment_id: int, owner: LeaseOwner, now: float
) -> None:
    """Write down that a driver works on an experiment, whoever did before."""
    connection.execute(
        "UPDATE experiments SET updated_at = ?, lease_host = ?, lease_pid = ?, lease_job_id = ?, "
        "lease_start = ?, lease_nonce = ? WHERE id = ?",
        (
            now,
            clean_text(owner.host),
            owner.pid,
            owner.job_id,
            owner.start,
            owner.nonce,
            experiment_id,
        ),
    )


def renew_lease(
    connection: sqlite3.Connection, path: Path, experiment_id: int, owner: LeaseOwner, now: float
) -> None:
    """Say that the owner is alive, or raise ExperimentLockedError if the lease is not its own."""
    renewed = connection.execute(
        "UPDATE experiments SET updated_at = ? WHERE id = ? AND lease_nonce = ?",
        (now, experiment_id, owner.nonce),
    ).rowcount
    if renewed:
        return
    row = connection.execute(f"{_SELECT} WHERE id = ?", (experiment_id,)).fetchone()
    found = None if row is None else _build_experiment(row)
    if found is not None and found.lease is not None:
        raise ExperimentLockedError(format_locked(found.name, path, found.lease, now))
    raise ExperimentLockedError(
        f"this driver has lost its experiment in {path}: another process removed it or gave it "
        "free; end this driver and start it again"
    )


def release_lease(connection: sqlite3.Connection, experiment_id: int, owner: LeaseOwner) -> None:
    """Give an experiment free, if the owner still has it."""
    connection.execute(
        "UPDATE experiments SET lease_host = NULL, lease_pid = NULL, lease_job_id = NULL, "
        "lease_start = NULL, lease_nonce = NULL WHERE id = ? AND lease_nonce = ?",
        (experiment_id, owner.nonce),
    )


def format_locked(name: str, path: Path, lease: Lease, now: float) -> str:
    """Say who works on an experiment."""
    owner = lease.owner
    job = f", Slurm job {owner.job_id}" if owner.job_id else ""
    age_s = max(0.0, now - lease.heartbeat)  # never negative, even if a clock was set back
    return (
        f"experiment {name!r} in {path} is in use by another driver: host {owner.host!r}, "
        f"pid {owner.pid}{job}, last heard of {age_s:.0f} s ago; wait until it ends, or end it"
    )


def add_request(
    connection: sqlite3.Connection,
    experiment_id: int,
    kind: str,
    argument: str | None,
    now: float,
) -> None:
    """Write down what someone asks of a driver."""
    connection.execute(
        "INSERT INTO requests (experiment_id, kind, argument, created_at) VALUES (?, ?, ?, ?)",
        (experiment_id, kind, argument, now),
    )


def read_requests(
    connection: sqlite3.Connection, experiment_id: int, unseen_only: bool
) -> list[Request]:
    """What was asked of an experiment's driver, the oldest first."""
    unseen = "AND seen_at IS NULL" if unseen_only else ""
    rows = connection.execute(
        "SELECT id, kind, argument, created_at, seen_at FROM requests "
        f"WHERE experiment_id = ? {unseen} ORDER BY id",
        (experiment_id,),
    )
    return [Request(*row) for row in rows]


def mark_requests(connection: sqlite3.Connection, requests: Sequence[Request], now: float) -> None:
    """Write down that the driver has seen requests."""
    connection.executemany(
        "UPDATE requests SET seen_at = ? WHERE id = ?",
        [(now, request.id) for request in requests],
    )
