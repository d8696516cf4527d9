"""Workers in simulated time: what a tuner does with a table, event by event.

A tuner is the real `Sweep` (`replay.py`) or a peer's own objects (`replay_peers.py`) behind the
same three calls. Both get the same workers, the same time and the same rows, and nothing here needs
more than NumPy. A trial that is started again goes on where it was, as
one with checkpoints does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from replay_table import Array, Server, Table

from slurm_sweeps.replay.simulation import Simulation


class Tuner(Protocol):
    """What proposes configurations and stops trials."""

    def assign(self, slot: int, now: float) -> tuple[int, Array] | None:
        """Return a trial's number and its point in the cube, [d]; None while there is none.

        A number that was returned before is that of a paused trial, which goes on.
        """

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        """Take a report; say whether the trial goes on."""

    def end(self, number: int, completed: bool) -> object:
        """Take note that a trial has ended, by itself or because it was told to."""


@dataclass(slots=True)
class _Run:
    """A trial that was started at least once."""

    number: int
    row: int
    epoch: int = 0


class TableGame:
    """One replay, played by `slurm_sweeps.replay.simulation`.

    Args:
        table: The learning curves.
        tuner: What is tried on them.
        workers: How many trials run at once.
        delay_s: From a report to its decision, and from a free worker to its trial's start.
    """

    def __init__(self, table: Table, tuner: Tuner, workers: int, delay_s: float = 0.0) -> None:
        self._table = table
        self._tuner = tuner
        self._delay_s = delay_s
        self._server = Server(table)
        self._runs: dict[int, _Run] = {}
        self._simulation = Simulation(self, workers)
        self.best = math.inf
        self.n_reports = 0

    @property
    def n_trials(self) -> int:
        """How many trials were started."""
        return len(self._runs)

    def run(self, budgets: Sequence[float]) -> list[float]:
        """Return the regret at each budget, ascending, in units of one full training."""
        regrets = []
        for budget in budgets:
            self._simulation.run(budget * self._table.full_training_s)
            regrets.append(self._table.compute_regret(self.best))
        return regrets

    def start(self, slot: int, now: float) -> tuple[_Run, float] | None:
        job = self._tuner.assign(slot, now)
        if job is None:
            return None
        number, unit = job
        run = self._runs.get(number)
        if run is None:
            run = self._runs[number] = _Run(number, self._server.take(unit))
        return run, self._expect_report(now, run)

    def go_on(self, run: _Run, now: float) -> float | None:
        run.epoch += 1
        value = float(self._table.loss[run.row, run.epoch - 1])
        self.n_reports += 1
        if value < self.best:
            self.best = value
        goes_on = self._tuner.report(run.number, run.epoch, value, now)
        completed = run.epoch == self._table.n_epochs
        if goes_on and not completed:
            return self._expect_report(now, run)
        self._tuner.end(run.number, completed)
        return None

    def _expect_report(self, now: float, run: _Run) -> float:
        return now + self._delay_s + float(self._table.seconds[run.row])


def replay(
    table: Table, tuner: Tuner, seed: int, labels: dict[str, str], options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Run one seed on one table; yield a result for each budget.

    Args:
        table: The learning curves.
        tuner: What is tried on them.
        seed: Which run this is.
        labels: The names of the sampler and the pruner.
        options: With `workers`, `delay` and `budget`, as `add_options` has read them.
    """
    game = TableGame(table, tuner, options.workers, options.delay)
    yield from state(table, seed, labels, options, game.run(sorted(options.budget)))


def state(
    table: Table,
    seed: int,
    labels: dict[str, str],
    options: argparse.Namespace,
    regrets: Sequence[float],
) -> Iterator[dict[str, Any]]:
    """Yield a result for each budget, ascending; see `replay`."""
    for budget, regret in zip(sorted(options.budget), regrets, strict=True):
        yield {
            "table": table.name,
            **labels,
            "workers": options.workers,
            "budget": budget,
            "seed": seed,
            "regret": regret,
        }


def read_share(word: str) -> float:
    """Read a share, more than 0 and up to 1."""
    try:
        share = float(word)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and up to 1, got {word}")
    return share


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a parser read what every replay has: tables, workers, budgets, seeds, a delay."""
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument(
        "--budget", type=float, nargs="+", default=[1.0], help="in full trainings' mean time"
    )
    parser.add_argument("--seeds", type=int, default=1, help="run the seeds 0 to this, less one")
    parser.add_argument(
        "--rows",
        type=read_share,
        default=1.0,
        metavar="SHARE",
        help="give each seed so large a share of the rows, drawn by it",
    )
    parser.add_argument(
        "--delay", type=float, default=0.0, help="seconds to each decision and each trial's start"
    )
