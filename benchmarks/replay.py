"""Replay tables of learning curves: how good a sampler and a pruner are, in simulated time.

    python benchmarks/replay.py TABLE.npz … --workers 4 --budget 10 --seeds 20 --sampler random \\
        --pruner asha --json

prints one JSON line per table, seed and budget; without `--json`, the mean regret and its standard
error per table and budget. A regret is (best validation loss reported so far - the table's
minimum) / (median final loss - minimum). What decides is the real `Sweep`: see
`replay_simulation.py`. Several budgets cost no more than the largest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from replay_simulation import Simulation, SweepTuner, Tuner
from replay_table import Table, read_table

import slurm_sweeps as ss
from slurm_sweeps.search.pruner import Pruner
from slurm_sweeps.search.samplers import Problem, SamplerPlan, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep, SweepCfg

SAMPLERS: dict[str, Callable[[], SamplerPlan]] = {
    "random": ss.samplers.Random,
    "model": ss.samplers.Model,
}

#: A pruner for tables of so many epochs; None runs every trial to its end.
PRUNERS: dict[str, Callable[[int], Pruner | None]] = {
    "none": lambda max_t: None,
    "asha": lambda max_t: ss.ASHA("loss", "min", max_t=max_t).build_pruner(),
    "asha-promote": lambda max_t: ss.ASHA("loss", "min", max_t=max_t, promote=True).build_pruner(),
    "hyperband": lambda max_t: ss.Hyperband("loss", "min", max_t).build_pruner(),
    "median": lambda max_t: ss.MedianStopping("loss", "min").build_pruner(),
    "asha-3": lambda max_t: ss.ASHA("loss", "min", 3, max_t=max_t).build_pruner(),
}


def build_tuner(table: Table, sampler: str, pruner: str, workers: int, seed: int) -> Tuner:
    """Make the sweep of a table: its axes are uniform spaces, its rows all the trials there are."""
    n_rows, n_axes = table.unit.shape
    space = SearchSpace({f"x{i}": ss.Uniform(0, 1) for i in range(n_axes)})
    problem = Problem(space, seed, "loss", "min")
    cfg = SweepCfg(n_rows, "loss", fail_fast=False, slots=workers)
    parts = bind_sampler(SAMPLERS[sampler](), problem), PRUNERS[pruner](table.n_epochs)
    return SweepTuner(Sweep(cfg, *parts), n_axes)


def replay(table: Table, seed: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Run one seed on one table; yield a result for each budget."""
    tuner = build_tuner(table, args.sampler, args.pruner, args.workers, seed)
    simulation = Simulation(table, tuner, args.workers, args.delay)
    budgets = sorted(args.budget)
    for budget, regret in zip(budgets, simulation.run(budgets), strict=True):
        yield {
            "table": table.name,
            "sampler": args.sampler,
            "pruner": args.pruner,
            "workers": args.workers,
            "budget": budget,
            "seed": seed,
            "regret": regret,
        }


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--budget", type=float, nargs="+", default=[1.0], help="in full trainings' mean time"
    )
    parser.add_argument("--seeds", type=int, default=1, help="run the seeds 0 to this, less one")
    parser.add_argument("--sampler", choices=SAMPLERS, default="random")
    parser.add_argument("--pruner", choices=PRUNERS, default="asha")
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds to each decision and each trial's start"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line per result")
    return parser


def print_means(table: Table, results: list[dict[str, Any]]) -> None:
    """Print the mean regret, in percent, and its standard error at each budget."""
    for budget in sorted({result["budget"] for result in results}):
        regrets = 100 * np.array([r["regret"] for r in results if r["budget"] == budget])
        error = regrets.std(ddof=1) / len(regrets) ** 0.5 if len(regrets) > 1 else float("nan")
        print(f"{table.name}: {budget:4g} R: {regrets.mean():6.2f} % ± {error:.2f}", flush=True)


def main() -> None:
    args = build_parser().parse_args()
    for table in map(read_table, args.tables):
        results = []
        for seed in range(args.seeds):
            for result in replay(table, seed, args):
                results.append(result)
                if args.json:
                    print(json.dumps(result), flush=True)
        if not args.json:
            print_means(table, results)


if __name__ == "__main__":
    main()
