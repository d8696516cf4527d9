"""The exceptions, told apart by whose fault they are.

Everything the library raises on purpose is a `SlurmSweepsError`, except the two that steer a
running trial: `TrialPruned` and `TrialInterrupted` are control flow, not errors, and stand apart.
Where a mistake also fits a built-in exception (`ValueError`, `TypeError`), the class is both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Returned = TypeVar("_Returned")


#: The type of the error of a trial that ran out of memory, the machine's or a GPU's.
OUT_OF_MEMORY = "OutOfMemory"

#: What to do with trials that would go on from where there is nothing left to report.
BEGIN_ANEW = "begin anew with 'slurm-sweeps rm NAME', or under another name"

#: In a program's error, what stands before its own last words, which its trial's logs have too.
SAID_LAST = "; it said last:\n"


class SlurmSweepsError(Exception):
    """The root of all errors that slurm_sweeps raises on purpose."""


def say_count(number: int, one: str, many: str | None = None) -> str:
    """Say how many there are of something: "1 trial", "3 trials"; `many` where an s won't do."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def raises_short(
    function: Callable[_Arguments, _Returned],
) -> Callable[_Arguments, _Returned]:
    """Let our errors leave a public function without the frames below it, which say users nothing.

    What else is raised, a bug of ours perhaps, keeps its whole traceback.
    """

    @functools.wraps(function)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Returned:
        try:
            return function(*args, **kwargs)
        except SlurmSweepsError as error:
            raise error.with_traceback(None) from None

    return call


class UsageError(SlurmSweepsError, ValueError):
    """The caller passed a value that makes no sense; the message names it and the remedy."""


class UsageTypeError(SlurmSweepsError, TypeError):
    """The caller passed a value of a wrong type; the message names it and the remedy."""


class ExperimentExistsError(UsageError):
    """An experiment of this name is stored already and neither restore nor overwrite was asked."""


class ExperimentNotFoundError(UsageError):
    """No experiment of this name is stored in this local_dir."""


class AllocationError(SlurmSweepsError):
    """The Slurm allocation, or this machine, can't hold what a trial asks for."""


class LaunchError(SlurmSweepsError):
    """A worker, or the step around it, could not be started."""


class TrainError(SlurmSweepsError):
    """The train function can't be carried to a worker, or fails there before any trial begins."""


class ProgramError(SlurmSweepsError):
    """A program that is run as a trial could not be started, failed, or told no metric.

    Attributes:
        exit_code: Its own, or 128 and the number of the signal that killed it; 1 if it has none.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class SweepFailedError(SlurmSweepsError):
    """The sweep stopped as going on makes no sense: all first trials failed, or no slot is left."""


class StorageError(SlurmSweepsError):
    """The database or the experiment's folder can't be read or written."""


class ExperimentLockedError(StorageError):
    """Another driver is at work on this experiment."""


class TrialPruned(Exception):  # noqa: N818 - control flow, not an error
    """Raised by `log` in a trial that the pruner has stopped. Let it pass."""


class TrialInterrupted(Exception):  # noqa: N818 - control flow, not an error
    """Raised by `log` in a trial whose driver was told to stop. Let it pass; it is run again."""


class SweepStopped(SystemExit):
    """The driver was told to stop and has done so; all is kept, `restore` goes on from here.

    A script that lets it pass ends with its `code`: 130 after Ctrl-C, else 75; 0 in a job that has
    only lent its nodes (`join=True`) until the sweep was done.
    """
