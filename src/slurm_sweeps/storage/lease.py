"""Who holds an experiment, and whether that driver is gone."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from .records import Lease, LeaseOwner

#: A driver of which nothing else is known is gone when it has been silent for so long.
SILENT_S = 120.0

#: Where `_read_stat` has a process's state, and when it started.
_STATE, _START_TIME = 0, 19


def build_owner(job_id: str | None = None) -> LeaseOwner:
    """Describe this process as the owner of a new lease.

    Args:
        job_id: The Slurm job that this process runs in, if any.
    """
    return LeaseOwner(
        host=socket.gethostname(),
        pid=os.getpid(),
        job_id=job_id,
        start=read_process_start(os.getpid()) or "",
        nonce=secrets.token_hex(8),
    )


def read_process_start(pid: int) -> str | None:
    """Tell a process from a later one of the same pid: the boot, and when it started in it.

    Returns:
        None where there is no such process, or no /proc to ask (macOS).
    """
    stat = _read_stat(pid)
    if stat is None:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{stat[_START_TIME]}"


def _read_stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat (proc(5)) behind the command, which may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def is_gone(
    lease: Lease,
    now: float,
    *,
    here: LeaseOwner,
    is_job_over: Callable[[str], bool | None] = lambda _: None,
) -> bool:
    """Decide whether the driver that holds a lease does not run any more.

    Args:
        lease: The lease.
        now: The time, seconds since 1970.
        here: The driver that would like to have it.
        is_job_over: Asks Slurm about a job id: over, not over, or None for unknown. Asked only for
            a driver on another host.

    Returns:
        On the same host: whether that process is dead (the same process counts as gone: it once
        ended a run without giving the lease back). Elsewhere: whether its Slurm job is over, or,
        where that is unknown, whether it has been silent for `SILENT_S`.
    """
    owner = lease.owner
    if owner.host == here.host:
        return _is_process_gone(owner, here)
    over = None if owner.job_id is None else is_job_over(owner.job_id)
    return now - lease.heartbeat > SILENT_S if over is None else over


def _is_process_gone(owner: LeaseOwner, here: LeaseOwner) -> bool:
    if (owner.pid, owner.start) == (here.pid, here.start):
        return True
    stat = _read_stat(owner.pid)
    if stat is not None and stat[_STATE] == "Z":
        return True  # dead, only that its parent has not asked for its exit code
    start = read_process_start(owner.pid)
    if start is not None and owner.start:
        return start != owner.start
    return not _is_alive(owner.pid)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # someone else's, but there
    return True
