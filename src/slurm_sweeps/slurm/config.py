"""What a trial asks for: `SlurmCfg` in an allocation, `LocalCfg` on a lone machine. Pure.

The options of `SlurmCfg.args` are handed to srun untouched. Read of them is only what changes a
trial's share, so that the ledger counts it and the line leaves its own option out; and what would
break the channel or the ledger, which is refused with the remedy. An unknown option passes: srun
knows.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

from ..checks import as_fraction, check_flag, check_integer, check_seconds, set_fields
from ..errors import AllocationError, UsageError, UsageTypeError
from .allocation import Node
from .jobs import Jobs
from .text import Grammar, count_gpus, parse_gres, parse_mem

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
        import_ahead: Have each worker import once what its trials were seen to load late of
            libraries that it has loaded, as PyTorch's first optimizer does. If False each trial
            goes on to import that by itself.
        requeue: Ask Slurm to queue the job again when it is told to end before the sweep is done.
            It then goes on with what it has begun, also without `restore`.
        outage_in_sec: How long Slurm may be away, or start nothing, until the sweep ends; workers
            that run meanwhile go on.
        master_port_range: First and last port that `MASTER_PORT` is taken from.
        jobs: Have the driver submit jobs of its own, in which all trials run. None: trials run in
            the job around the driver.

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
    import_ahead: bool = field(default=True, kw_only=True)
    requeue: bool = field(default=False, kw_only=True)
    outage_in_sec: float = field(default=1800.0, kw_only=True)
    master_port_range: tuple[int, int] = field(default=MASTER_PORT_RANGE, kw_only=True)
    jobs: Jobs | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("exclusive", "fresh_step", "share_imports", "import_ahead", "requeue"):
            self._take(name, check_flag)
        for name, least in (("nodes", 1), ("ntasks", 1), ("cpus_per_task", 1), ("gpus", 0)):
            self._take(name, check_integer, least)
        self._take("outage_in_sec", check_seconds)
        if self.ntasks % self.nodes:
            raise UsageError(
                f"SlurmCfg(nodes={self.nodes!r}, ntasks={self.ntasks!r}): the tasks are spread "
                f"evenly over {self.nodes} nodes, so ntasks must be a multiple of nodes"
            )
        self._check_mem()
        if self.jobs is not None and not isinstance(self.jobs, Jobs):
            raise UsageTypeError(f"SlurmCfg(jobs={self.jobs!r}): give ss.Jobs(most=…, args=…)")
        set_fields(self, master_port_range=_check_port_range(self.master_port_range))
        options = self.parse_args()
        _count_gpus_per_node(self, options.said)
        if self.share_imports:
            self._check_sharing(options)

    def _take(self, name: str, check: Callable[..., object], *limits: int) -> None:
        value = getattr(self, name)
        if value is not None or name not in ("cpus_per_task", "gpus", "fresh_step"):
            set_fields(self, **{name: check("SlurmCfg", name, value, *limits)})

    def _check_mem(self) -> None:
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
        if options.said:
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
class LocalCfg:
    """What each trial gets of a machine that is used without Slurm.

    As many trials run at once as there is room for by what is named here; with neither, one for
    each CPU. More of them, by `max_concurrent_trials`, share what there is, which is said.

    Args:
        gpus: GPUs of each trial, dealt out in turn by `CUDA_VISIBLE_DEVICES`: a whole number, or
            the part of one that a trial takes (0.25: four trials share each). That divides the
            GPUs among trials, and nobody keeps a trial to its part of a GPU's memory. 0: GPUs are
            left alone, every trial sees all.
        cpus: CPUs of each trial, which it keeps to, and the number of its threads. None: trials
            float over all CPUs, and share the number of threads evenly.
        import_ahead: As for `SlurmCfg`.

    Raises:
        UsageError: A value makes no sense; the message names it and the remedy.
        UsageTypeError: A value is of a wrong type.
    """

    gpus: float = 0
    cpus: int | None = field(default=None, kw_only=True)
    import_ahead: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        set_fields(self, gpus=_check_gpus(self.gpus))
        set_fields(self, import_ahead=check_flag("LocalCfg", "import_ahead", self.import_ahead))
        if self.cpus is not None:
            set_fields(self, cpus=check_integer("LocalCfg", "cpus", self.cpus, least=1))

    def count_by_cpus(self, cpus: int) -> int:
        """Count the trials that have room on so many CPUs; at least 1 where none are named."""
        return cpus // self.cpus if self.cpus else max(1, cpus)

    def count_by_gpus(self, gpus: int) -> int:
        """Count the trials that have room on so many GPUs, each on whole ones or on one's part."""
        if self.gpus < 1:
            return gpus * math.floor(1 / as_fraction(self.gpus))
        return gpus // int(self.gpus)


def _check_gpus(gpus: object) -> float:
    if isinstance(gpus, Integral):
        return check_integer("LocalCfg", "gpus", gpus, least=0)
    if not isinstance(gpus, Real):
        raise UsageTypeError(
            f"LocalCfg: gpus must be a number, 0 to leave GPUs alone, got {gpus!r}"
        )
    part = float(gpus)
    if not 0 < part < 1:
        raise UsageError(
            f"LocalCfg: gpus must be a whole number such as 2, or a part of a GPU such as 0.25, "
            f"got {gpus!r}"
        )
    return part


@dataclass(frozen=True, slots=True)
class Demand:
    """What one trial asks for on each of its nodes; None where it takes its share.

    `mem_mb` is 0 for all that the job has there, to be shared; `exclusive` trials must not overlap;
    `threads_per_core` are the CPUs of a core that steps count: with 1 of 2, each CPU is a core.
    """

    nodes: int
    tasks: int
    cpus_per_task: int | None
    mem_mb: int | None
    mem_per_cpu_mb: int | None
    mem_per_gpu_mb: int | None
    gpus: int | None
    exclusive: bool
    threads_per_core: int | None

    def count_mem(self, node: Node, cpus: int) -> int | None:
        """Work out the memory that a trial asks for on a node by number, in MB; None: its share."""
        if self.mem_per_cpu_mb is not None:
            return self.mem_per_cpu_mb * node.count_step_cpus(self.tasks, cpus)
        if self.mem_per_gpu_mb is not None:
            return self.mem_per_gpu_mb * (self.gpus or 0)
        return self.mem_mb

    def count_fitting(self, node: Node, cpus: int) -> int:
        """Count the trials that a node holds, each with its part of the trial's tasks there."""
        by_cpus = node.cpus // node.count_step_cpus(self.tasks, cpus)
        return min(by_cpus, self.count_beside_cpus(node, cpus))

    def count_beside_cpus(self, node: Node, cpus: int) -> int:
        """Count the trials that a node holds by all but its CPUs, if it has those for one."""
        limits = [sys.maxsize if self.tasks <= node.cpus else 0]
        mem = self.count_mem(node, cpus)
        if mem and node.mem_mb is not None:
            limits.append(node.mem_mb // mem)
        if self.gpus:
            limits.append(node.gpus // self.gpus)
        return min(limits)


def build_demand(cfg: SlurmCfg) -> Demand:
    """Put together what a trial asks for; `args` wins over the fields."""
    options = cfg.parse_args()
    said = options.said
    mem_mb = None if cfg.mem is None else parse_mem(cfg.mem) // cfg.nodes
    return Demand(
        nodes=cfg.nodes,
        tasks=cfg.ntasks // cfg.nodes,
        cpus_per_task=said.get("cpus_per_task", cfg.cpus_per_task),
        mem_mb=said.get("mem_mb") if options.sets("mem") else mem_mb,
        mem_per_cpu_mb=said.get("mem_per_cpu_mb"),
        mem_per_gpu_mb=said.get("mem_per_gpu_mb"),
        gpus=_count_gpus_per_node(cfg, said),
        exclusive=cfg.exclusive and "--overlap" not in options.tokens,
        threads_per_core=said.get("threads_per_core"),
    )


def _count_gpus_per_node(cfg: SlurmCfg, said: Mapping[str, int]) -> int | None:
    gpus = said.get("gpus", cfg.gpus)
    if gpus is not None and gpus % cfg.nodes:
        raise UsageError(
            f"SlurmCfg(nodes={cfg.nodes!r}, gpus={cfg.gpus!r}, args={cfg.args!r}): {gpus} GPUs "
            f"can't be spread evenly over {cfg.nodes} nodes; ask for a multiple, or by "
            f"--gpus-per-task"
        )
    per_node = None if gpus is None else gpus // cfg.nodes
    if "gpus_per_task" in said:
        per_node = said["gpus_per_task"] * (cfg.ntasks // cfg.nodes)
    return said.get("gpus_per_node", per_node)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """What is read of `SlurmCfg.args`."""

    tokens: tuple[str, ...]  # as srun gets them
    # The parts of a trial's share that they set, as `Demand` names them; `gpus_per_node`,
    # `gpus_per_task` and `gpus` are those of a node, of a task, and of the whole step.
    said: Mapping[str, int]

    def sets(self, part: str) -> bool:
        """Whether the user says the `cpus`, `mem` or `gpus`, so that the launcher does not."""
        return any(name.startswith(part) for name in self.said)


def parse_step_options(args: str) -> StepOptions:
    """Read the srun options of a text, split as a shell splits.

    Args:
        args: For instance `--mem=8G --mpi=pmi2`; the last of two equal options counts, as in srun.

    Raises:
        UsageError: Quotes are not closed, a word is no option, a value can't be read, or an option
            is one of those that would break the channel or the ledger.
    """
    where = f"SlurmCfg(args={args!r})"
    tokens = _SRUN.split(args, where)
    values = _SRUN.collect(tokens, where)
    said: dict[str, int] = {}
    for name, (part, read) in _COUNTED.items():
        try:
            value = read(values[name]) if name in values else None
        except (UsageError, AllocationError) as error:
            raise UsageError(f"{where}: {name}: {error}") from error
        if value is not None:
            said[part] = value
    return StepOptions(tuple(tokens), said)


#: Short options of srun(1) that concern us, by their long names. All of them take a value.
_SHORT = {
    "-B": "--extra-node-info",
    "-c": "--cpus-per-task",
    "-e": "--error",
    "-G": "--gpus",
    "-i": "--input",
    "-n": "--ntasks",
    "-N": "--nodes",
    "-o": "--output",
    "-r": "--relative",
    "-w": "--nodelist",
    "-x": "--exclude",
}

_CHANNEL = "srun's standard streams are the channel between driver and trials; leave it out"
_LAYOUT = "the layout is said by SlurmCfg(nodes=..., ntasks=...): use these instead"
_PLACE = "the sweep itself places its steps on the job's nodes: give it to sbatch or salloc instead"

#: Options that can't be handed through, with the remedy.
_REFUSED = {
    **dict.fromkeys(["--input", "--output", "--error", "--pty"], _CHANNEL),
    **dict.fromkeys(["--label", "-l", "--unbuffered", "-u"], _CHANNEL),
    **dict.fromkeys(["--multi-prog", "--nodes", "--ntasks", "--ntasks-per-node"], _LAYOUT),
    **dict.fromkeys(["--nodelist", "--exclude", "--relative", "--nodefile", "--jobid"], _PLACE),
}


#: Options of srun(1) that take no value, or only one behind `=`: no word belongs to them.
_ALONE = frozenset(
    [
        *("--contiguous", "--disable-status", "--exact", "--exclusive", "--hold", "--interactive"),
        *("--kill-on-bad-exit", "--no-allocate", "--no-kill", "--overcommit", "--overlap"),
        *("--oversubscribe", "--preserve-env", "--propagate", "--quiet", "--quit-on-interrupt"),
        *("--reboot", "--resv-ports", "--send-libs", "--spread-job", "--test-only"),
        *("--use-min-nodes", "--verbose", "--x11", "-E", "-H", "-K", "-O", "-Q", "-s", "-v", "-X"),
    ]
)


_SRUN = Grammar("srun", "the trials", "--mem=8G --mpi=pmi2", _SHORT, _ALONE, _REFUSED)


def _read_count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"give a whole number of 1 or more, not {text!r}")
    return int(text)


def _read_layout(text: str) -> int | None:
    layout = re.fullmatch(r"[^:]*:[^:]*:(\d+)", text)  # sockets, cores, threads
    return _read_count(layout[1]) if layout else None


def _read_hint(text: str) -> int | None:
    """Tell by which values of --hint srun takes one thread of each core (srun(1), 22.05)."""
    return 1 if {"nomultithread", "compute_bound", "memory_bound"} & set(text.split(",")) else None


def _read_gres(text: str) -> int:
    return count_gpus(parse_gres(text))


def _read_gpus(text: str) -> int:
    # `--gpus=a100:2,v100:1` leaves the name out that `--gres` wants; a bare number has no type.
    return _read_gres(re.sub(r"(^|,)", r"\1gpu:", text))


#: Options with a value that set a part of the share: which, and how it is read (None: it doesn't).
#: Of two that set the same, the later one here wins.
_COUNTED: dict[str, tuple[str, Callable[[str], int | None]]] = {
    "--cpus-per-task": ("cpus_per_task", _read_count),
    "--mem": ("mem_mb", parse_mem),
    "--mem-per-cpu": ("mem_per_cpu_mb", parse_mem),
    "--mem-per-gpu": ("mem_per_gpu_mb", parse_mem),
    "--gres": ("gpus_per_node", _read_gres),
    "--gpus-per-node": ("gpus_per_node", _read_gpus),
    "--gpus-per-task": ("gpus_per_task", _read_gpus),
    "--gpus": ("gpus", _read_gpus),
    "--extra-node-info": ("threads_per_core", _read_layout),
    "--threads-per-core": ("threads_per_core", _read_count),
    "--hint": ("threads_per_core", _read_hint),
}
