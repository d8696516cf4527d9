"""LiveView: what a person sees while a sweep runs, from a thread of its own or from `watch`.

It reads the database and never asks the driver. Reading is rare and short; in between, where the
screen is redrawn in place, only the clocks go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ..errors import StorageError
from ..storage.database import Database
from ..storage.layout import Layout
from .reporter import Reporter
from .screens import Screen, choose_screen
from .summary import Summary, read_summary

#: How often an animated screen is redrawn, in seconds.
REDRAW_S = 0.5

#: A read takes no more than this part of the time, however small the interval is.
READ_SHARE = 0.02

#: How long one read waits for the writer; else the next round tries again.
TIMEOUT_S = 1.0


class LiveView:
    """Shows a running sweep while entered.

    Args:
        database: The database file.
        name: The experiment.
        interval_s: Seconds between two summaries; an animated screen is brought up to date more
            often where reading is cheap.
        rows: Rows of the table of trials.
        columns: True for all cfg and metric columns that fit, False for none, or the names of some.
        stream: Where to write; None for standard output, or the cell of a notebook.
        report: A file to keep an HTML report in, None for no report.

    Raises:
        UsageError: A report is asked for, and plotly is not installed.
    """

    def __init__(
        self,
        database: Path,
        name: str,
        *,
        interval_s: float = 5.0,
        rows: int = 10,
        columns: bool | Sequence[str] = True,
        stream: TextIO | None = None,
        report: Path | None = None,
    ) -> None:
        self._layout = Layout(database.parent, name)
        self._interval_s = interval_s
        self._rows = rows
        self._screen: Screen = choose_screen(stream, columns)
        self._reporter = None if report is None else Reporter(self._layout, report)
        self._summary: Summary | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="slurm-sweeps-view", daemon=True)

    def notify(self, text: str) -> None:
        """Show a message, from any thread."""
        with self._lock:
            self._screen.notify(text)

    def __enter__(self) -> LiveView:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.refresh()
        with self._lock:
            self._screen.close()
        if self._reporter is not None:
            was_stopped = self._summary is not None and self._summary.state == "stopped"
            problem = self._reporter.finish(in_a_hurry=was_stopped)
            if problem is not None:
                self.notify(problem)

    def refresh(self) -> Summary | None:
        """Read and show; None while the database can't be read."""
        now = time.time()
        try:
            with Database.open(self._layout.database, read_only=True, timeout_s=TIMEOUT_S) as store:
                self._summary = read_summary(store, self._layout, self._rows, now)
        except StorageError:  # locked for a moment; what is wrong for good the driver says
            return None
        self._show(self._summary, now)
        return self._summary

    def _show(self, summary: Summary, now: float) -> None:
        with self._lock:
            self._screen.show(summary, now)

    def _run(self) -> None:
        due = time.monotonic() + min(REDRAW_S, self._interval_s)
        while not self._stop.wait(max(0.01, min(REDRAW_S, due - time.monotonic()))):
            if time.monotonic() >= due:
                began = time.monotonic()
                self.refresh()
                due = began + self._choose_pause_s(time.monotonic() - began)
            elif self._summary is not None and self._screen.is_animated:
                self._show(self._summary, time.time())
            if self._reporter is not None:
                self._reporter.keep_up(time.monotonic())

    def _choose_pause_s(self, took_s: float) -> float:
        """How long to leave the database alone after a read that took so long."""
        rest_s = took_s / READ_SHARE
        if self._screen.is_animated:
            return max(rest_s, min(self._interval_s, REDRAW_S))
        return max(rest_s, self._interval_s)

    def watch(self) -> Summary:
        """Show the sweep from the calling thread until it is over; return its last summary.

        Raises:
            ExperimentNotFoundError: There is no such experiment.
            StorageError: The database can't be read at all.
        """
        with Database.open(self._layout.database, read_only=True) as store:
            store.experiment(self._layout.name)
        try:
            while True:
                began = time.monotonic()
                summary = self.refresh()
                if summary is not None and (summary.is_over or summary.silent_s is not None):
                    return summary
                self._stop.wait(max(0.1, self._choose_pause_s(time.monotonic() - began)))
        finally:
            self._screen.close()
