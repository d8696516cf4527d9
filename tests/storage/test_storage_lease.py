from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_samples import OWNER, RIVAL, open_in_memory

from slurm_sweeps.errors import ExperimentLockedError, ExperimentNotFoundError, StorageError
from slurm_sweeps.storage import lease as lease_module
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.lease import (
    SILENT_S,
    acquire_lease,
    build_owner,
    is_gone,
    read_process_start,
    remove_folder,
)
from slurm_sweeps.storage.records import Lease, LeaseOwner

HERE = build_owner("17")
BOOT, NAMESPACE, START = HERE.start.split("/") if HERE.start else ("", "", "")
ELSEWHERE = dataclasses.replace(HERE, host="another")


def ask(owner: LeaseOwner, silent_s: float = 0.0, over: bool | None = None) -> bool:
    """Whether an owner that was heard of `silent_s` ago is gone."""
    return is_gone(Lease(owner, 1000.0), 1000.0 + silent_s, here=HERE, is_job_over=lambda _: over)


def test_an_owner_is_this_process() -> None:
    assert HERE.pid == os.getpid()
    assert HERE.job_id == "17"
    assert HERE.start == read_process_start(os.getpid())
    assert build_owner().nonce != HERE.nonce


def test_a_lease_of_this_very_process_was_forgotten() -> None:
    assert ask(HERE)
    assert ask(dataclasses.replace(HERE, nonce="another run"))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.processes
def test_another_process_of_this_host_is_gone_when_it_is_dead(known: bool) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = read_process_start(process.pid) if known else ""
    owner = dataclasses.replace(HERE, pid=process.pid, start=start)

    assert not ask(owner, silent_s=1e6)
    process.communicate(b"\n")
    assert ask(owner)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.processes
def test_a_process_that_is_dead_but_not_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = dataclasses.replace(HERE, pid=process.pid, start=read_process_start(process.pid))

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead now, and still there

    assert ask(owner)
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_pid_that_was_given_out_again() -> None:
    parent = os.getppid()
    alive = dataclasses.replace(HERE, pid=parent, start=read_process_start(parent))

    assert not ask(alive)
    assert ask(dataclasses.replace(alive, start=f"another boot/{NAMESPACE}/17"))
    assert ask(dataclasses.replace(alive, start=f"{BOOT}/{NAMESPACE}/17"))


def test_a_process_of_someone_else_is_not_gone() -> None:
    assert not ask(dataclasses.replace(HERE, pid=1, start=""))


@pytest.mark.parametrize(
    ("silent_s", "over", "gone"),
    [
        (0.0, None, False),
        (SILENT_S, None, False),
        (SILENT_S + 1, None, True),
        (-3600.0, None, False),
        (SILENT_S + 1, False, False),
        (0.0, True, True),
    ],
)
def test_another_host(silent_s: float, over: bool | None, gone: bool) -> None:
    assert ask(ELSEWHERE, silent_s, over) is gone


def test_slurm_is_asked_only_about_jobs() -> None:
    jobless = dataclasses.replace(ELSEWHERE, job_id=None)

    assert not ask(jobless, silent_s=0.0, over=True)
    assert ask(jobless, silent_s=SILENT_S + 1, over=False)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("silent_s", "over", "gone"),
    [
        (0.0, None, False),
        (SILENT_S + 1, None, True),
        (SILENT_S + 1, False, False),
        (0.0, True, True),
    ],
)
def test_a_pid_of_another_namespace_says_nothing(
    silent_s: float, over: bool | None, gone: bool
) -> None:
    inside = dataclasses.replace(HERE, pid=2**22 + 1, start=f"{BOOT}/pid:[1]/{START}")

    assert ask(inside, silent_s, over) is gone


@pytest.mark.processes
def test_a_driver_in_a_container_is_left_its_lease(tmp_path: Path) -> None:
    """Two real PID namespaces on one host, one database."""
    path = tmp_path / "slurm-sweeps.db"
    with Database.open(path, create=True) as database:
        database.create_experiment("a", {}, time.time())
        script = (
            "import sys, time; from slurm_sweeps.storage.database import Database;"
            "from slurm_sweeps.storage.lease import acquire_lease, build_owner\n"
            "with Database.open(sys.argv[1]) as database:\n"
            "    print('found', acquire_lease(database, 'a', build_owner()), flush=True)\n"
            "    sys.stdin.read()\n"
        )
        unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
            pytest.skip("no PID namespaces can be made here")
        with subprocess.Popen(
            [*unshare, sys.executable, "-c", script, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "found None\n"
            lease = database.experiment("a").lease
            assert lease is not None
            assert lease.owner.host == HERE.host
            with pytest.raises(ExperimentLockedError, match="in use by another driver"):
                acquire_lease(database, "a", HERE)
            driver.communicate()
        # Its pid still says nothing, so it takes a while.
        assert not is_gone(lease, lease.heartbeat + SILENT_S, here=HERE)
        assert is_gone(lease, lease.heartbeat + SILENT_S + 1, here=HERE)


# Taking it


@pytest.fixture
def database() -> Iterator[Database]:
    with open_in_memory() as opened:
        opened.create_experiment("a", {}, 0.0)
        yield opened


def test_a_lease_keeps_a_second_driver_off(database: Database) -> None:
    assert acquire_lease(database, "a", OWNER, clock=lambda: 100.0) is None
    assert database.experiment("a").lease == Lease(OWNER, 100.0)

    with pytest.raises(ExperimentLockedError) as caught:
        acquire_lease(database, "a", RIVAL, clock=lambda: 142.0)
    for part in ("'a'", "host 'node1'", "pid 4711", "Slurm job 17", "42 s ago"):
        assert part in str(caught.value)

    found = acquire_lease(database, "a", RIVAL, lambda _: True, clock=lambda: 143.0)
    assert found == Lease(OWNER, 100.0)
    assert database.experiment("a").lease == Lease(RIVAL, 143.0)


def test_a_lease_needs_an_experiment(database: Database) -> None:
    with pytest.raises(ExperimentNotFoundError, match="no experiment"):
        acquire_lease(database, "b", OWNER)


def test_slurm_is_asked_while_others_write(tmp_path: Path) -> None:
    """What asks it may take long; the database is free meanwhile."""
    path = tmp_path / "slurm-sweeps.db"
    with Database.open(path, create=True) as database:
        database.create_experiment("a", {}, 0.0, OWNER)

        def ask_slurm(job_id: str) -> bool:
            with Database.open(path, timeout_s=0.0) as other:
                other.create_experiment(f"asked about {job_id}", {}, 1.0)
            return True

        assert acquire_lease(database, "a", RIVAL, ask_slurm) == Lease(OWNER, 0.0)
        assert [each.name for each in database.experiments()] == ["a", "asked about 17"]


def test_who_beats_while_slurm_is_asked_is_not_gone(database: Database) -> None:
    assert database.take_lease(1, OWNER, 0.0, None)

    def ask_slurm(_job_id: str) -> bool:
        database.renew_lease(1, OWNER, 10.0)
        return True

    with pytest.raises(ExperimentLockedError, match=r"last heard of 10 s ago"):
        acquire_lease(database, "a", RIVAL, ask_slurm, clock=lambda: 20.0)


def test_of_two_heirs_one_inherits(database: Database) -> None:
    third = dataclasses.replace(RIVAL, host="node3", nonce="third")
    assert database.take_lease(1, OWNER, 0.0, None)

    def ask_slurm(_job_id: str) -> bool:
        assert database.take_lease(1, third, 1.0, database.experiment("a").lease)
        return True

    with pytest.raises(ExperimentLockedError, match="host 'node3'"):
        acquire_lease(database, "a", RIVAL, ask_slurm, clock=lambda: 2.0)


def test_a_heartbeat_from_the_future_is_not_waited_for(database: Database) -> None:
    """The owner's clock was an hour ahead; then it died."""
    assert database.take_lease(1, OWNER, 3600.0, None)

    with pytest.raises(ExperimentLockedError, match=r"last heard of 0 s ago"):
        acquire_lease(database, "a", RIVAL, clock=lambda: 10.0)
    with pytest.raises(ExperimentLockedError, match=r"last heard of 120 s ago"):
        acquire_lease(database, "a", RIVAL, clock=lambda: 10.0 + SILENT_S)
    taken = acquire_lease(database, "a", RIVAL, clock=lambda: 11.0 + SILENT_S)
    assert taken == Lease(OWNER, 10.0)


# Removing what it guards


def test_a_folder_is_removed_wholly_under_a_lease_that_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_INTERVAL_S", 0.0)
    folder, outside = tmp_path / "a", tmp_path / "outside"
    (folder / "trial" / "checkpoints").mkdir(parents=True)
    (folder / "trial" / "checkpoints" / "last.pt").touch()
    outside.mkdir()
    (outside / "kept").touch()
    (folder / "trial" / "link").symlink_to(outside)
    (folder / "trial" / "nowhere").symlink_to(tmp_path / "nothing")
    renewals: list[bool] = []

    remove_folder(folder, lambda: renewals.append(folder.exists()))

    assert renewals == [True] * 5  # each time before something goes
    assert not folder.exists()
    assert (outside / "kept").exists()
    remove_folder(folder, lambda: None)  # once more does nothing


def test_a_folder_that_is_a_link_is_emptied(tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "a"
    (scratch / "trial").mkdir(parents=True)
    (scratch / "trial" / "last.pt").touch()
    folder.symlink_to(scratch)

    remove_folder(folder, lambda: None)

    assert list(folder.iterdir()) == []
    assert folder.readlink() == scratch


@pytest.mark.processes
def test_what_can_not_be_removed_is_named(tmp_path: Path) -> None:
    busy = tmp_path / "a" / "trial" / "busy"
    busy.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(busy)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        busy.parent.chmod(0o555)
        if os.geteuid() == 0:
            pytest.skip("root may remove anything, and can't mount here")
    try:
        with pytest.raises(StorageError) as caught:
            remove_folder(tmp_path / "a", lambda: None)
    finally:
        subprocess.run(["umount", "--lazy", str(busy)], capture_output=True, check=False)
        busy.parent.chmod(0o755)
    assert f"{tmp_path / 'a'} can't be removed: " in str(caught.value)
    assert f": {busy}. Mend that, then try again" in str(caught.value)


def test_who_has_lost_the_lease_removes_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "a" / "trial").mkdir(parents=True)

    def renew() -> None:
        raise ExperimentLockedError("it is another's")

    with pytest.raises(ExperimentLockedError):
        remove_folder(tmp_path / "a", renew)
    assert (tmp_path / "a" / "trial").exists()
