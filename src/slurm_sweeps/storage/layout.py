"""The one place that knows every file name of a sweep.

    local_dir/slurm-sweeps.db
    local_dir/<experiment>/train.pkl
    local_dir/<experiment>/code/
    local_dir/<experiment>/track/<tracker>-<key>.jsonl, <tracker>.log
    local_dir/<experiment>/report.html
    local_dir/<experiment>/slots/slot-<k>.log, slot-<k>.journal
    local_dir/<experiment>/jobs/job.sh, job-<id>.log
    local_dir/<experiment>/<trial id>/cfg.yml, stdout.log, stderr.log, checkpoints/

The other ranks of a trial with several tasks write `stdout.<rank>.log`, `stderr.<rank>.log` and
`slot-<k>.<rank>.journal`; processes that a trial has started, `….child<n>.journal` beside that.
Nothing here touches the disk but what finds files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError, UsageTypeError

#: Most Linux file systems hold 255 bytes in one file name (NAME_MAX).
MAX_NAME_BYTES = 255

#: Where sweeps are kept if nobody says where, and the variable that says it for all of them.
DEFAULT_DIR = "./slurm-sweeps"
DIR_VARIABLE = "SLURM_SWEEPS_DIR"


def check_name(name: str) -> str:
    """Return an experiment's name if it can be a folder's name on every file system we meet.

    Raises:
        UsageTypeError: The name is not a string.
        UsageError: It is empty, `.` or `..`, has blanks at an end, holds a slash, a NUL or another
            control character, or is longer than a file name may be.
    """
    if not isinstance(name, str):
        raise UsageTypeError(f"the experiment's name must be a string, not {name!r}")
    fault = _find_fault(name)
    if fault:
        raise UsageError(
            f"the experiment's name {name!r} {fault}; it becomes the name of a folder, "
            "so choose one like 'my sweep-2'"
        )
    return name


def _find_fault(name: str) -> str | None:
    if not name:
        return "is empty"
    if name in (".", ".."):
        return "means another folder"
    if name != name.strip():
        return "begins or ends with a blank"
    if "/" in name:
        return "holds a slash"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "holds a control character"
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "can't be written as a file name here"
    if size > MAX_NAME_BYTES:
        return f"is {size} bytes long, {MAX_NAME_BYTES} are the most"
    if name.startswith(Layout.DATABASE):  # SQLite puts its journal, -wal and -shm beside it
        return f"is kept for the database {Layout.DATABASE!r} and its side files"
    return None


#: A trial's configuration as YAML, in its folder.
CFG_NAME = "cfg.yml"


class TrialLayout(NamedTuple):
    """The files of one trial.

    Args:
        folder: The trial's folder, which is also its working directory.
    """

    folder: Path

    @property
    def cfg(self) -> Path:
        """The configuration as YAML."""
        return self.folder / CFG_NAME

    @property
    def checkpoints(self) -> Path:
        """The folder that survives attempts."""
        return self.folder / "checkpoints"

    def stdout(self, rank: int = 0) -> Path:
        """What one rank of the trial printed."""
        return self.folder / build_log_name("stdout", rank)

    def stderr(self, rank: int = 0) -> Path:
        """What one rank of the trial printed to its standard error."""
        return self.folder / build_log_name("stderr", rank)


def build_log_name(stream: str, rank: int) -> str:
    """Name what one rank of a trial printed to a stream, in the trial's folder."""
    return f"{stream}.{rank}.log" if rank else f"{stream}.log"


class Layout:
    """The files of one experiment.

    Args:
        local_dir: The folder that holds the database and the experiments' folders; `~` is not
            expanded, and a relative path stays relative. None is what `DIR_VARIABLE` says in the
            environment, else `DEFAULT_DIR`.
        name: The experiment's name, checked by `check_name`.

    Raises:
        UsageError: The name can't be a folder's name.
    """

    DATABASE = "slurm-sweeps.db"

    def __init__(self, local_dir: str | os.PathLike[str] | None, name: str) -> None:
        if local_dir is None:
            local_dir = os.environ.get(DIR_VARIABLE) or DEFAULT_DIR
        self.local_dir = Path(local_dir)
        self.name = check_name(name)
        self.database = build_database_path(self.local_dir)  # of all experiments of this folder
        self.folder = self.local_dir / self.name
        self.train = self.folder / "train.pkl"  # only workers read it
        self.code = self.folder / "code"  # the copy that the experiment is of, where it has one
        self.track = self.folder / "track"  # what was sent to trackers
        self.report = self.folder / "report.html"  # that a running sweep keeps up to date
        self.slots = self.folder / "slots"  # their logs, and their journals
        self.jobs = self.folder / "jobs"  # that the driver submits
        self.job_script = self.jobs / "job.sh"

    @property
    def without_trials(self) -> tuple[Path, ...]:
        """What the experiment's folder may hold before its first trial has begun."""
        written = (self.train, self.code)
        drafts = map(build_draft_path, written)
        return (*written, *drafts, self.report, self.track, self.slots, self.jobs)

    def job_log(self, job_id: str) -> Path:
        """What one of the driver's jobs has printed; its id may be Slurm's pattern for it."""
        return self.jobs / f"job-{job_id}.log"

    def slot_log(self, slot: int) -> Path:
        """What a slot's worker, its launcher and the site's prologues printed."""
        return self.slots / f"slot-{slot}.log"

    def slot_journal(self, slot: int) -> Path:
        """What rank 0 of a slot's trials has reported, until the database has it."""
        return self.slots / f"slot-{slot}.journal"

    def find_journals(self) -> list[Path]:
        """Find the journals of all slots, ranks and children, and what was left as one was cut."""
        return sorted(self.slots.glob("slot-*.journal*"))

    def trial(self, trial_id: str) -> TrialLayout:
        """The files of one trial."""
        return TrialLayout(self.folder / trial_id)


def build_draft_path(path: Path) -> Path:
    """Name a file while it is written, before it is renamed to `path`."""
    return path.with_name(f"{path.name}.new")


def build_rank_journal_path(path: Path, rank: int) -> Path:
    """Name the journal of a rank beside that of rank 0."""
    return path.with_suffix(f".{rank}.journal") if rank else path


def build_child_journal_path(path: Path, child: int) -> Path:
    """Name the journal of a process that a trial has started, beside that of the trial's rank."""
    return path.with_suffix(f".child{child}.journal")


def build_database_path(local_dir: str | os.PathLike[str]) -> Path:
    """Name the database of a `local_dir`."""
    return Path(local_dir) / Layout.DATABASE
