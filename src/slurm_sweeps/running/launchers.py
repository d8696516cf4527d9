"""Where trials can run: the slots of this machine, or those of an allocation.

Everywhere a slot's worker is a host or a fork of one (`host`), and its standard streams are the
channel. A host serves the slots that see the same of a machine: here all, unless GPUs are dealt
out; in an allocation one each, in a job step that has the slot's share, or with
`SlurmCfg(share_imports=True)` all of a node.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import LaunchError
from ..slurm.allocation import Allocation, check_not_inside_a_step
from ..slurm.client import JobClock, cancel_step, read_allocation, read_fate, requeue_job
from ..slurm.config import LocalCfg, SlurmCfg
from ..slurm.share import Plan, count_local_slots, plan_slots
from ..slurm.step import (
    Slot,
    build_srun_argv,
    build_step_environment,
    is_step_waiting,
    merge_slots,
    parse_step_error,
)
from ..slurm.text import Fate
from ..storage.layout import Layout
from .channel import Connection, Record, start_process
from .host import build_host_argv

#: How many files a driver may have open: for itself, and for the pipes and sockets of each slot.
FILES, FILES_PER_SLOT = 200, 6


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """A place where one trial runs at a time.

    Args:
        number: Its number, from 0.
        nodes: The nodes it is on.
    """

    number: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What can be told of a worker from what it, or srun, wrote.

    Args:
        cause: Why it never began; None if that isn't said.
        stall: Why it may never begin; None if it may.
    """

    cause: str | None = None
    stall: str | None = None


class Launcher(Protocol):
    """Starts workers."""

    @property
    def slots(self) -> Sequence[SlotPlace]:
        """What it lends."""
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
        """Start what is to run a slot's worker, unless that runs for other slots already.

        Raises:
            LaunchError: That fails at once.
        """
        ...

    def describe_slot(self, slot: int) -> Record:
        """Return what a worker has to know of its slot, as fields of the `init` record."""
        ...

    def diagnose(self, said: str) -> Diagnosis:
        """Tell what is the matter with a worker that has not begun, by what it wrote."""
        ...

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """End what a worker that died with its trial may have left behind."""
        ...


class LocalLauncher:
    """One host on this machine, or one for each set of GPUs that slots are dealt.

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
        self.slots = [SlotPlace(slot, (socket.gethostname(),)) for slot in range(slots)]
        self.notices = notices
        self._layout = layout
        self._gpus_per_trial = gpus_per_trial
        self._gpus = gpus
        self._hosts: dict[str, Connection] = {}  # by GPUs

    def start(self, slot: int) -> Connection:
        """Start a host with a socket for the reports of each of its slots."""
        gpus = self._deal_gpus(slot)
        host = self._hosts.get(gpus)
        if host is None or host.has_ended:
            alike = [s.number for s in self.slots if self._deal_gpus(s.number) == gpus]
            host = self._hosts[gpus] = self._launch(alike)
        return host

    def _launch(self, slots: list[int]) -> Connection:
        env = dict(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(max(1, count_cpus() // len(self.slots))))
        pairs = {}
        try:
            for slot in slots:
                pairs[slot] = socket.socketpair()
            theirs = {slot: pair[1].fileno() for slot, pair in pairs.items()}
            argv = build_host_argv(len(slots), direct=theirs)
            process = start_process(argv, env, pass_fds=tuple(theirs.values()))
        except OSError as error:
            for mine, _ in pairs.values():
                mine.close()
            raise LaunchError(f"can't start a worker with {sys.executable!r}: {error}") from error
        finally:
            for _, its in pairs.values():
                its.close()
        direct = {slot: mine for slot, (mine, _) in pairs.items()}
        return Connection(process, self._layout.slot_log(slots[0]), direct)

    def _deal_gpus(self, slot: int) -> str:
        """Give each slot its GPUs, round robin where there are fewer than slots ask for."""
        first = slot * self._gpus_per_trial
        places = range(first, first + self._gpus_per_trial)
        return ",".join(self._gpus[place % len(self._gpus)] for place in places)

    def describe_slot(self, slot: int) -> Record:
        """Name the slot's GPUs."""
        gpus = self._deal_gpus(slot)
        return {"env": {"CUDA_VISIBLE_DEVICES": gpus}} if gpus else {}

    def diagnose(self, said: str) -> Diagnosis:
        """Python's last words; a child process begins at once."""
        return Diagnosis(said.strip() or None)

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:  # noqa: ARG002 - the protocol's
        """Kill the trial's process group: its worker can't do so any more."""
        if trial_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(trial_pid, signal.SIGKILL)

    def close(self) -> None:
        """End the hosts that still run."""
        for host in self._hosts.values():
            if not host.has_ended:
                host.end()


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
    """Starts hosts as job steps, with the share of the allocation that is their slots'.

    Args:
        allocation: The job.
        plan: Its slots.
        cfg: What the user asked for each trial.
        layout: Where files go.
    """

    def __init__(self, allocation: Allocation, plan: Plan, cfg: SlurmCfg, layout: Layout) -> None:
        self.slots = [SlotPlace(share.index, share.nodes) for share in plan.slots]
        self.notices = plan.notices
        self.world_size = cfg.ntasks
        self.fresh_workers = bool(cfg.fresh_step)
        self._allocation = allocation
        self._shares = plan.slots
        self._cfg = cfg
        self._layout = layout
        self._shared: dict[str, Connection] = {}  # by node

    def start(self, slot: int) -> Connection:
        """Start a slot's step, unless it shares one that runs; srun speaks over its streams."""
        share = self._shares[slot]
        if not self._cfg.share_imports:
            return self._launch(share, slot)
        (node,) = share.nodes
        host = self._shared.get(node)
        if host is None or host.has_ended:
            neighbours = self._find_neighbours(share)
            whole = merge_slots(neighbours, self._allocation.find_node(node))
            host = self._shared[node] = self._launch(whole, slot, len(neighbours))
        return host

    def _launch(self, share: Slot, slot: int, slots: int = 1) -> Connection:
        command = build_host_argv(slots, self.world_size)
        argv = build_srun_argv(share, self._cfg, command, job_name=f"slot-{slot}")
        env = build_step_environment(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(self._shares[slot].cpus_per_task))
        try:
            process = start_process(argv, env)
        except OSError as error:
            raise LaunchError(f"can't start srun: {error}; is Slurm's client on PATH?") from error
        return Connection(process, self._layout.slot_log(slot))

    def _find_neighbours(self, slot: Slot) -> list[Slot]:
        """Return the slots that share a step with this one, itself included."""
        return [other for other in self._shares if other.nodes == slot.nodes]

    def describe_slot(self, slot: int) -> Record:
        """Tell a slot's worker what it needs to describe trials in their environment."""
        share = self._shares[slot]
        shared = self._describe_sharing(share) if self._cfg.share_imports else {}
        digits = "".join(filter(str.isdigit, self._allocation.job_id))
        step = {
            "port_range": list(self._cfg.master_port_range),
            "slot": slot,
            "slots": len(self._shares),
            "salt": int(digits or 0),
            "cpus_per_task": share.cpus_per_task,
            "mem_mb": share.mem_mb,
            "visible_gpus": share.visible_gpus,
            **shared,
        }
        return {"share": step}

    def _describe_sharing(self, slot: Slot) -> dict[str, Any]:
        """Say which of the CPUs and GPUs of a shared step are a slot's own."""
        if not slot.exclusive:
            return {}
        neighbours = self._find_neighbours(slot)
        at, gpus = neighbours.index(slot), slot.gpus
        node = self._allocation.find_node(slot.nodes[0])
        cpus = node.count_step_cpus(1, slot.cpus_per_task)
        return {
            "bound_to": [at * cpus, cpus, len(neighbours) * cpus],
            "visible_gpus": list(range(at * gpus, (at + 1) * gpus)) if gpus else None,
        }

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:  # noqa: ARG002 - the protocol's
        """Have Slurm end the step of a worker that was given up, wherever its tasks are."""
        if step is not None:
            cancel_step(f"{self._allocation.job_id}.{step}")

    def diagnose(self, said: str) -> Diagnosis:
        """Find in a step's output why it could not be started; or that srun waits for room.

        Slurm then has less room than the ledger believes.
        """
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
    """Choose where trials run: in the allocation around this process, else on this machine.

    Args:
        layout: Where files go.
        slurm_cfg: What each trial gets of an allocation.
        local_cfg: What each trial gets of this machine.
        max_concurrent_trials: How many run at once at most.
        early: Start the first host at once, where that costs nobody anything, on this machine:
            Python boots while the caller does other things.

    Raises:
        AllocationError: A trial can't fit.
        UsageError: This process is itself a job step.
    """
    check_not_inside_a_step(os.environ)
    allocation = read_allocation(os.environ)
    if allocation is not None:
        plan = plan_slots(allocation, slurm_cfg, max_concurrent_trials)
        allow_open_files(FILES + FILES_PER_SLOT * len(plan.slots))
        yield SlurmLauncher(allocation, plan, slurm_cfg, layout)
        return
    launcher = _build_local(layout, local_cfg, max_concurrent_trials)
    allow_open_files(FILES + FILES_PER_SLOT * len(launcher.slots))
    try:
        if early:
            with contextlib.suppress(LaunchError):  # to be said when it is needed
                launcher.start(0)
        yield launcher
    finally:
        launcher.close()


def _build_local(layout: Layout, cfg: LocalCfg, max_concurrent_trials: int | None) -> LocalLauncher:
    gpus = find_gpus() if cfg.gpus else ()
    slots, notices = count_local_slots(count_cpus(), len(gpus), cfg, max_concurrent_trials)
    return LocalLauncher(slots, layout, cfg.gpus, gpus, notices)


@contextmanager
def watch_time_limit() -> Iterator[JobClock | None]:
    """Know when the job ends, if this process runs in one."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        yield None
        return
    with JobClock(job_id) as limit:
        yield limit


def requeue(job_id: str, notify: Callable[[str], None]) -> None:
    """Have this job queued again, unless somebody has cancelled it or Slurm does so by itself."""
    fate = read_fate(job_id)
    if fate is Fate.CANCELLED:
        notify(f"job {job_id} was cancelled: it is not queued again")
        return
    problem = "" if fate is Fate.REQUEUED else requeue_job(job_id)
    if not problem:
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
