"""The ledger: how many trials run at once, on which nodes, and what each gets of them. Pure.

Slurm starts a job step at once only if everything it asks for is free; else srun waits, for minutes
or for ever. So what the steps ask for is worked out beforehand, node by node, and never exceeds
what the job has there.

The order of things: what one trial asks for (`Demand`), how often that fits on each node
(`count_fitting`), which nodes each slot takes (`_place`), and last what is divided among the slots
(`Shares`): memory and GPUs that nobody asked for by number go in equal parts to the slots of a
node.

The promise is the job's tasks at once. Where they don't fit with the CPUs that the job asked for,
since cores are only given whole, all get the largest number with which they do (`_fit`).

Three kinds of slots do not own what they use and are started with `--overlap`: those of
`SlurmCfg(exclusive=False)`, of a job with fewer GPUs than slots, and of one with fewer cores than
tasks (`-c1` on cores of two threads, `--overcommit`). Slurm then picks the
same first CPUs and the same first GPU for each of them (`--overlap` looks at no other step, seen on
22.05), so their steps ask for the node's whole CPUs and GPUs; a trial keeps to its part by
`visible_gpus` and by the number of its threads.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import AllocationError, UsageError
from .allocation import Allocation, Node
from .config import Demand, LocalCfg, SlurmCfg, build_demand
from .text import Gres

#: How many nodes an error message lists.
_NODES_IN_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where one trial runs at a time.

    Args:
        index: 0 and up, each once.
        nodes: Names of the nodes it spans.
        ntasks: Tasks of a trial, the same number on each node.
        cpus_per_task: CPUs of a task: how many threads it should have.
        mem_mb: Memory on each node, in MB; None for no limit of its own.
        gpus: GPUs that a trial sees on each node.
        visible_gpus: Which of the GPUs that the step sees a trial may use, by position; None where
            they are its own, and it may use all.
        exclusive: Whether no other slot has the same CPUs.
        step_cpus_per_task: The CPUs that a step is started with; more than `cpus_per_task` where
            the slots of a node overlap.
        gres: The GRES that a step is started with on each node; "none" where the job has some but
            a trial gets none, and None where there is nothing to say.
    """

    index: int
    nodes: tuple[str, ...]
    ntasks: int
    cpus_per_task: int
    mem_mb: int | None = None
    gpus: int = 0
    visible_gpus: tuple[int, ...] | None = None
    exclusive: bool = True
    step_cpus_per_task: int = 0
    gres: str | None = None

    @property
    def tasks_per_node(self) -> int:
        """Tasks of a trial on each of its nodes."""
        return self.ntasks // len(self.nodes)


@dataclass(frozen=True, slots=True)
class Plan:
    """The slots of a sweep, and what the user should know about them."""

    slots: tuple[Slot, ...]
    notices: tuple[str, ...] = ()


def plan_slots(
    allocation: Allocation, cfg: SlurmCfg, max_concurrent_trials: int | None = None
) -> Plan:
    """Divide an allocation into slots that Slurm starts all at once.

    Args:
        allocation: What the job has.
        cfg: What a trial asks for.
        max_concurrent_trials: The most slots to make; None for the job's tasks divided by those of
            a trial. A smaller number does not make the slots larger. A job that names no tasks is
            divided by this number instead; None then is one slot for each GPU, or each core.

    Returns:
        The slots, in the order in which they should be started (spread over the nodes), with
        notices on what was capped or is shared.

    Raises:
        AllocationError: Not even one trial fits.
        UsageError: `max_concurrent_trials` is less than 1.
    """
    check_max_concurrent(max_concurrent_trials)
    demand = build_demand(cfg)
    allocation = _adapt(allocation, demand, max_concurrent_trials or 0)
    nodes, notices = _choose_nodes(allocation, demand)
    tasks = _count_tasks(allocation, nodes, demand, max_concurrent_trials)
    asked = _ask_cpus(allocation, nodes, tasks, demand)
    default = max(1, sum(tasks) // (demand.tasks * demand.nodes))
    wanted = max_concurrent_trials or default
    cpus, fitting, shares_cores = _fit(nodes, tasks, demand, asked, default, wanted)
    places = _place(fitting, demand.nodes, max(default, wanted))
    if not places:
        raise AllocationError(explain_misfit(allocation, nodes, demand, asked))
    if cpus < asked:
        notices.append(_explain_fewer_cpus(cpus, asked, len(places)))
    expected = f"max_concurrent_trials={wanted}" if max_concurrent_trials else ""
    if not expected and allocation.ntasks:
        expected = f"the job's {allocation.ntasks} tasks would make {wanted}"
    if expected and len(places) < wanted:
        notices.append(explain_cap(expected, len(places), demand, cpus))
    count = min(wanted, len(places))
    shares = Shares(nodes, places, count, demand, cpus, allocation, shares_cores)
    slots = tuple(shares.build_slot(index) for index in range(count))
    return Plan(slots, (*allocation.notices, *notices, *shares.format_notices()))


def check_max_concurrent(value: int | None) -> None:
    """Refuse a number of trials that makes no sense.

    Raises:
        UsageError: It is less than 1.
    """
    if value is not None and value < 1:
        raise UsageError(f"max_concurrent_trials={value!r}: give 1 or more, or None for all")


def _choose_nodes(allocation: Allocation, demand: Demand) -> tuple[list[Node], list[str]]:
    """Leave out nodes without a GPU where others have some and a trial takes its share of them."""
    if len(allocation.nodes) < demand.nodes:
        raise AllocationError(
            f"SlurmCfg(nodes={demand.nodes!r}) asks for {demand.nodes} nodes a trial, but job "
            f"{allocation.job_id} has {len(allocation.nodes)}: lower nodes, or raise --nodes of "
            f"the job"
        )
    everything = list(allocation.nodes)
    with_gpus = [node for node in everything if node.gpus]
    without = [node.name for node in everything if not node.gpus]
    if demand.gpus is not None or not without or len(with_gpus) < demand.nodes:
        return everything, []
    return with_gpus, [
        f"no trial runs on {', '.join(without)}: the job has GPUs, but none there; "
        f"SlurmCfg(gpus=0) uses all nodes, without GPUs"
    ]


def _adapt(allocation: Allocation, demand: Demand, max_concurrent: int) -> Allocation:
    """Count the threads of a core as the steps do, and take one big task a node for none."""
    if demand.threads_per_core is not None:
        allocation = allocation.count_threads(demand.threads_per_core)
    tasks = [node.tasks for node in allocation.nodes]
    is_divided = max_concurrent > sum(tasks) // (demand.tasks * demand.nodes)
    if max(tasks) == 1 and is_divided and demand.exclusive and demand.cpus_per_task is None:
        return replace(allocation, ntasks=None, cpus_per_task=None)
    return allocation


def _count_tasks(
    allocation: Allocation, nodes: Sequence[Node], demand: Demand, max_concurrent: int | None
) -> list[int]:
    """Count the tasks that each node is divided into, as the job or its resources say."""
    if allocation.ntasks is not None and any(node.tasks for node in nodes):
        return [node.tasks for node in nodes]
    # The job does not say what the share of a task is, so the caller's number may.
    asked = -(-(max_concurrent or 0) * demand.nodes // len(nodes)) * demand.tasks
    return [
        min(node.cores, max(asked or _count_own_tasks(allocation, node, demand), demand.tasks))
        for node in nodes
    ]


def _count_own_tasks(allocation: Allocation, node: Node, demand: Demand) -> int:
    """Count the tasks that a node's own resources suggest: one a GPU, else one a core."""
    if not node.gpus or demand.gpus == 0:
        each = demand.cpus_per_task or allocation.cpus_per_task or 1
        return node.cpus // count_step_cpus(1, each, node.threads_per_core)
    if demand.gpus is None:
        return node.gpus
    return node.gpus // demand.gpus * demand.tasks


def _ask_cpus(
    allocation: Allocation, nodes: Sequence[Node], tasks: Sequence[int], demand: Demand
) -> int:
    """Return the CPUs that a task should have, as far as they go."""
    if demand.cpus_per_task is not None:
        return demand.cpus_per_task
    if allocation.cpus_per_task is not None:
        return allocation.cpus_per_task
    shares = [node.cpus // count for node, count in zip(nodes, tasks, strict=True) if count]
    return max(1, min(shares, default=1))


def _fit(
    nodes: Sequence[Node],
    tasks: Sequence[int],
    demand: Demand,
    asked: int,
    default: int,
    wanted: int,
) -> tuple[int, list[int], bool]:
    """Choose the CPUs of a task: the most, up to those asked for, with which all tasks fit.

    Returns:
        The CPUs, how many trials each node then holds, and whether they share cores, because not
        even one CPU each will do.
    """
    fitting = [count_fitting(node, demand, asked) for node in nodes]
    if not demand.exclusive:
        return asked, [wanted if fits else 0 for fits in fitting], False
    limits = [
        min(count // demand.tasks, _count_beside_cpus(node, demand, asked))
        for node, count in zip(nodes, tasks, strict=True)
    ]
    most = len(_place(limits, demand.nodes, default))
    for cpus in range(asked, 0, -1):
        fitting = [count_fitting(node, demand, cpus) for node in nodes]
        held = list(map(min, fitting, limits))
        if demand.cpus_per_task or len(_place(held, demand.nodes, default)) == most:
            return cpus, fitting, False
    if len(_place(fitting, demand.nodes, wanted)) >= min(wanted, most):
        return 1, fitting, False
    return 1, limits, True


def _explain_fewer_cpus(cpus: int, asked: int, trials: int) -> str:
    return (
        f"each task gets {cpus} CPUs so that {trials} trials run at once: with {asked} not all "
        f"would fit, because cores are only given whole; SlurmCfg(cpus_per_task={asked}) gives "
        f"that to fewer trials"
    )


def _place(fitting: Sequence[int], nodes_per_slot: int, wanted: int) -> list[tuple[int, ...]]:
    """Give each slot its nodes: always those with most room left, which makes the most slots."""
    room = list(fitting)
    places: list[tuple[int, ...]] = []
    while len(places) < wanted:
        roomiest = sorted(range(len(room)), key=lambda node: (-room[node], node))
        chosen = sorted(roomiest[:nodes_per_slot])
        if any(room[node] == 0 for node in chosen):
            break
        for node in chosen:
            room[node] -= 1
        places.append(tuple(chosen))
    return places


def count_step_cpus(tasks: int, cpus_per_task: int, threads_per_core: int) -> int:
    """Count the CPUs that a step takes from a node: cores are only given whole.

    Tasks of one CPU may share a core, others may not (seen on 22.05, two threads a core: two tasks
    of one CPU took 2 CPUs, two tasks of three CPUs took 8).
    """
    if cpus_per_task == 1:
        return -(-tasks // threads_per_core) * threads_per_core
    return tasks * -(-cpus_per_task // threads_per_core) * threads_per_core


def count_mem_demand(node: Node, demand: Demand, cpus: int) -> int | None:
    """Work out the memory that a trial asks for on a node by number, in MB; None for its share."""
    if demand.mem_per_cpu_mb is not None:
        return demand.mem_per_cpu_mb * count_step_cpus(demand.tasks, cpus, node.threads_per_core)
    if demand.mem_per_gpu_mb is not None:
        return demand.mem_per_gpu_mb * (demand.gpus or 0)
    return demand.mem_mb


def count_fitting(node: Node, demand: Demand, cpus: int) -> int:
    """Count the trials that a node holds, each with its part of the trial's tasks there."""
    by_cpus = node.cpus // count_step_cpus(demand.tasks, cpus, node.threads_per_core)
    return min(by_cpus, _count_beside_cpus(node, demand, cpus))


def _count_beside_cpus(node: Node, demand: Demand, cpus: int) -> int:
    """Count the trials that a node holds by all but its CPUs, if it has those for one."""
    limits = [sys.maxsize if demand.tasks <= node.cpus else 0]
    mem = count_mem_demand(node, demand, cpus)
    if mem and node.mem_mb is not None:
        limits.append(node.mem_mb // mem)
    if demand.gpus:
        limits.append(node.gpus // demand.gpus)
    return min(limits)


class Shares:
    """What the slots of a placement get of each node's memory and GPUs.

    Args:
        nodes: The nodes that slots may be on.
        places: For each slot that the job has room and tasks for, the positions of its nodes.
        count: How many of them are used, from the first. A share is that of all places, so that
            fewer trials at once do not get more; only GPUs that all could not own, fewer may.
        demand: What a trial asks for.
        cpus: CPUs of a task.
        allocation: The job.
        shares_cores: Whether there are too few cores for each slot to own one.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        places: Sequence[tuple[int, ...]],
        count: int,
        demand: Demand,
        cpus: int,
        allocation: Allocation,
        shares_cores: bool,
    ) -> None:
        self.nodes = nodes
        self.places = places
        self.count = count
        self.demand = demand
        self.cpus = cpus
        self.allocation = allocation
        #: How many slots each node has room for, and how many are used.
        self.load = _count_slots(places)
        self.used = _count_slots(places[:count])
        self.gpus = self._gpus()
        self.shares_gpus = any(
            self.gpus * used > nodes[node].gpus for node, used in self.used.items()
        )
        self.shares_cores = shares_cores
        self.exclusive = demand.exclusive and not self.shares_gpus and not shares_cores

    def _gpus(self) -> int:
        """Count the GPUs that a trial sees on each of its nodes."""
        if self.demand.gpus is not None:
            return self.demand.gpus
        own = min(self.nodes[node].gpus // load for node, load in self.load.items())
        if own:
            return own
        # Fewer GPUs than slots: each task sees one, as far as they go.
        least = min(self.nodes[node].gpus for node in self.used)
        own = min(self.nodes[node].gpus // used for node, used in self.used.items())
        return min(self.demand.tasks, own or least)

    def build_slot(self, index: int) -> Slot:
        place = self.places[index]
        nodes = [self.nodes[node] for node in place]
        return Slot(
            index=index,
            nodes=tuple(node.name for node in nodes),
            ntasks=self.demand.tasks * self.demand.nodes,
            cpus_per_task=self.cpus,
            mem_mb=self._mem(place),
            gpus=self.gpus,
            visible_gpus=self._visible_gpus(index),
            exclusive=self.exclusive,
            step_cpus_per_task=self._step_cpus(nodes),
            gres=self._gres(nodes),
        )

    def _mem(self, place: Sequence[int]) -> int | None:
        limits = [self._mem_on(node) for node in place]
        known = [limit for limit in limits if limit is not None]
        return min(known) if known and len(known) == len(limits) else None

    def _mem_on(self, index: int) -> int | None:
        node, demand = self.nodes[index], self.demand
        mem = count_mem_demand(node, demand, self.cpus)
        if mem is not None or node.mem_mb is None or not demand.exclusive:
            return mem or None
        limits = [node.mem_mb // self.load[index]]
        if self.allocation.mem_per_cpu_mb is not None:
            taken = count_step_cpus(demand.tasks, self.cpus, node.threads_per_core)
            limits.append(self.allocation.mem_per_cpu_mb * taken)
        if self.allocation.mem_per_gpu_mb is not None and self.gpus and not self.shares_gpus:
            limits.append(self.allocation.mem_per_gpu_mb * self.gpus)
        return max(1, min(limits))

    def _visible_gpus(self, index: int) -> tuple[int, ...] | None:
        if self.exclusive or not self.gpus:
            return None
        # The positions count from the same first GPU on all nodes of a slot.
        first = self.places[index][0]
        before = sum(first in place for place in self.places[:index])
        count = min(self.nodes[node].gpus for node in self.places[index])
        return tuple(sorted({(before * self.gpus + gpu) % count for gpu in range(self.gpus)}))

    def _step_cpus(self, nodes: Sequence[Node]) -> int:
        if self.exclusive:
            return self.cpus
        # Whole cores for each task, or one CPU where several tasks share a core.
        return min(_count_even_cpus(node, self.demand.tasks) for node in nodes) or self.cpus

    def _gres(self, nodes: Sequence[Node]) -> str | None:
        if not self.gpus:
            return "none" if self.allocation.has_gres else None
        scarcest = min(nodes, key=lambda node: node.gpus)
        return format_gpus(scarcest.gres, self.gpus if self.exclusive else scarcest.gpus)

    def format_notices(self) -> list[str]:
        """Say which cores and GPUs are shared, or stay idle."""
        shared = [self._describe_cores()] if self.shares_cores else []
        if self.shares_gpus:
            shared.append(self._describe_sharing())
        if shared:
            return shared
        idle = sum(
            self.nodes[node].gpus - self.gpus * load
            for node, load in self.load.items()
            if self.demand.gpus is None and self.gpus
        )
        if not idle:
            return []
        return [
            f"{idle} GPU(s) of the job stay idle: they do not divide evenly among "
            f"{len(self.places)} trials, which get {self.gpus} a node; say SlurmCfg(gpus=...)"
        ]

    def _describe_cores(self) -> str:
        node, used = max(self.used.items(), key=lambda item: item[1] / self.nodes[item[0]].cores)
        return (
            f"{used} trials share {self.nodes[node].cores} core(s) of {self.nodes[node].name} and "
            f"float over its CPUs, since cores are only given whole; a smaller "
            f"max_concurrent_trials, or more CPUs for the job, give each its own"
        )

    def _describe_sharing(self) -> str:
        node, used = max(self.used.items(), key=lambda item: item[1] / self.nodes[item[0]].gpus)
        name, gpus = self.nodes[node].name, self.nodes[node].gpus
        return (
            f"{used} trials share {gpus} GPU(s) of {name}: they are dealt out in turn by "
            f"CUDA_VISIBLE_DEVICES, and the trials of a node float over its CPUs; with "
            f"SlurmCfg(gpus={self.demand.nodes}) a trial has GPUs of its own, and fewer run at once"
        )


def _count_even_cpus(node: Node, tasks: int) -> int:
    return node.cores // tasks * node.threads_per_core


def _count_slots(places: Sequence[tuple[int, ...]]) -> Mapping[int, int]:
    return Counter(node for place in places for node in place)


def format_gpus(gres: Sequence[Gres], count: int) -> str:
    """Write the GRES that a step asks for to get so many of a node's GPUs.

    Without a type as long as that will do: Slurm takes any. It refuses a number larger than that of
    the job's largest type (22.05), so all GPUs of a node of several types are asked for by type.
    """
    gpus = [item for item in gres if item.name == "gpu"]
    if len(gpus) > 1 and count == sum(item.count for item in gpus):
        return ",".join(f"gpu:{item.type}:{item.count}" for item in gpus)
    return f"gpu:{count}"


def merge_slots(slots: Sequence[Slot], node: Node) -> Slot:
    """Return the share of a step that serves several slots of one task, all on one node."""
    first, count = slots[0], len(slots)
    mem_mb = None if first.mem_mb is None else first.mem_mb * count
    if not first.exclusive:  # each of them asks for all the CPUs and GPUs that the job has there
        return replace(first, mem_mb=mem_mb and min(mem_mb, node.mem_mb or mem_mb))
    cpus = count_step_cpus(1, first.cpus_per_task, node.threads_per_core) * count
    gpus = first.gpus * count
    if gpus > max((item.count for item in node.gres if item.name == "gpu"), default=0):
        gpus = node.gpus  # of several types: all, or Slurm refuses; the slots see their own
    return replace(
        first,
        cpus_per_task=cpus,
        step_cpus_per_task=cpus,
        mem_mb=mem_mb,
        gpus=gpus,
        gres=format_gpus(node.gres, gpus) if first.gpus else first.gres,
    )


def explain_misfit(allocation: Allocation, nodes: Sequence[Node], demand: Demand, cpus: int) -> str:
    """Say what a trial asks for, what there is, and what to change."""
    where = "" if demand.nodes == 1 else f" on each of {demand.nodes} nodes"
    needs = [f"{demand.tasks * cpus} CPUs ({demand.tasks} x cpus_per_task={cpus})"]
    if demand.gpus:
        needs.append(f"{demand.gpus} GPUs")
    mem = count_mem_demand(nodes[0], demand, cpus)
    if mem:
        needs.append(f"{mem} MB of memory")
    there = [_describe_node(node) for node in nodes[:_NODES_IN_MESSAGE]]
    if len(nodes) > _NODES_IN_MESSAGE:
        there.append(f"and {len(nodes) - _NODES_IN_MESSAGE} more nodes")
    return (
        f"not one trial fits: it needs {', '.join(needs)}{where}, and job {allocation.job_id} has "
        f"{'; '.join(there)}. {_suggest(nodes, demand, cpus)}"
    )


def _describe_node(node: Node) -> str:
    mem = "" if node.mem_mb is None else f", {node.mem_mb} MB"
    return f"{node.name}: {node.cpus} CPUs, {node.gpus} GPUs{mem}"


def _suggest(nodes: Sequence[Node], demand: Demand, cpus: int) -> str:
    """Name the options that help against the first thing that is short."""
    need = count_step_cpus(demand.tasks, cpus, max(node.threads_per_core for node in nodes))
    if sum(node.cpus >= need for node in nodes) < demand.nodes:
        return (
            "Lower SlurmCfg(ntasks=...) or cpus_per_task, or raise --ntasks, --ntasks-per-node or "
            "--cpus-per-task of the job"
        )
    if sum(node.gpus >= (demand.gpus or 0) for node in nodes) < demand.nodes:
        return "Lower SlurmCfg(gpus=...) or spread the trial over more nodes, or raise --gres"
    return "Lower SlurmCfg(mem=...), cpus_per_task or gpus, or raise --mem of the job"


def explain_cap(wanted: str, fitting: int, demand: Demand, cpus: int) -> str:
    """Say that fewer trials run at once than was to be expected, and what makes room."""
    parts = [f"{demand.tasks} x {cpus} CPUs"]
    if demand.gpus:
        parts.append(f"{demand.gpus} GPUs")
    return (
        f"{fitting} trials run at once: {wanted}, but no more fit the job when each gets "
        f"{' and '.join(parts)} on a node (cores are only given whole); smaller "
        f"SlurmCfg(cpus_per_task=..., gpus=..., mem=...) make room for more"
    )


def count_local_slots(
    cpus: int, gpus: int, cfg: LocalCfg, max_concurrent_trials: int | None = None
) -> tuple[int, tuple[str, ...]]:
    """Count the slots of one machine that is used without Slurm.

    Args:
        cpus: CPUs that this process may use.
        gpus: GPUs that it may use.
        cfg: What a trial gets.
        max_concurrent_trials: The number of slots; None for the GPUs divided by those of a trial,
            or for the CPUs where a trial asks for no GPU.

    Returns:
        The number, and notices for the user.

    Raises:
        AllocationError: A trial asks for more GPUs than there are.
        UsageError: `max_concurrent_trials` is less than 1.
    """
    check_max_concurrent(max_concurrent_trials)
    if cfg.gpus > gpus:
        raise AllocationError(
            f"LocalCfg(gpus={cfg.gpus!r}) asks for {cfg.gpus} GPUs a trial, but this process sees "
            f"{gpus}: lower it, or look at CUDA_VISIBLE_DEVICES"
        )
    fitting = gpus // cfg.gpus if cfg.gpus else max(1, cpus)
    count = max_concurrent_trials or fitting
    if not cfg.gpus or count <= fitting:
        return count, ()
    return count, (
        f"{count} trials share {gpus} GPUs, dealt out in turn by CUDA_VISIBLE_DEVICES; for GPUs of "
        f"their own set max_concurrent_trials={fitting}",
    )
