"""The writer's thread, against real files; what other processes do to it is in *_faults.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from storage_samples import (
    OWNER,
    RIVAL,
    assert_sound,
    count_prefix,
    make_record,
    make_report,
    make_trial,
)

from cluster_tools.processes import wait_until
from slurm_sweeps.errors import ExperimentLockedError, StorageError
from slurm_sweeps.storage import writer as writer_module
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import Record, Request, StateRecord
from slurm_sweeps.storage.rows import read_metric_rows
from slurm_sweeps.storage.writer import Writer

WAIT_S = 60.0  # how long a test waits for what must come


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slurm-sweeps.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with Database.open(path, create=True) as opened:
        opened.create_experiment("a", {}, 0.0)
        yield opened


@pytest.fixture
def reader(database: Database, path: Path) -> Iterator[Database]:  # noqa: ARG001 - it is there
    with Database.open(path, read_only=True) as opened:
        yield opened


def test_all_that_was_put_is_there_after_close(database: Database, path: Path) -> None:
    with Writer(path, 1) as writer:
        for index in range(5000):
            writer.put(make_record(index))
        writer.put(StateRecord("completed"))

    assert count_prefix(database, 1) == 5000
    assert database.experiment("a").state == "completed"
    assert_sound(path)


def test_flush_makes_what_was_put_visible_to_others(path: Path, reader: Database) -> None:
    with Writer(path, 1) as writer:
        writer.flush()  # with nothing to do
        for index in range(100):
            writer.put(make_record(index))
            if index % 10 == 0:
                writer.flush()
                assert count_prefix(reader, 1) == index + 1


def test_it_writes_by_itself(path: Path, reader: Database) -> None:
    with Writer(path, 1) as writer:
        writer.put(make_record(0))

        wait_until(lambda: count_prefix(reader, 1) == 1, WAIT_S, str)


def test_many_threads_may_put(path: Path, database: Database) -> None:
    def log(number: int) -> None:
        for iteration in range(500):
            writer.put(make_report(number, iteration))

    with Writer(path, 1) as writer:
        threads = [threading.Thread(target=log, args=[number]) for number in range(4)]
        for number in range(4):
            writer.put(make_trial(number))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(read_metric_rows(database, 1)) == 2000


def test_what_is_in_memory_is_bounded(database: Database, path: Path) -> None:
    progress: list[int] = []
    full = threading.Event()

    def put_many() -> None:
        for index in range(300):
            if index == 101:  # one beyond the bound: the first hundred rows and what fits with them
                full.set()
            writer.put(make_record(index))
            progress.append(index)

    with (
        Database.open(path) as locker,
        Writer(path, 1, max_rows=100) as writer,
    ):
        thread = threading.Thread(target=put_many)
        with locker.writing():  # nothing can be written now
            thread.start()
            assert not full.wait(1.0)
            assert len(progress) <= 100
        thread.join(WAIT_S)

    assert len(progress) == 300
    assert count_prefix(database, 1) == 300


def test_waiting_for_room_has_an_end(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "STUCK_S", 1.0)
    writer = Writer(path, 1, max_rows=5)
    with database.writing():  # nothing else can be written now
        for index in range(3):
            writer.put(make_record(index))
        with pytest.raises(StorageError, match=r"3 records are not in .* go on with restore=True"):
            writer.put(make_record(3))
        with pytest.raises(StorageError, match="3 records are not in"):
            writer.flush()
        with pytest.raises(StorageError, match="3 records are not in"):
            writer.close()
    writer.close()
    assert count_prefix(database, 1) == 3


def test_a_big_backlog_is_written_in_several_transactions(
    path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GROUP_ROWS", 50)
    sizes: list[int] = []
    original = writer_module.write_records

    def write(opened: Database, experiment_id: int, records: list[Record], *rest: Any) -> None:
        sizes.append(len(records))
        original(opened, experiment_id, records, *rest)

    monkeypatch.setattr(writer_module, "write_records", write)  # to see the transactions
    with Writer(path, 1) as writer:
        for index in range(1000):
            writer.put(make_record(index))

    assert max(sizes) <= 50
    assert count_prefix(database, 1) == 1000


def test_it_renews_the_lease(
    path: Path, database: Database, reader: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "HEARTBEAT_INTERVAL_S", 0.0)
    monkeypatch.setattr(writer_module, "POLL_INTERVAL_S", 0.01)
    assert database.take_lease(1, OWNER, 1.0, None)
    twice = threading.Semaphore(0)

    def clock() -> float:
        twice.release()
        return 7.0

    with Writer(path, 1, OWNER, clock=clock):
        assert twice.acquire(timeout=WAIT_S)
        assert twice.acquire(timeout=WAIT_S)  # asked again: the first is committed

        lease = reader.experiment("a").lease

    assert lease is not None
    assert lease.heartbeat == 7.0


def test_it_renews_the_lease_when_asked_and_says_if_that_is_lost(
    path: Path, database: Database, reader: Database
) -> None:
    times = iter(range(2, 100))
    assert database.take_lease(1, OWNER, 1.0, None)
    writer = Writer(path, 1, OWNER, clock=lambda: float(next(times)))
    writer.renew()
    held = reader.experiment("a").lease
    assert held is not None
    assert held.heartbeat > 1.0
    assert database.take_lease(1, RIVAL, 50.0, held)
    for call in (writer.renew, writer.close):
        with pytest.raises(ExperimentLockedError):
            call()


def test_a_driver_whose_lease_was_taken_over_stops(database: Database, path: Path) -> None:
    assert database.take_lease(1, OWNER, 1.0, None)
    writer = Writer(path, 1, OWNER)
    writer.put(make_record(0))
    writer.flush()

    with Database.open(path) as other:
        assert other.take_lease(1, RIVAL, 2.0, other.experiment("a").lease)
    writer.put(make_record(1))

    for call in (
        writer.flush,
        writer.check,
        writer.close,
        lambda: writer.put(make_record(2)),
    ):
        with pytest.raises(ExperimentLockedError, match=r"in use by another driver: host 'node2'"):
            call()
    assert count_prefix(database, 1) == 1


@pytest.mark.usefixtures("database")
def test_requests_from_outside_arrive(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "POLL_INTERVAL_S", 0.01)
    heard: list[Request] = []
    came = threading.Event()

    def listen(request: Request) -> None:
        heard.append(request)
        came.set()

    with Writer(path, 1, on_request=listen), Database.open(path) as outsider:
        outsider.add_request(1, "stop", None, 5.0)
        assert came.wait(WAIT_S)

    assert [(request.kind, request.created_at) for request in heard] == [("stop", 5.0)]


@pytest.mark.usefixtures("database")
def test_what_can_not_be_written_ends_it_and_is_told(path: Path) -> None:
    writer = Writer(path, 1)
    writer.check()
    writer.put(make_report(7, 1))  # of a trial that was never written

    with pytest.raises(StorageError, match="has no such trial or experiment"):
        writer.flush()
    with pytest.raises(StorageError, match="has no such trial or experiment"):
        writer.close()


@pytest.mark.usefixtures("database")
def test_a_bug_ends_it_and_is_told(path: Path) -> None:
    writer = Writer(path, 1)
    writer.put(make_trial(0))
    writer.put(make_report(0, 2**70))

    with pytest.raises(StorageError, match=r"the writer ended with OverflowError: .*too large"):
        writer.close()


@pytest.mark.usefixtures("database")
def test_putting_into_a_closed_writer(path: Path) -> None:
    writer = Writer(path, 1)
    writer.close()
    writer.close()

    with pytest.raises(StorageError, match=r"writer of .* is closed; lost: StateRecord"):
        writer.put(StateRecord("completed"))
