"""How an attempt ended, from what is known of it; and what the kernel tells about that.

Status is recorded, never guessed: the trial says how it ended, or the worker, its parent, saw its
exit status. What the two don't explain (a KILL out of nowhere) is `lost`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

from .channel import Record

#: Signals that a process brings upon itself: a crash, which is a failure of `train`.
CRASHES = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)


def judge(said: Record | None, told: str | None, exit_code: int, oom: bool) -> Record:
    """Decide how an attempt ended.

    Args:
        said: What the trial said of its end, if it could.
        told: "prune", "pause" or "stop" if it was told to leave.
        exit_code: Its exit status; negative is the number of the signal that ended it.
        oom: Whether the kernel's out-of-memory killer struck here while it ran.

    Returns:
        `how` (completed, pruned, failed, lost, interrupted) with `exit_code`, `signal`,
        `error_type`, `message` and `traceback` where they apply.
    """
    if told in ("prune", "pause"):
        return {"how": "pruned"}
    if said is not None:
        return said
    if exit_code == 0:
        return {"how": "completed", "exit_code": 0}
    if exit_code > 0:
        return {
            "how": "failed",
            "exit_code": exit_code,
            "error_type": "ExitStatus",
            "message": f"the trial's process exited with status {exit_code}; see its stderr.log",
        }
    return _judge_signal(-exit_code, told, oom)


def _judge_signal(number: int, told: str | None, oom: bool) -> Record:
    name = _name_signal(number)
    end: Record = {"signal": number, "error_type": name}
    if number in CRASHES:
        message = f"the trial's process crashed ({name}, {signal.strsignal(number)})"
        return {**end, "how": "failed", "message": message}
    if told == "stop":
        return {**end, "how": "interrupted", "message": f"ended by {name} when told to stop"}
    if number == signal.SIGKILL and oom:
        message = "the kernel killed the trial's process: out of memory"
        return {**end, "how": "lost", "error_type": "OutOfMemory", "message": message}
    return {**end, "how": "lost", "message": f"the trial's process was killed by {name}"}


def _name_signal(number: int) -> str:
    """Name a signal; of the real-time ones Python names only the first and the last."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def count_oom_kills() -> int:
    """Return how often the out-of-memory killer has struck: in this cgroup, else on this host."""
    for file, key in (*_find_cgroup_files(), (Path("/proc/vmstat"), "oom_kill")):
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == key:
                    return int(value)
    return 0


def _find_cgroup_files() -> list[tuple[Path, str]]:
    """Find the files that count kills in this process's memory cgroup (version 2 and 1)."""
    global _cgroup_files
    if _cgroup_files is None:
        _cgroup_files = []
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/cgroup").read_text().splitlines():
                number, controllers, path = line.split(":", 2)
                if number == "0" and path != "/":
                    file = Path(f"/sys/fs/cgroup{path}/memory.events")
                    _cgroup_files.append((file, "oom_kill"))
                elif "memory" in controllers.split(","):
                    file = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
                    _cgroup_files.append((file, "oom_kill"))
        _cgroup_files = [item for item in _cgroup_files if item[0].exists()]
    return _cgroup_files


_cgroup_files: list[tuple[Path, str]] | None = None


def kill_children(spare: Collection[int] = ()) -> None:
    """Kill the children of this process, and theirs as they are adopted, and reap them (Linux).

    Args:
        spare: The process ids of those that are to live on.
    """
    own = os.getpid()
    for _ in range(100):
        children = [pid for pid in _list_children(own) if pid not in spare]
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def signal_children(spare: Collection[int]) -> None:
    """Send KILL to the children of this process, some spared, and wait for none of them."""
    for pid in _list_children(os.getpid()):
        if pid not in spare:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _list_children(pid: int) -> list[int]:
    # Read after every trial: `Path.read_text` would take three times as long.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
    return []


def freeze_memory() -> None:
    """Keep the garbage collector off what all forks share, so that the pages stay shared."""
    gc.collect()
    gc.freeze()


#: The signals by which Slurm's `--signal` warns of the end of a job: the driver's business.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def listen_to_signals() -> tuple[int, int]:
    """Live through all of them; return both ends of the pipe, the one to read from first."""
    wake, writer = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, *WARNINGS):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return wake, writer


def reap(wake: int) -> Iterator[tuple[int, int]]:
    """Empty the pipe; yield the process id and the wait status of each child that has ended."""
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 4096):
            pass
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
