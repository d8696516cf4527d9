"""What a trial asks for: `SlurmCfg` in an allocation, `LocalCfg` on a lone machine. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral

from ..checks import check_flag, check_integer, set_fields
from ..errors import UsageError, UsageTypeError
from .step import StepOptions, parse_step_options
from .text import parse_mem

#: Below Linux's range for outgoing connections (32768 and up), so that none of those is in the way.
MASTER_PORT_RANGE = (20000, 32000)


@dataclass(frozen=True, slots=True)
class SlurmCfg:
    """What each trial gets of the Slurm allocation.

    A trial runs in one job step. What is left at None is the trial's share of the allocation: its
    tasks' CPUs, the memory that goes with them, and its part of the GPUs.

    Args:
        exclusive: Give each trial CPUs, memory and GPUs of its own. If False, the trials of a node
            overlap: each sees all that the job has there, and any number of them may run.
        nodes: Nodes that a trial spans.
        ntasks: Tasks (ranks) of a trial, spread evenly over its nodes.
        args: Further options for srun, split as a shell splits. They win over what is worked out
            here and over the fields below.
        cpus_per_task: CPUs of each task. None: the job's `--cpus-per-task`, or an even share; fewer
            where not all of the job's tasks would fit otherwise.
        gpus: GPUs of a trial, over all its nodes; 0 for none. None: an even share.
        mem: Memory of a trial, over all its nodes, as Slurm writes it: `"16G"`. None: its share.
        fresh_step: Start a job step for every trial instead of one for each slot: needed for MPI
            inside a trial and for accounting by trial. None is False, which is as safe.
        share_imports: Start one job step for each node instead of one for each slot: what `train`
            needs is imported once there and the workers of all slots are forked from that. Many
            slots then start in the time of one, and share its memory. Each trial keeps to its own
            CPUs and GPUs; the memory limit is that of all slots of the node together.
        requeue: Ask Slurm to queue the job again when it is told to end before the sweep is done.
        master_port_range: First and last port that `MASTER_PORT` is taken from.

    Raises:
        UsageError: A value makes no sense; the message names it and the remedy.
        UsageTypeError: A value is of a wrong type.
    """

    exclusive: bool = True
    nodes: int = 1
    ntasks: int = 1
    args: str = ""
    cpus_per_task: int | None = field(default=None, kw_only=True)
    gpus: int | None = field(default=None, kw_only=True)
    mem: str | None = field(default=None, kw_only=True)
    fresh_step: bool | None = field(default=None, kw_only=True)
    share_imports: bool = field(default=False, kw_only=True)
    requeue: bool = field(default=False, kw_only=True)
    master_port_range: tuple[int, int] = field(default=MASTER_PORT_RANGE, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("exclusive", "fresh_step", "share_imports", "requeue"):
            self._take(name, check_flag)
        for name, least in (("nodes", 1), ("ntasks", 1), ("cpus_per_task", 1), ("gpus", 0)):
            self._take(name, check_integer, least)
        self._check_layout()
        self._check_share()
        set_fields(self, master_port_range=_check_port_range(self.master_port_range))
        options = self.parse_args()
        if self.share_imports:
            self._check_sharing(options)

    def _take(self, name: str, check: Callable[..., object], *limits: int) -> None:
        value = getattr(self, name)
        if value is not None or name not in ("cpus_per_task", "gpus", "fresh_step"):
            set_fields(self, **{name: check("SlurmCfg", name, value, *limits)})

    def _check_layout(self) -> None:
        if self.ntasks < self.nodes:
            raise UsageError(
                f"SlurmCfg(nodes={self.nodes!r}, ntasks={self.ntasks!r}): {self.nodes} nodes need "
                f"at least as many tasks; raise ntasks or lower nodes"
            )
        if self.ntasks % self.nodes:
            raise UsageError(
                f"SlurmCfg(nodes={self.nodes!r}, ntasks={self.ntasks!r}): the tasks are spread "
                f"evenly, so ntasks must be a multiple of nodes"
            )

    def _check_share(self) -> None:
        if self.gpus is not None and self.gpus % self.nodes:
            raise UsageError(
                f"SlurmCfg(nodes={self.nodes!r}, gpus={self.gpus!r}): the GPUs of a trial are "
                f"spread evenly, so gpus must be a multiple of nodes"
            )
        if self.mem is None:
            return
        if not isinstance(self.mem, str):
            raise UsageTypeError(f"SlurmCfg(mem={self.mem!r}): give a text with a unit, '16G'")
        if parse_mem(self.mem) < self.nodes:
            raise UsageError(f"SlurmCfg(mem={self.mem!r}): give at least 1M per node, or None")

    def _check_sharing(self, options: StepOptions) -> None:
        if self.ntasks > 1 or self.fresh_step:
            raise UsageError(
                "SlurmCfg(share_imports=True) is for trials of one task in the step of their slot: "
                f"leave it out with ntasks={self.ntasks!r}, fresh_step={self.fresh_step!r}"
            )
        if options.sets_cpus or options.sets_mem or options.sets_gpus or options.threads_per_core:
            raise UsageError(
                f"SlurmCfg(share_imports=True, args={self.args!r}): one step serves all slots of a "
                "node, so args can't say the CPUs, memory or GPUs of a trial; use cpus_per_task, "
                "mem and gpus"
            )

    def parse_args(self) -> StepOptions:
        """Read `args`; see `parse_step_options`."""
        if not isinstance(self.args, str):
            raise UsageTypeError(
                f"SlurmCfg(args={self.args!r}): give one text of options, '--mem=8G --mpi=pmi2'"
            )
        return parse_step_options(self.args)

    @property
    def mem_per_node_mb(self) -> int | None:
        """The memory asked for on each node, in MB, rounded down; None where none is."""
        return None if self.mem is None else parse_mem(self.mem) // self.nodes


def _check_port_range(ports: object) -> tuple[int, int]:
    if (
        isinstance(ports, tuple)
        and len(ports) == 2
        and all(isinstance(port, Integral) for port in ports)
        and 1024 <= ports[0] <= ports[1] <= 65535
    ):
        return int(ports[0]), int(ports[1])
    raise UsageError(
        f"SlurmCfg(master_port_range={ports!r}): give the first and the last port, "
        f"between 1024 and 65535, such as {MASTER_PORT_RANGE}"
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """What one trial asks for on each of its nodes; None where it takes its share.

    Args:
        nodes: Nodes of a trial.
        tasks: Tasks on each of them.
        cpus_per_task: CPUs of a task.
        mem_mb: Memory, in MB; 0 for all that the job has there, to be shared.
        mem_per_cpu_mb: Memory per CPU, in MB.
        mem_per_gpu_mb: Memory per GPU, in MB.
        gpus: GPUs.
        exclusive: Whether trials must not overlap.
        threads_per_core: The CPUs of a core that its steps count; None for all.
    """

    nodes: int
    tasks: int
    cpus_per_task: int | None
    mem_mb: int | None
    mem_per_cpu_mb: int | None
    mem_per_gpu_mb: int | None
    gpus: int | None
    exclusive: bool
    threads_per_core: int | None = None


def build_demand(cfg: SlurmCfg) -> Demand:
    """Put together what a trial asks for; `args` wins over the fields.

    Raises:
        UsageError: GPUs in `args` can't be spread evenly over the trial's nodes.
    """
    options = cfg.parse_args()
    tasks = cfg.ntasks // cfg.nodes
    gpus = cfg.gpus if options.gpus is None else options.gpus
    if gpus is not None and gpus % cfg.nodes:
        raise UsageError(
            f"SlurmCfg(nodes={cfg.nodes!r}, args={cfg.args!r}): {gpus} GPUs can't be spread evenly "
            f"over {cfg.nodes} nodes; ask for a multiple, or by --gpus-per-task"
        )
    per_node = None if gpus is None else gpus // cfg.nodes
    if options.gpus_per_task is not None:
        per_node = options.gpus_per_task * tasks
    if options.gpus_per_node is not None:
        per_node = options.gpus_per_node
    return Demand(
        nodes=cfg.nodes,
        tasks=tasks,
        cpus_per_task=options.cpus_per_task or cfg.cpus_per_task,
        mem_mb=options.mem_mb if options.sets_mem else cfg.mem_per_node_mb,
        mem_per_cpu_mb=options.mem_per_cpu_mb,
        mem_per_gpu_mb=options.mem_per_gpu_mb,
        gpus=per_node,
        exclusive=cfg.exclusive and not options.overlap,
        threads_per_core=options.threads_per_core,
    )


@dataclass(frozen=True, slots=True)
class LocalCfg:
    """What each trial gets of a machine that is used without Slurm.

    Args:
        gpus: GPUs of each trial, dealt out by `CUDA_VISIBLE_DEVICES`; the default concurrency is
            then the machine's GPUs divided by it. 0: GPUs are left alone, every trial sees all.

    Raises:
        UsageError: `gpus` is negative.
        UsageTypeError: `gpus` is no whole number.
    """

    gpus: int = 0

    def __post_init__(self) -> None:
        set_fields(self, gpus=check_integer("LocalCfg", "gpus", self.gpus, least=0))
