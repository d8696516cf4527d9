"""What goes wrong on real file systems, between real processes."""

from __future__ import annotations

import itertools
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_processes import read_line, start, tell
from storage_samples import assert_aggregates, assert_sound, count_prefix, make_record

from slurm_sweeps.errors import StorageError
from slurm_sweeps.storage import writer as writer_module
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.faults import VFS_VARIABLE, DatabaseBusyError, find_lock_refusal
from slurm_sweeps.storage.records import StateRecord
from slurm_sweeps.storage.rows import read_metric_rows, write_records
from slurm_sweeps.storage.writer import Writer

pytestmark = pytest.mark.processes

WAIT_S = 60.0  # how long a test waits for what must come


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_database(tmp_path / "größe 1")


def make_database(folder: Path) -> Path:
    """A database with the experiment 1, "a"."""
    path = folder / "slurm-sweeps.db"
    with Database.open(path, create=True) as database:
        database.create_experiment("a", {}, 0.0)
    return path


# Killed


def test_a_writer_killed_at_any_moment_leaves_a_consistent_prefix(path: Path) -> None:
    randomness = random.Random(0)
    found = 0
    for _ in range(12):
        with start("write", path, str(found)) as process:
            promised = found
            for _ in range(randomness.randrange(1, 8)):
                promised = int(read_line(process))
            process.kill()
            process.wait()
        with Database.open(path, read_only=True) as database:
            found = count_prefix(database, 1)
            rows = read_metric_rows(database, 1)[["number", "iteration", "value"]]
            curves: dict[int, dict[int, float]] = {}
            for number, iteration, value in rows.tolist():
                curves.setdefault(number, {})[iteration] = value
            assert_aggregates(database, 1, curves, "loss")
        assert found >= promised  # what flush has promised is there
        assert_sound(path)


def test_a_journal_left_by_a_killed_writer_is_rolled_back_by_a_reader(path: Path) -> None:
    """SIGKILL between the first page that was written and the commit."""
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE experiments SET name = 'half-written'")
connection.executemany("INSERT INTO experiments (name, created_at, updated_at, state, settings) "
    "VALUES (?, 0, 0, '', '{}')", [(f"{number}" * 50,) for number in range(2000)])
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    journal = path.with_name(path.name + "-journal")
    assert journal.exists()

    with Database.open(path, read_only=True) as database:
        assert [each.name for each in database.experiments()] == ["a"]
    assert not journal.exists()
    assert_sound(path)


# Locked


@pytest.mark.parametrize("role", ["lock", "read"])
def test_others_may_lock_it_for_long(
    role: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "NOTICE_AFTER_S", 1.5)
    notices: list[str] = []
    told = threading.Event()

    def listen(notice: str) -> None:
        notices.append(notice)
        told.set()

    with Writer(path, 1, on_notice=listen) as writer, start(role, path) as other:
        assert read_line(other) == "ready"
        for index in range(1000):  # that this ends while the file is locked is the test
            writer.put(make_record(index))
        assert told.wait(WAIT_S)
        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "STUCK_S", 0.1)
            with pytest.raises(StorageError, match=r"1000 records are not in .* after 0.1 s"):
                writer.flush()
        tell(other)
        writer.flush()
    with Database.open(path) as database:
        assert count_prefix(database, 1) == 1000
    assert len(notices) == 2
    assert "has been locked by another process for" in notices[0]
    assert "the trials run on" in notices[0]
    assert "is free again after" in notices[1]


def test_a_reader_may_have_it_open_throughout(path: Path) -> None:
    with Database.open(path) as database, start("stay", path) as other:
        assert read_line(other) == "ready"
        with Writer(path, 1) as writer:
            writer.put(make_record(0))
            writer.flush()
        tell(other)
        assert count_prefix(database, 1) == 1


def test_close_gives_up_when_it_stays_locked(path: Path) -> None:
    writer = Writer(path, 1)
    with start("lock", path) as other:
        assert read_line(other) == "ready"
        writer.put(make_record(0))

        with pytest.raises(DatabaseBusyError, match=r"is locked by another process .*fuser -v"):
            writer.close(timeout_s=0.1)


def test_a_lock_folder_left_by_dotfile_locking(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VFS_VARIABLE, "unix-dotfile")
    Database.open(path).close()
    path.with_name("slurm-sweeps.db.lock").mkdir()

    with pytest.raises(
        DatabaseBusyError, match=r"db\.lock, which is \d+ s old .* rmdir '.*db\.lock'"
    ):
        Database.open(path, timeout_s=0)

    assert find_lock_refusal(path.parent) is None


REFUSE_LOCKS = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int answer(int fd, int cmd, long argument) {
    if (cmd == F_SETLK || cmd == F_SETLKW) {
        errno = atoi(getenv("LOCK_ERRNO"));
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, cmd, argument);
}
int fcntl(int fd, int cmd, ...) {
    va_list rest; va_start(rest, cmd); long argument = va_arg(rest, long); va_end(rest);
    return answer(fd, cmd, argument);
}
int fcntl64(int fd, int cmd, ...) {
    va_list rest; va_start(rest, cmd); long argument = va_arg(rest, long); va_end(rest);
    return answer(fd, cmd, argument);
}
"""


@pytest.fixture(scope="module")
def refuser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes every file system refuse locks, as Lustre without `flock` does."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux's LD_PRELOAD")
    folder = tmp_path_factory.mktemp("refuser")
    (folder / "refuse.c").write_text(REFUSE_LOCKS)
    command = [compiler, "-shared", "-fPIC", "-o", "refuse.so", "refuse.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "refuse.so"


@pytest.mark.parametrize("number", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_that_refuses_locks(number: str, refuser: Path, path: Path) -> None:
    import errno

    code: int = getattr(errno, number)
    env = {**os.environ, "LD_PRELOAD": str(refuser), "LOCK_ERRNO": str(code)}

    with start("open", path, env=env) as process:
        said = read_line(process)
    with start("open", path, env={**env, VFS_VARIABLE: "unix-dotfile"}) as process:
        remedied = read_line(process)

    assert said.startswith(f"StorageError {path} can't be locked, its file system refuses it")
    assert os.strerror(code) in said
    assert f"set {VFS_VARIABLE}=unix-dotfile for all who use" in said
    assert remedied == "fine"


# Full, gone, read-only


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    path = make_database(small_disk)
    with Database.open(path) as database:
        failure = write_until_failure(Writer(path, 1, max_rows=10_000))
        assert "can't grow, its disk is full; free some space, then go on" in str(failure)
        assert str(path) in str(failure)
        first = count_prefix(database, 1)
    assert first > 0

    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)

    assert_sound(path)
    with Database.open(path) as database:
        assert count_prefix(database, 1) == first
        with Writer(path, 1) as writer:
            for index in range(first, first + 1000):
                writer.put(make_record(index))
        assert count_prefix(database, 1) == first + 1000


def test_a_disk_too_full_for_an_empty_database(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(2**20 - 4096))

    with pytest.raises(StorageError, match="can't grow, its disk is full"):
        make_database(small_disk)
    (small_disk / "ballast").unlink()

    assert_sound(make_database(small_disk))


def write_until_failure(writer: Writer) -> StorageError:
    """Put records until the writer fails for good."""
    with pytest.raises(StorageError) as caught:
        put_for_ever(writer)
    with pytest.raises(StorageError):
        writer.close()
    return caught.value


def put_for_ever(writer: Writer) -> None:
    for index in itertools.count():
        writer.put(make_record(index))


def test_a_quota_or_a_broken_disk(path: Path) -> None:
    """A limit on the size of files gives an I/O error, as a quota on a network disk does."""
    with Database.open(path) as database:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, before[1]))
        try:
            failure = write_until_failure(Writer(path, 1, max_rows=10_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "check its disk, your quota there and the network file system" in str(failure)
        assert count_prefix(database, 1) > 0
    assert_sound(path)


def test_the_folder_is_removed_meanwhile(path: Path) -> None:
    writer = Writer(path, 1, max_rows=10_000)
    shutil.rmtree(path.parent)
    failure = write_until_failure(writer)

    assert f"{path} was removed or renamed while it was in use" in str(failure)


def test_the_file_is_removed_meanwhile(path: Path) -> None:
    writer = Writer(path, 1, max_rows=10_000)
    path.unlink()
    failure = write_until_failure(writer)

    assert f"{path} was removed or renamed while it was in use" in str(failure)


def test_the_file_is_replaced_meanwhile(path: Path) -> None:
    writer = Writer(path, 1, max_rows=10_000)
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
    failure = write_until_failure(writer)

    assert f"{path} was replaced by another file while it was in use" in str(failure)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_disk_without_inodes(tmp_path: Path) -> None:
    options = ["-t", "tmpfs", "-o", "nr_inodes=3", "tmpfs", str(tmp_path)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("root can't mount here")
    try:
        (tmp_path / "one").touch()
        (tmp_path / "two").touch()
        with pytest.raises(StorageError, match="takes no more files"):
            Database.open(tmp_path / "slurm-sweeps.db", create=True)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("folder_mode", "umask", "mode"),
    [(0o755, 0o022, 0o600), (0o770, 0o007, 0o640), (0o2755, 0o022, 0o640), (0o1777, 0o022, 0o644)],
)
def test_a_new_database_is_private_unless_its_folder_is_shared(
    tmp_path: Path, folder_mode: int, umask: int, mode: int
) -> None:
    tmp_path.chmod(folder_mode)
    path, before = tmp_path / "slurm-sweeps.db", os.umask(umask)
    try:
        Database.open(path, create=True).close()
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o644)
        Database.open(path, create=True).close()
        assert path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a database that can be read but not written, whoever we are."""
    folder = tmp_path / "archive"
    make_database(folder)
    if os.geteuid() != 0:
        (folder / "slurm-sweeps.db").chmod(0o444)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    for options in ("bind", "remount,bind,ro"):
        command = ["mount", "-o", options, str(folder), str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("root may write anywhere, and can't mount here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_what_can_not_be_written_can_be_read(read_only_folder: Path) -> None:
    path = read_only_folder / "slurm-sweeps.db"

    with pytest.raises(StorageError, match=r"archive can't be written; choose another local_dir"):
        Database.open(path, create=True)
    with Database.open(path, read_only=True) as database:
        assert database.experiment("a").id == 1
    with (
        Database.open(path) as database,
        pytest.raises(
            StorageError, match=r"mounted read-only|can't be written; check the permissions"
        ),
    ):
        write_records(database, 1, [StateRecord("running")])
