"""Turn the runs of a benchmark into the text of RESULTS.md; nothing is measured here."""

from __future__ import annotations

import platform
import shlex
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

OURS = "slurm-sweeps, this checkout"


@dataclass(frozen=True, slots=True)
class Run:
    """One measure of one peer in one round; `value` is None if it failed."""

    peer: str
    measure: str
    round: int
    value: float | None
    unit: str
    more: dict[str, float]
    load: float
    error: str | None


@dataclass(frozen=True, slots=True)
class Size:
    """What a peer installs."""

    distributions: int
    bytes: int
    pinned: str = ""  # the packages that were asked for, with their versions


TITLES = {
    "trivial": ("Trivial trials: one report each, two at a time", "more is better"),
    "program": ("A program that does nothing, two at a time", "more is better"),
    "readme": (
        "Trials of up to 10 epochs of 0.05 s, two at a time: share of the slots' time that is "
        "spent in epochs",
        "more is better",
    ),
    "first_line": ("From run() to the first line of train", "less is better"),
    "report": ("One report and its verdict by ASHA", "less is better"),
}


def format_results(runs: list[Run], sizes: dict[str, Size], quick: bool, folder: Path) -> str:
    """Return RESULTS.md."""
    parts = [_format_head(runs, quick, folder)]
    parts += [_format_measure(name, runs) for name in dict.fromkeys(run.measure for run in runs)]
    parts.append(_format_sizes(sizes))
    return "\n".join(parts)


def _format_head(runs: list[Run], quick: bool, folder: Path) -> str:
    loads = [run.load for run in runs]
    now = datetime.now(timezone.utc)
    return (
        "# Results\n\n"
        f"Written by `make bench{'-quick' if quick else ''}`; see bench.py for what is done.\n\n"
        f"- {now:%Y-%m-%d %H:%M} UTC, commit {_describe_commit(folder)}\n"
        f"- {_describe_machine()}\n"
        f"- load average before each run: {min(loads)} to {max(loads)} (the runs' own included)\n"
        "- min / median / max of the rounds; `x ours` is the median of the ratios to this "
        "project's figure in the same round\n"
        "- a row again: `python benchmarks/bench.py` with what its last column says\n"
    )


def _describe_commit(folder: Path) -> str:
    def ask(*argv: str) -> str:
        done = subprocess.run(["git", *argv], cwd=folder, capture_output=True, text=True)
        return done.stdout.strip()

    changed = ask("status", "--porcelain", "--untracked-files=no", "--", "../src")
    return (ask("rev-parse", "--short=12", "HEAD") or "unknown") + (" + changes" * bool(changed))


def _describe_machine() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    cpu = f"{len(names)} x {names[0]}" if names else platform.processor()
    return f"{cpu}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def _format_measure(name: str, runs: list[Run]) -> str:
    mine = [run for run in runs if run.measure == name]
    kind = name.split()[0]
    title, better = TITLES[kind]
    lines = [f"## {title}{name.removeprefix(kind)} ({better})\n"]
    lines += [_format_row("", "min", "median", "max", "x ours", "more", "again"), "|---" * 7 + "|"]
    ours = {run.round: run.value for run in mine if run.peer == OURS}
    for peer in dict.fromkeys(run.peer for run in mine):
        lines.append(_format_peer(peer, [run for run in mine if run.peer == peer], ours))
    return "\n".join(lines) + "\n"


def _format_peer(peer: str, runs: list[Run], ours: dict[int, float | None]) -> str:
    values = [run.value for run in runs if run.value is not None]
    if not values:
        return _format_row(peer, "failed", "", "", "", runs[0].error or "", _format_again(runs[0]))
    ratios = [
        run.value / base for run in runs if run.value is not None and (base := ours.get(run.round))
    ]
    unit = runs[0].unit
    return _format_row(
        peer,
        *(f"{number:.3g} {unit}" for number in (min(values), statistics.median(values))),
        f"{max(values):.3g} {unit}",
        f"{statistics.median(ratios):.3g}" if ratios else "",
        _format_more([run.more for run in runs if run.value is not None]),
        _format_again(runs[0]),
    )


def _format_again(run: Run) -> str:
    names = [OURS, *([run.peer] if run.peer != OURS else [])]
    return f"`--measure {run.measure.split()[0]} --only {shlex.join(names)}`"


def _format_more(more: list[dict[str, float]]) -> str:
    medians = {key: statistics.median(one[key] for one in more) for key in more[0]}
    return ", ".join(f"{key} {value:.3g}" for key, value in medians.items())


def _format_sizes(sizes: dict[str, Size]) -> str:
    lines = [
        "## Installed\n",
        _format_row("", "asked for", "distributions", "MB"),
        "|---" * 4 + "|",
    ]
    for peer, size in sizes.items():
        megabytes = f"{size.bytes / 1e6:.0f}"
        lines.append(_format_row(peer, size.pinned, str(size.distributions), megabytes))
    return "\n".join(lines) + "\n"


def _format_row(*cells: str) -> str:
    return "| " + " | ".join(_escape(cells)) + " |"


def _escape(cells: Iterable[str]) -> Iterable[str]:
    return (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
