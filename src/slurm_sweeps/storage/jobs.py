"""The jobs whose nodes are a sweep's: rows that they write themselves once, and the driver then.

A job that lends offers itself in one short transaction, and from then on only reads: what it has to
do stands in its own row, and beside it. A thousand of them must neither keep the driver from the
file nor each other; so who finds it locked waits for a moment of random length, which grows, and
who looks does so less often the more there are.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from .database import Database, write_request
from .faults import DatabaseBusyError
from .records import ExperimentRecord, JobRecord, JobState

_FIELDS = tuple(field.name for field in dataclasses.fields(JobRecord))
_COLUMNS = ", ".join(_FIELDS)
_OF_JOB = "experiment_id = ? AND job_id = ? AND restarts = ?"
_UPSERT = (
    f"INSERT OR REPLACE INTO jobs (experiment_id, {_COLUMNS}) "
    f"VALUES ({', '.join('?' * (1 + len(_FIELDS)))})"
)

#: How long a job tries to write its row, and pauses the first time that the file is locked.
_TRY_S, _FIRST_PAUSE_S, _LONGEST_PAUSE_S = 300.0, 0.05, 4.0

#: How long a job that looks waits for the lock: its driver may be behind with its writing.
LOOK_TIMEOUT_S = 60.0

#: So many jobs look at the file in a second at the most, all together, and each so often; or, in
#: the second number of seconds, one that is next to drive, or will end within the last.
_LOOKS_PER_S, _LOOK_S, _SOON_LOOK_S, _SOON_S = 100.0, 2.0, 0.5, 90.0

#: In which order jobs come to drive: that which lasts longest first, so that drivers change rarely.
_ORDER = "-coalesce(ends_at, 9e999), since, job_id"

_AT_HAND = (JobState.WAITING, JobState.LENDING)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a job finds when it looks."""

    experiment: ExperimentRecord
    job: JobRecord | None  # its own; None where it is there no more
    rank: int  # how many that could drive last longer, or as long and came before it
    look_s: float  # after how many seconds it should look again


def write_job(connection: sqlite3.Connection, experiment_id: int, job: JobRecord) -> None:
    """Write a job's record, in the place of the one before."""
    values = [getattr(job, name) for name in _FIELDS]
    connection.execute(
        _UPSERT,
        (experiment_id, *(each.value if isinstance(each, JobState) else each for each in values)),
    )


def release_all(connection: sqlite3.Connection, experiment_id: int, now: float) -> None:
    """Write down that a sweep that is over needs no job any more."""
    over = [state.value for state in JobState if state.is_over]
    connection.execute(
        "UPDATE jobs SET state = ?, ended_at = ? "
        f"WHERE experiment_id = ? AND state NOT IN ({', '.join('?' * len(over))})",
        (JobState.RELEASED.value, now, experiment_id, *over),
    )


def read_jobs(database: Database, experiment_id: int) -> list[JobRecord]:
    """Read the jobs of an experiment, in the order in which they came."""
    sql = f"SELECT {_COLUMNS} FROM jobs WHERE experiment_id = ? ORDER BY since, job_id, restarts"
    return [_build_job(row) for row in database.fetch(sql, (experiment_id,))]


def _build_job(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_FIELDS, row, strict=True))
    state, can_drive = JobState(values.pop("state")), bool(values.pop("can_drive"))
    return JobRecord(state=state, can_drive=can_drive, **values)


def encode_job(job: JobRecord) -> str:
    """Write a job's record as JSON text."""
    return json.dumps(dataclasses.asdict(job))


def decode_job(text: str) -> JobRecord:
    """Read what `encode_job` has written."""
    values = json.loads(text)
    return JobRecord(state=JobState(values.pop("state")), **values)


def tell_driver(database: Database, experiment_id: int, kind: str, job: JobRecord) -> None:
    """Write a job's record, and ask the driver to "lend" it from now on, or to let it "leave".

    Raises:
        DatabaseBusyError: The file was locked for minutes.
    """
    _write_patiently(database, experiment_id, job, kind)


def put_job(database: Database, experiment_id: int, job: JobRecord) -> None:
    """Write a job's record, where there is no driver to do so; raises as `tell_driver`."""
    _write_patiently(database, experiment_id, job)


def _write_patiently(
    database: Database, experiment_id: int, job: JobRecord, kind: str | None = None
) -> None:
    give_up_at, pause_s = time.monotonic() + _TRY_S, _FIRST_PAUSE_S
    database.set_timeout(0.0)  # who waits for the lock in SQLite keeps the driver from it
    try:
        while True:
            try:
                with database.writing() as connection:
                    write_job(connection, experiment_id, job)
                    if kind is not None:
                        write_request(connection, experiment_id, kind, encode_job(job), time.time())
                return
            except DatabaseBusyError:
                if time.monotonic() > give_up_at:
                    raise
            time.sleep(random.uniform(0.0, pause_s))
            pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
    finally:
        database.set_timeout(LOOK_TIMEOUT_S)


def look(database: Database, name: str, job: JobRecord) -> Standing:
    """Read what a job has to know, by keys alone.

    Raises:
        ExperimentNotFoundError: There is no such experiment any more.
    """
    with database.reading() as connection:
        experiment = database.experiment(name)
        key = (experiment.id, job.job_id, job.restarts)
        row = connection.execute(f"SELECT {_COLUMNS} FROM jobs WHERE {_OF_JOB}", key).fetchone()
        found = _build_job(row) if row else None
        own = found or job  # the driver may know better when it ends
        marks = ", ".join("?" * len(_AT_HAND))
        ((count, rank),) = connection.execute(
            f"SELECT count(*), coalesce(sum(can_drive AND ({_ORDER}) < (?, ?, ?)), 0) FROM jobs "
            f"WHERE experiment_id = ? AND state IN ({marks})",
            (
                *(-math.inf if own.ends_at is None else -own.ends_at, own.since, own.job_id),
                *(experiment.id, *(state.value for state in _AT_HAND)),
            ),
        )
    ends_soon = own.ends_at is not None and own.ends_at - time.time() < _SOON_S
    look_s = max(_SOON_LOOK_S if ends_soon else _LOOK_S, count / _LOOKS_PER_S)
    if job.can_drive and rank == 0:
        look_s = _SOON_LOOK_S
    return Standing(experiment, found, rank, random.uniform(0.5, 1.5) * look_s)
