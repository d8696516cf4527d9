"""What Slurm writes: lists of nodes, counts, memory, times, and what scontrol and squeue show.

Pure, and told by the manual pages of srun, sbatch and slurm.conf; what they leave open was seen on
Slurm 22.05. Text that makes no sense is an `AllocationError` where Slurm wrote it and a
`UsageError` where the user did.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product

from ..errors import AllocationError, UsageError

_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")
_MEM = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_GRES = re.compile(
    r"(?:gres[/:])?([^:=]+)(?:[:=](?!\d[^:=]*$)([^:=]+))?(?:[:=](\d+)([KMGT]?))?", re.IGNORECASE
)
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


@dataclass(frozen=True, slots=True)
class Gres:
    """A count of one generic resource, such as `gpu:a100:4`; `type` is None where none is named."""

    name: str
    type: str | None
    count: int


def parse_nodelist(text: str) -> list[str]:
    """List the node names of a Slurm host list, in its order.

    Args:
        text: For instance `n[1-2,5],gpu-a[001-003]x` or `r[0-1]n[0-3]`; leading zeros are kept.

    Raises:
        AllocationError: A bracket is not closed, or a range is not one.

    Source: the section on `NodeName` in slurm.conf(5).
    """
    parts = re.split(r",(?![^[]*\])", text)  # at the commas outside of brackets
    try:
        return [name for part in parts if part for name in _expand(part)]
    except ValueError:
        raise AllocationError(
            f"can't read the list of nodes {text!r}: expected names such as 'n[1-2,5],gpu07', "
            f"as `scontrol show hostnames` takes them"
        ) from None


def _expand(part: str) -> list[str]:
    # Splitting by a pattern with a group gives fixed text and bracket contents in turn.
    pieces = re.split(r"\[([^][]*)\]", part)
    if any(bracket in fixed for fixed in pieces[::2] for bracket in "[]"):
        raise ValueError(part)
    choices = [
        list(_expand_ranges(piece)) if position % 2 else [piece]
        for position, piece in enumerate(pieces)
    ]
    return ["".join(combination) for combination in product(*choices)]


def _expand_ranges(ranges: str) -> Iterable[str]:
    for item in ranges.split(","):
        first, dash, last = item.partition("-")
        numbers = range(int(first), int(last if dash else first) + 1)
        if not numbers:
            raise ValueError(item)
        yield from (f"{number:0{len(first)}d}" for number in numbers)


def parse_counts(text: str) -> list[int]:
    """List one count per node from a text such as `72(x2),36` (three nodes).

    Raises:
        AllocationError: The text is no such list.

    Source: SLURM_JOB_CPUS_PER_NODE and SLURM_TASKS_PER_NODE in sbatch(1).
    """
    counts: list[int] = []
    for item in text.split(","):
        match = _COUNT.fullmatch(item)
        if match is None:
            raise AllocationError(f"can't read the counts per node {text!r}: expected '72(x2),36'")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def parse_mem(text: str) -> int:
    """Read an amount of memory as Slurm does, in MB: `16G`, `500M`, `4000` (MB); K is rounded up.

    Raises:
        UsageError: The text is not a whole number with an optional unit K, M, G or T.

    Source: `--mem` in srun(1).
    """
    match = _MEM.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"can't read the amount of memory {text!r}: write a whole number and a unit, '16G'"
        )
    return -(-int(match[1]) * _UNITS[match[2].upper() or "M"] // _UNITS["M"])


def parse_gres(text: str) -> tuple[Gres, ...]:
    """List the generic resources of a text such as `gpu:a100:3(IDX:0-2),gpu:v100:1(S:0)`.

    Understands what jobs are asked with (`gpu`, `gpu:4`, `gres/gpu:a100=4`) and what `scontrol`
    shows (`gpu:4(IDX:0,2-3)`, `(null)`).

    Raises:
        AllocationError: A count is not one.
    """
    if text in {"", "(null)", "none", "N/A"}:
        return ()
    bare = re.sub(r"\(.*?\)", "", text)
    return tuple(_parse_one_gres(part, text) for part in bare.split(",") if part)


def _parse_one_gres(part: str, text: str) -> Gres:
    match = _GRES.fullmatch(part)
    if match is None:
        raise AllocationError(f"can't read the generic resources {text!r}: expected 'gpu:a100:4'")
    name, gres_type, count, unit = match.groups(default="")
    return Gres(name, gres_type or None, int(count or 1) * _UNITS[unit.upper()])


def count_gpus(gres: Iterable[Gres]) -> int:
    """Add up the GPUs of all types."""
    return sum(item.count for item in gres if item.name == "gpu")


def parse_time_left(text: str) -> float | None:
    """Read what `squeue -o %L` prints, `[[days-]hours:]minutes:seconds`, as seconds.

    None where there is no limit (UNLIMITED, NOT_SET) or the text says something else.
    """
    match = _TIME.match(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def parse_job_left(text: str) -> float | None:
    """Read in `scontrol show job` how many seconds a job has left; None: any number, or unknown."""
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    run_s, limit_s = (parse_time_left(fields.get(name, "")) for name in ("RunTime", "TimeLimit"))
    return None if run_s is None or limit_s is None else max(0.0, limit_s - run_s)


def parse_kill_wait(text: str) -> float | None:
    """Find KillWait in what `scontrol show config` prints, as seconds."""
    match = re.search(r"^KillWait\s*=\s*(\d+)", text, re.MULTILINE)
    return float(match[1]) if match else None


def parse_step_limits(text: str) -> tuple[int | None, int | None]:
    """Find in what `scontrol show config` prints how many steps a job may have in all, and how many
    ports there are for sruns on a node; None where that is not limited, or not told.
    """
    steps = re.search(r"^MaxStepCount\s*=\s*(\d+)", text, re.MULTILINE)
    ports = re.search(r"^SrunPortRange\s*=\s*(\d+)-(\d+)", text, re.MULTILINE)
    first, last = (int(ports[1]), int(ports[2])) if ports else (0, 0)
    return int(steps[1]) if steps else None, last - first + 1 if first else None


class Fate(Enum):
    """What Slurm has in mind with a job whose processes it tells to end."""

    UNKNOWN = "unknown"  # it runs on as far as can be told, or met its time limit, or was preempted
    CANCELLED = "cancelled"  # somebody does not want it any more
    REQUEUED = "requeued"  # Slurm has queued it again already


def parse_fate(text: str, restarts: int) -> Fate:
    """Tell from `scontrol show job` what will become of a job that is being ended.

    While a job's processes are being ended, Slurm says COMPLETING whatever the cause (22.05). If it
    has queued the job again by itself, the count of restarts has risen. What is none of that, nor
    preemption, nor the time limit, is somebody's `scancel`. `restarts` is how often the job had
    been restarted when it began.
    """
    fields = dict(re.findall(r"(\w+)=(\S*)", text))
    if int(fields.get("Restarts") or 0) > restarts:
        return Fate.REQUEUED
    if fields.get("JobState") not in ("CANCELLED", "COMPLETING"):
        return Fate.UNKNOWN
    is_over_limit = parse_job_left(text) == 0.0
    is_preempted = fields.get("PreemptTime", "None") not in ("None", "N/A", "Unknown")
    return Fate.UNKNOWN if is_over_limit or is_preempted else Fate.CANCELLED


@dataclass(frozen=True, slots=True)
class JobSight:
    """What Slurm says of a job."""

    state: str  # such as "RUNNING"
    left_s: float | None  # until its time limit; None for no limit

    @property
    def is_there(self) -> bool:
        """Whether it has its nodes."""
        return self.state in ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING")


#: How squeue is asked for jobs, and what `parse_jobs` reads.
JOBS_FORMAT = "--format=%A %T %L"


def parse_jobs(text: str) -> dict[str, JobSight]:
    """Read what squeue prints in `JOBS_FORMAT`: by the job's id."""
    lines = re.findall(r"^(\d+) (\w+) (\S+)", text, re.MULTILINE)
    return {job: JobSight(state, parse_time_left(left)) for job, state, left in lines}


def parse_steps(text: str) -> list[tuple[str, str]]:
    """Read `squeue --steps --format="%i %j"`: (job as shown, step's id) of the steps of slots."""
    return re.findall(r"^(\d+(?:_\d+)?)\.(\d+) slot-\d+$", text, re.MULTILINE)


def parse_job_nodes(text: str) -> dict[str, tuple[int | None, tuple[Gres, ...]]]:
    """Read the per-node lines of `scontrol show job -d`: name to memory in MB and GRES."""
    found: dict[str, tuple[int | None, tuple[Gres, ...]]] = {}
    lines = re.findall(r"^\s+Nodes=(\S+) CPU_IDs=\S* Mem=(\d+) GRES=(\S*)", text, re.MULTILINE)
    for names, mem, gres in lines:
        found |= dict.fromkeys(parse_nodelist(names), (int(mem) or None, parse_gres(gres)))
    return found


def parse_waiting_steps(text: str) -> frozenset[int]:
    """Read `scontrol --oneliner show step`: the process ids of sruns whose steps find no room."""
    waiting = re.findall(r"State=PENDING .*SrunHost:Pid=\S*:(\d+)", text)
    return frozenset(map(int, waiting))


def parse_threads_per_core(text: str) -> dict[str, int]:
    """Read `scontrol --oneliner show node`: name to threads, one where the site counts cores."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        fields: dict[str, str] = dict(re.findall(r"(?:^|\s)(\w+)=(\S+)", line))
        if "NodeName" in fields:
            threads = int(fields.get("ThreadsPerCore", 1))
            cores = int(fields.get("Sockets", 0)) * int(fields.get("CoresPerSocket", 0))
            if cores and "CPUTot" in fields:
                threads = max(1, min(threads, int(fields["CPUTot"]) // cores))
            found[fields["NodeName"]] = threads
    return found


@dataclass(frozen=True, slots=True)
class Grammar:
    """What is known of a command's options, to read those that a user hands through as one text.

    An unknown option passes, for the command knows; a word that is none, nor the value of one,
    would be taken for the program to run.
    """

    command: str
    runs: str  # what it is to run, in words
    example: str  # options as one may well say them
    short: Mapping[str, str]  # the long names of those that concern us; all of them take a value
    alone: frozenset[str]  # those without a value, or one behind `=`: no word belongs to them
    refused: Mapping[str, str]  # those that can't be handed through, with the remedy

    def split(self, args: str, where: str) -> list[str]:
        """Split a text as a shell splits; `where` is how the user wrote it.

        Raises:
            UsageError: Its quotes are not closed.
        """
        try:
            return shlex.split(args)
        except ValueError as error:
            raise UsageError(
                f"{where} can't be split as a shell splits: {error}; "
                f"close the quotes or write \\' for a lone one"
            ) from error

    def collect(self, tokens: Sequence[str], where: str) -> dict[str, str]:
        """Give the value of each option by its long name; the last of two equal ones counts.

        Raises:
            UsageError: One can't be handed through, or a word is no option.
        """
        values: dict[str, str] = {}
        takes_word = False
        for token, following in zip(tokens, [*tokens, ""][1:], strict=True):
            is_option = token.startswith("-") and token not in ("-", "--")
            if not (is_option or takes_word):
                raise UsageError(
                    f"{where} holds {token!r}, which is no option of {self.command}, nor the "
                    f"value of one: {self.command} would run it instead of {self.runs}. args holds "
                    f"options only, such as {self.example!r}"
                )
            if not is_option:
                takes_word = False
                continue
            name, value = self._split_option(token)
            takes_word = value is None and name not in self.alone
            if name in self.refused:
                raise UsageError(f"{where} holds {token!r}: {self.refused[name]}")
            values[name] = following if value is None else value
        return values

    def _split_option(self, token: str) -> tuple[str, str | None]:
        """Give an option's long name and the value in the same word, None where there is none."""
        if token.startswith("--"):
            name, equals, value = token.partition("=")
            return name, value if equals else None
        if token[:2] in self.short:
            return self.short[token[:2]], token[2:].removeprefix("=") or None
        return token, None
