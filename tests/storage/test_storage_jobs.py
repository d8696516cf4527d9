"""The jobs of a sweep in its database: many come at once, each looks for itself."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import pytest

from slurm_sweeps.errors import ExperimentNotFoundError
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.jobs import decode_job, encode_job, look, read_jobs, tell_driver
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import JobRecord, JobState, StateRecord
from slurm_sweeps.storage.rows import write_records


def build_job(number: int = 7, **changes: object) -> JobRecord:
    job = JobRecord(
        str(number), 0, JobState.WAITING, can_drive=True, nodes="n1", offer="{}", since=1.0 * number
    )
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type] # by name


@pytest.fixture
def database(tmp_path: Path) -> Database:
    opened = Database.open(tmp_path / "slurm-sweeps.db", create=True)
    opened.create_experiment("big", {}, 0.0)
    return opened


def test_a_job_asks_once_and_the_driver_answers_in_its_row(database: Database) -> None:
    key, job = database.experiment("big").id, build_job(ends_at=60.0)
    tell_driver(database, key, "lend", job)
    (request,) = database.take_requests(key, 1.0)
    assert (request.kind, decode_job(request.argument or "")) == ("lend", job)
    assert look(database, "big", job).job == job
    answer = dataclasses.replace(job, state=JobState.LENDING, slots=4)
    write_records(database, key, [answer])
    assert look(database, "big", job).job == answer == read_jobs(database, key)[0]
    again = build_job(restarts=1, since=9.0)
    tell_driver(database, key, "lend", again)
    assert read_jobs(database, key) == [answer, again]
    assert decode_job(encode_job(again)) == again


def test_who_came_first_goes_first(database: Database) -> None:
    key = database.experiment("big").id
    drives = {1: True, 2: False, 3: True, 4: True}
    jobs = [build_job(number, can_drive=can) for number, can in drives.items()]
    write_records(database, key, jobs)
    assert [look(database, "big", job).rank for job in jobs] == [0, 1, 1, 2]
    write_records(database, key, [dataclasses.replace(jobs[0], state=JobState.GONE)])
    assert look(database, "big", jobs[3]).rank == 1


def test_a_sweep_that_is_over_needs_no_job(database: Database) -> None:
    key = database.experiment("big").id
    states = [JobState.DRIVING, JobState.WAITING, JobState.GONE, JobState.REFUSED]
    jobs = [build_job(number, state=state) for number, state in enumerate(states)]
    write_records(database, key, [*jobs, StateRecord("completed")], now=5.0)
    found = read_jobs(database, key)
    assert [job.state for job in found] == [JobState.RELEASED] * 2 + states[2:]
    assert [job.ended_at for job in found] == [5.0, 5.0, None, None]
    write_records(database, key, [*jobs, StateRecord("stopped", "SIGTERM")])
    assert [job.state for job in read_jobs(database, key)] == states  # another will drive


def test_an_experiment_that_is_removed_takes_its_jobs_along(database: Database) -> None:
    key, owner = database.experiment("big").id, build_owner()
    tell_driver(database, key, "lend", build_job())
    database.take_lease(key, owner, 0.0, None)
    database.reset_experiment(key, {}, owner, 0.0)
    assert look(database, "big", build_job()).job is None
    database.delete_experiment(key, owner, 0.0)
    with pytest.raises(ExperimentNotFoundError, match="there is no experiment 'big'"):
        look(database, "big", build_job())


def test_many_that_come_at_once_wait_for_each_other(database: Database) -> None:
    """Each has a connection of its own, and finds the file locked many times."""
    key, count = database.experiment("big").id, 40

    def come(number: int) -> None:
        with Database.open(database.path) as opened:
            tell_driver(opened, key, "lend", build_job(number))

    threads = [threading.Thread(target=come, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    with database.writing():
        time.sleep(0.5)  # longer than each waits at first
    for thread in threads:
        thread.join(60.0)
    assert len(read_jobs(database, key)) == len(database.requests(key)) == count
    assert look(database, "big", build_job()).look_s >= 1.0
