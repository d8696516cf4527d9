"""Replay noisy tables: what configuration is chosen, where each can be run with several seeds.

    python benchmarks/replay_seeds.py TABLE.npz … --budget 1 2 3 5 10 --seeds 16 --noise 0.2

Three ways, with the same workers, time and random configurations, each with ASHA:

- one: each configuration is run with one seed, and the one with the best value is chosen
- all: each is run with all five at once, which takes five times as long; ASHA and the choice go by
  the mean
- race: `Repeat(5)`, and what `best_trial()` chooses

Printed is the regret of the configuration that is chosen at each budget, in percent: what it comes
to over all seeds (the mean of each one's best value), less the least there is, by the median less
the least. Where a table has no `losses` (see `make_table.py --repeats`), seeds are made up: each
shifts the whole curve by a normal number of `--noise` times the median less the least.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from replay import SweepTuner
from replay_simulation import TableGame, add_options
from replay_table import Array, Server, Table, read_table

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.race import Race, build_pruner, build_sampler, find_counting_rung
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.repeat import find_repeats
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import SweepCfg
from slurm_sweeps.trial import Status
from slurm_sweeps.views.compare import rank_configurations

WAYS = ("one", "all", "race")

N_SEEDS = 5


def read_losses(path: Path, noise: float) -> tuple[Table, Array]:
    """Return a table, and its losses by seed, [n, seeds, epochs]."""
    table = read_table(path)
    with np.load(path) as file:
        if "losses" in file:
            return table, file["losses"].astype(float)
    finals = table.loss[:, -1][np.isfinite(table.loss[:, -1])]
    scale = noise * (np.median(finals) - np.nanmin(table.loss))
    shifts = np.random.default_rng(0).normal(0, scale, (len(table.loss), N_SEEDS, 1))
    return table, table.loss[:, None, :] + shifts - shifts.mean(axis=1, keepdims=True)


class SeedServer(Server):
    """Serves the row of a configuration, and of those of its seeds the one that is asked for."""

    def __init__(self, table: Table, n_seeds: int) -> None:
        super().__init__(table)
        self._n_seeds = n_seeds
        self._rows: dict[bytes, int] = {}

    def take(self, unit: Array) -> int:
        """Return the number of a row of a table that has the seeds of each one after another."""
        point, seed = unit[:-1], int(unit[-1])
        row = self._rows.get(point.tobytes())
        if row is None:
            row = self._rows[point.tobytes()] = super().take(point)
        return row * self._n_seeds + seed


class RepeatTuner(SweepTuner):
    """The real `Sweep`, and the choice that is made of what its trials have come to."""

    def __init__(self, table: Table, n_seeds: int, workers: int, seed: int) -> None:
        n_rows, n_axes = table.unit.shape
        self._n_seeds, self._best, self._done = n_seeds, {}, set()  # type: ignore[var-annotated]
        axes: dict[str, Any] = {f"x{i}": ss.Uniform(0, 1) for i in range(n_axes)}
        space = SearchSpace({**axes, f"x{n_axes}": ss.Repeat(n_seeds) if n_seeds > 1 else 0})
        repeats = find_repeats(space)
        proposed = space if repeats is None else repeats.space
        sampler = bind_sampler(ss.samplers.Random(), Problem(proposed, seed, "loss", "min"))
        plan = ss.ASHA("loss", "min", max_t=table.n_epochs)
        rule = plan.build_pruner()
        self._counts_at = find_counting_rung(plan.rungs, plan.max_t, plan.reduction_factor)
        self._epochs: dict[int, int] = {}
        if repeats is not None:
            race = Race(repeats.path, repeats.values, 1, self._counts_at)
            rule, sampler = build_pruner(race, rule), build_sampler(sampler, race, repeats)
        cfg = SweepCfg(n_rows, Goal("loss", "min"), fail_fast=False, slots=workers)
        super().__init__(Sweep(cfg, sampler, rule))

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        self._epochs[number] = epoch
        self._best[number] = min(self._best.get(number, np.inf), value)
        return super().report(number, epoch, value, now)

    def end(self, number: int, completed: bool) -> None:
        super().end(number, completed)
        self._done |= {number} if completed else set()

    def choose(self, row_of: dict[int, int]) -> int | None:
        """Return the row that is the best, as `best_trial()` does."""
        groups: dict[int, list[int]] = {}
        for number in self._best:
            groups.setdefault(row_of[number] // self._n_seeds, []).append(number)
        if self._n_seeds == 1:
            return min(groups, key=lambda row: self._best[groups[row][0]], default=None)
        found = (
            (
                TrialRecord(
                    n,
                    trial_id=str(row),
                    repetition=0,
                    cfg_json=_write(row, n),
                    status=self._status(n),
                    last_iteration=self._epochs[n],
                ),
                self._best[n],
                0,
            )
            for row, numbers in groups.items()
            for n in numbers
        )
        ranked = rank_configurations(found, {"path": "seed", "counts_at": self._counts_at}, "min")
        return int(ranked[0].best[0].trial_id) if ranked else None

    def _status(self, number: int) -> Status:
        return Status.COMPLETED if number in self._done else Status.PRUNED


def _write(row: int, seed: int) -> str:
    return f'{{"row": {row}, "seed": {seed}}}'


def replay_way(
    way: str, table: Table, losses: Array, options: argparse.Namespace, seed: int
) -> Iterator[float]:
    """Yield the regret of what is chosen at each budget."""
    _, n_seeds, n_epochs = losses.shape
    truth = np.nanmin(losses, axis=2, initial=np.inf, where=np.isfinite(losses)).mean(axis=1)
    lowest, median = truth.min(), np.median(truth[np.isfinite(truth)])
    if way == "race":
        seconds, unit = np.repeat(table.seconds, n_seeds), np.repeat(table.unit, n_seeds, axis=0)
        played = Table(table.name, losses.reshape(-1, n_epochs), seconds, unit)
    elif way == "all":
        played = Table(table.name, losses.mean(axis=1), table.seconds * n_seeds, table.unit)
    else:
        played = Table(table.name, losses[:, seed % n_seeds], table.seconds, table.unit)
    runs = n_seeds if way == "race" else 1
    tuner = RepeatTuner(played, runs, options.workers, seed)
    game = SeedsGame(played, tuner, options.workers, options.delay)
    game.serve(SeedServer(Table(table.name, table.loss, table.seconds, table.unit), runs))
    for row in game.play([b * table.full_training_s for b in sorted(options.budget)]):
        yield 100.0 if row is None else 100 * float((truth[row] - lowest) / (median - lowest))


class SeedsGame(TableGame):
    """A replay that says which configuration is chosen."""

    def serve(self, server: Server) -> None:
        """Take rows from this server."""
        self._server = server

    def play(self, ends_s: Sequence[float]) -> Iterator[int | None]:
        """Yield the row of the choice at each time, ascending."""
        for end_s in ends_s:
            self._simulation.run(end_s)
            yield self._tuner.choose({run.number: run.row for run in self._runs.values()})  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--noise", type=float, default=0.2, help="of seeds that are made up")
    options = parser.parse_args()
    budgets = sorted(options.budget)
    print("| table | way |", " | ".join(f"{budget:g} R" for budget in budgets), "|")
    print("|---|---|" + "---|" * len(budgets))
    for path in options.tables:
        table, losses = read_losses(path, options.noise)
        for way in WAYS:
            regrets = np.array(
                [[*replay_way(way, table, losses, options, s)] for s in range(options.seeds)]
            )
            errors = regrets.std(axis=0, ddof=1) / len(regrets) ** 0.5
            cells = [
                f"{m:.2f} ± {e:.2f}" for m, e in zip(regrets.mean(axis=0), errors, strict=True)
            ]
            print(f"| {table.name} | {way} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
