"""What each slot gets of the nodes it is on: CPUs, memory and GPUs. Pure.

Memory and GPUs that nobody asked for by number go in equal parts to the slots of a node.

Two kinds of slots do not own what they use and are started with `--overlap`: those of
`SlurmCfg(exclusive=False)`, and those of a job with fewer GPUs than slots. Slurm then picks the
same first CPUs and the same first GPU for each of them (`--overlap` looks at no other step, seen on
22.05), so their steps ask for the node's whole CPUs and GPUs; a trial keeps to its part by
`visible_gpus` and by the number of its threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..slurm.allocation import Allocation, Node
from ..slurm.text import Gres
from .demand import Demand, count_mem_demand, count_step_cpus


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
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        places: Sequence[tuple[int, ...]],
        count: int,
        demand: Demand,
        cpus: int,
        allocation: Allocation,
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
        self.exclusive = demand.exclusive and not self.shares_gpus

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
        """Say which GPUs are shared, or stay idle."""
        if self.shares_gpus:
            return [self._describe_sharing()]
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

    def _describe_sharing(self) -> str:
        node, used = max(self.used.items(), key=lambda item: item[1] / self.nodes[item[0]].gpus)
        name, gpus = self.nodes[node].name, self.nodes[node].gpus
        return (
            f"{used} trials share {gpus} GPU(s) of {name}: they are dealt out in turn by "
            f"CUDA_VISIBLE_DEVICES, and the trials of a node float over its CPUs; with "
            f"SlurmCfg(gpus={self.demand.nodes}) a trial has GPUs of its own, and fewer run at once"
        )


def _count_even_cpus(node: Node, tasks: int) -> int:
    return node.cpus // node.threads_per_core // tasks * node.threads_per_core


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
