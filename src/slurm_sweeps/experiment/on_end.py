"""What the user wants to be run when a sweep is over: a message, the next job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import StorageError, UsageTypeError
from ..storage.database import Database
from ..storage.layout import DIR_VARIABLE, Layout
from ..views.summary import read_summary

#: How long it may take, in seconds: the job may be about to end.
LIMIT_S = 60.0


class OnEnd:
    """Runs a command when a sweep is over that has run; None is no command.

    Attributes:
        has_run: Whether the sweep has begun to run trials.

    Raises:
        UsageTypeError: It is no command of a shell.
    """

    def __init__(self, command: Any, layout: Layout) -> None:
        if command is not None and (not isinstance(command, str) or not command.strip()):
            raise UsageTypeError(
                f"on_end must be a command as one gives it to a shell, a string; got {command!r}"
            )
        self._command = command
        self._layout = layout
        self.has_run = False

    @contextmanager
    def run_after(self, notify: Callable[[str], object]) -> Iterator[None]:
        """Run it after a `with` block, however that ends; what goes wrong with it is only told."""
        try:
            yield
        finally:
            if self._command is not None and self.has_run:
                problem = self._run(self._command)
                if problem is not None:
                    notify(f"on_end: {self._command!r} {problem}")

    def _run(self, command: str) -> str | None:
        try:
            environment = {**os.environ, **describe_end(self._layout)}
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except (OSError, StorageError) as error:
            return f"could not be run: {error}"
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return f"took more than {LIMIT_S:.0f} s and was ended"
        finally:  # an impatient Ctrl-C ends it too
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return f"ended with code {code}" if code else None


def describe_end(layout: Layout) -> dict[str, str]:
    """Describe how a sweep ended, as variables of an environment; empty is what is not known."""
    with Database.open(layout.database, read_only=True) as database:
        summary = read_summary(database, layout, 0, time.time())
    best = summary.best
    return {
        DIR_VARIABLE: str(layout.local_dir.absolute()),
        "SLURM_SWEEPS_NAME": layout.name,
        "SLURM_SWEEPS_FOLDER": str(layout.folder.absolute()),
        "SLURM_SWEEPS_STATE": summary.state,
        "SLURM_SWEEPS_ENDED_BY": summary.ended_by or "",
        "SLURM_SWEEPS_BEST_VALUE": "" if best is None else repr(best.value),
        "SLURM_SWEEPS_BEST_TRIAL": "" if best is None else best.trial_id,
    }
