"""Who holds an experiment: taking its lease, judging whether its driver is gone, deleting under it.

Who holds a lease is judged outside of any transaction, for Slurm may take long to answer and all
other drivers of the folder would wait. It is then taken only if it is still the one that was
judged; that is asked and done in one transaction, so that of two drivers only one inherits from a
dead one.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ExperimentLockedError, StorageError
from .database import Database, format_locked
from .records import Lease, LeaseOwner

#: A driver of which nothing else is known is gone when it has been silent for so long.
SILENT_S = 120.0

#: How often a lease is renewed while nothing else is written.
HEARTBEAT_INTERVAL_S = 10.0

#: Where `_read_stat` has a process's state, and when it started.
_STATE, _START_TIME = 0, 19


def build_owner(job_id: str | None = None) -> LeaseOwner:
    """Describe this process, in this Slurm job if any, as the owner of a new lease."""
    return LeaseOwner(
        host=socket.gethostname(),
        pid=os.getpid(),
        job_id=job_id,
        start=read_process_start(os.getpid()),
        nonce=os.urandom(8).hex(),
    )


def acquire_lease(
    database: Database,
    name: str,
    owner: LeaseOwner,
    is_job_over: Callable[[str], bool | None] = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> Lease | None:
    """Take an experiment for one driver.

    Returns:
        The lease that was taken over from a driver that is gone, None if it was free.

    Raises:
        ExperimentLockedError: Another driver is at work on it.
        ExperimentNotFoundError: There is no such experiment.
    """
    judged: Lease | None = None
    while True:  # another driver may come, go or beat between a look and what follows from it
        experiment = database.experiment(name)
        found, now = experiment.lease, clock()
        if found is not None:
            has_beaten = judged is not None and judged.owner == found.owner
            if has_beaten or not is_gone(found, now, here=owner, is_job_over=is_job_over):
                if found.heartbeat > now:
                    database.correct_heartbeat(experiment.id, found, now)
                raise ExperimentLockedError(format_locked(name, database.path, found, now))
        if database.take_lease(experiment.id, owner, clock(), found):
            return found
        judged = found


def is_gone(
    lease: Lease,
    now: float,
    *,
    here: LeaseOwner,
    is_job_over: Callable[[str], bool | None] = lambda _: None,
) -> bool:
    """Decide whether the driver that holds a lease does not run any more.

    Args:
        here: Who asks, such as the driver that would like to have it.
        is_job_over: Asks Slurm about a job id: over, not over, or None for unknown. Asked only for
            a driver whose process can't be seen from here.

    Returns:
        On the same host, in the same PID namespace: whether that process is dead (the same process
        counts as gone: it once ended a run without giving the lease back). Elsewhere: whether its
        Slurm job is over, or, where that is unknown, whether it has been silent for `SILENT_S`.
    """
    owner = lease.owner
    if owner.host == here.host and not _is_other_namespace(owner.start, here.start):
        return _is_process_gone(owner, here)
    over = None if owner.job_id is None else is_job_over(owner.job_id)
    return now - lease.heartbeat > SILENT_S if over is None else over


def _is_other_namespace(start: str, other: str) -> bool:
    """Whether two processes since the same boot have pids that mean nothing to each other."""
    boot, _, rest = start.partition("/")
    other_boot, _, other_rest = other.partition("/")
    return boot == other_boot and rest.partition("/")[0] != other_rest.partition("/")[0]


def _is_process_gone(owner: LeaseOwner, here: LeaseOwner) -> bool:
    if (owner.pid, owner.start) == (here.pid, here.start):
        return True
    stat = _read_stat(owner.pid)
    if stat is not None and stat[_STATE] == "Z":
        return True  # dead, only that its parent has not asked for its exit code
    if stat is not None and not owner.start.endswith("/") and owner.start:
        return read_process_start(owner.pid) != owner.start
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # someone else's, but there
    return False


def read_process_start(pid: int) -> str:
    """Tell a process from all others that ever had or have this pid on this host.

    Returns:
        The machine's boot, our PID namespace and when the process started, with slashes between;
        the last is empty where that can't be seen; all are where there is no /proc (macOS).
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    stat = _read_stat(pid)
    return f"{boot}/{namespace}/{'' if stat is None else stat[_START_TIME]}"


def _read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat (proc(5)) behind the command, which may hold anything."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return None  # a container that has been given the host's /proc
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def remove_folder(folder: Path, renew: Callable[[], None]) -> None:
    """Remove an experiment's folder wholly, however long that takes, while its lease is held.

    Where the folder is a link to another disk, what that holds is removed, and the link stays.
    Links inside are removed and not followed.

    Args:
        renew: Called before anything is removed and every `HEARTBEAT_INTERVAL_S` from then on; what
            it raises ends the removal.

    Raises:
        StorageError: Something can't be removed; the message names it.
    """
    renewed_at = -math.inf
    if not folder.exists():
        return
    try:
        for parent, folders, files in os.walk(folder, topdown=False, onerror=_raise):
            for name in (*files, *folders):
                if time.monotonic() - renewed_at >= HEARTBEAT_INTERVAL_S:
                    renew()
                    renewed_at = time.monotonic()
                path = Path(parent, name)
                remove = path.unlink if path.is_symlink() or not path.is_dir() else path.rmdir
                remove()
        if not folder.is_symlink():
            folder.rmdir()
    except OSError as error:
        raise StorageError(
            f"the folder {folder} can't be removed: {error.strerror}: {error.filename}. Mend that, "
            "then try again"
        ) from error


def _raise(error: OSError) -> None:
    raise error
