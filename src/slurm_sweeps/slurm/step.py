"""A slot's job step: the user's srun options, the line, the environments around and inside. Pure.

The options of `SlurmCfg.args` are handed to srun untouched. Read of them is only what changes a
slot's share, so that the ledger counts it and the line leaves its own option out; and what would
break the channel or the ledger, which is refused with the remedy. An unknown option passes: srun
knows.

Why a variable is taken out: srun reads about sixty as options, so that those of the job would
change the step (`SLURM_GPUS_PER_NODE` makes steps wait for each other); and slurmstepd hands the
job's variables on to a step, where `SLURM_NTASKS_PER_NODE`, `SLURM_NODELIST` or
`SLURM_CPUS_PER_TASK` then are plainly wrong (seen on 22.05 and 24.11).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError
from .text import count_gpus, parse_gres, parse_mem, parse_nodelist

if TYPE_CHECKING:
    from .config import SlurmCfg
    from .slot import Slot

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

#: Options with a value that set a part of the share.
_COUNTED = {
    "--cpus-per-task",
    "--mem",
    "--mem-per-cpu",
    "--mem-per-gpu",
    "--gres",
    "--gpus",
    "--gpus-per-node",
    "--gpus-per-task",
    "--threads-per-core",
    "--extra-node-info",
    "--hint",
}

#: Values of --hint by which srun takes one thread of each core (srun(1), seen on 22.05).
_ONE_THREAD = {"nomultithread", "compute_bound", "memory_bound"}


@dataclass(frozen=True, slots=True)
class StepOptions:
    """The part of a trial's share that is said in `SlurmCfg.args`; None where it says nothing.

    Args:
        cpus_per_task: CPUs of a task.
        mem_mb: Memory of a node's part of the step, in MB; 0 for all that the job has there.
        mem_per_cpu_mb: Memory per CPU, in MB.
        mem_per_gpu_mb: Memory per GPU, in MB.
        gpus_per_node: GPUs of a node's part of the step.
        gpus_per_task: GPUs of a task.
        gpus: GPUs of the whole step.
        threads_per_core: The CPUs of a core that a step counts: with 1 of 2, each CPU is a core.
        overlap: The steps are to share whatever they are given.
        tokens: The options as srun gets them.
    """

    cpus_per_task: int | None = None
    mem_mb: int | None = None
    mem_per_cpu_mb: int | None = None
    mem_per_gpu_mb: int | None = None
    gpus_per_node: int | None = None
    gpus_per_task: int | None = None
    gpus: int | None = None
    threads_per_core: int | None = None
    overlap: bool = False
    tokens: tuple[str, ...] = ()

    @property
    def sets_cpus(self) -> bool:
        """Whether the user says the CPUs, so that the launcher does not."""
        return self.cpus_per_task is not None

    @property
    def sets_mem(self) -> bool:
        """Whether the user says the memory, so that the launcher does not."""
        return any(
            value is not None for value in (self.mem_mb, self.mem_per_cpu_mb, self.mem_per_gpu_mb)
        )

    @property
    def sets_gpus(self) -> bool:
        """Whether the user says the GPUs (or other GRES), so that the launcher does not."""
        return any(
            value is not None for value in (self.gpus_per_node, self.gpus_per_task, self.gpus)
        )


def parse_step_options(args: str) -> StepOptions:
    """Read the srun options of a text, split as a shell splits.

    Args:
        args: For instance `--mem=8G --mpi=pmi2`; the last of two equal options counts, as in srun.

    Raises:
        UsageError: Quotes are not closed, a word is no option, a value can't be read, or an option
            is one of those that would break the channel or the ledger.
    """
    tokens = _split(args)
    values = _collect(tokens, args)
    return StepOptions(
        cpus_per_task=_read_count(values, "--cpus-per-task", args),
        mem_mb=_read_mem(values, "--mem"),
        mem_per_cpu_mb=_read_mem(values, "--mem-per-cpu"),
        mem_per_gpu_mb=_read_mem(values, "--mem-per-gpu"),
        gpus_per_node=_read_gres(values, args),
        gpus_per_task=_read_gpus(values, "--gpus-per-task"),
        gpus=_read_gpus(values, "--gpus"),
        threads_per_core=_read_threads(values, args),
        overlap="--overlap" in tokens,
        tokens=tuple(tokens),
    )


def _split(args: str) -> list[str]:
    try:
        return shlex.split(args)
    except ValueError as error:
        raise UsageError(
            f"SlurmCfg(args={args!r}) can't be split as a shell splits: {error}; "
            f"close the quotes or write \\' for a lone one"
        ) from error


def _collect(tokens: Sequence[str], args: str) -> dict[str, str]:
    if tokens and not tokens[0].startswith("-"):
        raise UsageError(
            f"SlurmCfg(args={args!r}) begins with {tokens[0]!r}, which is no option of srun: "
            f"args holds options only, such as '--mem=8G --mpi=pmi2'"
        )
    values: dict[str, str] = {}
    for position, token in enumerate(tokens):
        name, value = _split_option(token)
        if name in _REFUSED:
            raise UsageError(f"SlurmCfg(args={args!r}) holds {token!r}: {_REFUSED[name]}")
        if name in _COUNTED:
            following = tokens[position + 1] if position + 1 < len(tokens) else ""
            values[name] = following if value is None else value
    return values


def _split_option(token: str) -> tuple[str, str | None]:
    """Give an option's long name and the value in the same word, None where there is none."""
    if token.startswith("--"):
        name, equals, value = token.partition("=")
        return name, value if equals else None
    if token[:2] in _SHORT:
        return _SHORT[token[:2]], token[2:].removeprefix("=") or None
    return token, None


def _read_count(values: dict[str, str], name: str, args: str) -> int | None:
    if name not in values:
        return None
    text = values[name]
    if not (text.isdecimal() and int(text) > 0):
        raise UsageError(f"SlurmCfg(args={args!r}): {name} needs a whole number, not {text!r}")
    return int(text)


def _read_threads(values: dict[str, str], args: str) -> int | None:
    if _ONE_THREAD & set(values.get("--hint", "").split(",")):
        return 1
    layout = values.get("--extra-node-info", "").split(":")  # sockets, cores, threads
    if len(layout) == 3 and layout[2].isdecimal():
        values = {"--threads-per-core": layout[2], **values}
    return _read_count(values, "--threads-per-core", args)


def _read_mem(values: dict[str, str], name: str) -> int | None:
    return parse_mem(values[name]) if name in values else None


def _read_gpus(values: dict[str, str], name: str) -> int | None:
    # `--gpus=a100:2,v100:1` leaves the name out that `--gres` wants; a bare number has no type.
    if name not in values:
        return None
    return count_gpus(parse_gres(re.sub(r"(^|,)", r"\1gpu:", values[name])))


def _read_gres(values: dict[str, str], args: str) -> int | None:  # noqa: ARG001 - as all
    if "--gpus-per-node" in values:
        return _read_gpus(values, "--gpus-per-node")
    if "--gres" not in values:
        return None
    return count_gpus(parse_gres(values["--gres"]))


_TAKEN_OUT = re.compile(
    r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC)_|PMI"
    r"|(MASTER_ADDR|MASTER_PORT|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE)$"
)

#: What srun needs to find its job and its controller, and wishes that are no resources.
_KEPT = frozenset(
    {
        "SLURM_CLUSTER_NAME",
        "SLURM_CONF",
        "SLURM_CONF_SERVER",
        "SLURM_JOBID",
        "SLURM_JOB_CPUS_PER_NODE",
        "SLURM_JOB_ID",
        "SLURM_JOB_NAME",
        "SLURM_JOB_NODELIST",
        "SLURM_JOB_NUM_NODES",
        "SLURM_JOB_PARTITION",
        "SLURM_JWT",
        "SLURM_MPI_TYPE",
        "SLURM_NETWORK",
        "SLURM_NODELIST",
        "SLURM_STEPMGR",
        "SLURM_SUBMIT_DIR",
        "SLURM_WORKING_CLUSTER",
    }
)
_KEPT_PREFIXES = ("SLURM_ARRAY_", "SLURM_SACK_")

#: The variables by which CUDA, ROCm and OpenCL are told their GPUs; Slurm sets them all alike.
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")

#: Set for every rank so that `init_process_group("env://")` works in a trial of several tasks.
_RANKS = {
    "RANK": "SLURM_PROCID",
    "WORLD_SIZE": "SLURM_STEP_NUM_TASKS",
    "LOCAL_RANK": "SLURM_LOCALID",
}


def build_srun_argv(
    slot: Slot,
    cfg: SlurmCfg,
    command: Sequence[str],
    job_name: str | None = None,
) -> list[str]:
    """Build the command that starts a slot's job step.

    The step gets the slot's share and nothing else, on the slot's nodes. With several tasks, all
    get srun's stdin and rank 0's stdout comes back. The user's `args` come last, so they win; what
    they say of CPUs, memory or GPUs is not said here too.

    Args:
        slot: The slot.
        cfg: For the user's `args`.
        command: What each task runs.
        job_name: Shown by sacct and squeue for the step.

    Returns:
        The argument list; run it with `build_step_environment`.
    """
    options = cfg.parse_args()
    argv = ["srun", "--exact", *([] if slot.exclusive else ["--overlap"])]
    # -n always: without it the step has as many tasks as the job (22.05).
    argv += [f"-N{len(slot.nodes)}", f"-n{slot.ntasks}"]
    argv += [f"--ntasks-per-node={slot.tasks_per_node}", f"--nodelist={','.join(slot.nodes)}"]
    if not options.sets_cpus:
        # 22.05 dropped the inheritance of the job's, 23.11 brought it back: say it.
        argv.append(f"-c{slot.step_cpus_per_task or slot.cpus_per_task}")
    if not options.sets_mem:
        # 0: as much as the job has, without keeping it from other steps (22.05).
        argv.append(f"--mem={slot.mem_mb}M" if slot.mem_mb else "--mem=0")
    if not options.sets_gpus and slot.gres is not None:
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
        if name in _KEPT or name.startswith(_KEPT_PREFIXES) or not _TAKEN_OUT.match(name)
    }
    # Inside an interactive step this is Slurm's own setting for that step, not the user's wish.
    if env.get("SLURM_STEP_ID"):
        kept.pop("SLURM_MPI_TYPE", None)
    return kept


def build_command_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Give the environment for the other commands of Slurm, without what would steer them."""
    kept = build_step_environment(env)
    commands = ("SCANCEL_", "SCONTROL_", "SQUEUE_")
    calm = {name: value for name, value in kept.items() if not name.startswith(commands)}
    return {**calm, "SLURM_TIME_FORMAT": "standard"}


def build_trial_environment(
    env: Mapping[str, str],
    *,
    master_port: int,
    master_addr: str | None = None,
    cpus_per_task: int | None = None,
    mem_mb: int | None = None,
) -> dict[str, str | None]:
    """Say what a worker must set (None: unset) so that the environment describes the trial.

    Args:
        env: The environment of the worker: one task of a step, or a plain local process.
        master_port: A free port on the trial's first node, no other trial's.
        master_addr: That node's address. None: the first node's name, or this machine where the
            worker is no task of a step.
        cpus_per_task: The slot's, for the number of threads. None: as the step says.
        mem_mb: The slot's memory on each node, in MB.

    Returns:
        Variables to set or unset. Framework variables for ranks are set for a trial of several
        tasks only: a lone task would be taken for a distributed run.
    """
    cpus = cpus_per_task or int(env.get("SLURM_CPUS_PER_TASK") or 0)
    changes: dict[str, str | None] = {
        "MASTER_ADDR": master_addr or _first_node(env),
        "MASTER_PORT": str(master_port),
        **dict.fromkeys([*_RANKS, "LOCAL_WORLD_SIZE"]),
    }
    if cpus and not env.get("OMP_NUM_THREADS"):
        changes["OMP_NUM_THREADS"] = str(cpus)
    if env.get("SLURM_STEP_NUM_TASKS"):
        changes |= _describe_step(env, cpus, mem_mb)
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
        "SLURM_MEM_PER_NODE": str(mem_mb) if mem_mb else None,
        **dict.fromkeys(["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU", "SLURM_GPUS"]),
        **dict.fromkeys(["SLURM_GPUS_PER_NODE", "SLURM_GPUS_PER_TASK"]),
    }
    if cpus:
        changes["SLURM_CPUS_PER_TASK"] = str(cpus)
        changes["SLURM_JOB_CPUS_PER_NODE"] = f"{cpus * tasks_per_node}{repeated}"
    if int(ntasks) > 1:
        changes |= {name: env.get(source) for name, source in _RANKS.items()}
        changes["LOCAL_WORLD_SIZE"] = str(tasks_per_node)
    return changes


def choose_gpus(env: Mapping[str, str], positions: Sequence[int] | None) -> dict[str, str]:
    """Say what to set so that a process sees only the GPUs at some positions of its list.

    None: all, so nothing.
    """
    changes: dict[str, str] = {}
    if positions is None:
        return changes
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

    Args:
        port_range: First and last port.
        slot_index: The slot's index.
        slots: The number of slots of the sweep.
        salt: Moves the beginning, so that two sweeps that share a node rarely meet; a job id, say.
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

    Args:
        stderr: Everything that came on srun's standard error; lines of the tasks are passed over.

    Returns:
        For instance "unrecognized option '--nonsense'"; several reasons are joined by "; ".
    """
    said = [match[1] for match in map(_SLURM_LINE.match, stderr.splitlines()) if match]
    reasons = [line for line in said if line and not _NO_REASON.search(line)]
    return "; ".join(dict.fromkeys(reasons)) or None


def is_step_waiting(line: str) -> bool:
    """Tell whether a line of srun's says that its step waits: then the ledger was wrong."""
    return line.startswith("srun: ") and "step creation temporarily disabled" in line
