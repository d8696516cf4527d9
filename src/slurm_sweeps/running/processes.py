"""Processes: how ours are started, tied to each other and to CPUs, and ended.

Every process of ours is born with a parent that watches it: it dies with its parent, and its parent
adopts whatever it leaves behind. A parent lives through the signals that Slurm sends to all tasks
of a job that ends: the driver got them too and says what to do. No wait is without an end.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # no enums, for which each fork copies pages
import atexit
import contextlib
import functools
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes


#: Said where the path of this interpreter leads to one of another version, on another node.
_OTHER_PYTHON = " is another Python than the driver's"


def build_argv(code: str, *argv: str) -> list[str]:
    """Return the command for a Python of ours: it runs `code` with the import path of this one.

    The path is set by the first statement and needs nothing imported for it: in the current folder,
    which Python would search first, anybody may have put a `json.py`.
    """
    # "" is the current folder, which is another one in a trial; and some put Path objects there.
    path = [os.fspath(entry) or os.getcwd() for entry in sys.path]
    safe, version = ["-P"] if sys.version_info >= (3, 11) else [], tuple(sys.version_info[:2])
    check = f"sys.version_info[:2] == {version} or sys.exit(sys.executable + {_OTHER_PYTHON!r})"
    code = f"import sys; sys.path[:] = {path!r}; {check}; {code}"
    return [sys.executable, *safe, "-c", code, *argv]


#: What must be the same for what another Python has pickled to be read.
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

#: Code for `build_argv` that runs a module of this room. What that imports stays to the end: the
#: garbage collector would look for nothing there.
RUN = (
    "import gc; gc.disable(); from slurm_sweeps.running.{} import main; gc.freeze(); gc.enable(); "
    "main()"
)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@functools.cache
def _load_libc() -> ctypes.CDLL | None:
    """Return the C library where it has prctl (Linux), else None."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # not in what a trial has started, which only reports

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)  # looked up once, not in each fork
    return libc


def _prctl(option: int, value: int) -> None:
    libc = _load_libc()
    if libc is not None:
        libc.prctl(option, value, 0, 0, 0)


def die_with_parent(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies, however that dies (Linux only)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


def wake_without_parent() -> None:
    """Let the kernel continue this process, should it be stopped, when its parent dies (Linux).

    It then reads the end of its input, and ends what it has started before it ends itself; killed,
    it would leave that behind. Harmless where only the thread ends that has started this process,
    which the kernel takes for its parent.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends (Linux only)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


#: How long children that were killed may take to end, in seconds.
KILL_WAIT_S = 5.0


def kill_children(spare: Collection[int] = (), wait_s: float = KILL_WAIT_S) -> set[int]:
    """Kill the children of this process, and theirs as they are adopted, and reap them (Linux).

    Args:
        spare: The process ids of those that are to live on.
        wait_s: How long to wait for them to end.

    Returns:
        Those that have not: they hang in the kernel.
    """
    deadline, pause_s = time.monotonic() + wait_s, 0.0
    while children := {pid for pid in list_children() if pid not in spare}:
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() >= deadline:
            return children
        time.sleep(pause_s)
        pause_s = min(0.1, 2 * pause_s + 0.0005)
    return set()


def list_children() -> list[int]:
    """Return the process ids of this process's children (Linux)."""
    # Read after every trial: `Path.read_text` would take three times as long, a buffer touch more.
    pid = os.getpid()
    children = f"/proc/{pid}/task/{pid}/children"
    with contextlib.suppress(OSError), open(children, "rb", buffering=0) as file:
        return [int(child) for child in file.read().split()]
    return []


def iterate_descendants(pid: int) -> Iterator[int]:
    """Yield the process ids of a process's children, and of theirs, parents first (Linux)."""
    waiting = [pid]
    for parent in waiting:  # grows
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(child) for child in thread.read_text().split()]
                waiting += children
                yield from children


def freeze_memory() -> None:
    """Keep the garbage collector off what all forks share, so that the pages stay shared."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(Exception):
        _flush_libraries()  # else each fork writes it once more


def finish_process() -> None:
    """Do what an interpreter does at its end, short of taking itself apart."""
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined] # waits for the threads of train
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(Exception):
        _flush_libraries()


def _flush_libraries() -> None:
    """Write what libraries in C would write at an exit that isn't `os._exit`."""
    libc = _load_libc()
    if libc is not None:
        libc.fflush(None)  # what they print
    h5f: Any = sys.modules.get("h5py.h5f")
    if h5f is not None:
        for file in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_FILE):
            h5f.flush(file)


@functools.cache  # once for all trials of a process
def take_term(handle: Callable[..., None]) -> None:
    """Have TERM handled in this process, and let it end the children that this forks.

    `multiprocessing` counts on that. Python forgets signals that come to a child before it has
    taken its first steps; so that one which comes then isn't lost, TERM waits meanwhile.
    """
    masks = threading.local()

    def hold() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def let_go() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def let_go_in_child() -> None:
        if signal.getsignal(signal.SIGTERM) is handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        let_go()

    _signal.signal(signal.SIGTERM, handle)
    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=let_go_in_child)


#: The signals by which Slurm's `--signal` warns of the end of a job: the driver's business.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class ChildWatch:
    """Wakes a poll when a child has ended; other signals do no more than that.

    Python writes the number of every signal that has a handler to a pipe.

    Attributes:
        fd: Becomes readable when a child may have ended.
        writer: The pipe's other end.
    """

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.writer, False)
        self.listen()

    def listen(self) -> dict[signal.Signals, Any]:
        """Set all that this needs; return the handlers of others that are replaced.

        To be called again when user code was loaded: that may have set handlers of its own, or
        taken the pipe of the signals, as asyncio does.
        """
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        watched = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, *WARNINGS)
        before = {number: _signal.signal(number, _wake) for number in watched}
        os.write(self.writer, b"\0")  # what has come meanwhile is looked at now
        return {number: handler for number, handler in before.items() if handler is not _wake}

    def reap(self) -> Iterator[tuple[int, int, resource.struct_rusage]]:
        """Empty the pipe; yield id, wait status and use of each child process that has ended."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (ended := os.wait4(-1, os.WNOHANG))[0]:
                yield ended


def _wake(*_: object) -> None:
    """Do nothing: that Python has a handler is what makes it write to the pipe."""


# --- the CPUs that a worker keeps to, so that its trials do ---------------------------------------


def count_cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def bind_to_cpus(first: int, count: int, total: int) -> None:
    """Keep this process to a slot's CPUs, where that can be done (Linux); see `choose_cpus`."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (_find_core(cpu), cpu))
        os.sched_setaffinity(0, choose_cpus(allowed, first, count, total))


def _find_core(cpu: int) -> int:
    """Return the first CPU of the core that a CPU belongs to; itself where that is not told."""
    siblings = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    with contextlib.suppress(OSError, ValueError), open(siblings) as file:
        return int(file.read().replace("-", ",").split(",")[0])
    return cpu


def choose_cpus(allowed: Sequence[int], first: int, count: int, total: int) -> Sequence[int]:
    """Return a slot's CPUs among those there are; all, if they are not as many as was thought.

    Args:
        allowed: Those that this process may use, those of a core side by side.
        first: The position of the slot's first one; behind the last one it begins anew.
        count: How many are the slot's.
        total: How many there should be: those of all slots of a step that Slurm has bound, or of
            this machine.
    """
    if len(allowed) != total:
        return allowed
    return [allowed[(first + place) % total] for place in range(count)]
