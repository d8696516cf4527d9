from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import (
    OWNER,
    RIVAL,
    assert_sound,
    is_same,
    make_report,
    make_trial,
    open_in_memory,
)

from slurm_sweeps.errors import (
    ExperimentExistsError,
    ExperimentLockedError,
    ExperimentNotFoundError,
    StorageError,
)
from slurm_sweeps.storage import rows as rows_module
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import Lease, StateRecord, TrialRecord
from slurm_sweeps.storage.rows import (
    count_trials,
    read_aggregates,
    read_attempts,
    read_best,
    read_first_reports,
    read_metric_ids,
    read_metric_rows,
    read_metrics_of_trial,
    read_reports,
    read_trial,
    read_trials,
    read_values,
    write_records,
)
from slurm_sweeps.storage.schema import APPLICATION_ID, VERSION
from slurm_sweeps.trial import Status, TrialError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "süß & sour 100%? #1" / "slurm-sweeps.db"


# Opening


def test_create_makes_folder_and_file_and_is_found_again(path: Path) -> None:
    with Database.open(path, create=True) as database:
        made = database.create_experiment("a", {"seed": 1}, now=7.0)

    with Database.open(path, read_only=True) as database:
        assert database.experiment("a") == made
        assert made.settings == {"seed": 1}
        assert (made.created_at, made.state, made.lease) == (7.0, "created", None)
    assert_sound(path)


def test_what_is_not_there_is_not_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent.parent)
    with pytest.raises(StorageError) as caught:
        Database.open(path.relative_to(path.parent.parent))

    said = str(caught.value)
    assert f"there is no database at {path} " in said  # from wherever one looks
    for where in ("--local-dir", "SLURM_SWEEPS_DIR", "./slurm-sweeps in the current folder"):
        assert where in said
    assert not path.parent.exists()
    (path.parent.parent / "gone").mkdir()
    monkeypatch.chdir(path.parent.parent / "gone")
    (path.parent.parent / "gone").rmdir()
    with pytest.raises(StorageError, match=r"there is no database at x\.db "):
        Database.open("x.db")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "slurm-sweeps.db"
    path.touch()

    with pytest.raises(StorageError, match="is empty; a sweep makes its tables"):
        Database.open(path)

    Database.open(path, create=True).close()
    Database.open(path).close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "slurm-sweeps.db"
    path.write_text("dear diary, " * 100)

    for create in (False, True):
        with pytest.raises(StorageError, match="is not a database; move it away, or choose"):
            Database.open(path, create=create)

    assert path.read_text() == "dear diary, " * 100


def test_a_database_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "slurm-sweeps.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE birds (name TEXT)")
    connection.close()

    with pytest.raises(StorageError, match=r"but not one of slurm_sweeps .* choose another"):
        Database.open(path, create=True)


@pytest.mark.parametrize(
    ("version", "words", "remedy"),
    [
        (VERSION + 1, "by a newer slurm_sweeps", "update with 'pip install -U slurm-sweeps'"),
        (VERSION - 1, "by an older slurm_sweeps", "read it with the slurm_sweeps that wrote it"),
    ],
)
def test_another_version(path: Path, version: int, words: str, remedy: str) -> None:
    Database.open(path, create=True).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()

    for create in (False, True):
        with pytest.raises(StorageError) as caught:
            Database.open(path, create=create)

        assert f"{path} was written {words}" in str(caught.value)
        assert f"of version {version}, this one knows {VERSION}" in str(caught.value)
        assert remedy in str(caught.value)


def test_a_damaged_file(path: Path) -> None:
    with Database.open(path, create=True) as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number) for number in range(1000)])
    size = path.stat().st_size
    with path.open("r+b") as file:  # nobody has it open now
        file.seek(size // 2)
        file.write(b"\xff" * (size // 4))

    with (
        Database.open(path, read_only=True) as database,
        pytest.raises(StorageError, match=r"is damaged; save what is left with: sqlite3 '.*'"),
    ):
        read_trials(database, key)


def test_after_close_nothing_works(path: Path) -> None:
    database = Database.open(path, create=True)
    database.close()

    with pytest.raises(StorageError, match=r"can't be used .*Cannot operate on a closed database"):
        database.experiments()


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageError, match=r"can't be made \(Not a directory\); choose another"):
        Database.open(tmp_path / "file" / "x" / "slurm-sweeps.db", create=True)


def test_read_only_refuses_to_write(path: Path) -> None:
    Database.open(path, create=True).close()

    with (
        Database.open(path, read_only=True) as database,
        pytest.raises(StorageError, match="can't be written; check the permissions"),
    ):
        database.create_experiment("a", {}, 0.0)


def test_close_twice(path: Path) -> None:
    database = Database.open(path, create=True)

    database.close()
    database.close()


# Experiments


def test_an_experiment_has_its_name_alone() -> None:
    with open_in_memory() as database:
        database.create_experiment("a", {}, 0.0)

        with pytest.raises(ExperimentExistsError) as caught:
            database.create_experiment("a", {}, 0.0)

    assert "'a' is stored in" in str(caught.value)
    assert "restore=True" in str(caught.value)
    assert "overwrite=True" in str(caught.value)


def test_an_unknown_experiment_gets_the_nearest_name() -> None:
    with open_in_memory() as database:
        with pytest.raises(ExperimentNotFoundError, match="it holds none yet"):
            database.experiment("a")
        for name in ("digits", "cifar", *(f"number {index}" for index in range(30))):
            database.create_experiment(name, {}, 0.0)

        for name, hint in (
            ("digit", "did you mean 'digits'?"),
            ("x", "it holds 'digits', 'cifar',"),
        ):
            with pytest.raises(ExperimentNotFoundError) as caught:
                database.experiment(name)
            assert f"; {hint}" in str(caught.value)

    assert str(caught.value).endswith("'number 17', …")


def test_state_and_settings_change() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {"n_trials": 1}, 0.0, OWNER).id

        write_records(database, key, [StateRecord("running")])
        database.set_settings(key, {"n_trials": 2}, OWNER, 2.0)
        assert database.experiment("a").state == "running"
        assert database.experiment("a").settings == {"n_trials": 2}

        write_records(database, key, [StateRecord("interrupted"), StateRecord("completed")])
        assert database.experiment("a").state == "completed"


@pytest.mark.parametrize("others", [[], ["b"]])
def test_delete_takes_all_that_belongs_to_it(others: list[str]) -> None:
    with open_in_memory() as database:
        for name in ["a", *others]:
            key = database.create_experiment(name, {}, 0.0).id
            write_records(database, key, [make_trial(0), make_report(0, 1)])
            database.add_request(key, "stop", None, 0.0)

        assert database.take_lease(1, OWNER, 1.0, None)
        database.delete_experiment(1, OWNER, 2.0)

        assert [each.name for each in database.experiments()] == others
        again = database.create_experiment("a", {}, 0.0)
        assert read_trials(database, again.id) == []
        assert read_metric_ids(database, again.id) == {}
        assert database.requests(again.id) == []
        assert len(read_metric_rows(database, again.id)) == 0
        write_records(database, again.id, [make_trial(0), make_report(0, 1)])
        for each in database.experiments():
            assert len(read_metric_rows(database, each.id)) == 1


# Trials

TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)  # surrogates and NUL included
TIMES = st.none() | st.floats(0, 4e9)
TRIALS = st.builds(
    TrialRecord,
    number=st.just(3),
    trial_id=st.just("0123456789ab"),
    repetition=st.integers(0, 9),
    cfg_json=st.just('{"x": NaN}'),
    status=st.sampled_from(Status),
    attempt=st.integers(1, 9),
    lost_count=st.integers(0, 9),
    slot=st.none() | st.integers(0, 499),
    host=st.none() | st.just("nöde"),
    gpus=st.none() | st.just("0,1"),
    start_time=TIMES,
    end_time=TIMES,
    error=st.none() | st.builds(TrialError, TEXT, TEXT, TEXT),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
).map(lambda trial: forget_run(trial) if trial.status is Status.SCHEDULED else trial)


def forget_run(trial: TrialRecord) -> TrialRecord:
    """What a trial is like whose next attempt has not begun."""
    nothing: Any = dict.fromkeys(("slot", "host", "gpus", "start_time", "end_time", "error"))
    return replace(trial, **nothing, exit_code=None, signal=None)


@settings(deadline=None)
@given(st.lists(TRIALS, min_size=1, max_size=4))
def test_a_trial_comes_back_as_it_was_last_written(records: list[TrialRecord]) -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id

        write_records(database, key, records[:1])
        write_records(database, key, records)

        last = records[-1]
        found = read_trial(database, key, 3)
        assert found is not None
        assert read_trials(database, key) == [found]
        assert _without_error(found) == _without_error(last)
        assert _escape(found.error) == _escape(last.error)
        begun = {record.attempt for record in records if record.status is not Status.SCHEDULED}
        assert [each.attempt for each in read_attempts(database, key)] == sorted(begun)


def _without_error(record: TrialRecord) -> tuple[object, ...]:
    return tuple(getattr(record, name) for name in record.__slots__ if name != "error")


def _escape(error: TrialError | None) -> list[bytes] | None:
    if error is None:
        return None
    texts = (error.type, error.message, error.traceback)
    return [text.encode("utf-8", "backslashreplace") for text in texts]


def test_attempts_keep_what_the_trial_forgets() -> None:
    boom = TrialError("ValueError", "boom", "Traceback …")
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        for record in (
            make_trial(0, Status.SCHEDULED),
            make_trial(0, Status.RUNNING, slot=1, start_time=1.0),
            make_trial(0, Status.FAILED, slot=1, start_time=1.0, end_time=2.0, error=boom),
            make_trial(0, Status.SCHEDULED, attempt=2),
            make_trial(0, Status.RUNNING, attempt=2, slot=5, host="n2", start_time=3.0),
        ):
            write_records(database, key, [record])

        first, second = read_attempts(database, key, 0)
        assert (first.status, first.slot, first.end_time) == (Status.FAILED, 1, 2.0)
        assert first.error == boom
        assert (second.status, second.slot, second.host) == (Status.RUNNING, 5, "n2")
        assert read_trial(database, key, 0) == make_trial(
            0, Status.RUNNING, attempt=2, slot=5, host="n2", start_time=3.0
        )
        assert read_attempts(database, key, 1) == []
        assert read_trial(database, key, 1) is None


def test_trials_are_chosen_and_ordered() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        statuses = [Status.COMPLETED, Status.FAILED, Status.RUNNING, Status.COMPLETED]
        write_records(database, key, [make_trial(n, status) for n, status in enumerate(statuses)])

        def numbers(**choice: object) -> list[int]:
            return [each.number for each in read_trials(database, key, **choice)]  # type: ignore[arg-type] # as each case has it

        assert numbers() == [0, 1, 2, 3]
        assert numbers(statuses=[Status.COMPLETED]) == [0, 3]
        assert numbers(statuses=[Status.FAILED, Status.RUNNING]) == [1, 2]
        assert numbers(statuses=[]) == []
        assert numbers(newest_first=True, limit=2) == [3, 2]
        assert numbers(id_prefix="000000000002") == [2]
        assert numbers(id_prefix="0000") == [0, 1, 2, 3]
        assert numbers(id_prefix="%") == []
        assert count_trials(database, key) == {
            Status.COMPLETED: 2,
            Status.FAILED: 1,
            Status.RUNNING: 1,
        }


def test_two_trials_can_not_share_an_id() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        twin = TrialRecord(1, make_trial(0).trial_id, 0, "{}", status=Status.RUNNING)

        with pytest.raises(StorageError, match=r"holds such an entry already .*trial_id"):
            write_records(database, key, [make_trial(0), twin])

        assert read_trials(database, key) == []


def test_a_report_needs_its_trial_and_all_of_a_transaction_is_written_or_nothing() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id

        with pytest.raises(StorageError, match="has no such trial or experiment"):
            write_records(database, key, [make_trial(0), make_report(0, 1), make_report(1, 1)])

        assert read_trials(database, key) == []
        assert read_metric_ids(database, key) == {}
        write_records(
            database, key, [make_trial(0), make_report(0, 1)]
        )  # and nothing stale is remembered
        assert read_metrics_of_trial(database, key, 0) == {"loss": {1: 0.5}}


# Metrics


def test_values_come_back_as_they_were() -> None:
    values = [0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf, math.nan, 2.0**53 + 2, 1 / 3]
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(0)])
        for iteration, value in enumerate(values):
            write_records(database, key, [make_report(0, iteration, **{"val/loss": value})])

        found = read_metrics_of_trial(database, key, 0)["val/loss"]
        assert list(found) == list(range(len(values)))
        assert is_same(found.values(), values)
        assert is_same(read_metric_rows(database, key)["value"].tolist(), values)
        [curve] = read_reports(database, key, "val/loss", [0])
        assert curve["iteration"].tolist() == list(range(len(values)))
        assert is_same(curve["value"].tolist(), values)


def test_a_first_report_has_the_attempt_that_logged_it_last() -> None:
    def log(number: int, iteration: int, logged_at: float, attempt: int = 1) -> None:
        report = make_report(number, iteration, attempt)
        write_records(database, key, [replace(report, logged_at=logged_at)])

    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number, start_time=10.0) for number in range(3)])
        log(0, 4, 30.0)
        log(0, 2, 20.0)
        log(1, 1, 15.0)
        log(1, 2, 17.0)
        write_records(database, key, [make_trial(1, attempt=2, start_time=40.0)])
        log(1, 2, 49.0, attempt=2)
        log(1, 0, 12.0)
        first = (2, 1, 10.0, 20.0)
        assert read_first_reports(database, key, "loss") == {0: first, 1: (1, 1, 10.0, 15.0)}

        log(1, 1, 50.0, attempt=2)  # it may have gone on from a checkpoint
        assert read_first_reports(database, key, "loss") == {0: first, 1: (1, 2, 40.0, 50.0)}
        assert read_first_reports(database, key, "no such") == {}


def test_any_metric_name() -> None:
    names = ["val/loss", "a b", "β", "", "'; DROP TABLE metrics; --", "half \ud800", "x" * 1000]
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(
            database, key, [make_trial(0), make_report(0, 1, **dict.fromkeys(names, 1.0))]
        )
        write_records(database, key, [make_report(0, 2, **dict.fromkeys(names, 2.0))])

        shown = [name.replace("\ud800", "\\ud800") for name in names]
        assert list(read_metric_ids(database, key)) == shown
        assert read_metrics_of_trial(database, key, 0) == {name: {1: 1.0, 2: 2.0} for name in shown}


def test_metric_rows_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number) for number in range(3)])
        reports = [make_report(n, i, b=float(n), a=float(i)) for n in range(3) for i in range(5)]
        write_records(database, key, reports)
        whole = read_metric_rows(database, key)

        assert read_metric_ids(database, key) == {"b": 1, "a": 2}
        for portion in (1, 4, 15, 30, 31):
            monkeypatch.setattr(rows_module, "PORTION", portion)
            rows = read_metric_rows(database, key)
            assert rows.tolist() == whole.tolist()
        keys = whole[["number", "metric_id", "iteration"]].tolist()
        assert keys == sorted(keys)
        assert len(keys) == 30


def test_reports_of_a_metric_come_by_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number) for number in range(9)])
        logged = [(n, i) for n in (0, 1, 4, 5, 8) for i in (3, 0, 7)]
        write_records(database, key, [make_report(n, i, a=float(i), b=9.0) for n, i in logged])
        write_records(database, key, [make_report(2, 1, b=1.0), make_report(4, 1, a=math.nan)])
        numbers = [0, 1, 3, 4, 5, 8]
        expected = sorted([(n, i, float(i), 5.0) for n, i in logged] + [(4, 1, math.nan, 5.0)])
        for at_once in (1, 2, 4, 99):
            monkeypatch.setattr(rows_module, "TRIALS_AT_ONCE", at_once)
            tables = list(read_reports(database, key, "a", numbers))
            assert len(tables) == -(-len(numbers) // at_once)
            assert str([row for table in tables for row in table.tolist()]) == str(expected)
            assert str(list(read_values(database, key, ("a",), numbers))) == str(expected)
            both = [(n, i, (float(i), 9.0), 5.0) for n, i in sorted(logged)]
            assert list(read_values(database, key, ("a", "b"), numbers)) == both
            assert list(read_values(database, key, (), numbers)) == []


def test_best() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number) for number in range(5)])
        for number, value in enumerate([2.0, 1.0, math.nan, 1.0, -math.inf]):
            write_records(
                database,
                key,
                [make_report(number, 1, loss=value), make_report(number, 2, loss=9.0)],
            )
        write_records(database, key, [make_report(2, 2, loss=math.inf)])

        assert [each.number for each in read_best(database, key, "loss", "min", 9)] == [1, 3, 0, 4]
        assert [each.number for each in read_best(database, key, "loss", "max", 2)] == [0, 1]
        assert read_best(database, key, "accuracy", "max") == []
        assert read_aggregates(database, key, "accuracy") == []
        assert [table.tolist() for table in read_reports(database, key, "accuracy", [0])] == [[]]


# Lease


def test_a_lease_is_its_owners_alone() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        assert database.take_lease(key, OWNER, 100.0, None)
        assert database.experiment("a").lease == Lease(OWNER, 100.0)

        database.renew_lease(key, OWNER, 200.0)
        assert database.experiment("a").lease == Lease(OWNER, 200.0)
        database.release_lease(key, RIVAL)
        assert database.experiment("a").lease is not None
        database.release_lease(key, OWNER)
        assert database.experiment("a").lease is None
        assert database.take_lease(key, RIVAL, 300.0, None)


def test_a_lease_is_taken_only_as_it_was_found() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0, OWNER).id
        found = database.experiment("a").lease
        database.renew_lease(key, OWNER, 1.0)

        assert not database.take_lease(key, RIVAL, 2.0, None)
        assert not database.take_lease(key, RIVAL, 2.0, found)
        assert not database.take_lease(key + 1, RIVAL, 2.0, None)
        assert database.experiment("a").lease == Lease(OWNER, 1.0)
        assert database.take_lease(key, RIVAL, 2.0, Lease(OWNER, 1.0))
        assert database.experiment("a").lease == Lease(RIVAL, 2.0)


def test_what_was_asked_of_an_earlier_driver_goes_with_its_lease() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        database.add_request(key, "stop", None, 1.0)

        assert database.take_lease(key, OWNER, 2.0, None)
        database.add_request(key, "prune", "0123456789ab", 3.0)

        assert [each.kind for each in database.take_requests(key, 4.0)] == ["prune"]


def test_a_driver_that_lost_its_lease_changes_nothing_more() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0, OWNER).id
        write_records(database, key, [make_trial(0)], OWNER, 101.0)
        assert database.take_lease(key, RIVAL, 500.0, Lease(OWNER, 101.0))

        for call in (
            lambda: write_records(database, key, [make_trial(1)], OWNER, 501.0),
            lambda: database.set_settings(key, {"n_trials": 2}, OWNER, 501.0),
            lambda: database.renew_lease(key, OWNER, 501.0),
            lambda: database.reset_experiment(key, {}, OWNER, 501.0),
            lambda: database.delete_experiment(key, OWNER, 501.0),
        ):
            with pytest.raises(ExperimentLockedError) as caught:
                call()
            for part in ("'a'", "host 'node2'", "pid 1234", "last heard of 1 s ago"):
                assert part in str(caught.value)
        assert [trial.number for trial in read_trials(database, key)] == [0]

        database.delete_experiment(key, RIVAL, 501.0)
        with pytest.raises(ExperimentLockedError, match="removed it or gave it free"):
            database.renew_lease(key, RIVAL, 502.0)


def test_an_experiment_that_begins_anew_keeps_its_lease_and_nothing_else() -> None:
    with open_in_memory() as database:
        first = database.create_experiment("a", {"seed": 1}, 0.0, OWNER)
        database.create_experiment("b", {}, 1.0)
        write_records(database, first.id, [make_trial(0), make_report(0, 1), StateRecord("failed")])

        database.reset_experiment(first.id, {"seed": 2}, OWNER, 2.0)

        again = database.experiment("a")
        assert again == replace(
            first, created_at=2.0, updated_at=2.0, settings={"seed": 2}, lease=Lease(OWNER, 2.0)
        )
        assert read_trials(database, first.id) == []
        assert read_metric_ids(database, first.id) == {}
        assert [each.name for each in database.experiments()] == ["b", "a"]


# Requests


def test_requests_are_handed_out_once() -> None:
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        other = database.create_experiment("b", {}, 0.0).id
        assert database.take_requests(key, 1.0) == []

        database.add_request(key, "prune", "0123456789ab", 1.0)
        database.add_request(other, "stop", None, 1.5)
        database.add_request(key, "stop", None, 2.0)

        taken = database.take_requests(key, 3.0)
        assert [(each.kind, each.argument, each.created_at) for each in taken] == [
            ("prune", "0123456789ab", 1.0),
            ("stop", None, 2.0),
        ]
        assert database.take_requests(key, 4.0) == []
        assert database.requests(key) == taken
        assert [each.kind for each in database.requests(other, unseen_only=True)] == ["stop"]


# Snapshots


def test_reads_of_a_snapshot_agree(path: Path) -> None:
    with (
        Database.open(path, create=True) as writer,
        Database.open(path, read_only=True, timeout_s=0) as reader,
    ):
        key = writer.create_experiment("a", {}, 0.0).id
        writer.set_timeout(0)
        with reader.reading():
            assert read_trials(reader, key) == []
            with pytest.raises(StorageError, match=r"is locked by another process .*fuser -v"):
                write_records(writer, key, [make_trial(0)])
            assert read_best(reader, key, "loss", "min") == []
        write_records(writer, key, [make_trial(0)])
        assert len(read_trials(reader, key)) == 1
