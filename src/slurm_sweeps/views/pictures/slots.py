"""Slots over time, a Gantt chart: which slot ran what, and where it idled. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...trial import Status
from . import (
    COLORS,
    Figure,
    build_axis,
    build_empty,
    build_figure,
    build_scatter,
    choose_unit,
    escape_text,
    join_lines,
    write_numbers,
)
from .data import SweepData

#: Up to so many attempts each is a bar; more are drawn as lines, which a browser draws faster.
MAX_BARS = 6000

#: The height of a slot's row in pixels: the most, the least, and that of all of them together.
_ROW, _LEAST_ROW, _ALL_ROWS = 26, 5, 900


@dataclass(frozen=True, slots=True)
class Stretch:
    """One attempt in the row of its slot; times in seconds since the first attempt began."""

    slot: int
    begin_s: float
    end_s: float
    status: str
    text: str


@dataclass(frozen=True, slots=True)
class Occupation:
    """All slots."""

    stretches: Sequence[Stretch]  # by trial and attempt
    # The name of each slot: its number and the host it was last seen on; with several Slurm jobs
    # that of its job too, and slots are those of a job in one of its stays.
    labels: Sequence[str]
    end_s: float  # when the last attempt ended
    # The share of the slots' time that was used, from 0 to 1. With several jobs the time of each is
    # from its first attempt to the end of its last one.
    busy: float


def compute_occupation(data: SweepData) -> Occupation:
    """Lay the attempts along their slots; what runs yet lasts until now."""
    start, stretches = data.begun_at, []
    rows = _list_rows(data)
    labels = [_format_label(job, slot, len({job for job, _ in rows}) > 1) for job, slot in rows]
    hosts: dict[int, str] = {}
    for each in data.attempts:
        if each.slot is None or each.start_time is None:
            continue
        row = rows[each.job_id, each.slot]
        runs = each.end_time is None and each.status is Status.RUNNING
        end = data.now if runs else each.end_time
        begin_s = each.start_time - start
        end_s = max(begin_s, (each.start_time if end is None else end) - start)
        again = f", attempt {each.attempt}" if each.attempt > 1 else ""
        text = f"trial {data.trials[each.number].trial_id}{again}, {end_s - begin_s:.4g} s"
        stretches.append(Stretch(row, begin_s, end_s, each.status.value, text))
        hosts[row] = each.host or ""
    end_s = max((stretch.end_s for stretch in stretches), default=0.0)
    used_s = sum(stretch.end_s - stretch.begin_s for stretch in stretches)
    whole_s = _count_time(list(rows), stretches, end_s)
    labels = [
        escape_text(f"{label} {hosts[row]}") if row in hosts else label
        for row, label in enumerate(labels)
    ]
    busy = used_s / whole_s if whole_s > 0 else 0.0
    return Occupation(stretches, labels, end_s, min(1.0, busy))


def _list_rows(data: SweepData) -> dict[tuple[str | None, int], int]:
    """Number the rows, by job and slot: grouped by job, in the order in which jobs came."""
    jobs: dict[str | None, set[int]] = {}
    for each in sorted(data.attempts, key=lambda each: each.start_time or 0.0):
        if each.slot is not None and each.start_time is not None:
            jobs.setdefault(each.job_id, set()).add(each.slot)
    if len(jobs) < 2:  # slots that have idled have a row too
        job = next(iter(jobs), None)
        count = int(data.experiment.settings.get("slots") or 0)
        jobs = {job: {*range(count)} | {*range(max(jobs.get(job, ()), default=-1) + 1)}}
    keys = [(job, slot) for job, used in jobs.items() for slot in sorted(used)]
    return {key: row for row, key in enumerate(keys)}


def _format_label(job: str | None, slot: int, is_one_of_many: bool) -> str:
    where = "no job" if job is None else f"job {job}"
    return escape_text(f"{where}: {slot}") if is_one_of_many else str(slot)


def _count_time(
    rows: Sequence[tuple[str | None, int]], stretches: Sequence[Stretch], end_s: float
) -> float:
    """Add up the time of all slots; that of a job that has gone is no idle time."""
    if len({job for job, _ in rows}) < 2:
        return len(rows) * end_s
    stays: dict[str | None, list[Stretch]] = {}
    for stretch in stretches:
        stays.setdefault(rows[stretch.slot][0], []).append(stretch)
    return sum(
        sum(job == each for each, _ in rows)
        * (max(s.end_s for s in stay) - min(s.begin_s for s in stay))
        for job, stay in stays.items()
    )


def draw_slots(occupation: Occupation) -> Figure:
    """Which slot ran what when; gaps are idle time, or their job was not there."""
    if not occupation.stretches:
        return build_empty("No trial has started yet.")
    unit, size = choose_unit(occupation.end_s)
    count = len(occupation.labels)
    row = max(_LEAST_ROW, min(_ROW, _ALL_ROWS // count))
    traces = []
    for status in COLORS:
        chosen = [stretch for stretch in occupation.stretches if stretch.status == status]
        if chosen and len(occupation.stretches) <= MAX_BARS:
            traces.append(_build_bars(chosen, status, size))
        elif chosen:
            traces.append(_build_lines(chosen, status, size, row))
    step = max(1, -(-14 // row))  # a label is 14 pixels high
    return build_figure(
        traces,
        height=110 + row * count,
        barmode="overlay",
        bargap=0.15 if row > 8 else 0.0,
        xaxis=build_axis(unit, range=[0, 1.01 * occupation.end_s / size], zeroline=False),
        yaxis=build_axis(
            "slot",
            range=[count - 0.5, -0.5],
            tickvals=list(range(0, count, step)),
            ticktext=list(occupation.labels[::step]),
            automargin=True,
            showgrid=False,
            zeroline=False,
        ),
    )


def _build_bars(stretches: Sequence[Stretch], status: str, size: float) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": f"{status} ({len(stretches)})",
        "y": [stretch.slot for stretch in stretches],
        "base": write_numbers([stretch.begin_s / size for stretch in stretches], 6),
        "x": write_numbers([(stretch.end_s - stretch.begin_s) / size for stretch in stretches], 6),
        "text": [escape_text(stretch.text) for stretch in stretches],
        "textposition": "none",
        # The seam that parts two trials of the same colour.
        "marker": {
            "color": COLORS[status],
            "line": {"color": "rgba(128,128,128,0.9)", "width": 0.5},
        },
        "hovertemplate": f"%{{text}} ({status})<extra></extra>",
    }


def _build_lines(
    stretches: Sequence[Stretch], status: str, size: float, row: int
) -> dict[str, Any]:
    joined = join_lines(
        (write_numbers([s.begin_s / size, s.end_s / size], 6), [s.slot, s.slot], s.text)
        for s in stretches
    )
    return build_scatter(
        "lines",
        **joined,
        hover=f"%{{text}} ({status})",
        name=f"{status} ({len(stretches)})",
        line={"color": COLORS[status], "width": max(2, round(row * 0.8))},
    )
