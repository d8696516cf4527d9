"""Where trials can run, and how a worker is started there: on this machine, or in an allocation.

Workers as job steps: one srun for each slot, its standard streams the channel.

With `SlurmCfg(share_imports=True)` it is one srun for each node, the channel of all slots there.

Which launcher a sweep gets: inside a Slurm allocation its nodes, else this machine.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ..errors import LaunchError
from ..slurm.allocation import Allocation, Node, check_not_inside_a_step, read_allocation
from ..slurm.client import (
    Fate,
    TimeLimit,
    cancel_step,
    read_fate,
    requeue_job,
)
from ..slurm.config import LocalCfg, SlurmCfg
from ..slurm.share import Plan, Slot, count_local_slots, count_step_cpus, merge_slots, plan_slots
from ..slurm.step import (
    build_srun_argv,
    build_step_environment,
    is_step_waiting,
    parse_step_error,
)
from ..storage.layout import Layout
from .channel import Connection, Record, start_process
from .trial_process import build_argv


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """A slot that a launcher lends: the number that it goes by there, and its nodes."""

    number: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a worker that has not begun says of the reason, None where it doesn't.

    Args:
        cause: Why one that has ended never began.
        stall: Why one that has not begun yet may never do so.
    """

    cause: str | None = None
    stall: str | None = None


class Launcher(Protocol):
    """Starts workers. A slot is a place where one trial runs at a time."""

    @property
    def slots(self) -> Sequence[SlotPlace]:
        """The slots that it lends."""
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

    def start(self, slot: int) -> Connection:
        """Start the worker of a slot, in a process that may serve others too.

        Raises:
            LaunchError: That fails at once.
        """
        ...

    def describe_slot(self, slot: int) -> Record:
        """Return what its worker's `init` record holds besides: `env`, or in a job step `step`."""
        ...

    def diagnose(self, said: str) -> Diagnosis:
        """Judge by what a worker wrote why it has not begun."""
        ...

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """End what a worker that died with its trial may have left behind."""
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
        host = socket.gethostname()
        self.slots = [SlotPlace(number, (host,)) for number in range(slots)]
        self.notices = notices
        self._layout = layout
        self._gpus_per_trial = gpus_per_trial
        self._gpus = gpus
        self._prepared: dict[int, Connection] = {}

    @contextlib.contextmanager
    def prepare(self, count: int) -> Iterator[None]:
        """Start so many workers ahead; those that are not asked for meanwhile end."""
        try:
            with contextlib.suppress(LaunchError):  # `start` will say it
                for slot in range(count):
                    self._prepared[slot] = self._launch(slot)
            yield
        finally:
            for connection in self._prepared.values():
                connection.end()
            self._prepared.clear()

    def start(self, slot: int) -> Connection:
        """Start a worker with a socket for the reports of its trials."""
        return self._prepared.pop(slot, None) or self._launch(slot)

    def _launch(self, slot: int) -> Connection:
        mine, its = socket.socketpair()
        env = dict(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(max(1, count_cpus() // len(self.slots))))
        env |= self.describe_slot(slot)["env"]  # so that imports find what the trials do
        argv = build_argv("main", world_size=1, direct=its.fileno())
        try:
            process = start_process(argv, env, pass_fds=(its.fileno(),))
        except OSError as error:
            mine.close()
            raise LaunchError(f"can't start a worker with {argv[0]!r}: {error}") from error
        finally:
            its.close()
        return Connection(process, self._layout.slot_log(slot), {slot: mine})

    def describe_slot(self, slot: int) -> Record:
        """Give each slot its GPUs, round robin where there are fewer than slots ask for."""
        if not self._gpus_per_trial:
            return {"env": {}}
        first = slot * self._gpus_per_trial
        chosen = [self._gpus[(first + i) % len(self._gpus)] for i in range(self._gpus_per_trial)]
        return {"env": {"CUDA_VISIBLE_DEVICES": ",".join(chosen)}}

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """Kill the trial's process group: its worker can't do so any more."""
        if trial_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(trial_pid, signal.SIGKILL)

    def diagnose(self, said: str) -> Diagnosis:
        """Python's last words; a child process begins at once."""
        return Diagnosis(said.strip() or None)


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


class SlurmLauncher:
    """Starts each slot's worker as a job step with the slot's share of the allocation.

    Args:
        allocation: The job.
        plan: Its slots.
        cfg: What the user asked for each trial.
        layout: Where files go.
    """

    def __init__(self, allocation: Allocation, plan: Plan, cfg: SlurmCfg, layout: Layout) -> None:
        self.notices = plan.notices
        self.world_size = cfg.ntasks
        self.fresh_workers = bool(cfg.fresh_step)
        self._allocation = allocation
        self.slots = [SlotPlace(slot.index, slot.nodes) for slot in plan.slots]
        self._slots = plan.slots
        self._cfg = cfg
        self._layout = layout
        self._shared: dict[str, Connection] = {}  # by node

    def start(self, slot: int) -> Connection:
        """Start a slot's step, unless it shares one that runs; srun speaks over its streams."""
        share = self._slots[slot]
        if not self._cfg.share_imports:
            return self._launch(share, share, "main")
        (node,) = share.nodes
        connection = self._shared.get(node)
        if connection is None or connection.has_ended:
            whole = merge_slots(self._find_neighbours(share), self._find_node(node))
            connection = self._shared[node] = self._launch(whole, share, "zygote_main")
        return connection

    def _launch(self, step: Slot, slot: Slot, main: str) -> Connection:
        command = build_argv(main, world_size=self.world_size)
        argv = build_srun_argv(step, self._cfg, command, job_name=f"slot-{slot.index}")
        env = build_step_environment(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(slot.cpus_per_task))
        try:
            process = start_process(argv, env)
        except OSError as error:
            raise LaunchError(f"can't start srun: {error}; is Slurm's client on PATH?") from error
        return Connection(process, self._layout.slot_log(slot.index))

    def _find_neighbours(self, slot: Slot) -> list[Slot]:
        """Return the slots that share a step with this one, itself included."""
        return [other for other in self._slots if other.nodes == slot.nodes]

    def _find_node(self, name: str) -> Node:
        return next(node for node in self._allocation.nodes if node.name == name)

    def describe_slot(self, slot: int) -> Record:
        """Tell a slot's worker what it needs to describe trials in their environment."""
        share = self._slots[slot]
        shared = self._describe_sharing(share) if self._cfg.share_imports else {}
        digits = "".join(filter(str.isdigit, self._allocation.job_id))
        step = {
            "port_range": list(self._cfg.master_port_range),
            "slot": slot,
            "slots": len(self._slots),
            "salt": int(digits or 0),
            "cpus_per_task": share.cpus_per_task,
            "mem_mb": share.mem_mb,
            "visible_gpus": share.visible_gpus,
            **shared,
        }
        return {"step": step}

    def _describe_sharing(self, slot: Slot) -> Record:
        """Say which of the CPUs and GPUs of a shared step are a slot's own."""
        if not slot.exclusive:
            return {}
        neighbours = self._find_neighbours(slot)
        at, gpus = neighbours.index(slot), slot.gpus
        threads = self._find_node(slot.nodes[0]).threads_per_core
        cpus = count_step_cpus(1, slot.cpus_per_task, threads)
        return {
            "bound_to": [at * cpus, cpus, len(neighbours) * cpus],
            "visible_gpus": list(range(at * gpus, (at + 1) * gpus)) if gpus else None,
        }

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """Have Slurm end the step of a worker that was given up, wherever its tasks are."""
        if step is not None:
            cancel_step(f"{self._allocation.job_id}.{step}")

    def diagnose(self, said: str) -> Diagnosis:
        """Pick out of a worker's output why its step did not start, or that srun waits."""
        stall = None
        if any(is_step_waiting(line) for line in said.splitlines()):
            stall = (
                "Slurm has no room for a step that should fit (srun is waiting). Is another step "
                f"of job {self._allocation.job_id} running? If not, please report it with the "
                "output of `scontrol show job -d`"
            )
        return Diagnosis(parse_step_error(said), stall)


@contextmanager
def open_launcher(
    layout: Layout,
    slurm_cfg: SlurmCfg,
    local_cfg: LocalCfg,
    max_concurrent_trials: int | None,
    early: bool = True,
) -> Iterator[Launcher]:
    """Choose where trials run and see that they fit there.

    Args:
        layout: Where files go.
        slurm_cfg: What each trial gets of an allocation.
        local_cfg: What each trial gets of this machine.
        max_concurrent_trials: How many run at once at most.
        early: Start the first worker at once, where that costs nobody anything: on this machine.
            If nobody has asked for it by the end of the context, it ends with it.

    Raises:
        AllocationError: A trial can't fit.
        UsageError: This process is itself a job step.
    """
    check_not_inside_a_step(os.environ)
    allocation = read_allocation(os.environ)
    if allocation is None:
        launcher = _build_local(layout, local_cfg, max_concurrent_trials)
        with launcher.prepare(int(early)):
            yield launcher
    else:
        plan = plan_slots(allocation, slurm_cfg, max_concurrent_trials)
        yield SlurmLauncher(allocation, plan, slurm_cfg, layout)


def _build_local(layout: Layout, cfg: LocalCfg, max_concurrent_trials: int | None) -> LocalLauncher:
    gpus = find_gpus() if cfg.gpus else ()
    slots, notices = count_local_slots(count_cpus(), len(gpus), cfg, max_concurrent_trials)
    return LocalLauncher(slots, layout, cfg.gpus, gpus, notices)


@contextmanager
def watch_time_limit() -> Iterator[TimeLimit | None]:
    """Know when the job ends, if this process runs in one."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        yield None
        return
    with TimeLimit(job_id) as limit:
        yield limit


def requeue(job_id: str, notify: Callable[[str], None]) -> None:
    """Have this job queued again, unless somebody has cancelled it or Slurm does so by itself."""
    fate = read_fate(job_id)
    if fate is Fate.CANCELLED:
        notify(f"job {job_id} was cancelled: it is not queued again")
        return
    problem = None if fate is Fate.REQUEUED else requeue_job(job_id)
    if problem is None:
        notify(f"job {job_id} is queued again; it goes on where it stopped")
    else:
        notify(f"job {job_id} could not be queued again: {problem}")


def find_gpus() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(found.stdout.split())
