"""Jobs that the driver submits by itself: what the user says of them, their script, how many. Pure.

Each of them lends its nodes to the sweep and does nothing else. Slurm keeps them apart from all
others by their name, which a driver that takes over knows too: what waits and runs is asked of
Slurm, and kept nowhere else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..checks import check_integer, set_fields
from ..errors import AllocationError, UsageTypeError
from .step import is_outage
from .text import Grammar, count_gpus, parse_gres

#: So much of an experiment's name is in the name of its jobs; `squeue` shows less.
_NAME_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Jobs:
    """Have the driver submit jobs of its own, as many as there is work for.

    All trials run in these jobs, and none beside the driver, which needs little: it may run on a
    login node, in a small CPU job or in a notebook. Jobs that end are replaced, and those that
    nobody needs any more are cancelled; when the sweep ends, all are.

    Args:
        most: How many jobs there are at most, waiting and running; 1 or more.
        args: What one job asks for: options of sbatch, split as a shell splits, such as
            `"-p gpu --gres=gpu:1 -c 8 --mem=32G -t 2:00:00"`.
        setup: Lines of bash that make the environment of the trials (`"module load cuda"`,
            `"export DATA=/scratch"`), run in the folder from which the sweep was started. Trials
            run the driver's Python whatever they say.

    Raises:
        UsageError: A value makes no sense; the message names it and the remedy.
        UsageTypeError: A value is of a wrong type.
    """

    most: int
    args: str = ""
    setup: Sequence[str] = ()

    def __post_init__(self) -> None:
        set_fields(self, most=check_integer("Jobs", "most", self.most, 1))
        if not isinstance(self.args, str):
            raise UsageTypeError(
                f"Jobs(args={self.args!r}): give one text of options, '-p gpu --gres=gpu:1 -t 60'"
            )
        self._parse_args()
        if isinstance(self.setup, str) or not all(isinstance(line, str) for line in self.setup):
            raise UsageTypeError(
                f"Jobs(setup={self.setup!r}): give a list of lines, ['module load cuda']"
            )
        set_fields(self, setup=tuple(self.setup))

    @property
    def options(self) -> list[str]:
        """The options as sbatch gets them."""
        return _SBATCH.split(self.args, f"Jobs(args={self.args!r})")

    def _parse_args(self) -> Mapping[str, str]:
        return _SBATCH.collect(self.options, f"Jobs(args={self.args!r})")

    def guess_slots(self, ntasks: int) -> int:
        """Tell how many trials of so many tasks one job holds, before the first job has come.

        Less than that is no harm: jobs that turn out to be too many are cancelled.
        """
        said = self._parse_args()
        nodes = _read_number(said.get("--nodes"))
        per_node = _read_number(said.get("--ntasks-per-node"))
        tasks = _read_number(said.get("--ntasks"), nodes * per_node)
        if tasks <= nodes:
            tasks = max(tasks, nodes * _count_gpus(said))
        return max(1, tasks // ntasks)


def _read_number(text: str | None, default: int = 1) -> int:
    found = re.match(r"\d+", text or "")  # `--nodes=2-4` has two at least
    return max(1, int(found[0])) if found else default


def _count_gpus(said: Mapping[str, str]) -> int:
    gres = said.get("--gres", "gpu:" + said.get("--gpus-per-node", "0"))
    try:
        return count_gpus(parse_gres(gres))
    except AllocationError:  # sbatch says what it makes of it
        return 0


_OURS = "the experiment's folder keeps what jobs print: leave it out"
_FOUND = "the sweep finds its jobs by the name that it gives them: leave it out"

#: What would keep the driver from its jobs, with the remedy.
_REFUSED = {
    **dict.fromkeys(["--output", "--error", "--input"], _OURS),
    **dict.fromkeys(["--job-name"], _FOUND),
    **dict.fromkeys(["--array"], "each job is submitted by itself: say how many with most=…"),
    **dict.fromkeys(["--wrap"], "the sweep writes the jobs' script: use setup=[…]"),
    **dict.fromkeys(["--wait", "-W"], "the driver must not wait for its jobs: leave it out"),
    **dict.fromkeys(["--test-only"], "it submits nothing: leave it out"),
    **dict.fromkeys(["--clusters"], "srun can't enter jobs of another cluster: leave it out"),
}

#: Short options of sbatch(1) that concern us, by their long names. All of them take a value.
_SHORT = {
    "-a": "--array",
    "-e": "--error",
    "-i": "--input",
    "-J": "--job-name",
    "-M": "--clusters",
    "-n": "--ntasks",
    "-N": "--nodes",
    "-o": "--output",
}

#: Options of sbatch(1) to which no word behind them belongs.
_ALONE = frozenset(
    [
        *("--contiguous", "--exclusive", "--get-user-env", "--hold", "--ignore-pbs", "--no-kill"),
        *("--no-requeue", "--nice", "--overcommit", "--oversubscribe", "--parsable", "--propagate"),
        *("--quiet", "--reboot", "--requeue", "--spread-job", "--use-min-nodes", "--verbose"),
        *("-H", "-k", "-O", "-Q", "-s", "-v"),
    ]
)

_SBATCH = Grammar("sbatch", "the jobs", "-p gpu --gres=gpu:1 -t 60", _SHORT, _ALONE, _REFUSED)


def build_job_name(experiment: str, folder: str) -> str:
    """Name an experiment's jobs, as no other's are; `folder` is the experiment's, absolute."""
    import hashlib  # not in a job that lends, which loads this module: it loads OpenSSL

    readable = re.sub(r"[^\w.-]", "_", experiment, flags=re.ASCII)[:_NAME_CHARACTERS]
    return f"{readable}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def build_sbatch_argv(jobs: Jobs, name: str, log: str, script: str) -> list[str]:
    """Build the command that submits one job.

    `log` is the file for what it prints, with `%j` for its id and each other % twice.
    """
    return [
        *("sbatch", "--parsable", f"--job-name={name}", f"--output={log}"),
        *("--open-mode=append", *jobs.options, script),
    ]


def format_job_script(
    experiment: str, setup: Sequence[str], submit: Sequence[str], folder: str, join: Sequence[str]
) -> str:
    """Write the script of the jobs, for Slurm and for people.

    Args:
        submit: The command that submits it.
        folder: Where to be when `join` starts: Python looks for modules there.
        join: The command that lends the job's nodes.
    """
    lines = [
        "#!/bin/bash",
        f"# The driver of {experiment!r} submits this, as often as there is work for, by",
        f"#   {shlex.join(submit)}",
        "# It lends the job's nodes to the sweep; trials are started there by the driver.",
        *setup,
        f"cd {shlex.quote(folder)} || exit 1",
        f"exec {shlex.join(join)}",
    ]
    return "\n".join(lines) + "\n"


def wrap_in_setup(setup: Sequence[str], command: Sequence[str]) -> list[str]:
    """Build the command that runs another one after lines of bash; its input is not for these."""
    if not setup:
        return list(command)
    lines = "\n".join(setup)
    return ["bash", "-c", f'{{\n{lines}\n}} < /dev/null\nexec "$@"', "bash", *command]


def parse_job_id(text: str) -> str | None:
    """Read what `sbatch --parsable` prints: the job's id, and behind `;` a cluster's name."""
    found = re.search(r"^(\d+)(;|$)", text.strip(), re.MULTILINE)
    return found[1] if found else None


def parse_submission_refusal(stderr: str) -> str | None:
    """Give sbatch's own words on why it has submitted nothing, None if it says nothing."""
    said = re.findall(r"^sbatch: (?:error: |fatal: )?(.+)$", stderr, re.MULTILINE)
    return "; ".join(dict.fromkeys(line.strip() for line in said)) or None


#: What sbatch says of limits and of partitions that are closed for now (slurm_errno.c, 22.05).
_MAY_PASS = re.compile(
    r"policy|limit|temporarily|maximum|not available \(|try again|currently|no longer accepting",
    re.IGNORECASE,
)


def may_be_accepted_later(refusal: str) -> bool:
    """Tell whether sbatch may accept later what it has refused with these words."""
    return is_outage(refusal) or _MAY_PASS.search(refusal) is not None


#: Slurm's reasons that pass only when jobs ask for something else, or the cluster is changed.
_LASTING = ("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit")


@dataclass(frozen=True, slots=True)
class JobQueue:
    """The jobs of a sweep that Slurm knows, by id; reasons are in Slurm's word."""

    waiting: tuple[str, ...] = ()  # those that have not begun, oldest first
    running: tuple[str, ...] = ()  # those that have, and have not ended
    reason: str = ""  # why the oldest one waits
    failed: Mapping[str, str] = field(default_factory=dict)  # within the last minutes, and why

    @property
    def ids(self) -> set[str]:
        """All that have not ended."""
        return {*self.waiting, *self.running}

    @property
    def may_never_begin(self) -> bool:
        """Whether the oldest one waits for what waiting doesn't bring."""
        return self.reason in _LASTING


#: How jobs are asked for, and what `parse_job_queue` reads. Slurm knows those that have ended for
#: some minutes (MinJobAge).
QUEUE_OPTIONS = ("--states=all", "--format=%i %T %r")

_RUNNING = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
_FAILED = {"FAILED", "BOOT_FAIL", "NODE_FAIL", "OUT_OF_MEMORY", "LAUNCH_FAILED"}
_OVER = {"COMPLETING", "COMPLETED", "CANCELLED", "TIMEOUT", "PREEMPTED", "DEADLINE", "REVOKED"}


def parse_job_queue(text: str) -> JobQueue:
    """Read what squeue prints with `QUEUE_OPTIONS`; jobs that are ending are left out."""
    jobs = sorted(
        re.findall(r"^(\d+) (\w+) ?(.*)$", text, re.MULTILINE), key=lambda job: int(job[0])
    )
    known = _RUNNING | _OVER | _FAILED
    waiting = {job: reason for job, state, reason in jobs if state not in known}
    running = tuple(job for job, state, _ in jobs if state in _RUNNING)
    failed = {job: reason for job, state, reason in jobs if state in _FAILED}
    return JobQueue(tuple(waiting), running, next(iter(waiting.values()), ""), failed)


@dataclass(frozen=True, slots=True)
class Hiring:
    """What to do about the jobs: submit so many, and cancel these."""

    submit: int = 0
    cancel: tuple[str, ...] = ()


def plan_hiring(queue: JobQueue, work: int, slots_per_job: int, most: int) -> Hiring:
    """Say what to do for as many jobs as there is work for, and no more.

    Args:
        work: Trials that run, or could be started now.
        slots_per_job: How many of them one job holds.

    Returns:
        Jobs that run are never cancelled: they go by themselves when there is nothing for them. Of
        those that wait the youngest go first, which have waited in vain for the shortest time.
    """
    wanted = min(most, -(-work // slots_per_job))
    lacking = wanted - len(queue.running) - len(queue.waiting)
    return Hiring(max(0, lacking), queue.waiting[max(0, len(queue.waiting) + lacking) :])
