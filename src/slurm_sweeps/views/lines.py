"""A summary's lines of text, without colour: what a file shows, and part of every view. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..trial import Status
from .formats import (
    format_age,
    format_duration,
    format_number,
    shorten,
)
from .summary import Summary
from .table import (
    Grid,
    build_grid,
    format_cell,
    format_hidden,
    format_title,
)

#: The order in which counts are told and drawn.
ORDER = (
    Status.COMPLETED,
    Status.PRUNED,
    Status.PAUSED,
    Status.FAILED,
    Status.LOST,
    Status.INTERRUPTED,
    Status.RUNNING,
)


def format_block(
    summary: Summary, columns: bool | Sequence[str], width: int, now: float
) -> list[str]:
    """The whole summary as lines of at most `width` characters, for a file."""
    clock = time.strftime("%H:%M:%S", time.localtime(now))
    share = format_share(summary)
    head = [f"{clock} {summary.name}: {format_state(summary)}", share, format_time(summary, now)]
    best = format_best(summary)
    first = ", ".join(part for part in head if part)
    if len(first) > width:
        lines = [head[0], "  " + ", ".join(part for part in head[1:] if part)]
    else:
        lines = [first]
    lines.append(f"  {format_counts(summary)}")
    lines += [f"  {best}"] if best else []
    lines += format_table(build_grid(summary, columns, width - 2)) if summary.rows else []
    lines += [f"  {line}" for line in format_failure(summary)]
    return [line if _is_path(line) else shorten(line.rstrip(), width) for line in lines]


def _is_path(line: str) -> bool:
    """Paths are never cut: they are there to be copied."""
    return line.startswith("    ") and "/" in line


def format_table(grid: Grid) -> list[str]:
    """A grid as lines, indented by two; the best trial is marked."""
    pairs = list(zip(grid.columns, grid.widths, strict=True))
    lines = ["  " + "  ".join(format_title(column, width) for column, width in pairs)]
    for row in range(len(grid.statuses)):
        mark = "* " if row == grid.best_row else "  "
        lines.append(mark + "  ".join(format_cell(column, row, width) for column, width in pairs))
    hidden = format_hidden(grid.hidden, 10_000)
    return [*lines, f"  {hidden}"] if hidden else lines


def format_state(summary: Summary) -> str:
    """The state, and whether its driver still gives a sign of life."""
    if summary.silent_s is None:
        return summary.state
    return f"{summary.state}, but its driver was last heard of {format_age(summary.silent_s)} ago"


def format_share(summary: Summary) -> str:
    """How many trials are done of how many."""
    if not summary.n_trials:
        return f"{summary.done} done"
    percent = 100 * summary.done // summary.n_trials
    return f"{summary.done} of {summary.n_trials} done ({percent}%)"


def format_time(summary: Summary, now: float) -> str:
    """Elapsed time, and the time left as far as it can be told."""
    elapsed_s, left_s = summary.compute_elapsed_s(now), summary.compute_left_s(now)
    if elapsed_s is None:
        return ""
    took = "took" if summary.is_over else "elapsed"
    text = f"{took} {format_duration(elapsed_s)}"
    return text if left_s is None else f"{text}, about {format_duration(left_s)} left"


def format_counts(summary: Summary) -> str:
    """How many trials have which status, and how many slots are busy."""
    parts = [f"{summary.counts[status]} {status}" for status in ORDER if summary.counts.get(status)]
    if summary.slots and not summary.is_over:
        parts.append(f"{summary.running} of {summary.slots} slots busy")
    return ", ".join(parts) or "nothing has started yet"


def format_best(summary: Summary) -> str:
    """The best value with its trial; empty before there is one."""
    best = summary.best
    if best is None:
        return ""
    return (
        f"best {summary.metric} {format_number(best.value)} at iteration {best.iteration}, "
        f"trial {best.trial_id}"
    )


def format_failure(summary: Summary) -> list[str]:
    """The newest failure: what was raised, and on a line of its own the path of its log."""
    failure = summary.failure
    if failure is None:
        return []
    return [f"newest failure, trial {failure.trial_id}: {failure.line}", f"  {failure.log}"]
