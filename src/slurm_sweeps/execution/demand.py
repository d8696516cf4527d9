"""What one trial asks for, how often that fits on a node, and what to say if not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..slurm.allocation import Allocation, Node
from ..slurm.config import SlurmCfg

#: How many nodes an error message lists.
_NODES_IN_MESSAGE = 4


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
    """

    nodes: int
    tasks: int
    cpus_per_task: int | None
    mem_mb: int | None
    mem_per_cpu_mb: int | None
    mem_per_gpu_mb: int | None
    gpus: int | None
    exclusive: bool


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
    )


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
    limits = [node.cpus // count_step_cpus(demand.tasks, cpus, node.threads_per_core)]
    mem = count_mem_demand(node, demand, cpus)
    if mem and node.mem_mb is not None:
        limits.append(node.mem_mb // mem)
    if demand.gpus:
        limits.append(node.gpus // demand.gpus)
    return min(limits)


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
