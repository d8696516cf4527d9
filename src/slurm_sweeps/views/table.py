"""The table of a live view as text cells that fit a width. Pure.

A cfg may have forty keys and a terminal eighty columns: columns are taken from the left as long as
they fit, none is ever wrapped, and the names of those left out are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..trial import Status
from .formats import (
    format_duration,
    format_number,
    format_value,
    shorten,
    shorten_name,
)
from .summary import Row, Summary

#: Blanks between two columns.
GAP = 2

#: A column of values is this wide at the most; longer ones are cut.
MAX_CELL = 18

#: How wide titles may make their columns: the first of these at which all columns fit, else the
#: last, beyond which titles are cut.
MAX_TITLES = (40, 24, 12)

#: Below this width only so much of a trial id is shown; it is enough to find the trial by.
NARROW = 100
SHORT_ID = 8


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its cells, to which side they are pushed, and its least width.

    The least width keeps a table that is redrawn from jumping to and fro.
    """

    title: str
    cells: tuple[str, ...]
    is_text: bool = False
    least: int = 0

    @property
    def width(self) -> int:
        """The characters it takes."""
        return max((len(cell) for cell in self.cells), default=0)


@dataclass(frozen=True, slots=True)
class Grid:
    """What fits.

    Args:
        columns: From left to right.
        widths: The width of each.
        statuses: The status of each row, for its colour.
        best_row: The row that holds the best value, None if none does.
        hidden: The names of columns that did not fit.
    """

    columns: tuple[Column, ...]
    widths: tuple[int, ...]
    statuses: tuple[Status, ...]
    best_row: int | None
    hidden: tuple[str, ...]


def build_grid(summary: Summary, columns: bool | Sequence[str], width: int) -> Grid:
    """Choose and fill the columns of a summary's table.

    Args:
        summary: The sweep.
        columns: True for cfg and metrics as far as they fit, False for none of them, or the names
            of those to show, in their order.
        width: The characters that a line may have.
    """
    fixed = _build_fixed(summary.rows, width)
    wanted = [*fixed, *_build_values(summary, columns)]
    for max_title in MAX_TITLES:
        widths = [measure(column, max_title) for column in wanted]
        fitting = _choose_fitting(widths, len(fixed), width)
        if len(fitting) == len(wanted):
            break
    best_row = next((at for at, row in enumerate(summary.rows) if row.is_best), None)
    return Grid(
        tuple(wanted[at] for at in fitting),
        tuple(widths[at] for at in fitting),
        tuple(row.status for row in summary.rows),
        best_row,
        tuple(column.title for at, column in enumerate(wanted) if at not in fitting),
    )


def _choose_fitting(widths: Sequence[int], n_fixed: int, width: int) -> list[int]:
    """The columns that fit, the first `n_fixed` in any case; a narrow one may follow a wide one."""
    chosen = list(range(n_fixed))
    used = sum(widths[:n_fixed]) + GAP * (n_fixed - 1)
    for at in range(n_fixed, len(widths)):
        if used + GAP + widths[at] <= width:
            chosen.append(at)
            used += GAP + widths[at]
    return chosen


def measure(column: Column, max_title: int) -> int:
    """The characters that a column takes, its title cut where it is much wider than its cells."""
    return max(column.width, min(len(column.title), max_title), column.least)


def format_title(column: Column, width: int) -> str:
    """The title as it stands above its column."""
    title = shorten_name(column.title, width)
    return title.ljust(width) if column.is_text else title.rjust(width)


def format_cell(column: Column, row: int, width: int) -> str:
    """One cell, padded to the column's width."""
    cell = column.cells[row]
    return cell.ljust(width) if column.is_text else cell.rjust(width)


def format_hidden(names: Sequence[str], width: int) -> str:
    """Say which columns did not fit."""
    return shorten(f"not shown: {', '.join(names)}", width) if names else ""


def _build_fixed(rows: Sequence[Row], width: int) -> list[Column]:
    id_width = SHORT_ID if width < NARROW else 12
    return [
        Column("trial", tuple(row.trial_id[:id_width] for row in rows), is_text=True),
        Column("status", tuple(row.status.value for row in rows), is_text=True, least=11),
        Column("iter", tuple(format_number(row.iteration) for row in rows)),
        Column("time", tuple(format_duration(row.runtime_s) for row in rows)),
    ]


def _build_values(summary: Summary, columns: bool | Sequence[str]) -> Iterable[Column]:
    if columns is False:
        return
    rows = summary.rows
    if columns is not True:
        for name in columns:
            yield _build_named(name, rows)
        return
    if summary.metric is not None:
        yield _build_metric(summary.metric, rows)
        yield Column("best", tuple(format_number(row.best) for row in rows), least=7)
    for name in summary.parameters:
        yield _build_cfg(name, rows)
    for name in summary.metrics:
        if name != summary.metric:
            yield _build_metric(name, rows)


def _build_named(name: str, rows: Sequence[Row]) -> Column:
    """A column that was asked for by name: a metric, a value of the cfg, or of the run."""
    if name == "best":
        return Column(name, tuple(format_number(row.best) for row in rows), least=7)
    if any(name in row.more for row in rows) and not any(name in row.cfg for row in rows):
        cells = (format_value(row.more.get(name)) for row in rows)
        return Column(name, tuple("-" if cell == "None" else cell for cell in cells), is_text=True)
    if any(name in row.metrics for row in rows):
        return _build_metric(name, rows)
    return _build_cfg(name, rows)


def _build_metric(name: str, rows: Sequence[Row]) -> Column:
    return Column(name, tuple(format_number(row.metrics.get(name)) for row in rows), least=7)


def _build_cfg(name: str, rows: Sequence[Row]) -> Column:
    values = [row.cfg.get(name) for row in rows]
    cells = tuple(
        shorten(format_value(value), MAX_CELL) if name in row.cfg else "-"
        for row, value in zip(rows, values, strict=True)
    )
    numbers = (int, float, type(None))
    is_text = any(not isinstance(value, numbers) or isinstance(value, bool) for value in values)
    return Column(name, cells, is_text)
