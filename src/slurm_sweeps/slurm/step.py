"""A slot and its job step: srun's line, the environments around and inside, srun's words. Pure.

Why a variable is taken out: srun reads about sixty as options, so that those of the job would
change the step (`SLURM_GPUS_PER_NODE` makes steps wait for each other); and slurmstepd hands the
job's variables on to a step, where `SLURM_NTASKS_PER_NODE`, `SLURM_NODELIST` or
`SLURM_CPUS_PER_TASK` then are plainly wrong (seen on 22.05 and 24.11).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .text import Gres, parse_nodelist

if TYPE_CHECKING:  # a worker needs neither
    from .allocation import Allocation, Node
    from .config import SlurmCfg

_TAKEN_OUT = re.compile(
    r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC)_|PMI"
    r"|(MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE)$"
)

#: What srun needs to find its job and its controller, and wishes that are no resources.
_KEPT = re.compile(
    r"SLURM_(ARRAY|SACK)_"
    r"|SLURM_(CLUSTER_NAME|CONF|CONF_SERVER|JOBID|JWT|MPI_TYPE|NETWORK|NODELIST|STEPMGR"
    r"|SUBMIT_DIR|WORKING_CLUSTER)$"
    r"|SLURM_JOB_(CPUS_PER_NODE|ID|NAME|NODELIST|NUM_NODES|PARTITION)$"
)

#: Which of these tell of one job.
_OF_ONE_JOB = re.compile(r"SLURM_(ARRAY_|JOB|NODELIST|STEPMGR)")

#: The variables by which CUDA, ROCm and OpenCL are told their GPUs; Slurm sets them all alike.
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")

#: Set for every rank so that `init_process_group("env://")` works in a trial of several tasks.
_RANKS = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """A place where one trial runs at a time."""

    index: int  # 0 and up, each once
    nodes: tuple[str, ...]  # the names of those it spans
    ntasks: int  # tasks of a trial, the same number on each node
    cpus_per_task: int  # how many threads a task should have
    mem_mb: int | None = None  # on each node; None for no limit of its own
    gpus: int = 0  # that a trial sees on each node
    # Which of the step's GPUs a trial may use, by position; None where they are its own.
    visible_gpus: tuple[int, ...] | None = None
    exclusive: bool = True  # whether no other slot has the same CPUs
    step_cpus_per_task: int = 0  # what a step is started with: more where a node's slots overlap
    # What a step is started with on each node; "none" where the job has some but a trial gets none,
    # and None where there is nothing to say.
    gres: str | None = None

    @property
    def tasks_per_node(self) -> int:
        """Tasks of a trial on each of its nodes."""
        return self.ntasks // len(self.nodes)


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
    cpus = node.count_step_cpus(1, first.cpus_per_task) * count
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


def build_srun_argv(
    slot: Slot,
    cfg: SlurmCfg,
    command: Sequence[str],
    job_name: str | None = None,
    job_id: str | None = None,
) -> list[str]:
    """Build the command that starts a slot's job step.

    The step gets the slot's share and nothing else, on the slot's nodes. With several tasks, all
    get srun's stdin and rank 0's stdout comes back. The user's `args` come last, so they win; what
    they say of CPUs, memory or GPUs is not said here too. Run it with `build_step_environment`, or,
    where `job_id` names another job of this user, with `build_entry_environment`.
    """
    options = cfg.parse_args()
    argv = ["srun", *([] if job_id is None else [f"--jobid={job_id}"])]
    argv += ["--exact", *([] if slot.exclusive else ["--overlap"])]
    # -n always: without it the step has as many tasks as the job (22.05).
    argv += [f"-N{len(slot.nodes)}", f"-n{slot.ntasks}"]
    argv += [f"--ntasks-per-node={slot.tasks_per_node}", f"--nodelist={','.join(slot.nodes)}"]
    if not options.sets("cpus"):
        # 22.05 dropped the inheritance of the job's, 23.11 brought it back: say it.
        argv.append(f"-c{slot.step_cpus_per_task or slot.cpus_per_task}")
    if not options.sets("mem"):
        # 0: as much as the job has, without keeping it from other steps (22.05).
        argv.append(f"--mem={slot.mem_mb}M" if slot.mem_mb else "--mem=0")
    if not options.sets("gpus") and slot.gres is not None:
        argv.append(f"--gres={slot.gres}")
    # -K1: when one task dies, the others are not left waiting for it in a collective call.
    argv += ["-K1", "--export=ALL"]
    if not cfg.fresh_step:
        # A worker runs no MPI, and the library that the cluster's default wants may not be there.
        argv.append("--mpi=none")
    if slot.ntasks > 1:
        # --output=0 alone sends rank 0's stderr to srun's stdout and the others' nowhere (22.05).
        # Lines of up to 1024 bytes then come whole; longer ones are torn into each other.
        argv += ["--output=0", "--error=all"]
    if job_name is not None:
        argv.append(f"--job-name={job_name}")
    return [*argv, *options.tokens, *command]


def build_step_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment for srun: the driver's, without what would steer the step.

    What describes the job's resources is taken out, as are the ranks and addresses of another
    distributed run; what leads srun to its job and its controller stays. A hint on threads would
    make steps larger than they are counted, so it is taken out as well: a step of a job that was
    submitted with one heeds it all the same (22.05).
    """
    kept = {
        name: value
        for name, value in env.items()
        if _KEPT.match(name) or not _TAKEN_OUT.match(name)
    }
    # Inside an interactive step this is Slurm's own setting for that step, not the user's wish.
    if env.get("SLURM_STEP_ID"):
        kept.pop("SLURM_MPI_TYPE", None)
    return kept


def build_entry_environment(env: Mapping[str, str], job: Allocation) -> dict[str, str]:
    """Give the environment for an srun that starts a step in another job than this process's."""
    kept = build_step_environment(env)
    others = {name: value for name, value in kept.items() if not _OF_ONE_JOB.match(name)}
    nodes = ",".join(node.name for node in job.nodes)
    return {
        **others,
        **dict.fromkeys(["SLURM_JOB_ID", "SLURM_JOBID"], job.job_id),
        **dict.fromkeys(["SLURM_JOB_NODELIST", "SLURM_NODELIST"], nodes),
        "SLURM_JOB_NUM_NODES": str(len(job.nodes)),
        "SLURM_JOB_CPUS_PER_NODE": ",".join(str(node.cpus) for node in job.nodes),
    }


def build_command_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment for the other commands of Slurm, without what would steer them."""
    kept = build_step_environment(env)
    commands = ("SCANCEL_", "SCONTROL_", "SQUEUE_")
    calm = {name: value for name, value in kept.items() if not name.startswith(commands)}
    return {**calm, "SLURM_TIME_FORMAT": "standard"}


#: What a user sets for each sbatch, and would keep the driver from the jobs that it submits.
_NOT_FOR_JOBS = ("SBATCH_ARRAY_INX", "SBATCH_CLUSTERS", "SBATCH_TEST_ONLY", "SBATCH_WAIT")


def build_submission_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment for sbatch, which the new job inherits.

    Nothing of the job that this process runs in is in it; what people say there of all their jobs,
    such as `SBATCH_ACCOUNT`, is.
    """
    wishes = {
        name: value
        for name, value in env.items()
        if name.startswith("SBATCH_") and name not in _NOT_FOR_JOBS
    }
    kept = build_command_environment(env)
    ours = {name: value for name, value in kept.items() if not _OF_ONE_JOB.match(name)}
    return {**ours, **wishes}


def build_trial_environment(
    env: Mapping[str, str],
    *,
    master_port: int,
    cpus_per_task: int,
    master_addr: str | None = None,
    mem_mb: int | None = None,
) -> dict[str, str | None]:
    """Say what a worker must set (None: unset) so that the environment describes the trial.

    Args:
        env: The environment of the worker: one task of a step, or a plain local process.
        master_port: A free port on the trial's first node, no other trial's.
        cpus_per_task: The slot's, for the number of threads.
        master_addr: That node's address. None: the first node's name, or this machine where the
            worker is no task of a step.
        mem_mb: The slot's memory on each node, in MB.

    Returns:
        Variables to set or unset. Framework variables for ranks are set for a trial of several
        tasks only: a lone task would be taken for a distributed run.
    """
    changes: dict[str, str | None] = {
        "MASTER_ADDR": master_addr or _first_node(env),
        "MASTER_PORT": str(master_port),
        **dict.fromkeys([*_RANKS, "LOCAL_WORLD_SIZE"]),
    }
    changes.update(limit_threads(env, cpus_per_task))
    if env.get("SLURM_STEP_NUM_TASKS"):
        changes |= _describe_step(env, cpus_per_task, mem_mb)
    return changes


def _first_node(env: Mapping[str, str]) -> str:
    nodes = env.get("SLURM_STEP_NODELIST")
    return parse_nodelist(nodes)[0] if nodes else "127.0.0.1"


def _describe_step(env: Mapping[str, str], cpus: int, mem_mb: int | None) -> dict[str, str | None]:
    """Put the step in the place of the job in the variables that frameworks read."""
    ntasks, nodes = env["SLURM_STEP_NUM_TASKS"], env.get("SLURM_STEP_NUM_NODES", "1")
    tasks_per_node = int(ntasks) // int(nodes)
    nodelist = env.get("SLURM_STEP_NODELIST")
    repeated = f"(x{nodes})" if int(nodes) > 1 else ""
    changes: dict[str, str | None] = {
        **dict.fromkeys(["SLURM_NTASKS", "SLURM_NPROCS"], ntasks),
        "SLURM_NTASKS_PER_NODE": str(tasks_per_node),
        "SLURM_TASKS_PER_NODE": f"{tasks_per_node}{repeated}",
        **dict.fromkeys(["SLURM_NNODES", "SLURM_JOB_NUM_NODES"], nodes),
        **dict.fromkeys(["SLURM_NODELIST", "SLURM_JOB_NODELIST"], nodelist),
        "SLURM_CPUS_PER_TASK": str(cpus),
        "SLURM_JOB_CPUS_PER_NODE": f"{cpus * tasks_per_node}{repeated}",
        "SLURM_MEM_PER_NODE": str(mem_mb) if mem_mb else None,
        **dict.fromkeys(["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_GPUS"]),
        **dict.fromkeys(["SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK"]),
    }
    if int(ntasks) > 1:
        changes |= {name: env.get(source) for name, source in _RANKS.items()}
        changes["LOCAL_WORLD_SIZE"] = str(tasks_per_node)
    return changes


def choose_gpus(env: Mapping[str, str], positions: Sequence[int] | None) -> dict[str, str]:
    """Say what to set so that a process sees only some GPUs of its list; None: all, so nothing."""
    if positions is None:
        return {}
    changes: dict[str, str] = {}
    for name in _GPU_VARIABLES:
        if name in env or name == "CUDA_VISIBLE_DEVICES":
            seen = [gpu for gpu in env.get(name, "").split(",") if gpu]
            chosen = [seen[at] if at < len(seen) else str(at) for at in positions]
            changes[name] = ",".join(chosen)
    return changes


def iterate_master_ports(
    port_range: tuple[int, int], slot_index: int, slots: int, salt: int = 0
) -> Iterator[int]:
    """List the ports that a slot may take for its trials, in the order to try them, without end.

    Two slots of a sweep never get the same port as long as the range has one for each; trials of
    a slot take the next port each time, because the last one's may still be closing.
    `salt`, a job id, moves the beginning, so that two sweeps that share a node rarely meet.
    """
    first, last = port_range
    rows = max(1, (last - first + 1) // slots)
    row = salt % rows
    while True:
        yield first + (row * slots + slot_index) % (last - first + 1)
        row = (row + 1) % rows


_SLURM_LINE = re.compile(r"(?:srun|slurmstepd[^ :]*): (?:error: |fatal: )?(.*)")
#: What is said of tasks that did start, where the worker knows better, and mere progress.
_NO_REASON = re.compile(
    r"tasks? [\d,-]+: |Job step aborted|forcing job termination|Terminat(?:ing|ed) StepId|"
    r"CANCELLED AT \S+ \*|interrupt|Complete StepId|Timed out waiting for job step|"
    r"Cancelled pending job step|step creation temporarily disabled|Step created for|"
    r"cluster configuration lacks"
)


def parse_step_error(stderr: str) -> str | None:
    """Give Slurm's own words on why a step did not start or was ended, None if it says nothing.

    Of all that came on srun's standard error, lines of the tasks are passed over.
    """
    said = [match[1] for match in map(_SLURM_LINE.match, stderr.splitlines()) if match]
    reasons = [line for line in said if line and not _NO_REASON.search(line)]
    return "; ".join(dict.fromkeys(reasons)) or None


def parse_refusal(stderr: str) -> str | None:
    """Give srun's own words on why a step did not start, None if it says nothing of its own.

    What a slurmstepd says is that of a step which was started on its node.
    """
    began = any(line.startswith("slurmstepd") for line in stderr.splitlines())
    return None if began else parse_step_error(stderr)


#: Slurm's controller, its authentication or a daemon between does not answer, or not in time.
_OUTAGE = re.compile(
    r"Unable to contact slurm controller|Unable to connect to slurm|not answered|timed out|munge"
    r"|Protocol authentication error|Zero Bytes were transmitted|temporarily unable"
    r"|backup controller|Connection (?:refused|reset)|connect(?:ion)? failure",
    re.IGNORECASE,
)


def is_outage(text: str) -> bool:
    """Tell whether what a command of Slurm said means that Slurm itself is away for now."""
    return _OUTAGE.search(text) is not None


def may_pass(text: str) -> bool:
    """Tell whether Slurm says this for some seconds after its controller has begun anew (22.05)."""
    return "Memory required by task is not available" in text


def is_final(text: str) -> bool:
    """Tell whether the job has used up all the steps that it may have (MaxStepCount)."""
    return "Step limit reached for this job" in text


#: What srun and slurmstepd say when a job, or a step, is ended from outside, or is over (22.05 and
#: 24.11). That of a step alone is also said, without a reason, when srun itself ends it since one
#: of its tasks has died.
_TAKEN = re.compile(
    r"\*\*\* .* CANCELLED AT \S+ DUE TO (?!.*MEMORY)|\*\*\* JOB .* CANCELLED AT|Node failure on"
    r"|Slurm job \d+ has expired|Unable to confirm allocation for job"
)
_CANCELLED = re.compile(r"\*\*\* STEP .* CANCELLED AT \S+ \*\*\*")


def is_job_taken(text: str, ntasks: int) -> bool:
    """Tell whether what was said of a step of so many tasks means that its job was taken away."""
    return _TAKEN.search(text) is not None or (ntasks == 1 and is_cancelled(text))


def is_cancelled(text: str) -> bool:
    """Tell whether a step was cancelled, for whatever reason."""
    return _CANCELLED.search(text) is not None


def is_step_waiting(line: str) -> bool:
    """Tell whether a line of srun's says that its step waits: then the ledger was wrong."""
    return line.startswith("srun: ") and "step creation temporarily disabled" in line


# --- threads: most libraries start one for each CPU of the machine unless variables say less ------

#: OpenMP's, which the libraries behind it read too where their own isn't set.
_OPENMP = "OMP_NUM_THREADS"
_HEED_OPENMP = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: Those of Rust's pools, of joblib, which starts a process for each CPU at `n_jobs=-1`, and of
#: TensorFlow.
_OTHERS = (
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def limit_threads(env: Mapping[str, str], cpus: int) -> dict[str, str]:
    """Say which variables to set so that libraries start no more threads than there are CPUs.

    Args:
        env: What is set by now, which stays. Who has set OpenMP's means what heeds it, too.
        cpus: How many a trial, or a task of it, may use; 1 or more.
    """
    names = _OTHERS if env.get(_OPENMP) else (_OPENMP, *_HEED_OPENMP, *_OTHERS)
    return {name: str(cpus) for name in names if not env.get(name)}
