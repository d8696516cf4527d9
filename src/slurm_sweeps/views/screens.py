"""Where a live view is shown: a terminal, a notebook's cell, or plain lines in a file.

All three take whole summaries and messages, from one thread at a time. None of them lets an error
of its stream out: a sweep goes on when the terminal it was begun in is gone.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from .drawing import draw_summary
from .lines import format_block
from .summary import Summary

if TYPE_CHECKING:
    from rich.live import Live

#: The width of a table in a notebook, in characters.
NOTEBOOK_WIDTH = 110

#: Lines of a terminal that are no rows of the table: head, bar, counts, best, titles, failure, …
_OTHER_LINES = 12

#: The most characters of a line in a file.
_PLAIN_WIDTH = 100

_STREAM_ERRORS = (OSError, ValueError)  # a ValueError is a closed file


class Screen(Protocol):
    """Shows summaries."""

    #: Whether what it shows is redrawn in place, so that clocks may tick.
    is_animated: bool

    def show(self, summary: Summary, now: float) -> None:
        """Show the summary of now."""
        ...

    def notify(self, text: str) -> None:
        """Show a message, which stays."""
        ...

    def close(self) -> None:
        """Leave what was shown last, readable."""
        ...


class PlainScreen:
    """Lines without escape codes; a summary that tells nothing new is left out.

    Args:
        stream: Where to write.
        columns: See `build_grid`.
    """

    is_animated = False

    def __init__(self, stream: TextIO, columns: bool | Sequence[str]) -> None:
        self._stream = stream
        self._columns = columns
        self._shown: Summary | None = None

    def show(self, summary: Summary, now: float) -> None:
        """Write a block of lines."""
        bare = _without_clocks(summary)
        if bare == self._shown:
            return
        self._shown = bare
        self._write("\n".join(format_block(summary, self._columns, _PLAIN_WIDTH, now)))

    def notify(self, text: str) -> None:
        """Write the text."""
        self._write(text)

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
    """One table, redrawn in place; messages and other output scroll above it.

    Args:
        stream: The terminal.
        columns: See `build_grid`.
    """

    is_animated = True

    def __init__(self, stream: TextIO, columns: bool | Sequence[str]) -> None:
        from rich.console import Console

        self._columns = columns
        self._console = Console(file=stream, highlight=False, force_jupyter=False)
        self._live: Live | None = None

    def show(self, summary: Summary, now: float) -> None:
        """Redraw the table, with as many rows as the terminal has room for."""
        from rich.live import Live

        size = self._console.size
        rows = summary.rows[: max(0, size.height - _OTHER_LINES)]
        drawn = draw_summary(replace(summary, rows=rows), self._columns, size.width, now)
        with contextlib.suppress(*_STREAM_ERRORS):
            if self._live is None:
                self._live = Live(drawn, console=self._console, auto_refresh=False)
                self._live.start(refresh=True)
            else:
                self._live.update(drawn, refresh=True)

    def notify(self, text: str) -> None:
        """Print above the table."""
        with contextlib.suppress(*_STREAM_ERRORS):
            self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leave the table where it is, with the cursor below it."""
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(*_STREAM_ERRORS):
                live.stop()


class NotebookScreen:
    """One table in the output of the cell, updated in place.

    Args:
        display: IPython's `display` function.
        columns: See `build_grid`.
    """

    is_animated = True

    def __init__(self, display: Any, columns: bool | Sequence[str]) -> None:
        self._display = display
        self._columns = columns
        self._handle: Any = None

    def show(self, summary: Summary, now: float) -> None:
        """Replace the table."""
        bundle = {"text/html": self._draw(summary, now)}
        bundle["text/plain"] = "\n".join(format_block(summary, self._columns, NOTEBOOK_WIDTH, now))
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def notify(self, text: str) -> None:
        """Print into the cell."""
        print(text)

    def close(self) -> None:
        """Do nothing: the table stays."""

    def _draw(self, summary: Summary, now: float) -> str:
        from rich.console import Console

        console = Console(
            file=io.StringIO(),
            record=True,
            width=NOTEBOOK_WIDTH,
            highlight=False,
            force_jupyter=False,  # or it would display each drawing by itself
        )
        console.print(draw_summary(summary, self._columns, NOTEBOOK_WIDTH, now))
        style = "font-family:monospace;line-height:1.35;overflow-x:auto;white-space:pre"
        return console.export_html(
            inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>'
        )


def choose_screen(stream: TextIO | None, columns: bool | Sequence[str]) -> Screen:
    """Choose how to show something, from where standard output goes.

    Args:
        stream: Where to write; None for standard output, or nowhere if that is closed.
        columns: See `build_grid`.
    """
    display = _find_display() if stream is None else None
    if display is not None:
        return NotebookScreen(display, columns)
    stream = stream or sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - used to the end
    if stream.isatty() and os.environ.get("TERM") not in ("dumb", ""):
        return TerminalScreen(stream, columns)
    return PlainScreen(stream, columns)


def _find_display() -> Any:
    """IPython's `display` where this process is a notebook's kernel, else None."""
    if "ipykernel" not in sys.modules or "IPython" not in sys.modules:
        return None
    from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore] # optional
    from IPython.display import display  # type: ignore[import-not-found,unused-ignore] # as above

    shell = get_ipython()
    return display if shell is not None and hasattr(shell, "kernel") else None
