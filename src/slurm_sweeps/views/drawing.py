"""A summary as rich draws it: in a terminal and in a notebook.

rich is imported by whoever draws, never with this module: a trial's process must not load it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..trial import Status
from . import lines
from .formats import shorten
from .summary import Summary
from .table import (
    Grid,
    build_grid,
    format_cell,
    format_hidden,
    format_title,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

#: Colours of the terminal's own palette, so that they are legible on dark and on light.
STYLES = {
    Status.COMPLETED: "green",
    Status.PRUNED: "yellow",
    Status.PAUSED: "cyan",
    Status.FAILED: "red",
    Status.LOST: "magenta",
    Status.INTERRUPTED: "magenta",
    Status.RUNNING: "blue",
    Status.SCHEDULED: "dim",
}


def draw_summary(summary: Summary, columns: bool | Sequence[str], width: int, now: float) -> Group:
    """Draw a summary.

    Args:
        summary: The sweep.
        columns: See `build_grid`.
        width: The characters that a line may have.
        now: The time, seconds since 1970.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = [_draw_head(summary, width, now), _draw_bar(summary, width)]
    parts.append(_draw_counts(summary, width))
    if best := lines.format_best(summary):
        parts.append(Text(shorten(best, width), style="bold"))
    if summary.rows:
        parts += [Text(""), *_draw_grid(build_grid(summary, columns, width), width)]
    failure = lines.format_failure(summary)
    if failure:
        parts += [Text(""), Text(shorten(failure[0], width), style="red")]
        parts.append(Text(failure[1], style="dim", overflow="fold"))
    return Group(*parts)


def _draw_head(summary: Summary, width: int, now: float) -> Text:
    """Name and state on the left, times on the right."""
    from rich.text import Text

    right = lines.format_time(summary, now)
    state = lines.format_state(summary)
    name = shorten(summary.name, max(8, width - len(right) - len(state) - 4))
    style = "red" if summary.silent_s is not None or summary.state == "failed" else "default"
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(name, style="bold").append("  ").append(state, style=style)
    gap = width - len(text) - len(right)
    return text.append(" " * max(2, gap)).append(right)


def _draw_bar(summary: Summary, width: int) -> Text:
    """A bar whose parts are the statuses, in their colours."""
    from rich.text import Text

    share = f" {lines.format_share(summary)}"
    room = max(10, width - len(share))
    total = max(summary.n_trials or 0, sum(summary.counts.values()), 1)
    text = Text(no_wrap=True)
    used = drawn = 0
    for status in lines.ORDER:
        used += summary.counts.get(status, 0)
        cells = used * room // total
        text.append("━" * (cells - drawn), style=STYLES[status])
        drawn = cells
    return text.append("━" * (room - drawn), style="bright_black").append(share)


def _draw_counts(summary: Summary, width: int) -> Text:
    from rich.text import Text

    text = Text(shorten(lines.format_counts(summary), width), no_wrap=True)
    for status, style in STYLES.items():
        text.highlight_regex(rf"\d+ {status}\b", style)
    return text


def _draw_grid(grid: Grid, width: int) -> list[Text]:
    from rich.text import Text

    pairs = list(zip(grid.columns, grid.widths, strict=True))
    head = "  ".join(format_title(column, size) for column, size in pairs)
    drawn = [Text(head, style="bold", no_wrap=True)]
    for row, status in enumerate(grid.statuses):
        text = Text(no_wrap=True, style="bold" if row == grid.best_row else "")
        for at, (column, size) in enumerate(pairs):
            style = STYLES[status] if column.title == "status" and at == 1 else ""
            text.append("  " if at else "").append(format_cell(column, row, size), style=style)
        drawn.append(text)
    hidden = format_hidden(grid.hidden, width)
    return [*drawn, Text(hidden, style="dim", no_wrap=True)] if hidden else drawn
