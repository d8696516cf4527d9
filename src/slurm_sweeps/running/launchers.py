"""Where trials can run: the slots of this machine, or those of an allocation.

Everywhere a slot's worker is a host or a fork of one (`host`), and its standard streams are the
channel. A host serves the slots that see the same of a machine: here all, unless GPUs are dealt
out; in an allocation one each, in a job step that has the slot's share, or with
`SlurmCfg(share_imports=True)` all of a node.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..errors import LaunchError
from ..slurm.allocation import Allocation, check_not_inside_a_step
from ..slurm.client import (
    JobClock,
    StepQueue,
    cancel_step,
    check_can_submit,
    read_allocation,
)
from ..slurm.config import LocalCfg, SlurmCfg
from ..slurm.jobs import wrap_in_setup
from ..slurm.share import Plan, count_local_slots, plan_slots
from ..slurm.step import (
    build_entry_environment,
    build_srun_argv,
    build_step_environment,
    is_final,
    is_job_taken,
    is_outage,
    is_step_waiting,
    limit_threads,
    may_pass,
    merge_slots,
    parse_refusal,
    parse_step_error,
)
from ..storage.layout import Layout
from .channel import Connection, Record, start_process
from .host import build_host_argv
from .processes import count_cpus

#: How many files a driver may have open: for itself, and for the pipes and sockets of each slot.
FILES, FILES_PER_SLOT = 200, 6


@dataclass(frozen=True, slots=True)
class SlotPlace:
    """A place where one trial runs at a time."""

    number: int  # from 0
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What can be told of a worker from what it, or srun, wrote."""

    cause: str | None = None  # why it never began, if that is said
    stall: str | None = None  # why it may never begin, while it runs
    refusal: str | None = None  # why Slurm did not start it: the cause, where that is not its own
    is_outage: bool = False  # whether that is because Slurm itself is away
    may_pass: bool = False  # whether it may be so because it was away a moment ago
    is_final: bool = False  # whether it starts nothing more in this job
    is_taken: bool = False  # whether the job around it was taken away, which is nobody's fault


class Launcher(ABC):
    """Starts hosts, each for the slots that see the same of a machine.

    Args:
        see: Returns what is the same for slots that share a host, and for no others.
    """

    slots: Sequence[SlotPlace]  # what it lends
    world_size = 1  # how many tasks a trial has
    fresh_workers = False  # whether every trial gets a worker of its own
    cpus_of_trial: int | None = None  # these two: for itself, over all its nodes, if it has some
    mem_mb_of_trial: int | None = None
    outage_s = 0.0  # how long Slurm may start no worker at all until the sweep ends
    allocation: Allocation | None = None  # the Slurm job that they are in, if any
    job_id: str | None = None
    is_lent = False  # whether that is another job than the driver's: it may go at any moment
    notices: tuple[str, ...] = ()  # what the user should know about how trials share the machine

    def __init__(self, layout: Layout, see: Callable[[int], object]) -> None:
        self._layout = layout
        self._see = see
        self._hosts: dict[object, Connection] = {}  # by what their slots see

    def start(self, slot: int) -> Connection:
        """Return the host that is to run a slot's worker; start it unless it runs already.

        Raises:
            LaunchError: That fails at once.
        """
        seen = self._see(slot)
        host = self._hosts.get(seen)
        if host is None or host.has_ended:
            alike = [place.number for place in self.slots if self._see(place.number) == seen]
            host = self._hosts[seen] = self._launch(alike)
        return host

    @abstractmethod
    def _launch(self, slots: list[int]) -> Connection:
        """Start a host for these slots."""

    @abstractmethod
    def describe_slot(self, slot: int) -> Record:
        """Return what a worker has to know of its slot, as fields of the `init` record."""

    @abstractmethod
    def diagnose(self, said: str) -> Diagnosis:
        """Tell why a worker has ended, by what it wrote."""

    def note_step(self, step: str | None) -> None:  # noqa: ARG002 - others need it
        """Take note of the job step that a worker has begun in, if it is in one."""
        return

    def look_at_start(self, pid: int, said: str) -> Diagnosis:  # noqa: ARG002 - others need them
        """Tell what is in the way of a worker that has not begun, as far as that is known yet."""
        return Diagnosis()

    @abstractmethod
    def clean_up(self, step: str | None, trial_pid: int | None) -> None:
        """End what a worker that died with its trial may have left behind."""

    def close(self) -> None:
        """End the hosts that still run."""
        for host in self._hosts.values():
            if not host.has_ended:
                host.end()


class LocalLauncher(Launcher):
    """One host on this machine, or one for each set of GPUs that slots are dealt.

    Args:
        gpus: Those to deal out, as they are named in CUDA_VISIBLE_DEVICES.
    """

    def __init__(
        self,
        slots: int,
        layout: Layout,
        cfg: LocalCfg | None = None,
        gpus: tuple[str, ...] = (),
        notices: tuple[str, ...] = (),
    ) -> None:
        super().__init__(layout, self._deal_gpus)
        self.slots = [SlotPlace(slot, (socket.gethostname(),)) for slot in range(slots)]
        self.notices = notices
        self._cfg = cfg or LocalCfg()
        self.cpus_of_trial = self._cfg.cpus
        self._gpus = gpus

    def _launch(self, slots: list[int]) -> Connection:
        """Start a host with a socket for the reports of each of its slots."""
        cpus = self._cfg.cpus or max(1, count_cpus() // len(self.slots))
        env = {**os.environ, **limit_threads(os.environ, cpus)}
        mine: dict[int, socket.socket] = {}
        theirs: dict[int, socket.socket] = {}
        try:
            for slot in slots:
                mine[slot], theirs[slot] = socket.socketpair()
            fds = {slot: its.fileno() for slot, its in theirs.items()}
            argv = build_host_argv(len(slots), direct=fds)
            process = start_process(argv, env, pass_fds=tuple(fds.values()))
        except OSError as error:
            for its in mine.values():
                its.close()
            raise LaunchError(f"can't start a worker with {sys.executable!r}: {error}") from error
        finally:
            for its in theirs.values():
                its.close()
        return Connection(process, self._layout.slot_log(slots[0]), mine)

    def _deal_gpus(self, slot: int) -> str:
        """Give each slot its GPUs, round robin where there are fewer than slots ask for."""
        count = math.ceil(self._cfg.gpus)  # of a part of one: that one
        places = range(slot * count, (slot + 1) * count)
        return ",".join(self._gpus[place % len(self._gpus)] for place in places)

    def describe_slot(self, slot: int) -> Record:
        """Name the slot's GPUs and CPUs, where each has its own."""
        place = _describe_imports(self._cfg)
        if gpus := self._deal_gpus(slot):
            place["env"] = {"CUDA_VISIBLE_DEVICES": gpus}
        if cpus := self._cfg.cpus:
            place["bound_to"] = [slot * cpus, cpus, count_cpus()]
        return place

    def diagnose(self, said: str) -> Diagnosis:
        """Python's last words; a child process begins at once."""
        return Diagnosis(said.strip() or None)

    def clean_up(self, step: str | None, trial_pid: int | None) -> None:  # noqa: ARG002 - the protocol's
        """Kill the trial's process group: its worker can't do so any more."""
        if trial_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(trial_pid, signal.SIGKILL)


def _describe_imports(cfg: LocalCfg | SlurmCfg) -> Record:
    return {} if cfg.import_ahead else {"own_imports": True}


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, where it is lower and that can be done."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class SlurmLauncher(Launcher):
    """Starts hosts as job steps, with the share of the allocation that is their slots'.

    Args:
        lent_from: The number of its first slot where the job is another than the driver's; None
            for the driver's own.
    """

    def __init__(
        self,
        allocation: Allocation,
        plan: Plan,
        cfg: SlurmCfg,
        layout: Layout,
        notify: Callable[[str], None],
        lent_from: int | None = None,
    ) -> None:
        first = lent_from or 0
        self._shares = {first + share.index: share for share in plan.slots}
        # Every slot has a step of its own, or every node.
        super().__init__(
            layout, lambda slot: self._shares[slot].nodes if plan.shares_steps else slot
        )
        self._shares_steps = plan.shares_steps
        self._notify = notify
        self._first = first
        self.is_lent = lent_from is not None
        self.job_id = allocation.job_id
        # What is wrong with a node in one job need not be so in another.
        where = f" of job {self.job_id}" if self.is_lent else ""
        self.slots = [
            SlotPlace(slot, tuple(f"{node}{where}" for node in share.nodes))
            for slot, share in self._shares.items()
        ]
        self.notices = plan.notices
        self.world_size = cfg.ntasks
        share = plan.slots[0]
        if share.exclusive:
            self.cpus_of_trial = share.cpus_per_task * share.ntasks
            self.mem_mb_of_trial = share.mem_mb and share.mem_mb * len(share.nodes)
        self.fresh_workers = bool(cfg.fresh_step)
        self.outage_s = cfg.outage_in_sec
        self.allocation = self._job = allocation
        self._cfg = cfg
        self._queue = StepQueue(allocation.job_id)

    def _launch(self, slots: list[int]) -> Connection:
        """Start a step; srun speaks over its streams."""
        share = self._shares[slots[0]]
        env = build_step_environment(os.environ)
        if self.is_lent:
            env = build_entry_environment(os.environ, self._job)
        env |= limit_threads(env, share.cpus_per_task)
        if self._shares_steps:
            node = self._job.find_node(share.nodes[0])
            share = merge_slots([self._shares[slot] for slot in slots], node)
        command = build_host_argv(len(slots), self.world_size)
        if self._cfg.jobs is not None:
            command = wrap_in_setup(self._cfg.jobs.setup, command)
        job_id = self.job_id if self.is_lent else None
        argv = build_srun_argv(share, self._cfg, command, f"slot-{slots[0]}", job_id)
        try:
            process = start_process(argv, env)
        except OSError as error:
            raise LaunchError(f"can't start srun: {error}; is Slurm's client on PATH?") from error
        return Connection(process, self._layout.slot_log(slots[0]))

    def describe_slot(self, slot: int) -> Record:
        """Tell a slot's worker what it needs to describe trials in their environment."""
        share = self._shares[slot]
        digits = "".join(filter(str.isdigit, self._job.job_id))
        imports = _describe_imports(self._cfg)
        step: dict[str, Any] = {
            "port_range": list(self._cfg.master_port_range),
            "slot": slot - self._first,
            "slots": len(self._shares),
            "salt": int(digits or 0),
            "cpus_per_task": share.cpus_per_task,
            "mem_mb": share.mem_mb,
            "visible_gpus": share.visible_gpus,
        }
        if self._shares_steps and share.exclusive:  # the step sees its neighbours' too
            neighbours = [other for other in self._shares.values() if other.nodes == share.nodes]
            at, gpus = neighbours.index(share), share.gpus
            node = self._job.find_node(share.nodes[0])
            cpus = node.count_step_cpus(1, share.cpus_per_task)
            step["visible_gpus"] = list(range(at * gpus, (at + 1) * gpus)) if gpus else None
            bound_to = [at * cpus, cpus, len(neighbours) * cpus]
            return {"share": step, "bound_to": bound_to, **imports}
        return {"share": step, **imports}

    def note_step(self, step: str | None) -> None:
        """Let workers stay when the job has few steps left: the last ones have to last.

        One more may be used up by each slot before this is known, and one when its worker dies.
        """
        most = self._job.max_steps
        if not (most and self.fresh_workers and step and step.isdecimal()):
            return
        if most - int(step) <= 2 * len(self.slots):
            self.fresh_workers = False
            self._notify(
                f"a job of this cluster may have {most} steps (MaxStepCount), and few are left: "
                "from now on the trials of a slot share a step, as without fresh_step=True"
            )

    def clean_up(self, step: str | None, trial_pid: int | None) -> None:  # noqa: ARG002 - the protocol's
        """Have Slurm end the step of a worker that was given up, wherever its tasks are."""
        if step is not None:
            cancel_step(f"{self._job.job_id}.{step}")

    def diagnose(self, said: str) -> Diagnosis:
        """Find in a step's output why it could not be started, or was ended."""
        refusal = parse_refusal(said)
        return Diagnosis(
            parse_step_error(said),
            refusal=refusal,
            is_outage=is_outage(refusal or ""),
            may_pass=may_pass(refusal or ""),
            is_final=is_final(refusal or ""),
            is_taken=self.is_lent and is_job_taken(said, self.world_size),
        )

    def look_at_start(self, pid: int, said: str) -> Diagnosis:
        """Tell that srun waits for room, or that Slurm does not answer.

        There is less room than the ledger believes, or another step is being cleared away. By
        itself srun tells only after a while that it waits.
        """
        self._queue.ask_again()
        if pid in self._queue.waiting or any(map(is_step_waiting, said.splitlines())):
            return Diagnosis(
                stall="Slurm has no room for a step that should fit. `scontrol show step "
                f"{self._job.job_id}` tells whether another one has its place; if none has, "
                "please report it with the output of `scontrol show job -d`"
            )
        problem = self._queue.problem
        return Diagnosis(refusal=problem, is_outage=is_outage(problem))


@contextmanager
def open_launcher(
    layout: Layout,
    slurm_cfg: SlurmCfg,
    local_cfg: LocalCfg,
    max_concurrent_trials: int | None,
    early: bool = True,
    notify: Callable[[str], None] = print,
) -> Iterator[Launcher]:
    """Choose where trials run: in the allocation around this process, else on this machine.

    Args:
        early: Start the first host at once, where that costs nobody anything, on this machine:
            Python boots while the caller does other things.
        notify: Tells the user that Slurm is waited for, and no more.

    Raises:
        AllocationError: A trial can't fit.
        UsageError: This process is itself a job step.
    """
    allocation = None
    if slurm_cfg.jobs is None:
        check_not_inside_a_step(os.environ)
        allocation = read_allocation(os.environ, slurm_cfg.outage_in_sec, notify)
    launcher: Launcher
    if slurm_cfg.jobs is not None:
        check_can_submit()
        launcher = LocalLauncher(0, layout)
    elif allocation is None:
        gpus = find_gpus() if local_cfg.gpus else ()
        slots, notices = count_local_slots(
            count_cpus(), len(gpus), local_cfg, max_concurrent_trials
        )
        if shutil.which("srun"):
            text = f"this is no Slurm job: trials run on this host, {slots} at once. To have "
            notices += (text + "them in jobs use sbatch, salloc or SlurmCfg(jobs=ss.Jobs(…))",)
        launcher = LocalLauncher(slots, layout, local_cfg, gpus, notices)
    else:
        plan = plan_slots(allocation, slurm_cfg, max_concurrent_trials)
        launcher = SlurmLauncher(allocation, plan, slurm_cfg, layout, notify)
    allow_open_files(FILES + FILES_PER_SLOT * len(launcher.slots))
    try:
        if early and isinstance(launcher, LocalLauncher) and launcher.slots:
            with contextlib.suppress(LaunchError):  # to be said when it is needed
                launcher.start(0)
        yield launcher
    finally:
        launcher.close()


def watch_time_limit() -> AbstractContextManager[JobClock | None]:
    """Know when the job ends, if this process runs in one."""
    job_id = os.environ.get("SLURM_JOB_ID")
    return nullcontext() if job_id is None else JobClock(job_id)


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
