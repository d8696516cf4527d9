"""The tables, and making sure that a file holds them.

- Every key begins with the experiment, so that one experiment is one stretch of each table. The
  big tables have no rowid: their rows lie in the order of their key, a trial's curve in one piece.
- `metrics` can grow to ten million rows. What tables and summaries ask for at any moment stands
  in `aggregates`, one row for each trial and metric, ordered by metric so that the best trial is
  one short scan. It always equals what its rows in `metrics` give (see `aggregates.py`).
- `trials` holds what a trial is and what it is at; where, when and how it ran stands in `attempts`,
  one row for each run, and is joined from there.
- Which trials are infeasible, as no best one is, is asked at any moment, and so has an index, which
  takes nothing where none is. So have the requests that the driver has not seen.
- A row of `metrics` needs no foreign key of its own, which would cost a quarter of the speed: the
  aggregate that is written with it has one.
- `runs` has a row for each driver that worked on an experiment: of which code, and where.
- NaN is stored as NULL, which is what SQLite makes of it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..errors import StorageError
from .faults import EmptyDatabaseError

#: "SSwp", in the header of the file: whose database this is.
APPLICATION_ID = 0x53537770

#: Raised with every change of the tables.
VERSION = 3

_TABLES = """
CREATE TABLE experiments (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    state TEXT NOT NULL,
    settings TEXT NOT NULL,
    lease_host TEXT,
    lease_pid INTEGER,
    lease_job_id TEXT,
    lease_start TEXT,
    lease_nonce TEXT
);
CREATE TABLE runs (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    started_at REAL NOT NULL,
    told TEXT NOT NULL,
    diff BLOB,
    PRIMARY KEY (experiment_id, started_at)
) WITHOUT ROWID;
CREATE TABLE trials (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    number INTEGER NOT NULL,
    trial_id TEXT NOT NULL,
    repetition INTEGER NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    lost_count INTEGER NOT NULL,
    cfg TEXT NOT NULL,
    PRIMARY KEY (experiment_id, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX trials_by_id ON trials (experiment_id, trial_id);
CREATE INDEX trials_by_status ON trials (experiment_id, status);
CREATE TABLE attempts (
    experiment_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status TEXT NOT NULL,
    slot INTEGER,
    job_id TEXT,
    host TEXT,
    gpus TEXT,
    start_time REAL,
    end_time REAL,
    last_iteration INTEGER,
    exit_code INTEGER,
    signal INTEGER,
    memory_mb REAL,
    cpu_s REAL,
    gpu_memory_mb REAL,
    error_type TEXT,
    error_message TEXT,
    traceback TEXT,
    PRIMARY KEY (experiment_id, number, attempt),
    FOREIGN KEY (experiment_id, number) REFERENCES trials
) WITHOUT ROWID;
CREATE TABLE metric_names (
    id INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    name TEXT NOT NULL,
    UNIQUE (experiment_id, name)
);
CREATE TABLE metrics (
    experiment_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    iteration INTEGER NOT NULL,
    value REAL,
    logged_at REAL NOT NULL,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, number, metric_id, iteration)
) WITHOUT ROWID;
CREATE TABLE aggregates (
    experiment_id INTEGER NOT NULL,
    metric_id INTEGER NOT NULL,
    number INTEGER NOT NULL,
    count INTEGER NOT NULL,
    first_iteration INTEGER NOT NULL,
    last_iteration INTEGER NOT NULL,
    last_value REAL,
    min_value REAL,
    min_iteration INTEGER,
    max_value REAL,
    max_iteration INTEGER,
    PRIMARY KEY (experiment_id, metric_id, number),
    FOREIGN KEY (experiment_id, number) REFERENCES trials
) WITHOUT ROWID;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    kind TEXT NOT NULL,
    argument TEXT,
    created_at REAL NOT NULL,
    seen_at REAL
);
CREATE INDEX requests_unseen ON requests (experiment_id) WHERE seen_at IS NULL;
CREATE TABLE jobs (
    experiment_id INTEGER NOT NULL REFERENCES experiments (id),
    since REAL NOT NULL,
    job_id TEXT NOT NULL,
    restarts INTEGER NOT NULL,
    state TEXT NOT NULL,
    can_drive INTEGER NOT NULL,
    nodes TEXT NOT NULL,
    slots INTEGER,
    offer TEXT NOT NULL,
    ends_at REAL,
    ended_at REAL,
    note TEXT,
    PRIMARY KEY (experiment_id, job_id, restarts)
) WITHOUT ROWID;
"""

#: What refers to others comes before what it refers to.
TABLES_BY_DEPENDENCE = (
    *("requests", "jobs", "aggregates", "metrics", "metric_names", "attempts", "trials", "runs"),
)


def prepare_schema(connection: sqlite3.Connection, path: Path, create: bool) -> None:
    """Make the tables in an empty database, or make sure that it is one of ours.

    Raises:
        StorageError: The database belongs to something else, or is of another version, or is
            empty and `create` is False.
    """
    if create and _is_empty(connection):
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):  # asked again: another process may have been faster
            _create_tables(connection)
        connection.execute("COMMIT")
    elif _is_empty(connection):
        raise EmptyDatabaseError(f"{path} is empty; a sweep makes its tables when it first runs")
    _check_owner(connection, path)
    _check_version(connection, path)


def _is_empty(connection: sqlite3.Connection) -> bool:
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0


def _create_tables(connection: sqlite3.Connection) -> None:
    for statement in _TABLES.split(";"):  # executescript() would commit in between
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if owner != APPLICATION_ID:
        raise StorageError(
            f"{path} is a SQLite database, but not one of slurm_sweeps 1.0 or later; "
            "choose another local_dir, or move that file away"
        )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StorageError(
            f"{path} was written by a newer slurm_sweeps (its tables are of version {version}, "
            f"this one knows {VERSION}); update with 'pip install -U slurm-sweeps'"
        )
    if version < VERSION:
        raise StorageError(
            f"{path} was written by an older slurm_sweeps (its tables are of version {version}, "
            f"this one knows {VERSION} only); choose another local_dir, or read it with the "
            "slurm_sweeps that wrote it"
        )
