"""The ledger: how many trials run at once, on which nodes, and what each gets there. Pure.

Slurm starts a job step at once only if everything it asks for is free; else srun waits, for minutes
or for ever. So what the steps ask for is worked out beforehand, node by node, and never exceeds
what the job has there.

The order of things: what one trial asks for (`Demand`), how often that fits on each node and which
nodes each slot takes (`_Ledger`), and last what is divided among the slots (`_Shares`): memory and
GPUs that nobody asked for by number go in equal parts to the slots of a node.

The promise is the job's tasks at once. Where they don't fit with the CPUs that the job asked for,
since cores are only given whole, all get the largest number with which they do.

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

from ..errors import AllocationError, say_count
from .allocation import Allocation, Node
from .config import Demand, LocalCfg, SlurmCfg, build_demand
from .step import Slot, format_gpus

#: The ports on which an srun listens (22.05 and 24.11, steps of a node).
_PORTS_OF_SRUN = 3

#: How many nodes an error message lists.
_NODES_IN_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """The slots of a sweep, and what the user should know about them.

    With `shares_steps`, one step serves all slots of a node.
    """

    slots: tuple[Slot, ...]
    notices: tuple[str, ...] = ()
    shares_steps: bool = False


def plan_slots(
    allocation: Allocation, cfg: SlurmCfg, max_concurrent_trials: int | None = None
) -> Plan:
    """Divide an allocation into slots that Slurm starts all at once.

    Args:
        max_concurrent_trials: The most slots to make; None for the job's tasks divided by those of
            a trial. A smaller number does not make the slots larger. A job that names no tasks, or
            one big task a node, is divided by this number instead; None then is one slot for each
            GPU, or each core (for each task, where there are some).

    Returns:
        The slots, in the order in which they should be started (spread over the nodes), with
        notices on what was capped or is shared.

    Raises:
        AllocationError: Not even one trial fits.
    """
    ledger = _Ledger(allocation, build_demand(cfg), max_concurrent_trials or 0)
    shares = _Shares(ledger)
    slots = tuple(shares.build_slot(index) for index in range(shares.count))
    notices = (*allocation.notices, *ledger.format_notices(), *shares.format_notices())
    return _fit_steps(Plan(slots, notices, cfg.share_imports), allocation, cfg)


def _fit_steps(plan: Plan, allocation: Allocation, cfg: SlurmCfg) -> Plan:
    """Do with as few steps at once as the cluster allows: one for each node, or fewer slots."""
    limits = [
        (allocation.max_steps, "MaxStepCount"),
        (allocation.srun_ports and allocation.srun_ports // _PORTS_OF_SRUN, "SrunPortRange"),
    ]
    most, name = min(
        (limit, name) for limit, name in [*limits, (sys.maxsize, "")] if limit is not None
    )
    places = [slot.nodes if plan.shares_steps else slot.index for slot in plan.slots]
    if len(set(places)) <= most:
        return plan
    can_share = cfg.ntasks == 1 and not (cfg.fresh_step or cfg.parse_args().said)
    if can_share and not plan.shares_steps:
        text = (
            f"{name} of this cluster allows {most} job steps at once, fewer than the "
            f"{len(plan.slots)} slots: one step serves all slots of a node, as with "
            "SlurmCfg(share_imports=True)"
        )
        return _fit_steps(Plan(plan.slots, (*plan.notices, text), True), allocation, cfg)
    kept = set(list(dict.fromkeys(places))[:most])
    fitting = [slot for slot, place in zip(plan.slots, places, strict=True) if place in kept]
    slots = tuple(replace(slot, index=index) for index, slot in enumerate(fitting))
    if not slots:
        raise AllocationError(f"{name} of this cluster allows not one job step of a trial")
    run = say_count(len(slots), "trial runs", "trials run")
    text = f"{run} at once: {name} of this cluster allows no more job steps"
    return replace(plan, slots=slots, notices=(*plan.notices, text))


class _Ledger:
    """What a job has room for; `max_concurrent` is 0 where the user leaves that open.

    Attributes:
        job: The allocation as the steps count it.
        nodes: Those of its nodes that slots may be on.
        tasks: The tasks that each of them is divided into.
        asked: The CPUs that a task should have, and `cpus` those that it gets.
        default: The trials that all tasks make, and `wanted` those that are to run.
        shares_cores: Whether there are too few cores for each slot to own one.
        places: For each slot that there is room and tasks for, the positions of its nodes.
    """

    def __init__(self, allocation: Allocation, demand: Demand, max_concurrent: int) -> None:
        self.demand = demand
        self.max_concurrent = max_concurrent
        self.job = _adapt(allocation, demand, max_concurrent)
        self.nodes = self._choose_nodes()
        self.tasks = self._count_tasks()
        self.asked = self._ask_cpus()
        self.default = max(1, sum(self.tasks) // (demand.tasks * demand.nodes))
        self.wanted = max_concurrent or self.default
        self.cpus, room, self.shares_cores = self._fit()
        self.places = self._place(room, max(self.default, self.wanted))
        if not self.places:
            raise AllocationError(self._explain_misfit())

    def _choose_nodes(self) -> Sequence[Node]:
        """Leave out nodes without a GPU where others have some and a trial takes its share."""
        demand, nodes = self.demand, self.job.nodes
        if len(nodes) < demand.nodes:
            raise AllocationError(
                f"SlurmCfg(nodes={demand.nodes!r}) asks for {demand.nodes} nodes a trial, but job "
                f"{self.job.job_id} has {len(nodes)}: lower nodes, or raise --nodes of the job"
            )
        with_gpus = [node for node in nodes if node.gpus]
        return nodes if demand.gpus is not None or len(with_gpus) < demand.nodes else with_gpus

    def _count_tasks(self) -> list[int]:
        """Count the tasks that each node is divided into, as the job or its resources say."""
        if self.job.ntasks is not None and any(node.tasks for node in self.nodes):
            return [node.tasks for node in self.nodes]
        # The job does not say what the share of a task is, so the caller's number may.
        demand = self.demand
        asked = -(-self.max_concurrent * demand.nodes // len(self.nodes)) * demand.tasks
        return [
            min(node.cores, max(asked or self._count_own_tasks(node), demand.tasks))
            for node in self.nodes
        ]

    def _count_own_tasks(self, node: Node) -> int:
        """Count the tasks that a node's own resources suggest: one a GPU, else one a core."""
        gpus = self.demand.gpus
        if not node.gpus or gpus == 0:
            each = self.demand.cpus_per_task or self.job.cpus_per_task or 1
            return node.cpus // node.count_step_cpus(1, each)
        return node.gpus if gpus is None else node.gpus // gpus * self.demand.tasks

    def _ask_cpus(self) -> int:
        named = self.demand.cpus_per_task or self.job.cpus_per_task
        pairs = zip(self.nodes, self.tasks, strict=True)
        shares = [node.cpus // tasks for node, tasks in pairs if tasks]
        return named or max(1, min(shares, default=1))

    def _fit(self) -> tuple[int, list[int], bool]:
        """Choose the CPUs of a task: the most, up to those asked for, with which all tasks fit.

        Memory and GPUs are no reason to give fewer, nor are CPUs that `SlurmCfg` names.

        Returns:
            The CPUs, how many trials each node then has room for, and whether they share cores,
            because not even one CPU each will do.
        """
        demand, asked = self.demand, self.asked
        room = [demand.count_fitting(node, asked) for node in self.nodes]
        if not demand.exclusive:
            return asked, [self.wanted if fits else 0 for fits in room], False
        limits = [
            min(tasks // demand.tasks, demand.count_beside_cpus(node, asked))
            for node, tasks in zip(self.nodes, self.tasks, strict=True)
        ]
        most = len(self._place(limits, self.default))
        for cpus in range(asked, 0, -1):
            room = [demand.count_fitting(node, cpus) for node in self.nodes]
            held = list(map(min, room, limits))
            if demand.cpus_per_task or len(self._place(held, self.default)) == most:
                return cpus, room, False
        if len(self._place(room, self.wanted)) >= min(self.wanted, most):
            return 1, room, False
        return 1, limits, True

    def _place(self, fitting: Sequence[int], wanted: int) -> list[tuple[int, ...]]:
        """Give each slot its nodes: always those with most room, which makes the most slots."""
        room = list(fitting)
        places: list[tuple[int, ...]] = []
        while len(places) < wanted:
            roomiest = sorted(range(len(room)), key=lambda node: (-room[node], node))
            chosen = sorted(roomiest[: self.demand.nodes])
            if any(room[node] == 0 for node in chosen):
                break
            for node in chosen:
                room[node] -= 1
            places.append(tuple(chosen))
        return places

    def _explain_misfit(self) -> str:
        """Say what a trial asks for, what there is, and what to change."""
        demand, nodes = self.demand, self.nodes
        where = "" if demand.nodes == 1 else f" on each of {demand.nodes} nodes"
        needs = [f"{demand.tasks * self.asked} CPUs ({demand.tasks} x cpus_per_task={self.asked})"]
        if demand.gpus:
            needs.append(f"{demand.gpus} GPUs")
        mem = demand.count_mem(nodes[0], self.asked)
        if mem:
            needs.append(f"{mem} MB of memory")
        there = [_describe_node(node) for node in nodes[:_NODES_IN_MESSAGE]]
        if len(nodes) > _NODES_IN_MESSAGE:
            there.append(f"and {len(nodes) - _NODES_IN_MESSAGE} more nodes")
        return (
            f"not one trial fits: it needs {', '.join(needs)}{where}, and job {self.job.job_id} "
            f"has {'; '.join(there)}. {self._suggest()}"
        )

    def _suggest(self) -> str:
        """Name the options that help against the first thing that is short."""
        demand = self.demand
        need = max(node.count_step_cpus(demand.tasks, self.asked) for node in self.nodes)
        if sum(node.cpus >= need for node in self.nodes) < demand.nodes:
            return (
                "Lower SlurmCfg(ntasks=...) or cpus_per_task, or raise --ntasks, --ntasks-per-node "
                "or --cpus-per-task of the job"
            )
        if sum(node.gpus >= (demand.gpus or 0) for node in self.nodes) < demand.nodes:
            return "Lower SlurmCfg(gpus=...) or spread the trial over more nodes, or raise --gres"
        return "Lower SlurmCfg(mem=...), cpus_per_task or gpus, or raise --mem of the job"

    def format_notices(self) -> list[str]:
        """Say which nodes are left out, and that trials are fewer or smaller than expected."""
        notices = []
        unused = [node.name for node in self.job.nodes if node not in self.nodes]
        if unused:
            notices.append(
                f"no trial runs on {', '.join(unused)}: the job has GPUs, but none there; "
                f"SlurmCfg(gpus=0) uses all nodes, without GPUs"
            )
        if self.cpus < self.asked:
            notices.append(
                f"each task gets {say_count(self.cpus, 'CPU')} so that {self._say_run()} at once: "
                f"with {self.asked} not all would fit, because cores are only given whole; "
                f"SlurmCfg(cpus_per_task={self.asked}) gives that to fewer trials"
            )
        is_expected = self.max_concurrent or self.job.ntasks
        if is_expected and len(self.places) < self.wanted:
            notices.append(self._explain_cap())
        return notices

    def _say_run(self) -> str:
        return say_count(len(self.places), "trial runs", "trials run")

    def _explain_cap(self) -> str:
        demand = self.demand
        wanted = f"the job's {self.job.ntasks} tasks would make {self.wanted}"
        if self.max_concurrent:
            wanted = f"max_concurrent_trials={self.wanted}"
        gpus = f" and {demand.gpus} GPUs" if demand.gpus else ""
        return (
            f"{self._say_run()} at once: {wanted}, but no more fit the job when each "
            f"gets {demand.tasks} x {self.cpus} CPUs{gpus} on a node (cores are only given whole); "
            f"smaller SlurmCfg(cpus_per_task=..., gpus=..., mem=...) make room for more"
        )


def _adapt(allocation: Allocation, demand: Demand, max_concurrent: int) -> Allocation:
    """Count the threads of a core as the steps do, and take one big task a node for none."""
    if demand.threads_per_core is not None:
        allocation = allocation.count_threads(demand.threads_per_core)
    tasks = [node.tasks for node in allocation.nodes]
    is_divided = max_concurrent > sum(tasks) // (demand.tasks * demand.nodes)
    if max(tasks) == 1 and is_divided and demand.exclusive and demand.cpus_per_task is None:
        return replace(allocation, ntasks=None, cpus_per_task=None)
    return allocation


def _describe_node(node: Node) -> str:
    mem = "" if node.mem_mb is None else f", {node.mem_mb} MB"
    return f"{node.name}: {node.cpus} CPUs, {node.gpus} GPUs{mem}"


class _Shares:
    """What the slots get of each node's memory and GPUs.

    A share is that of all places of the ledger, so that fewer trials at once do not get more; only
    GPUs that all could not own, fewer may.
    """

    def __init__(self, ledger: _Ledger) -> None:
        self.ledger = ledger
        self.demand = ledger.demand
        self.nodes = ledger.nodes
        self.places = ledger.places
        self.count = min(ledger.wanted, len(self.places))
        #: How many slots each node has room for, and how many are used.
        self.load = Counter(node for place in self.places for node in place)
        self.used = Counter(node for place in self.places[: self.count] for node in place)
        self.gpus = self._count_gpus()
        gpus = {at: self.nodes[at].gpus for at in self.used}
        self.shares_gpus = any(self.gpus * used > gpus[at] for at, used in self.used.items())
        self.exclusive = self.demand.exclusive and not self.shares_gpus and not ledger.shares_cores

    def _count_gpus(self) -> int:
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
            cpus_per_task=self.ledger.cpus,
            mem_mb=min(map(self._limit_mem, place)) or None,
            gpus=self.gpus,
            visible_gpus=self._choose_gpus(index),
            exclusive=self.exclusive,
            step_cpus_per_task=self._count_step_cpus(nodes),
            gres=self._ask_gres(nodes),
        )

    def _limit_mem(self, index: int) -> int:
        """Work out a slot's memory on a node, in MB; 0 for no limit of its own."""
        node, demand, cpus, job = self.nodes[index], self.demand, self.ledger.cpus, self.ledger.job
        mem = demand.count_mem(node, cpus)
        if mem is not None or node.mem_mb is None or not demand.exclusive:
            return mem or 0
        limits = [node.mem_mb // self.load[index]]
        if job.mem_per_cpu_mb is not None:
            limits.append(job.mem_per_cpu_mb * node.count_step_cpus(demand.tasks, cpus))
        if job.mem_per_gpu_mb is not None and self.gpus and not self.shares_gpus:
            limits.append(job.mem_per_gpu_mb * self.gpus)
        return max(1, min(limits))

    def _choose_gpus(self, index: int) -> tuple[int, ...] | None:
        if self.exclusive or not self.gpus:
            return None
        # The positions count from the same first GPU on all nodes of a slot.
        first = self.places[index][0]
        before = sum(first in place for place in self.places[:index])
        count = min(self.nodes[node].gpus for node in self.places[index])
        return tuple(sorted({(before * self.gpus + gpu) % count for gpu in range(self.gpus)}))

    def _count_step_cpus(self, nodes: Sequence[Node]) -> int:
        if self.exclusive:
            return self.ledger.cpus
        # Whole cores for each task, or one CPU where several tasks share a core.
        even = min(node.cores // self.demand.tasks * node.threads_per_core for node in nodes)
        return even or self.ledger.cpus

    def _ask_gres(self, nodes: Sequence[Node]) -> str | None:
        if not self.gpus:
            return "none" if self.ledger.job.has_gres else None
        scarcest = min(nodes, key=lambda node: node.gpus)
        return format_gpus(scarcest.gres, self.gpus if self.exclusive else scarcest.gpus)

    def format_notices(self) -> list[str]:
        """Say which cores and GPUs are shared, or stay idle."""
        notices = []
        if self.ledger.shares_cores:
            node, used = self._find_fullest({at: self.nodes[at].cores for at in self.used})
            cores = say_count(node.cores, "core")
            notices.append(
                f"{used} trials share {cores} of {node.name} and float over its CPUs, since cores "
                "are only given whole; a smaller max_concurrent_trials, or more CPUs for the job, "
                "give each its own"
            )
        if self.shares_gpus:
            node, used = self._find_fullest({at: self.nodes[at].gpus for at in self.used})
            gpus = say_count(node.gpus, "GPU")
            notices.append(
                f"{used} trials share {gpus} of {node.name}: they are dealt out in "
                f"turn by CUDA_VISIBLE_DEVICES, and the trials of a node float over its CPUs; with "
                f"SlurmCfg(gpus={self.demand.nodes}) a trial has GPUs of its own, and fewer run "
                f"at once"
            )
        idle = sum(self.nodes[node].gpus - self.gpus * load for node, load in self.load.items())
        if idle and self.gpus and self.demand.gpus is None and not notices:
            stay = say_count(idle, "GPU of the job stays", "GPUs of the job stay")
            notices.append(
                f"{stay} idle: they do not divide evenly among "
                f"{len(self.places)} trials, which get {self.gpus} a node; say SlurmCfg(gpus=...)"
            )
        return notices

    def _find_fullest(self, room: Mapping[int, int]) -> tuple[Node, int]:
        """Return the node with the most trials for its room, and their number."""
        fullest = max(self.used, key=lambda node: self.used[node] / room[node])
        return self.nodes[fullest], self.used[fullest]


def count_local_slots(
    cpus: int, gpus: int, cfg: LocalCfg, max_concurrent_trials: int | None = None
) -> tuple[int, tuple[str, ...]]:
    """Count the slots of one machine that is used without Slurm.

    Args:
        cpus, gpus: Those that this process may use.
        max_concurrent_trials: The number of slots; None for as many as there is room for.

    Returns:
        The number, and notices for the user.

    Raises:
        AllocationError: A trial asks for more than there is.
    """
    for name, asked, there, look_at in (
        ("cpus", cfg.cpus or 0, cpus, "taskset, or the limits of the container"),
        ("gpus", cfg.gpus, gpus, "CUDA_VISIBLE_DEVICES; gpus=0 needs none"),
    ):
        if asked > there:
            raise AllocationError(
                f"LocalCfg({name}={asked!r}) asks for {asked} {name.upper()[:3]}s a trial, but "
                f"this process sees {there}: lower it, or look at {look_at}"
            )
    by_gpus = cfg.count_by_gpus(gpus) if cfg.gpus else sys.maxsize
    by_cpus = cfg.count_by_cpus(cpus) if cfg.cpus or not cfg.gpus else sys.maxsize
    count = max_concurrent_trials or min(by_cpus, by_gpus)
    notices = []
    if cfg.gpus and count > by_gpus:
        each = "GPUs of their own" if cfg.gpus >= 1 else f"{cfg.gpus} of a GPU each"
        devices = say_count(gpus, "GPU")
        notices.append(
            f"{count} trials share {devices}, dealt out in turn by CUDA_VISIBLE_DEVICES; for "
            f"{each} set max_concurrent_trials={by_gpus}"
        )
    if cfg.cpus and count > by_cpus:
        wanted = say_count(cfg.cpus, "CPU")
        notices.append(
            f"{count} trials of {wanted} share {cpus}; for CPUs of their own set "
            f"max_concurrent_trials={by_cpus}"
        )
    return count, tuple(notices)
