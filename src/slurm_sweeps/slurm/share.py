"""The ledger: how many trials run at once, and on which nodes.

Slurm starts a job step at once only if everything it asks for is free; else srun waits, for minutes
or for ever. So what the steps ask for is worked out beforehand, node by node, and never exceeds
what the job has there. Pure.

The order of things: what one trial asks for (`demand`), how often that fits on each node, which
nodes each slot takes (`_place`), and last what is divided among the slots (`shares`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import AllocationError, UsageError
from ..execution.demand import (
    Demand,
    build_demand,
    count_fitting,
    explain_cap,
    explain_misfit,
)
from ..execution.shares import Shares, Slot
from .allocation import Allocation, Node
from .config import LocalCfg, SlurmCfg

__all__ = ["Plan", "Slot", "check_max_concurrent", "count_local_slots", "plan_slots"]


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
    nodes, notices = _choose_nodes(allocation, demand)
    tasks = _count_tasks(allocation, nodes, demand, max_concurrent_trials)
    cpus = _cpus_per_task(allocation, nodes, tasks, demand)
    fitting = [count_fitting(node, demand, cpus) for node in nodes]
    default = max(1, sum(tasks) // (demand.tasks * demand.nodes))
    wanted = max_concurrent_trials or default
    if not demand.exclusive:
        fitting = [wanted if fits else 0 for fits in fitting]
    places = _place(fitting, demand.nodes, max(default, wanted))
    if not places:
        raise AllocationError(explain_misfit(allocation, nodes, demand, cpus))
    expected = f"max_concurrent_trials={wanted}" if max_concurrent_trials else ""
    if not expected and allocation.ntasks:
        expected = f"the job's {allocation.ntasks} tasks would make {wanted}"
    if expected and len(places) < wanted:
        notices.append(explain_cap(expected, len(places), demand, cpus))
    shares = Shares(nodes, places, min(wanted, len(places)), demand, cpus, allocation)
    slots = tuple(shares.build_slot(index) for index in range(shares.count))
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


def _count_tasks(
    allocation: Allocation, nodes: Sequence[Node], demand: Demand, max_concurrent: int | None
) -> list[int]:
    """Count the tasks that each node is divided into, as the job or its resources say."""
    if allocation.ntasks is not None and any(node.tasks for node in nodes):
        return [node.tasks for node in nodes]
    # The job does not say what the share of a task is, so the caller's number may.
    asked = -(-(max_concurrent or 0) * demand.nodes // len(nodes)) * demand.tasks
    return [
        min(_count_cores(node), max(asked or _count_own_tasks(node, demand), demand.tasks))
        for node in nodes
    ]


def _count_cores(node: Node) -> int:
    return node.cpus // node.threads_per_core


def _count_own_tasks(node: Node, demand: Demand) -> int:
    """Count the tasks that a node's own resources suggest: one a GPU, else one a core."""
    if not node.gpus or demand.gpus == 0:
        return _count_cores(node)
    if demand.gpus is None:
        return node.gpus
    return node.gpus // demand.gpus * demand.tasks


def _cpus_per_task(
    allocation: Allocation, nodes: Sequence[Node], tasks: Sequence[int], demand: Demand
) -> int:
    if demand.cpus_per_task is not None:
        return demand.cpus_per_task
    if allocation.cpus_per_task is not None:
        return allocation.cpus_per_task
    shares = [node.cpus // count for node, count in zip(nodes, tasks, strict=True) if count]
    return max(1, min(shares, default=1))


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
