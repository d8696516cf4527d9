"""Reporter: keeps the HTML report of a running sweep up to date, from a process of its own.

Making a report takes seconds of computing; in the driver's own process it would delay the answers
to trials. So it is a child process, `slurm-sweeps report`, at most one at a time.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from ..running.processes import build_argv
from ..storage.layout import Layout
from .report import check_installed

#: Between the end of one report and the begin of the next, in seconds.
PAUSE_S = 60.0

#: The first one comes sooner, so that people see where it is.
FIRST_S = 5.0

#: How long the last one may take, in seconds.
LAST_S = 120.0


class Reporter:
    """Writes the report of an experiment into a file, see the module's docstring.

    Raises:
        UsageError: What a report is made with is not installed.
    """

    def __init__(self, layout: Layout, path: Path) -> None:
        check_installed()
        folder, code = layout.local_dir.absolute(), "from slurm_sweeps.cli import main; main()"
        arguments = ("--local-dir", str(folder), "--output", str(path.absolute()))
        self._argv = build_argv(code, "report", *arguments, "--", layout.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._due: float | None = None

    def keep_up(self, now: float) -> None:
        """Begin a report if one is due; `now` is in seconds of any clock."""
        if self._due is None:
            self._due = now + FIRST_S
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._process.communicate()
            self._process, self._due = None, now + PAUSE_S
        if now >= self._due:
            self._process = self._start()

    def finish(self, in_a_hurry: bool) -> str | None:
        """Write the report of the end; return why that failed, None if it did not.

        Who is in a hurry does not wait for it: the job may be killed any moment.
        """
        if self._process is not None:
            self._end(self._process)
        if in_a_hurry:
            # Left to itself; nobody is to warn that it isn't waited for.
            self._start(subprocess.DEVNULL).returncode = 0
            return None
        process = self._start()
        try:
            _, said = process.communicate(timeout=LAST_S)
        except subprocess.TimeoutExpired:
            self._end(process)
            return f"the report took more than {LAST_S:.0f} s and was given up"
        if process.returncode == 0:
            return None
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        return f"the report could not be written: {''.join(last) or process.returncode}"

    def _start(self, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for the driver, which ends this in its own time
        )

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        """End a report that is under way; by Ctrl-C, so that it removes its half-written file."""
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
