"""The Slurm allocation that the driver runs in: its nodes and what the job has on each. Pure.

The environment of a job tells its tasks and CPUs, but not the GPUs of the other nodes, nor the
memory of a job that asked for none or for all (`--mem=0`); nor whether a core has two threads,
which matters because steps are given whole cores. That is read from `scontrol show job -d` and
`scontrol show node`. Where scontrol gives no answer, the environment has to do.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..errors import AllocationError, UsageError
from .text import (
    Gres,
    count_gpus,
    parse_counts,
    parse_gres,
    parse_job_nodes,
    parse_nodelist,
    parse_threads_per_core,
)

#: Step ids that are no steps of srun: interactive, batch script, extern (slurm.h; an environment
#: made by `salloc` with use_interactive_step has the first, seen on 22.05).
_SPECIAL_STEP_IDS = {"4294967290", "4294967291", "4294967292"}


@dataclass(frozen=True, slots=True)
class Node:
    """What the job has on one node."""

    name: str  # in Slurm
    cpus: int  # hardware threads, unless the job was asked for one thread a core
    tasks: int = 0  # that Slurm lays on the node; 0 where the job names no number of tasks
    mem_mb: int | None = None  # None where Slurm does not count it or none could be learnt
    gres: tuple[Gres, ...] = ()  # generic resources, GPUs among them
    threads_per_core: int = 1  # CPUs that are only given away together

    @property
    def gpus(self) -> int:
        """The number of GPUs of all types."""
        return count_gpus(self.gres)

    @property
    def cores(self) -> int:
        """The number of cores."""
        return self.cpus // self.threads_per_core

    def count_step_cpus(self, tasks: int, cpus_per_task: int) -> int:
        """Count the CPUs that a step takes from the node: cores are only given whole.

        Tasks of one CPU may share a core, others may not (seen on 22.05, two threads a core: two
        tasks of one CPU took 2 CPUs, two tasks of three CPUs took 8).
        """
        if cpus_per_task == 1:
            return -(-tasks // self.threads_per_core) * self.threads_per_core
        return tasks * -(-cpus_per_task // self.threads_per_core) * self.threads_per_core


@dataclass(frozen=True, slots=True)
class Allocation:
    """A job's resources; None where it names no number."""

    job_id: str
    nodes: tuple[Node, ...]  # in Slurm's order
    ntasks: int | None = None
    cpus_per_task: int | None = None
    mem_per_cpu_mb: int | None = None
    mem_per_gpu_mb: int | None = None
    has_gres: bool = False  # generic resources of any kind
    notices: tuple[str, ...] = ()  # what could not be learnt, for the user to read
    max_steps: int | None = None  # how many steps it may have in all; None for any number
    srun_ports: int | None = None  # how many there are on its first node; None for any number
    ends_at: float | None = None  # at the latest, in seconds since 1970; None: never, or unknown
    array_task: str | None = None  # `<array>_<task>`, as which squeue shows a task of an array

    def find_node(self, name: str) -> Node:
        """Return the node of this name, which is one of the job's."""
        return next(node for node in self.nodes if node.name == name)

    def count_threads(self, threads: int) -> Allocation:
        """Return the allocation as a step counts it that takes so many threads of each core.

        `--hint=nomultithread -c1` takes a core of two CPUs, and memory for one (22.05).
        """
        ratio = max(1, max(node.threads_per_core for node in self.nodes) // threads)
        counted = [(node, min(threads, node.threads_per_core)) for node in self.nodes]
        return replace(
            self,
            nodes=tuple(
                replace(node, cpus=node.cores * each, threads_per_core=each)
                for node, each in counted
            ),
            cpus_per_task=self.cpus_per_task and -(-self.cpus_per_task // ratio),
            mem_per_cpu_mb=self.mem_per_cpu_mb and self.mem_per_cpu_mb * ratio,
        )


def parse_allocation(
    env: Mapping[str, str], job_text: str = "", node_text: str = ""
) -> Allocation | None:
    """Put together the allocation that an environment describes.

    Args:
        env: The driver's environment.
        job_text: What `scontrol show job -d` printed; empty where it could not be had.
        node_text: What `scontrol --oneliner show node` printed; empty likewise.

    Returns:
        The allocation, or None outside of Slurm (no `SLURM_JOB_ID`).

    Raises:
        AllocationError: The environment has a job but no list of nodes, or the job is a
            heterogeneous one, whose parts can't be told apart as slots.
    """
    if not env.get("SLURM_JOB_ID"):
        return None
    _check_kind(env)
    env = _drop_contradictions(env, job_text)
    nodes = _build_nodes(env, job_text, node_text)
    job_gres = re.search(r"^\s*JOB_GRES=(?!\(null\))\S", job_text, re.MULTILINE)
    task = re.search(rf"JobId={env['SLURM_JOB_ID']} ArrayJobId=(\d+) ArrayTaskId=(\d+) ", job_text)
    return Allocation(
        job_id=env["SLURM_JOB_ID"],
        array_task=task and "_".join(task.groups()),
        nodes=nodes,
        ntasks=_read_int(env, "SLURM_NTASKS"),
        cpus_per_task=_read_int(env, "SLURM_CPUS_PER_TASK"),
        mem_per_cpu_mb=_read_int(env, "SLURM_MEM_PER_CPU"),
        mem_per_gpu_mb=_read_int(env, "SLURM_MEM_PER_GPU"),
        has_gres=job_gres is not None or any(node.gres for node in nodes),
        notices=_describe_hint(env),
    )


def describe_allocation(allocation: Allocation) -> dict[str, Any]:
    """Describe an allocation, JSON-able."""
    return asdict(allocation)


def revive_allocation(described: Mapping[str, Any]) -> Allocation:
    """Build what `describe_allocation` has described.

    Raises:
        AllocationError: It has not.
    """
    try:
        nodes = tuple(
            Node(**{**node, "gres": tuple(Gres(**each) for each in node["gres"])})
            for node in described["nodes"]
        )
        notices = tuple(described["notices"])
        found = Allocation(**{**described, "nodes": nodes, "notices": notices})
    except (KeyError, TypeError) as error:
        raise AllocationError(f"can't read what a job offers: {error!r}") from error
    if not found.job_id.isdecimal() or not nodes:
        raise AllocationError(f"job {found.job_id!r} is no Slurm job with nodes")
    return found


def _drop_contradictions(env: Mapping[str, str], job_text: str) -> dict[str, str]:
    """Leave out what a site or a profile has set and Slurm does not say of the job."""
    said = dict(re.findall(r"([\w/:]+)=(\S+)", job_text))
    true = {}
    if env.get("SLURM_NTASKS"):
        tasks = sum(parse_counts(env.get("SLURM_TASKS_PER_NODE", "0")))
        true["SLURM_NTASKS"] = env["SLURM_NTASKS"] == str(tasks)
    if said:
        threads = said.get("ReqB:S:C:T", "").rpartition(":")[2]
        true["SLURM_CPUS_PER_TASK"] = env.get("SLURM_CPUS_PER_TASK") == said.get("CPUs/Task")
        true["SLURM_THREADS_PER_CORE"] = env.get("SLURM_THREADS_PER_CORE") == threads
        true["SLURM_MEM_PER_CPU"] = "MinMemoryCPU" in said
        true["SLURM_MEM_PER_GPU"] = "MemPerTres" in said
    return {name: value for name, value in env.items() if true.get(name, True)}


def _describe_hint(env: Mapping[str, str]) -> tuple[str, ...]:
    """Say that a hint on threads is not handed on, unless it is the job's own."""
    hint = env.get("SLURM_HINT", "multithread")
    if hint == "multithread" or "SLURM_THREADS_PER_CORE" in env:
        return ()
    return (
        f"SLURM_HINT={hint!r} is not handed on to the trials' steps, which it would make larger "
        f"than their share of the job; say SlurmCfg(args='--hint={hint}') if you want it",
    )


def _check_kind(env: Mapping[str, str]) -> None:
    job = env["SLURM_JOB_ID"]
    if not (env.get("SLURM_JOB_NODELIST") and env.get("SLURM_JOB_CPUS_PER_NODE")):
        raise AllocationError(
            f"SLURM_JOB_ID={job!r} says that this is a Slurm job, but SLURM_JOB_NODELIST or "
            f"SLURM_JOB_CPUS_PER_NODE is missing: start the sweep from a script for sbatch or in "
            f"the shell of salloc, or unset SLURM_JOB_ID to run on this machine alone"
        )
    if env.get("SLURM_HET_SIZE", "1") not in {"", "0", "1"}:
        raise AllocationError(
            f"job {job} is a heterogeneous job (SLURM_HET_SIZE={env['SLURM_HET_SIZE']!r}), which "
            f"a sweep can't divide into equal slots: submit it as one component"
        )


def _build_nodes(env: Mapping[str, str], job_text: str, node_text: str) -> tuple[Node, ...]:
    names = parse_nodelist(env["SLURM_JOB_NODELIST"])
    cpus = parse_counts(env["SLURM_JOB_CPUS_PER_NODE"])
    # Without a number of tasks, SLURM_TASKS_PER_NODE counts CPUs or nodes (22.05), not tasks.
    tasks = parse_counts(env.get("SLURM_TASKS_PER_NODE", "0")) if env.get("SLURM_NTASKS") else []
    if len(cpus) != len(names):
        raise AllocationError(
            f"SLURM_JOB_NODELIST={env['SLURM_JOB_NODELIST']!r} has {len(names)} nodes, but "
            f"SLURM_JOB_CPUS_PER_NODE={env['SLURM_JOB_CPUS_PER_NODE']!r} has {len(cpus)}: start "
            f"the sweep with the environment that sbatch or salloc made"
        )
    if len(tasks) != len(names):
        tasks = [0] * len(names)
    threads = parse_threads_per_core(node_text)
    # A job asked for one thread a core counts cores as CPUs (22.05, 24.11: SLURM_THREADS_PER_CORE).
    most = _read_int(env, "SLURM_THREADS_PER_CORE")
    known = parse_job_nodes(job_text)
    nodes = []
    for name, cpu, task in zip(names, cpus, tasks, strict=True):
        # Where two threads a core are a wrong guess, CPUs are shared out in pairs; the other way
        # round, steps would wait. Less than a core: the site gives threads away one by one.
        of_core = threads.get(name, 2 - cpu % 2)
        of_core = min(of_core, most or of_core)
        mem_mb, gres = known.get(name) or _guess_share(env, name, cpu, len(names))
        nodes.append(Node(name, cpu, task, mem_mb, gres, 1 if cpu < of_core else of_core))
    return tuple(nodes)


def _guess_share(
    env: Mapping[str, str], name: str, cpus: int, nodes: int
) -> tuple[int | None, tuple[Gres, ...]]:
    """Work out a node's memory and GPUs from the environment, which tells those of this node."""
    gpus = _read_int(env, "SLURM_GPUS_ON_NODE") or 0
    total = env.get("SLURM_GPUS")
    if total and nodes > 1 and name != env.get("SLURMD_NODENAME"):
        others = count_gpus(parse_gres(f"gpu:{total}")) - gpus
        gpus = max(0, others) // (nodes - 1)
    per_cpu = _read_int(env, "SLURM_MEM_PER_CPU") or 0
    per_gpu = _read_int(env, "SLURM_MEM_PER_GPU") or 0
    mem_mb = _read_int(env, "SLURM_MEM_PER_NODE") or per_cpu * cpus or per_gpu * gpus
    return mem_mb or None, (Gres("gpu", None, gpus),) if gpus else ()


def _read_int(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def check_not_inside_a_step(env: Mapping[str, str]) -> None:
    """Refuse to drive a sweep from within a job step, whose resources its own steps would await.

    The batch script, and the shell of an interactive allocation, are none that srun started: steps
    may be started from there. In a task of a step this raises a UsageError, with the command as it
    was typed: before what we install, an interpreter is put.
    """
    step_id = env.get("SLURM_STEP_ID", "")
    if step_id and step_id not in _SPECIAL_STEP_IDS:
        step = f"{env.get('SLURM_JOB_ID', '?')}.{step_id}"
        is_ours = any(word.endswith("/slurm-sweeps") for word in sys.orig_argv[1:2])
        program, *rest = sys.orig_argv[is_ours:]
        typed = shlex.join([program.rpartition("/")[2], *rest])
        raise UsageError(
            f"the sweep was started inside job step {step} (SLURM_STEP_ID="
            f"{step_id!r}): the steps of its trials would wait for ever for what this "
            f"step holds. Start it without srun: `{typed}` in the sbatch script, or in the shell "
            "of salloc instead of `srun --pty bash`; in a notebook, whose kernel srun has started, "
            "have trials run in jobs of their own: SlurmCfg(jobs=ss.Jobs(most=…, args=…))"
        )
