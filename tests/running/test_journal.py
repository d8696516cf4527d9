"""A slot's journal: what is written can be read, whatever is beside it; what is kept is cut off."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.running import journal as journal_module
from slurm_sweeps.running.channel import Decoder, Record, encode
from slurm_sweeps.running.journal import MAX_BYTES, Journal, read_journals


def build_report(iteration: int, number: int = 0) -> Record:
    return {
        "kind": "report",
        "number": number,
        "attempt": 1,
        "iteration": iteration,
        "metrics": {"loss": 1 / (iteration + 1)},
    }


HEAD: Record = {
    **{"kind": "run", "trial_id": "0123456789ab", "number": 0, "attempt": 1, "dir": "d"},
    "cfg": {},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slot-0.journal"


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("at_once_s", [0.0, 60.0])
def test_what_is_written_is_read_in_order(
    path: Path, at_once_s: float, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the thread, or at once; by two processes, or one that stays."""
    monkeypatch.setattr(journal_module, "AT_ONCE_S", at_once_s)
    begun = time.time()
    journal = Journal(str(path), b"")
    for number in (0, 1):  # one trial after the other
        head = encode({**HEAD, "number": number})
        journal = journal if stays else Journal(str(path), b"")
        journal.begin(head)
        for iteration in range(3):
            journal.append(encode(build_report(iteration, number)))
        journal.settle()
        assert journal.is_settled
    records, n_strange = read_journals([path])
    assert n_strange == 0
    assert all(begun <= record.pop("at") <= time.time() for record in records if "at" in record)
    assert records == [
        record
        for number in (0, 1)
        for record in ({**HEAD, "number": number}, *(build_report(i, number) for i in range(3)))
    ]


def test_what_is_in_the_database_is_cut_off_and_nothing_else(path: Path) -> None:
    """The database lags 500 reports behind; of two trials the later finds what the first left."""
    lag, longest = 500, 0
    for number in (0, 1):
        journal = Journal(str(path), encode({**HEAD, "number": number}))
        for put in range(5_000 * number, 5_000 * (number + 1)):
            journal.append(encode(build_report(put, number)))
            journal.settle()
            journal.note(put, max(0, put - lag))
            longest = max(longest, path.stat().st_size)
        journal.settle()
    records, n_strange = read_journals([path])
    assert n_strange == 0
    kept = [record["iteration"] for record in records if record["kind"] == "report"]
    assert kept == list(range(kept[0], 10_000))
    assert len(kept) >= lag
    assert longest < 3 * MAX_BYTES


def test_nothing_is_cut_off_while_the_database_takes_nothing(path: Path) -> None:
    journal = Journal(str(path), b"")
    for put in range(3_000):
        journal.append(encode(build_report(put)))
        journal.settle()
        journal.note(put, 0)
    assert path.stat().st_size > 3 * MAX_BYTES
    assert [record["iteration"] for record in read_journals([path])[0]] == list(range(3_000))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_strange_pieces_are_counted_and_never_raise(
    tmp_path_factory: pytest.TempPathFactory, strange: bytes, cut: int
) -> None:
    path = tmp_path_factory.mktemp("journals") / "slot-0.journal"
    last = encode(build_report(2))
    path.write_bytes(encode(build_report(1)) + strange + encode(build_report(3)) + last[:-1][:cut])
    records, n_strange = read_journals([path])
    assert build_report(1) in records
    assert build_report(3) in records
    assert n_strange >= bool(strange) + bool(cut) - 1


def test_a_torn_last_line_is_counted(path: Path) -> None:
    path.write_bytes(encode(build_report(1)) + encode(build_report(2))[:-7])
    assert read_journals([path]) == ([build_report(1)], 1)


def test_what_is_no_file_of_ours_is_not_read(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_bytes(encode(build_report(1)))
    path.symlink_to(target)
    pipe = tmp_path / "slot-1.journal"
    os.mkfifo(pipe)
    files = [path, pipe, tmp_path / "missing"]
    if os.geteuid() == 0:
        theirs = tmp_path / "slot-2.journal"
        theirs.write_bytes(encode(build_report(1)))
        os.chown(theirs, 12345, -1)
        files.append(theirs)
    assert read_journals(files) == ([], len(files))


def test_a_disk_that_hangs_is_not_waited_for_and_gets_all_when_it_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody reads is as such a disk."""
    monkeypatch.setattr(journal_module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(journal_module, "AT_ONCE_S", 0.0)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    journal = Journal(str(path), b"")
    journal.append(encode(build_report(0)))
    journal.settle()
    os.dup2(writer, journal._fd)
    os.close(writer)
    for iteration in range(1, 200):  # far more than it holds
        journal.append(encode(build_report(iteration)))
        journal.settle()
    decoder, records = Decoder(), list[Record]()
    while len(records) < 199:
        records += decoder.feed(os.read(reader, 65536))
    os.close(reader)
    assert [record["iteration"] for record in records] == list(range(1, 200))


@pytest.mark.parametrize("at_once_s", [0.0, 60.0])
def test_what_can_not_be_written_is_told_each_time(
    tmp_path: Path, at_once_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "AT_ONCE_S", at_once_s)
    journal = Journal(str(tmp_path / "missing" / "slot-0.journal"), b"")
    for _ in range(2):
        journal.append(encode(build_report(1)))
        assert isinstance(journal.settle(), FileNotFoundError)
        assert journal.settle() is None
