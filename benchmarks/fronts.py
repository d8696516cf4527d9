"""What pruning by fronts gains: loss and cost of an epoch as two objectives, on learning curves.

    python benchmarks/fronts.py TABLE.npz … --workers 4 --budget 1 3 10 --seeds 10

The real `Sweep` in simulated time, as `replay.py` has it. Each trial reports its loss and what an
epoch takes, both to be low. What is measured is the hypervolume (Zitzler and Thiele 1999) that
`Result.front()` dominates, at equal time with equal workers, in percent of what the whole table
can: the losses from the median of the final ones down to the lowest, the seconds on a logarithmic
scale from the largest to the smallest.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from replay import SweepTuner, read_unit
from replay_simulation import TableGame, add_options
from replay_table import Array, Server, Table, read_table

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import SweepCfg

NAMES = ("loss", "seconds")
GOALS = (Goal("loss", "min"), Goal("seconds", "min"))

#: What is compared: the pruner, and the sampler.
SETUPS: dict[str, tuple[Any, Any]] = {
    "random, no pruning": (None, ss.samplers.Random()),
    "random, ASHA": (ss.ASHA(NAMES, "min"), ss.samplers.Random()),
    "random, ASHA that promotes": (ss.ASHA(NAMES, "min", promote=True), ss.samplers.Random()),
    "random, Hyperband": (ss.Hyperband(NAMES, "min"), ss.samplers.Random()),
    "model, ASHA": (ss.ASHA(NAMES, "min"), ss.samplers.Model()),
}


class FrontTuner(SweepTuner):
    """Reports both objectives, and keeps where each trial was last."""

    def __init__(self, table: Table, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._table = table
        self._server = Server(table)  # serves the same rows in the same order as the simulation's
        self._rows: dict[int, int] = {}
        self.points: dict[int, tuple[float, float]] = {}

    def assign(self, _slot: int, now: float) -> tuple[int, Array] | None:
        trial = self._sweep.assign(now)
        if trial is None:
            return None
        unit = read_unit(trial.cfg)
        if trial.number not in self._rows:
            self._rows[trial.number] = self._server.take(unit)
        return trial.number, unit

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        point = (value, float(self._table.seconds[self._rows[number]]))
        self.points[number] = point
        answer = self._sweep.report(number, epoch, dict(zip(NAMES, point, strict=True)), now)
        return answer.decision.value == "go_on"


def compute_hypervolume(points: Array) -> float:
    """Return the area that points [n, 2], lower is better, dominate in the unit square."""
    inside = points[np.isfinite(points).all(axis=1) & (points < 1).all(axis=1)].clip(0)
    area, height = 0.0, 1.0
    for x, y in inside[np.lexsort(inside.T[::-1])]:
        if y < height:
            area += (1 - x) * (height - y)
            height = y
    return float(area)


def normalize(table: Table, points: Array) -> Array:
    """Carry losses and seconds to the unit square."""
    lowest, median = np.nanmin(table.loss), np.nanmedian(table.loss[:, -1])
    least, most = np.log(table.seconds.min()), np.log(table.seconds.max())
    loss, seconds = points.T
    sides = ((loss - lowest) / (median - lowest), (np.log(seconds) - least) / (most - least))
    return np.column_stack(sides)


def measure(
    table: Table, setup: str, seed: int, workers: int, budgets: list[float], delay_s: float = 0.0
) -> list[float]:
    """Return the percent of the table's hypervolume at each budget, ascending."""
    plan, sampler = SETUPS[setup]
    d = table.unit.shape[1]
    space = SearchSpace({f"x{i}": ss.Uniform(0, 1) for i in range(d)})
    problem = Problem(space, seed, *GOALS[0], goals=GOALS)
    cfg = SweepCfg(len(table.unit), GOALS[0], slots=workers, goals=GOALS, judged_by=NAMES)
    pruner = plan.build_pruner() if plan else None
    tuner = FrontTuner(table, Sweep(cfg, bind_sampler(sampler, problem), pruner))
    game = TableGame(table, tuner, workers, delay_s)
    whole = compute_hypervolume(
        normalize(table, np.column_stack((np.nanmin(table.loss, axis=1), table.seconds)))
    )
    shares = []
    for budget in budgets:
        game.run([budget])
        found = normalize(table, np.array(list(tuner.points.values())).reshape(-1, 2))
        shares.append(100 * compute_hypervolume(found) / whole)
    return shares


def main() -> None:
    """Print a table's means, with their standard errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--only", nargs="+", default=[*SETUPS], choices=SETUPS, metavar="SETUP")
    options = parser.parse_args()
    budgets = sorted(options.budget)
    for path in options.tables:
        table = read_table(path)
        print(
            f"{table.name}: percent of the hypervolume after {budgets} R, {options.workers} workers"
        )
        for setup in options.only:
            shares = np.array(
                [
                    measure(table, setup, seed, options.workers, budgets, options.delay)
                    for seed in range(options.seeds)
                ]
            )
            errors = shares.std(axis=0, ddof=1) / np.sqrt(options.seeds) if options.seeds > 1 else 0
            cells = zip(shares.mean(axis=0), errors + np.zeros(len(budgets)), strict=True)
            print(f"  {setup:28}", "  ".join(f"{m:5.1f} ± {e:.1f}" for m, e in cells), flush=True)


if __name__ == "__main__":
    main()
