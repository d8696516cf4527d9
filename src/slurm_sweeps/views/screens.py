"""What a person sees while a sweep runs, in a terminal, a notebook's cell, or a file.

`LiveView` reads the database, from a thread of its own or from `watch`, and never asks the driver.
Reading is rare and short; in between, where the screen is redrawn in place, only the clocks go on.

Nobody waits for a terminal that is held up, or a pipe that nobody reads: what is shown of a running
sweep is shown by a thread of its own, and given up in the end. The screens take whole summaries and
messages, from one thread at a time. None of them lets an error
of its stream out: a sweep goes on when the terminal it was begun in is gone, or the notebook.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ..errors import ExperimentNotFoundError, SlurmSweepsError, StorageError
from ..running.background import Background
from ..storage.database import Database
from ..storage.faults import EmptyDatabaseError
from ..storage.layout import Layout
from ..storage.records import BY_A_PERSON
from .formats import clean_lines, wrap_words
from .summary import Summary, format_state, read_summary

if TYPE_CHECKING:
    from rich.live import Live

    from .reporter import Reporter

#: How often an animated screen is redrawn, in seconds.
REDRAW_S = 0.5

#: A read takes no more than this part of the time, however small the interval is.
READ_SHARE = 0.02

#: How long one read waits for the writer; else the next round tries again.
TIMEOUT_S = 1.0

#: What waits for a terminal in the end has so long while nothing is shown, in seconds.
TERMINAL_S = 5.0

#: The width of a table in a notebook, in characters: what a page of 1000 pixels shows of a cell.
NOTEBOOK_WIDTH = 100

#: Lines of a terminal that are no rows: head, bar, counts, best, titles, failure, a hint of two, …
_OTHER_LINES = 15

#: Rows where nothing else is said and there is no terminal to be filled.
_ROWS = 10

#: The most characters of a line in a file.
_PLAIN_WIDTH = 100

#: What `watch` says while no driver is at work.
_WAITING = "waiting for a driver to begin (Ctrl-C ends this, --no-wait does not wait)"

_STREAM_ERRORS = (OSError, ValueError)  # a ValueError is a closed file


class Screen(Protocol):
    """Shows summaries, with columns as `fit_columns` takes them."""

    #: Whether what it shows is redrawn in place, so that clocks may tick.
    is_animated: bool

    @property
    def room(self) -> int:
        """How many rows of trials it has room for."""
        ...

    def show(self, summary: Summary, now: float) -> None:
        """Show the summary of now."""

    def notify(self, text: str) -> None:
        """Show a message, which stays."""

    def close(self) -> None:
        """Leave what was shown last, readable."""


class PlainScreen:
    """Lines without escape codes; a summary that tells nothing new is left out."""

    is_animated = False
    room = _ROWS

    def __init__(self, stream: TextIO, columns: bool | Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns
        self._shown: Summary | None = None

    def show(self, summary: Summary, now: float) -> None:
        from .table import format_summary

        bare = _without_clocks(summary)
        if bare == self._shown:
            return
        self._shown = bare
        self._write("\n".join(format_summary(summary, self._columns, _PLAIN_WIDTH, now)))

    def notify(self, text: str) -> None:
        self._write(clean_lines(text))

    def close(self) -> None:
        """Do nothing: all is written."""

    def _write(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        with contextlib.suppress(*_STREAM_ERRORS):
            self._stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            self._stream.flush()


def _without_clocks(summary: Summary) -> Summary:
    """The summary without what only the passing of time has changed."""
    rows = [replace(row, runtime_s=None) for row in summary.rows]
    return replace(summary, rows=rows, silent_s=None if summary.silent_s is None else 0.0)


class TerminalScreen:
    """One table, redrawn in place; messages and other output scroll above it."""

    is_animated = True

    def __init__(self, stream: TextIO, columns: bool | Sequence[str]) -> None:
        from rich.console import Console

        self._columns = columns
        self._console = Console(file=stream, highlight=False, force_jupyter=False)
        self._live: Live | None = None

    @property
    def room(self) -> int:
        return max(0, self._console.size.height - _OTHER_LINES)

    def show(self, summary: Summary, now: float) -> None:
        """Redraw the table, with as many rows as the terminal has room for."""
        from rich.live import Live

        from .table import draw_summary

        fitting, width = replace(summary, rows=summary.rows[: self.room]), self._console.size.width
        drawn = draw_summary(fitting, self._columns, width, now)
        with contextlib.suppress(*_STREAM_ERRORS):
            if self._live is None:
                self._live = Live(drawn, console=self._console, auto_refresh=False)
                self._live.start(refresh=True)
            else:
                self._live.update(drawn, refresh=True)

    def notify(self, text: str) -> None:
        with contextlib.suppress(*_STREAM_ERRORS):
            lines = wrap_words(clean_lines(text), self._console.size.width)
            self._console.print(lines, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the table where it is, with the cursor below it."""
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(*_STREAM_ERRORS):
                live.stop()


class NotebookScreen:
    """One table in the output of the cell, updated in place by IPython's `display`."""

    is_animated = True
    room = _ROWS

    def __init__(self, display: Any, columns: bool | Sequence[str]) -> None:
        self._display = display
        self._columns = columns
        self._handle: Any = None

    def show(self, summary: Summary, now: float) -> None:
        from .table import format_summary

        lines = format_summary(summary, self._columns, NOTEBOOK_WIDTH, now)
        bundle = {
            "text/html": draw_html(summary, self._columns, now),
            "text/plain": "\n".join(lines),
        }
        with contextlib.suppress(Exception):  # a kernel's connection has errors of many kinds
            if self._handle is None:
                self._handle = self._display(bundle, raw=True, display_id=True)
            else:
                self._handle.update(bundle, raw=True)

    def notify(self, text: str) -> None:
        with contextlib.suppress(Exception):  # as above
            print(clean_lines(text))

    def close(self) -> None:
        """Do nothing: the table stays."""


def draw_html(summary: Summary, columns: bool | Sequence[str], now: float) -> str:
    """Draw a summary for a notebook."""
    from rich.console import Console

    from .table import draw_summary

    console = Console(  # without the last, it would display each drawing by itself
        file=io.StringIO(), record=True, width=NOTEBOOK_WIDTH, highlight=False, force_jupyter=False
    )
    console.print(draw_summary(summary, columns, NOTEBOOK_WIDTH, now))
    style = "font-family:monospace;line-height:1.35;overflow-x:auto;white-space:pre"
    return console.export_html(
        inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'
    )


def choose_screen(stream: TextIO | None, columns: bool | Sequence[str]) -> Screen:
    """Choose how to show something; None is standard output, or nowhere if that is closed."""
    display = _find_display() if stream is None else None
    if display is not None:
        return NotebookScreen(display, columns)
    stream = stream or _open_stdout() or Path(os.devnull).open("w")  # noqa: SIM115 - used to the end
    if stream.isatty() and os.environ.get("TERM") not in ("dumb", ""):
        return TerminalScreen(stream, columns)
    return PlainScreen(stream, columns)


def _open_stdout() -> TextIO | None:
    """Open standard output once more, unless the user has put something else there.

    Who is held up in `sys.stdout` holds its lock, and Python aborts when it can't flush it in the
    end.
    """
    stdout: TextIO | None = sys.stdout
    with contextlib.suppress(*_STREAM_ERRORS):
        if stdout is not None and sys.stdout is sys.__stdout__:
            stdout.flush()  # what was printed before comes before
            encoding = stdout.encoding
            return open(stdout.fileno(), "w", encoding=encoding, errors="replace", closefd=False)
    return stdout


def is_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    return _find_display() is not None


def let_be_seen(figure: Any) -> Any:
    """Let whatever shows this notebook, or an export of it, show a plotly figure.

    By default it gets plotly's JSON alone, which JupyterLab draws only where plotly is installed
    beside it, and none without nbformat. So HTML goes along, which loads plotly's script from the
    net. Who has chosen a renderer gets what that makes.
    """
    from plotly.io import renderers

    if is_notebook() and renderers.default in ("plotly_mimetype", "vscode"):
        figure._ipython_display_ = None  # what asks for nbformat; IPython takes the next one
        figure._repr_mimebundle_ = lambda **_: {
            **type(figure)._repr_mimebundle_(figure),
            "text/html": figure.to_html(full_html=False, include_plotlyjs="cdn"),
            "text/plain": "a picture: open the notebook in Jupyter or VS Code to see it",
        }
    return figure


def _find_display() -> Any:
    """IPython's `display` where this process is a notebook's kernel, else None."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return None
    from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore] # optional
    from IPython.display import display  # type: ignore[import-not-found,unused-ignore] # as above

    shell = get_ipython()
    return display if shell is not None and hasattr(shell, "kernel") else None


class LiveView:
    """Shows a running sweep while entered.

    Args:
        interval_s: Seconds between two summaries; an animated screen is brought up to date more
            often where reading is cheap.
        rows: Rows of the table of trials; None for as many as a terminal has room for, else 10.
        columns: True for all cfg and metric columns that fit, False for none, or the names of some.
        stream: Where to write; None for standard output, or the cell of a notebook.
        report: A file to keep an HTML report in.
        say: Rewords the messages.

    Raises:
        UsageError: A report is asked for, and what it is made with is not installed.
    """

    def __init__(
        self,
        database: Path,
        name: str,
        *,
        interval_s: float = 5.0,
        rows: int | None = None,
        columns: bool | Sequence[str] = True,
        stream: TextIO | None = None,
        report: Path | None = None,
        say: Callable[[str], str] = str,
    ) -> None:
        self._say = say
        self._layout = Layout(database.parent, name)
        self._interval_s = interval_s
        self._rows = rows
        self._screen: Screen = choose_screen(stream, columns)
        self._reporter: Reporter | None = None
        if report is not None:
            from .reporter import Reporter  # loads what only a report needs

            self._reporter = Reporter(self._layout, report)
        self._summary: Summary | None = None
        self._stop = threading.Event()
        self._terminal = Background("slurm-sweeps-terminal")
        self._is_held_up = False
        self._thread = threading.Thread(target=self._run, name="slurm-sweeps-view", daemon=True)

    def notify(self, text: str) -> None:
        """Show a message, from any thread, which does not wait for it."""
        self._terminal.put(partial(self._screen.notify, self._say(text)))

    def close(self) -> None:
        """Wait until all is shown, as long as anything is within `TERMINAL_S`; then no more."""
        if not self._is_held_up:
            self._is_held_up = not self._terminal.close(TERMINAL_S)

    def __enter__(self) -> LiveView:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join(TERMINAL_S)
        self.show_once()
        self.close()
        if kind is None:
            self._terminal.check()
        if self._reporter is not None:
            was_stopped = self._summary is not None and self._summary.state == "stopped"
            problem = self._reporter.finish(in_a_hurry=was_stopped)
            if problem is not None:
                self.notify(problem)

    def show_once(self) -> None:
        """Show a sweep that is over."""
        for job in (self.refresh, self._screen.close):
            self._terminal.put(job)

    def refresh(self) -> Summary | None:
        """Read and show; None while the database can't be read."""
        now = time.time()
        try:
            with Database.open(self._layout.database, read_only=True, timeout_s=TIMEOUT_S) as store:
                rows = self._screen.room if self._rows is None else self._rows
                self._summary = read_summary(store, self._layout, rows, now)
        except StorageError:  # locked for a moment; what is wrong for good the driver says
            return None
        self._screen.show(self._summary, now)
        return self._summary

    def _run(self) -> None:
        self._due = time.monotonic() + min(REDRAW_S, self._interval_s)
        while not self._stop.wait(max(0.01, min(REDRAW_S, self._due - time.monotonic()))):
            if self._terminal.is_idle:
                self._terminal.put(self._redraw)
            if self._reporter is not None:
                self._reporter.keep_up(time.monotonic())

    def _redraw(self) -> None:
        began = time.monotonic()
        if began >= self._due:
            self.refresh()
            self._due = began + self._choose_pause_s(time.monotonic() - began)
        elif self._summary is not None and self._screen.is_animated:
            self._screen.show(self._summary, time.time())

    def _choose_pause_s(self, took_s: float) -> float:
        """How long to leave the database alone after a read that took so long."""
        most_s = REDRAW_S if self._screen.is_animated else self._interval_s
        return max(took_s / READ_SHARE, min(self._interval_s, most_s))

    def watch(self, waits: bool = True) -> Summary:
        """Show the sweep from the calling thread until it is over; return its last summary.

        Where no driver is at work, and the sweep isn't completed, the next one is waited for; not
        when one that was seen at work has failed, or a person has stopped it.

        Args:
            waits: False ends, or raises, where no driver is at work.

        Raises:
            ExperimentNotFoundError: There is no such experiment.
            StorageError: The database can't be read at all.
        """
        self._wait_until_there(waits)
        was_at_work = is_told = False
        try:
            while True:
                began = time.monotonic()
                summary = self.refresh()
                if summary is not None and summary.is_at_work:
                    was_at_work, is_told = True, False
                elif summary is not None:
                    if not waits or _is_at_end(summary, was_at_work):
                        return summary
                    if not is_told:
                        self._screen.notify(f"{format_state(summary)}: {_WAITING}")
                    is_told = True
                self._stop.wait(max(0.1, self._choose_pause_s(time.monotonic() - began)))
        finally:
            self._screen.close()

    def _wait_until_there(self, waits: bool) -> None:
        is_told = False
        while (problem := self._find_absence()) is not None:
            if not waits:
                raise problem
            if not is_told:
                self._screen.notify(f"{problem}\n{_WAITING}")
            is_told = True
            self._stop.wait(self._interval_s)

    def _find_absence(self) -> SlurmSweepsError | None:
        """Say that the experiment is not there yet; raise what else is wrong."""
        try:
            with Database.open(self._layout.database, read_only=True) as store:
                store.experiment(self._layout.name)
        except (ExperimentNotFoundError, EmptyDatabaseError) as error:
            return error
        except StorageError as error:
            if self._layout.database.exists():
                raise
            return error
        return None


def _is_at_end(summary: Summary, was_at_work: bool) -> bool:
    """Whether a sweep without a driver is over, or ended for good while somebody looked on."""
    is_for_good = summary.state == "failed" or summary.ended_by in BY_A_PERSON
    return summary.state == "completed" or (was_at_work and is_for_good)
