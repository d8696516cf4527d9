"""Compare ways to search on tables of learning curves, and write SEARCH.md.

    python benchmarks/replay_compare.py TABLE.npz … [--jobs 2] [--seeds 20] [--limit 900]

Every contender is replayed on every table with 4 and with 36 workers by `replay.py`. After
`--limit` seconds on one table no further seed is begun, so slow ones have fewer; how many is said.
Two are no contenders but bounds: "foresight" is the model, told how each trial will end with its
first report; "clairvoyance" has the right trial begin at once, and no search can do better. All
results are lines of `search.jsonl`, with the commit or the version that made them. Those of peers
are taken from there where they are of the version that is pinned; `--again` makes them anew.
`--into FOLDER` keeps results of other tables apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
from replay import PEERS

HERE = Path(__file__).resolve().parent
#: Budgets by the number of workers, in full trainings' mean time.
BUDGETS = {4: (1.0, 3.0, 10.0), 36: (0.5, 1.0, 2.0)}


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to search.

    Args:
        name: In the tables.
        sampler: As `replay.py` and its results name it; that of a peer stands for all of it.
        pruner: The same; None for a peer, which has its own.
        is_bound: Whether it knows what no way to search can know; it is not ranked.
    """

    name: str
    sampler: str
    pruner: str | None = None
    is_bound: bool = False

    @property
    def names(self) -> set[str]:
        """How the command line may call it."""
        return {self.sampler, f"{self.sampler}:{self.pruner}"}

    @property
    def is_made_anew(self) -> bool:
        """Whether old results don't count: what is in this project changes, peers are pinned."""
        return self.pruner is not None

    @property
    def arguments(self) -> list[str]:
        """What `replay.py` is to be told."""
        if self.pruner is None:
            return ["--peer", self.sampler]
        return ["--sampler", self.sampler, "--pruner", self.pruner]


CONTENDERS = (
    Contender("random, ASHA", "random", "asha"),
    Contender("quasi-random, ASHA", "quasi", "asha"),
    Contender("**model, ASHA**", "model", "asha"),
    Contender("samplers.Optuna(), ASHA", "optuna", "asha"),
    Contender("random, no pruning", "random", "none"),
    Contender("random, ASHA of factor 3", "random", "asha-3"),
    Contender("random, ASHA that promotes", "random", "asha-promote"),
    Contender("model, ASHA that promotes", "model", "asha-promote"),
    Contender("*foresight, ASHA that promotes*", "foresight", "asha-promote", is_bound=True),
    Contender("*clairvoyance*", "clairvoyance", "none", is_bound=True),
    Contender("random, Hyperband", "random", "hyperband"),
    Contender("random, median", "random", "median"),
    Contender("Optuna: TPE, its halving", "optuna-tpe-multivariate"),
    Contender("Optuna: TPE, multivariate=False, its halving", "optuna-tpe-independent"),
    Contender("Optuna: random, its halving", "optuna-random"),
    Contender("Ray Tune: random, its ASHA", "ray-random"),
    Contender("Syne Tune: quantile regression, its ASHA", "syne-cqr"),
    Contender("Syne Tune: BORE, its ASHA", "syne-bore"),
    Contender("Syne Tune: kernel densities, its ASHA", "syne-kde"),
)

#: Those that draw the same random points: they differ in what they stop, and in nothing else.
SAME_DRAWS = frozenset({"random", "optuna-random", "ray-random"})

#: Of one contender on one table with so many workers: the regrets, [budgets] for each seed.
Regrets = dict[tuple[str, str, int], dict[int, list[float]]]


def main() -> None:
    """Replay what is missing, keep the results, write the tables."""
    options = parse_options()
    options.commit = find_commit()
    results = options.into / "search.jsonl"
    kept = read_results(results)
    tasks = list_tasks(options, kept)
    lines, failed, page = kept, False, options.into / "SEARCH.md"
    with ThreadPoolExecutor(options.jobs) as pool:
        every = pool.map(lambda task: replay(*task, options), tasks)
        for (contender, table, workers), found in zip(tasks, every, strict=True):
            failed |= not found
            if found:  # what was there stays until then
                old = (contender, table.stem, workers)
                lines = [line for line in lines if identify(line) != old] + found
                write_results(results, lines)
                page.write_text(format_results(lines))  # whatever comes in between
    page.write_text(format_results(lines))
    if failed:
        sys.exit("some replays failed, see above: their old results, if there are any, stay")


def list_tasks(
    options: argparse.Namespace, kept: list[dict[str, Any]]
) -> list[tuple[Contender, Path, int]]:
    """Return what is to be replayed: who, on which table, with how many workers."""
    have = {identify(line) for line in kept if line.get("version") == find_version(line["sampler"])}
    return [
        (contender, table, workers)
        for contender in CONTENDERS
        if not options.only or contender.names & set(options.only)
        for workers in BUDGETS
        for table in options.tables
        if contender.is_made_anew or options.again or (contender, table.stem, workers) not in have
    ]


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for a table's seeds")
    parser.add_argument("--only", nargs="*", help="samplers, sampler:pruner or peers")
    parser.add_argument("--again", action="store_true", help="replay peers that were, too")
    parser.add_argument(
        "--into",
        type=Path,
        default=HERE,
        metavar="FOLDER",
        help="for search.jsonl and SEARCH.md; one of its own for tables of one's own",
    )
    return parser.parse_args()


def find_contender(line: dict[str, Any]) -> Contender | None:
    """Return whose result a line is; None if nobody's who takes part."""
    ways = ((line["sampler"], line["pruner"]), (line["sampler"], None))  # a peer has its own pruner
    return next((c for c in CONTENDERS if (c.sampler, c.pruner) in ways), None)


def find_version(sampler: str) -> str | None:
    """Return which version of a peer is replayed, as `optuna==5.0.0`; None of this project."""
    return PEERS[sampler][0] if sampler in PEERS else None


def identify(line: dict[str, Any]) -> tuple[Contender | None, str, int]:
    """Say what of a result is made anew together: contender, table and workers."""
    return find_contender(line), line["table"], line["workers"]


def replay(
    contender: Contender, table: Path, workers: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Replay one contender on one table; return the results of the seeds that were finished."""
    command = [sys.executable, HERE / "replay.py", table, *contender.arguments, "--json"]
    command += ["--workers", workers, "--seeds", options.seeds, "--budget", *BUDGETS[workers]]
    budgets, lines, began = BUDGETS[workers], [], time.monotonic()
    with subprocess.Popen([str(word) for word in command], stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append({"version": options.commit, **json.loads(text)})
            if time.monotonic() - began > options.limit and len(lines) % len(budgets) == 0:
                process.terminate()
                break
    if process.returncode > 0:
        print(f"{contender.name} failed on {table.stem}", file=sys.stderr, flush=True)
    lines = lines[: len(lines) // len(budgets) * len(budgets)]
    took = time.monotonic() - began
    n_seeds = len(lines) // len(budgets)
    print(f"{contender.name}, {table.stem}, {workers} workers: {n_seeds} seeds in {took:.0f} s")
    sys.stdout.flush()
    return lines


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the results that are kept."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_results(path: Path, lines: list[dict[str, Any]]) -> None:
    """Keep results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# --- tables ---------------------------------------------------------------------------------------


def format_results(lines: list[dict[str, Any]]) -> str:
    """Write SEARCH.md."""
    regrets = group_results(lines)
    tables = sorted({table for _, table, _ in regrets})
    parts = [
        "# How good the searches are",
        "Written by `make replay`; see replay_compare.py for what is done.",
        f"- written {datetime.now(timezone.utc):%Y-%m-%d}\n"
        f"- tables: {', '.join(tables)}\n"
        "- regret in percent: (best validation loss reported so far - the table's minimum) / "
        "(median final loss - minimum), mean ± standard error over seeds\n"
        "- budgets in R, the mean time of one full training; simulated time\n"
        "- bounds, not ways to search: foresight is the model, told of each trial's whole curve "
        "with its first report; clairvoyance begins at once with the row that is best at that "
        "budget, and nothing can do better",
        format_versions(lines),
    ]
    for workers, budgets in BUDGETS.items():
        rows = [c for c in CONTENDERS if all((c.name, t, workers) in regrets for t in tables)]
        if rows:
            parts += format_means(rows, tables, workers, budgets, regrets)
            parts += format_rules(rows, tables, workers, budgets, regrets)
    for workers, budgets in BUDGETS.items():
        rows = [c for c in CONTENDERS if any((c.name, t, workers) in regrets for t in tables)]
        parts += format_tables(rows, tables, workers, budgets, regrets)
    return "\n\n".join(parts) + "\n"


def format_versions(lines: list[dict[str, Any]]) -> str:
    """Write what has given the results: a commit of this project, or a peer's version."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        contender = find_contender(line)
        if contender is not None and "version" in line:
            found[line["version"]].add(contender.name.strip("*"))
    made = [f"- {version}: {'; '.join(sorted(rows))}" for version, rows in sorted(found.items())]
    return "\n".join(["What made them:\n", *made])


def group_results(lines: list[dict[str, Any]]) -> Regrets:
    """Group results by contender, table and workers, then by seed."""
    grouped: Regrets = defaultdict(lambda: defaultdict(list))
    for line in sorted(lines, key=lambda line: line["budget"]):
        contender = find_contender(line)
        if contender is not None:
            key = contender.name, line["table"], line["workers"]
            grouped[key][line["seed"]].append(line["regret"])
    return grouped


def format_means(
    rows: list[Contender],
    tables: list[str],
    workers: int,
    budgets: tuple[float, ...],
    regrets: Regrets,
) -> list[str]:
    """Write the means over all tables of those who ran on all, and their average rank."""
    means, errors, seeds = {}, {}, {}
    for row in rows:
        cells = [
            100 * np.array(list(regrets[row.name, table, workers].values())) for table in tables
        ]
        means[row.name] = np.array([cell.mean(axis=0) for cell in cells])  # [tables, budgets]
        errors[row.name] = compute_error(cells)
        seeds[row.name] = [len(cell) for cell in cells]
    every = np.array([means[row.name] for row in rows])  # [rows, tables, budgets]
    ranked = [i for i, row in enumerate(rows) if not row.is_bound]
    ranks = np.full(every.shape[::2], np.nan)  # [rows, budgets]
    ranks[ranked] = np.mean([rank(every[ranked, t]) for t in range(len(tables))], axis=0)
    head = " | ".join(f"{budget:g} R" for budget in budgets)
    lines = [f"| | {head} | average rank | x {rows[0].name} | seeds |", "|---" * 7 + "|"]
    base = every[0].mean(axis=0)
    for i, row in enumerate(rows):
        mean = every[i].mean(axis=0)
        error = np.broadcast_to(errors[row.name], mean.shape)
        cells = [format_cell(*pair) for pair in zip(mean, error, strict=True)]
        rest = ["" if row.is_bound else " / ".join(f"{r:.1f}" for r in ranks[i])]
        rest += [" / ".join(f"{r:.2f}" for r in mean / base), format_range(seeds[row.name])]
        lines.append(f"| {row.name} | {' | '.join([*cells, *rest])} |")
    return [f"## {workers} workers, mean of all tables", "\n".join(lines)]


def format_rules(
    rows: list[Contender],
    tables: list[str],
    workers: int,
    budgets: tuple[float, ...],
    regrets: Regrets,
) -> list[str]:
    """Write how rules for stopping differ from ASHA on the same draws, mean over all tables."""
    base, *others = [row for row in rows if row.sampler in SAME_DRAWS] or [None]
    if base is None or not others:
        return []
    head = " | ".join(f"{budget:g} R" for budget in budgets)
    lines = [f"| | {head} | seeds |", "|---" * (len(budgets) + 2) + "|"]
    for row in others:
        pairs = [(regrets[row.name, t, workers], regrets[base.name, t, workers]) for t in tables]
        gaps = [
            100
            * np.array([np.subtract(its[seed], ours[seed]) for seed in its.keys() & ours.keys()])
            for its, ours in pairs
        ]
        mean = np.mean([gap.mean(axis=0) for gap in gaps], axis=0)
        error = np.broadcast_to(compute_error(gaps), mean.shape)
        cells = [f"{m:+.1f} ± {e:.1f}" for m, e in zip(mean, error, strict=True)]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {format_range(list(map(len, gaps)))} |")
    title = f"## {workers} workers, rules for stopping on the same random draws"
    text = f"Regret beyond that of {base.name}, mean of the differences seed by seed."
    return [title, text, "\n".join(lines)]


def format_tables(
    rows: list[Contender],
    tables: list[str],
    workers: int,
    budgets: tuple[float, ...],
    regrets: Regrets,
) -> list[str]:
    """Write the means on each table."""
    lines = [f"| | {' | '.join(tables)} | seeds |", "|---" * (len(tables) + 2) + "|"]
    for row in rows:
        cells, seeds = [], []
        for table in tables:
            found = list(regrets.get((row.name, table, workers), {}).values())
            mean = 100 * np.array(found).mean(axis=0) if found else []
            cells.append(" / ".join(f"{value:.3g}" for value in mean))
            seeds += [len(found)] if found else []
        lines.append(f"| {row.name} | {' | '.join(cells)} | {format_range(seeds)} |")
    budget = " / ".join(f"{budget:g}" for budget in budgets)
    return [f"## {workers} workers, each table at {budget} R", "\n".join(lines)]


def compute_error(samples: list[Any]) -> Any:
    """Return the standard error of the mean of all tables' means, NaN if one has but one seed.

    Args:
        samples: Of each table what each seed gave; [seeds, budgets].
    """
    squares = [
        sample.var(axis=0, ddof=1) / len(sample) if len(sample) > 1 else np.nan
        for sample in samples
    ]
    return np.sqrt(sum(squares)) / len(samples)


def format_range(numbers: list[int]) -> str:
    """Write the smallest and the largest of some numbers."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def format_cell(mean: float, error: float) -> str:
    """Write a mean and its standard error, which one seed hasn't."""
    return f"{mean:.1f}" + ("" if np.isnan(error) else f" ± {error:.1f}")


def rank(values: Any) -> Any:
    """Rank rows within each column, 1 for the lowest; ties share their mean rank."""
    below = (values[None] < values[:, None]).sum(axis=1)
    same = (values[None] == values[:, None]).sum(axis=1)
    return below + (same + 1) / 2


def find_commit() -> str:
    """Return the commit that is checked out, with a mark where code differs from it."""
    git = ["git", "-C", str(HERE)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], stdout=PIPE, text=True)
    status = [*git, "status", "--porcelain", "--", "../src", "*.py"]
    changed = subprocess.run(status, stdout=PIPE, text=True).stdout.strip()
    return (found.stdout.strip() or "unknown") + ("-dirty" if changed else "")


if __name__ == "__main__":
    main()
