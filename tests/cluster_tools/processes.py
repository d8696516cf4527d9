"""Processes of this machine as /proc shows them: who is alive, who carries a mark, how to end them.

A process is known by its pid and its start time together: pids are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

#: Between two looks at what is waited for: so long, in seconds, and so many times as long as a look
#: takes. Some go through all processes, or start one; whoever waits must not take the CPUs from
#: those that are waited for.
POLL_S, PAUSE_FACTOR = 0.05, 4


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """One live process.

    Args:
        pid: Its process id.
        start_ticks: When it began, in clock ticks since boot.
        command: Its command line, for messages.
    """

    pid: int
    start_ticks: int
    command: str = ""

    def is_alive(self) -> bool:
        """Whether this very process, and not another with its pid, still runs; zombies do not."""
        found = read_process(self.pid)
        return found is not None and found.start_ticks == self.start_ticks


def read_process(pid: int) -> ProcessInfo | None:
    """Read a process; None if there is none, or only its zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
    except OSError:
        return None
    # The second field is the name in parentheses, and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return ProcessInfo(pid, int(fields[19]), command.strip())


def list_processes() -> Iterator[ProcessInfo]:
    """Go through the live processes of this machine, this one left out."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            found = read_process(int(entry.name))
            if found is not None:
                yield found


def leftover_processes(marker: str) -> list[ProcessInfo]:
    """Find live processes whose environment or command line holds `marker`.

    Give the processes under test a variable of their own (`MARK=<uuid>`): children inherit it, and
    no other process can have it. This process itself is never listed.
    """
    needle = marker.encode()
    return [p for p in list_processes() if marker in p.command or needle in _read_environ(p.pid)]


def job_processes(slurm_conf: str, folder: Path) -> list[ProcessInfo]:
    """Find live processes of a cluster's jobs: their tasks, and the slurmstepds above them.

    Tasks carry the cluster's slurm.conf and a job id in their environment; a shell or an editor in
    which somebody has exported the former alone is left out. A slurmstepd overwrites the memory of
    its environment with its title, but keeps its spool folder or its socket open.

    Args:
        slurm_conf: The value of SLURM_CONF in the cluster's jobs.
        folder: The folder under which the cluster's files are.
    """
    found = []
    for process in list_processes():
        names = set(_read_environ(process.pid).split(b"\0"))
        is_task = f"SLURM_CONF={slurm_conf}".encode() in names and any(
            name.startswith(b"SLURM_JOB_ID=") for name in names
        )
        is_step = "slurmstepd" in process.command and _holds_file_under(process.pid, str(folder))
        if is_task or is_step:
            found.append(process)
    return found


def _read_environ(pid: int) -> bytes:
    try:
        return (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _holds_file_under(pid: int, folder: str) -> bool:
    links = [PROC / str(pid) / "cwd"]
    with contextlib.suppress(OSError):
        links += list((PROC / str(pid) / "fd").iterdir())
    for link in links:
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if target == folder or target.startswith(f"{folder}/"):
                return True
    return False


def wait_until(
    check: Callable[[], object],
    timeout_s: float,
    describe: Callable[[], str],
) -> None:
    """Ask `check` every `POLL_S` seconds, less often if that takes long, until it is true.

    Raises:
        TimeoutError: It is not after `timeout_s` seconds; with what `describe` says then.
    """
    began = time.monotonic()
    deadline = began + timeout_s
    while not check():
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"after {timeout_s:g} s: {describe()}")
        time.sleep(max(POLL_S, PAUSE_FACTOR * (now - began)))
        began = time.monotonic()


def send_signal(process: ProcessInfo, signum: int) -> None:
    """Signal this very process, if it still is there."""
    if process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signum)


def end_processes(processes: Iterable[ProcessInfo], grace_s: float = 5.0) -> None:
    """TERM them all, wait up to `grace_s` seconds, then KILL what is left and wait for that.

    Args:
        processes: Whom to end.
        grace_s: Seconds to wait before KILL; 0 for KILL at once.

    Raises:
        TimeoutError: One is there 10 seconds after KILL.
    """
    alive = list(processes)
    if grace_s:
        alive = _signal_and_wait(alive, signal.SIGTERM, grace_s)
    alive = _signal_and_wait(alive, signal.SIGKILL, 10.0)
    if alive:
        raise TimeoutError(f"can't be killed: {alive!r}; see what they wait for in /proc/PID/stack")


def _signal_and_wait(
    processes: list[ProcessInfo], signum: int, timeout_s: float
) -> list[ProcessInfo]:
    for process in processes:
        send_signal(process, signum)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(p.is_alive() for p in processes), timeout_s, str)
    return [process for process in processes if process.is_alive()]
