"""What each slot gets of the nodes it is on: CPUs, memory and GPUs. Pure.

Memory and GPUs that nobody asked for by number go in equal parts to the slots of a node.

Three kinds of slots do not own what they use and are started with `--overlap`: those of
`SlurmCfg(exclusive=False)`, of a job with fewer GPUs than slots, and of one with fewer cores than
tasks (`-c1` on cores of two threads, `--overcommit`). Slurm then picks the same first CPUs and the
same first GPU for each of them (`--overlap` looks at no other step, seen on 22.05), so their steps
ask for the node's whole CPUs and GPUs; a trial keeps to its part by `visible_gpus` and by the
number of its threads.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .allocation import Allocation, Node
from .config import Demand
from .text import Gres


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
    return min(by_cpus, count_beside_cpus(node, demand, cpus))


def count_beside_cpus(node: Node, demand: Demand, cpus: int) -> int:
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
