"""A disk that fills up, a database that others hold: reports go on, and nothing is lost."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reliable_sweeps import (
    IS_CHAOS,
    TRAIN,
    Script,
    assert_complete,
    assert_sound,
    read_curves,
    read_trials,
)

from slurm_sweeps.trial import Status

MakeScript = Callable[..., Script]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 16 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, left_kb: int) -> Path:
    """Take all room but so much."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 10))
    with ballast.open("r+b") as file:
        file.truncate(ballast.stat().st_size - (left_kb << 10))
    return ballast


def test_a_disk_that_fills_up(make_script: MakeScript, small_disk: Path) -> None:
    script = make_script("sweep", N_TRIALS=3, ITERATIONS=2500, PAUSE_S=0)
    (script.folder / "out").symlink_to(small_disk)
    ballast = fill(small_disk, left_kb=150)
    script.run(code=1)
    assert "slurm-sweeps.db can't grow, its disk is full; free some space, then go on with " in (
        script.printed()
    )
    script.wait_until_gone()
    assert_sound(script.database)
    assert Status.FAILED not in {trial.status for trial in read_trials(script.database)}
    ballast.unlink()
    script.run()
    assert_complete(script.database, 3, 2500)


def test_a_disk_that_is_full_from_the_beginning(make_script: MakeScript, small_disk: Path) -> None:
    script = make_script("sweep", N_TRIALS=2)
    (script.folder / "out").symlink_to(small_disk)
    ballast = fill(small_disk, left_kb=0)
    script.run(code=1)
    assert "StorageError: " in script.printed()
    ballast.unlink()
    script.run()
    assert_complete(script.database, 2, 4)


@pytest.mark.parametrize("raises", ["itself", "a consequence", "its words", "no word of it"])
def test_a_disk_without_room_for_checkpoints(
    make_script: MakeScript, small_disk: Path, raises: str
) -> None:
    """The database is on another one: no trial may fail for good, and all are run again."""
    script = make_script(
        "sweep",
        TRAIN,
        TRAIN="save_a_checkpoint",
        N_TRIALS=8,
        SPACE=f"{{'x': ss.Uniform(0, 1), 'raises': {raises!r}}}",
    )
    (small_disk / "sweep").mkdir()
    (script.folder / "out").mkdir()
    (script.folder / "out" / "sweep").symlink_to(small_disk / "sweep")
    ballast = fill(small_disk, left_kb=4000)
    script.run(code=1)
    full = "StorageError: a disk is full, or a quota used up: trial "
    no_place = "No space left on device. Make room"  # for a trial's own folder, already
    assert full in script.printed() or no_place in script.printed()
    statuses = {trial.status for trial in read_trials(script.database)}
    assert statuses == {Status.COMPLETED, Status.INTERRUPTED}
    ballast.unlink()
    script.run()
    assert [trial.status for trial in read_trials(script.database)] == [Status.COMPLETED] * 8


def test_a_database_that_another_process_has_locked(make_script: MakeScript) -> None:
    """All reports are answered while it is locked, and all are there when it is free again."""
    script = make_script("sweep", TRAIN, TRAIN="log_when_told", N_TRIALS=2)
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/began", 2)
        with contextlib.closing(sqlite3.connect(script.database, timeout=30)) as other:
            other.execute("BEGIN EXCLUSIVE")
            (script.folder / "out" / "sweep" / "go").touch()
            script.wait_for_files("out/sweep/*/answered", 2)
            script.wait_for_print("has been locked by another process for")
            assert "the trials run on, " in script.printed()
            time.sleep(30 if IS_CHAOS else 0)
            assert driver.poll() is None
            other.rollback()
        assert driver.wait(60) == 0, script.printed()
    assert "is free again after" in script.printed()
    assert {len(curve) for curve in read_curves(script.database).values()} == {501}
    assert {trial.status for trial in read_trials(script.database)} == {Status.COMPLETED}


def test_readers_throughout(make_script: MakeScript) -> None:
    """One has it open all the time, one reads again and again."""
    script = make_script("sweep", N_TRIALS=12, ITERATIONS=20)
    seen = set()
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/cfg.yml")
        with contextlib.closing(sqlite3.connect(script.database, timeout=30)) as other:
            while driver.poll() is None:
                other.execute("SELECT count(*) FROM trials").fetchall()
                seen.add(len(read_trials(script.database)))
        assert driver.wait() == 0, script.printed()
    assert len(seen) > 2
    assert_complete(script.database, 12, 20)
