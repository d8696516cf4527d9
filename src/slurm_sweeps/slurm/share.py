"""The ledger: how many trials run at once, and on which nodes. Pure.

Slurm starts a job step at once only if everything it asks for is free; else srun waits, for minutes
or for ever. So what the steps ask for is worked out beforehand, node by node, and never exceeds
what the job has there.

The order of things: what one trial asks for (`Demand`), how often that fits on each node (`_fit`),
which nodes each slot takes (`_place`), and last what is divided among the slots (`Shares`).

The promise is the job's tasks at once. Where they don't fit with the CPUs that the job asked for,
since cores are only given whole, all get the largest number with which they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import AllocationError, UsageError
from .allocation import Allocation, Node
from .config import Demand, LocalCfg, SlurmCfg, build_demand
from .slot import Shares, Slot, count_beside_cpus, count_fitting, count_mem_demand, count_step_cpus

#: How many nodes an error message lists.
_NODES_IN_MESSAGE = 4


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
            a trial. A smaller number does not make the slots larger. A job that names no tasks, or
            one big task a node, is divided by this number instead; None then is one slot for each
            GPU, or each core (for each task, where there are some).

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

    Memory and GPUs are no reason to give fewer, nor are CPUs that `SlurmCfg` names.

    Args:
        nodes: The nodes that slots may be on.
        tasks: The tasks that each is divided into.
        demand: What a trial asks for.
        asked: The CPUs that a task should have.
        default: The trials that all tasks make.
        wanted: The trials that are to run.

    Returns:
        The CPUs, how many trials each node then holds, and whether they share cores, because not
        even one CPU each will do.
    """
    fitting = [count_fitting(node, demand, asked) for node in nodes]
    if not demand.exclusive:
        return asked, [wanted if fits else 0 for fits in fitting], False
    limits = [
        min(count // demand.tasks, count_beside_cpus(node, demand, asked))
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
