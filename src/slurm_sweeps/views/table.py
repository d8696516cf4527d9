"""The one rendering of a summary: lines that fit a width, in the colours of the statuses.

A terminal and a notebook show the lines as they are (`draw_summary`); a file gets the same text
without colours, the bar and blank lines (`format_summary`). A cfg may have forty keys and a
terminal eighty columns: columns are taken from the left as long as they fit, those that vary among
the rows before those that don't; the names of those that were left out are told. Nothing is ever
wrapped but the path of a log and, in the end, why trials failed.

It loads rich, so it is imported by whoever draws, when something is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from ..errors import say_count
from ..trial import Status
from .formats import (
    AGAIN,
    clean,
    clean_lines,
    format_duration,
    format_number,
    format_value,
    is_number,
    say_how_to_retry,
    shorten,
    shorten_name,
)
from .summary import (
    Row,
    Summary,
    describe_lack,
    format_front,
    format_jobs,
    format_share,
    format_state,
)

#: The statuses in the order in which they are told and drawn, in colours of the terminal's own
#: palette, so that they are legible on dark and on light.
STYLES = {
    Status.COMPLETED: "green",
    Status.PRUNED: "yellow",
    Status.PAUSED: "cyan",
    Status.INFEASIBLE: "bright_yellow",
    Status.FAILED: "red",
    Status.LOST: "magenta",
    Status.INTERRUPTED: "magenta",
    Status.RUNNING: "blue",
    Status.SCHEDULED: "dim",
}

#: Blanks between two columns.
_GAP = "  "

#: What marks the best trial where there is no bold type.
_MARK = "* "

#: A column of values is this wide at the most, longer ones are cut; one of a metric this at least.
_MAX_CELL = 18
_LEAST = 7

#: A longer text that was asked for, an error say, is cut to what is left if it is so much.
_LEAST_TEXT = 24

#: How wide titles may make their columns: the first of these at which all columns fit, else the
#: last, beyond which titles are cut.
_MAX_TITLES = (40, 24, 12)

#: So many reasons of failures are told, and in the end so many lines of the newest.
_REASONS, _LINES = 3, 20

#: Below this width only so much of a trial id is shown; it is enough to find the trial by.
_NARROW = 100
_SHORT_ID = 8


def draw_summary(summary: Summary, columns: bool | Sequence[str], width: int, now: float) -> Group:
    """Draw a summary in colours, with columns that fit lines of so many cells."""
    head = [_draw_head(summary, width, now), _draw_bar(summary, width)]
    return Group(*head, *_draw_body(summary, columns, width))


def format_summary(
    summary: Summary, columns: bool | Sequence[str], width: int, now: float
) -> list[str]:
    """Write a summary as lines of plain text; see `draw_summary`."""
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    head = f"{clock} {clean(summary.name)}: {format_state(summary)}"
    rest = ", ".join(filter(None, [format_share(summary), _format_time(summary, now)]))
    fits = len(head) + len(rest) + 2 <= width
    lines = [f"{head}, {rest}"] if fits else [shorten(head, width), shorten(f"  {rest}", width)]
    body = _draw_body(summary, columns, width, _MARK)
    return [*lines, *(text.plain.rstrip() for text in body if text.plain.strip())]


def _format_time(summary: Summary, now: float) -> str:
    """The time of this run, the how manyth it is, and what is left as far as that can be told."""
    elapsed_s, left_s = summary.compute_elapsed_s(now), summary.compute_left_s(now)
    if elapsed_s is None:
        return ""
    took = "took" if summary.is_over else "elapsed"
    run = f"run {summary.n_runs}: " if summary.n_runs > 1 else ""
    text = f"{run}{took} {format_duration(elapsed_s)}"
    return text if left_s is None else f"{text}, about {format_duration(left_s)} left"


def _draw_head(summary: Summary, width: int, now: float) -> Text:
    """Name and state on the left, times on the right."""
    right, state = _format_time(summary, now), format_state(summary)
    style = "red" if summary.silent_s is not None or summary.state == "failed" else ""
    name = Text(clean(summary.name), "bold")
    name.truncate(max(8, width - len(right) - len(state) - 4), overflow="ellipsis")
    text = Text(no_wrap=True, overflow="ellipsis").append_text(name).append(_GAP)
    text.append(state, style=style)
    return text.append(" " * max(2, width - text.cell_len - len(right))).append(right)


def _draw_bar(summary: Summary, width: int) -> Text:
    """A bar whose parts are the statuses, in their colours."""
    share = f" {format_share(summary)}"
    room = max(10, width - len(share))
    total = max(summary.n_trials or 0, sum(summary.counts.values()), 1)
    text = Text(no_wrap=True)
    used = drawn = 0
    for status in list(STYLES)[:-1]:  # what waits is what is left of the bar
        used += summary.counts.get(status, 0)
        cells = used * room // total
        text.append("━" * (cells - drawn), style=STYLES[status])
        drawn = cells
    return text.append("━" * (room - drawn), style="bright_black").append(share)


def _draw_body(
    summary: Summary, columns: bool | Sequence[str], width: int, mark: str = ""
) -> list[Text]:
    """What is below the head: counts, the best value or the front, the trials, the latest failures.

    The best trial's row, or that of each on the front, begins with the mark, all other lines with
    as many blanks.
    """
    indent = " " * len(mark)
    lines = [Text(indent).append_text(_draw_counts(summary))]
    best = summary.best
    if best is not None:
        where = f"at iteration {best.iteration}, trial {best.trial_id}"
        where += f", mean of {best.runs} runs" if best.runs > 1 else ""
        said = clean(f"best {summary.metric} {format_number(best.value)} {where}")
        lines.append(Text(indent + said, "bold"))
    if (front := format_front(summary)) is not None:
        lines.append(Text(indent + front, "bold"))
    lack = describe_lack(summary)
    if lack is not None:
        lines.append(Text(indent + clean(lack), "red"))
    if summary.rows:
        lines += [Text(), *_draw_table(summary, columns, width, mark)]
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    failures = [*_draw_failures(summary, width, indent)]
    return [*lines, *([Text(), *failures] if failures else ())]


def _draw_failures(summary: Summary, width: int, indent: str) -> Iterator[Text]:
    """Why the latest trials failed: a line for each reason; of the newest all of it, in the end."""
    for at, failure in enumerate(summary.failures[:_REASONS]):
        what = "also failed" if at else "newest failure"
        line = Text(f"{indent}{what}, {failure.title}", "red")
        if not summary.is_over:
            line.no_wrap = True
            line.truncate(width, overflow="ellipsis")
        yield line
        if not at:  # a path is never cut: it is there to be copied
            more = failure.text.split("\n")[1:_LINES] if summary.is_over else []
            yield from (Text(f"{indent}  {clean_lines(said)}", "red") for said in more)
            yield Text(f"{indent}  {clean(str(failure.log))}", "dim", overflow="fold")
    others = len(summary.failures) - _REASONS
    if others > 0:
        reasons = say_count(others, "other reason")
        said = f"{reasons}: 'slurm-sweeps show {summary.name} --status failed'"
        yield Text(indent + clean(said), "dim")
    if summary.is_over and summary.counts.get(Status.FAILED):
        said = say_how_to_retry(summary.name, summary.again)
        if not summary.metrics and not summary.counts.get(Status.COMPLETED):
            said = f"nothing was logged: {summary.again or AGAIN} tries failed trials again"
        yield Text(clean(said), "dim", overflow="fold")


def _draw_counts(summary: Summary) -> Text:
    """How many trials have which status, and how many slots are busy."""
    known = list(STYLES.items())[:-1]  # what waits is no news
    parts = [
        Text(f"{summary.counts[status]} {status}{_describe_memory(summary, status)}", style)
        for status, style in known
        if summary.counts.get(status)
    ]
    if summary.slots and not summary.is_over:
        parts.append(Text(f"{summary.running} of {summary.slots} slots busy"))
    if len(summary.jobs) > 1:
        parts.append(Text(f"jobs: {format_jobs(summary.jobs)}"))
    return Text(", ").join(parts or [Text("nothing has started yet")])


def _describe_memory(summary: Summary, status: Status) -> str:
    """Tell apart those that ran out of memory."""
    count = summary.out_of_memory.get(status)
    return f" ({count} out of memory)" if count else ""


# --- the table of trials --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its cells, to which side they are pushed, and its least width.

    The least width keeps a table that is redrawn from jumping to and fro.
    """

    title: str
    cells: tuple[str, ...]
    is_text: bool = False
    least: int = 0

    def measure(self, max_title: int) -> int:
        """The cells it takes, its title cut where it is much wider than its values."""
        widest = max((cell_len(cell) for cell in self.cells), default=0)
        return max(widest, min(cell_len(self.title), max_title), self.least)

    def pad(self, text: str, width: int) -> str:
        """Push a title or a value to its side."""
        gap = " " * (width - cell_len(text))
        return text + gap if self.is_text else gap + text


def fit_columns(
    summary: Summary, columns: bool | Sequence[str], width: int
) -> tuple[list[tuple[Column, int]], list[str]]:
    """Choose and fill the columns of a summary's table.

    Args:
        columns: True for cfg and metrics as far as they fit, False for none of them, or the names
            of those to show, in their order.
        width: The cells that a line may have.

    Returns:
        The columns with their widths, from left to right: who, status, iteration and time in any
        case; and the titles of those that did not fit. A narrow one may follow a wide one.
    """
    fixed = _build_fixed(summary.rows, width)
    wanted = [*fixed, *_build_values(summary, columns)]
    for max_title in _MAX_TITLES:
        chosen, hidden = [], []
        left = width + len(_GAP)
        for at, column in enumerate(wanted):
            size, room = column.measure(max_title), left - len(_GAP)
            if column.is_text and size > room >= _LEAST_TEXT:
                size = room
            if at < len(fixed) or len(_GAP) + size <= left:
                chosen.append((column, size))
                left -= len(_GAP) + size
            else:
                hidden.append(column.title)
        if not hidden:
            break
    return chosen, hidden


def _draw_table(
    summary: Summary, columns: bool | Sequence[str], width: int, mark: str
) -> Iterator[Text]:
    indent = " " * len(mark)
    best_id = None if summary.best is None else summary.best.trial_id
    chosen, hidden = fit_columns(summary, columns, width - len(mark))
    titles = [column.pad(shorten_name(column.title, size), size) for column, size in chosen]
    yield Text(indent + _GAP.join(titles), "bold")
    for at, row in enumerate(summary.rows):
        is_best = row.trial_id == best_id or row.more.get("number") in summary.front
        text = Text(mark if is_best else indent, "bold" if is_best else "")
        cells = [column.pad(shorten(column.cells[at], size), size) for column, size in chosen]
        text.append(cells[0] + _GAP).append(cells[1], STYLES[row.status])
        yield text.append(_GAP + _GAP.join(cells[2:]))
    if hidden:
        yield Text(f"{indent}not shown: {', '.join(hidden)}", "dim")


def _build_fixed(rows: Sequence[Row], width: int) -> list[Column]:
    id_width = _SHORT_ID if width < _NARROW else 12
    return [
        Column("trial", tuple(clean(row.trial_id)[:id_width] for row in rows), is_text=True),
        Column("status", tuple(row.status.value for row in rows), is_text=True, least=11),
        Column("iter", tuple(format_number(row.iteration) for row in rows)),
        Column("time", tuple(format_duration(row.runtime_s) for row in rows)),
    ]


def _build_values(summary: Summary, columns: bool | Sequence[str]) -> Iterator[Column]:
    rows = summary.rows
    metrics, cfgs = [row.metrics for row in rows], [row.cfg for row in rows]
    if not isinstance(columns, bool):
        known = [_drop_unknown(row) for row in rows]
        for name in columns:
            in_cfg = any(name in cfg for cfg in cfgs)
            yield _build_column(summary, name, known, _MAX_CELL if in_cfg else None)
    elif columns:
        first = [] if summary.metric is None else [summary.metric]
        goals = [goal.metric for goal in summary.objectives] or first
        for name in goals:
            yield _build_column(summary, name, metrics)
        if len(goals) == 1:
            yield _build_column(summary, "best", [_drop_unknown(row) for row in rows])
        others = [name for name in summary.metrics if name not in goals]
        built = [
            *(_build_column(summary, name, cfgs) for name in summary.parameters),
            *(_build_column(summary, name, metrics) for name in others),
        ]
        yield from sorted(built, key=lambda column: len(set(column.cells)) < 2)


def _drop_unknown(row: Row) -> dict[str, Any]:
    """A row's columns without those that it has no value for; a None of the cfg is one."""
    columns = row.columns.items()
    return {name: value for name, value in columns if value is not None or name in row.cfg}


def _build_column(
    summary: Summary, name: str, values: Sequence[Mapping[str, Any]], most: int | None = _MAX_CELL
) -> Column:
    """The column of a name, out of each row's values; cells longer than `most` are cut."""
    cells = [format_value(each[name]) if name in each else "-" for each in values]
    known = (each.get(name) for each in values)
    return Column(
        clean(name),
        tuple(cells if most is None else (shorten(cell, most) for cell in cells)),
        is_text=any(value is not None and not is_number(value) for value in known),
        least=_LEAST if name == "best" or name in summary.metrics else 0,
    )
