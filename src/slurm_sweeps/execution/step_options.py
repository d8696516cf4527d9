"""What the user's own srun options (`SlurmCfg.args`) mean for the ledger.

The options themselves are handed to srun untouched. Read here is only what changes a slot's share,
so that the ledger counts it and the launcher leaves its own option out; and what would break the
channel or the ledger, which is refused with the remedy. An unknown option passes: srun knows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import UsageError
from ..slurm.text import count_gpus, parse_gres, parse_mem

#: Short options of srun(1) that concern us, by their long names. All of them take a value.
_SHORT = {
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
}


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
    overlap: bool = False
    tokens: tuple[str, ...] = field(default=())

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


def _read_mem(values: dict[str, str], name: str) -> int | None:
    return parse_mem(values[name]) if name in values else None


def _read_gpus(values: dict[str, str], name: str) -> int | None:
    # `--gpus=a100:2,v100:1` leaves the name out that `--gres` wants; a bare number has no type.
    if name not in values:
        return None
    return count_gpus(parse_gres(re.sub(r"(^|,)", r"\1gpu:", values[name])))


def _read_gres(values: dict[str, str], args: str) -> int | None:
    if "--gpus-per-node" in values:
        return _read_gpus(values, "--gpus-per-node")
    if "--gres" not in values:
        return None
    return count_gpus(parse_gres(values["--gres"]))
