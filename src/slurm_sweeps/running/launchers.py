"""Where trials can run, and how a worker is started there: on this machine, or in an allocation."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from ..errors import LaunchError
from ..execution.link import Link, start_process
from ..execution.spawning import build_argv
from ..storage.layout import Layout
from .channel import Record


class Launcher(Protocol):
    """Starts workers. A slot is a place where one trial runs at a time, numbered from 0."""

    @property
    def slots(self) -> int:
        """How many slots there are."""
        ...

    @property
    def world_size(self) -> int:
        """How many tasks a trial has."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about how trials share the machine."""
        ...

    @property
    def fresh_workers(self) -> bool:
        """Whether every trial gets a worker of its own."""
        ...

    def prepare(self, count: int | None) -> AbstractContextManager[None]:
        """Begin to start the first `count` workers (None: all), where that costs nobody anything.

        Those that nobody has asked for by the end of the context end with it.
        """
        ...

    def start(self, slot: int) -> Link:
        """Start the worker of a slot; LaunchError if that fails at once."""
        ...

    def get_nodes(self, slot: int) -> tuple[str, ...]:
        """Name the nodes that a slot is on."""
        ...

    def build_environment(self, slot: int) -> dict[str, str]:
        """Return what to set in the environment of a trial in this slot."""
        ...

    def describe_slot(self, slot: int) -> Record | None:
        """Return what a worker in a job step has to know of its slot; None outside of one."""
        ...

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """End what a worker that died with its trial may have left behind."""
        ...

    def explain(self, said: str) -> str | None:
        """Pick out of what a worker that never began wrote why that is; None if it doesn't say."""
        ...

    def find_stall(self, said: str) -> str | None:
        """Say why a worker that has not begun yet may never do so, judging by what it wrote."""
        ...


class LocalLauncher:
    """Workers as child processes on this machine.

    Args:
        slots: How many trials run at once.
        layout: Where files go.
        gpus_per_trial: GPUs that each trial gets, 0 to leave CUDA_VISIBLE_DEVICES alone.
        gpus: The GPUs to deal out, as they are named in CUDA_VISIBLE_DEVICES.
        notices: What the user should know about that.
    """

    world_size = 1
    fresh_workers = False

    def __init__(
        self,
        slots: int,
        layout: Layout,
        gpus_per_trial: int = 0,
        gpus: tuple[str, ...] = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        self.slots = slots
        self.notices = notices
        self._layout = layout
        self._gpus_per_trial = gpus_per_trial
        self._gpus = gpus
        self._host = socket.gethostname()
        self._prepared: dict[int, Link] = {}

    @contextlib.contextmanager
    def prepare(self, count: int | None) -> Iterator[None]:
        """Start as many workers as there are CPUs for them beside the driver, or one."""
        try:
            with contextlib.suppress(LaunchError):  # `start` will say it
                wanted = self.slots if count is None else min(self.slots, count)
                for slot in range(min(wanted, max(1, count_cpus() - 1))):
                    self._prepared[slot] = self._launch(slot)
            yield
        finally:
            for link in self._prepared.values():
                link.end()
            self._prepared.clear()

    def start(self, slot: int) -> Link:
        """Start a worker with a socket for the reports of its trials."""
        return self._prepared.pop(slot, None) or self._launch(slot)

    def _launch(self, slot: int) -> Link:
        mine, its = socket.socketpair()
        env = dict(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(max(1, count_cpus() // self.slots)))
        env |= self.build_environment(slot)  # so that imports find what the trials do
        argv = build_argv("main", world_size=1, direct=its.fileno())
        try:
            process = start_process(argv, env, pass_fds=(its.fileno(),))
        except OSError as error:
            mine.close()
            raise LaunchError(f"can't start a worker with {argv[0]!r}: {error}") from error
        finally:
            its.close()
        return Link(process, self._layout.slot_log(slot), mine)

    def get_nodes(self, slot: int) -> tuple[str, ...]:
        """This host."""
        return (self._host,)

    def build_environment(self, slot: int) -> dict[str, str]:
        """Give each slot its GPUs, round robin where there are fewer than slots ask for."""
        if not self._gpus_per_trial:
            return {}
        first = slot * self._gpus_per_trial
        chosen = [self._gpus[(first + i) % len(self._gpus)] for i in range(self._gpus_per_trial)]
        return {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}

    def describe_slot(self, slot: int) -> Record | None:
        """There is no step around the worker."""
        return None

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """Kill the trial's process group: its worker can't do so any more."""
        if trial_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(trial_pid, signal.SIGKILL)

    def explain(self, said: str) -> str | None:
        """Python's last words."""
        return said.strip() or None

    def find_stall(self, said: str) -> str | None:
        """A child process begins at once."""
        return None


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, where it is lower and that can be done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def count_cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
