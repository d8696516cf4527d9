"""Workers in simulated time: what a tuner does with a table, event by event.

A tuner is the real `Sweep` (`replay.py`) or a peer's own objects (`replay_peers.py`) behind the
same three calls. Both get the same workers, the same time and the same rows, and nothing here needs
more than NumPy. A trial that is started again goes on where it was, as
one with checkpoints does.
"""

from __future__ import annotations

import argparse
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from replay_table import Array, Server, Table


class Tuner(Protocol):
    """What proposes configurations and stops trials."""

    def assign(self, slot: int, now: float) -> tuple[int, Array] | None:
        """Return a trial's number and its point in the cube, [d]; None while there is none.

        A number that was returned before is that of a paused trial, which goes on.
        """

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        """Take a report; say whether the trial goes on."""

    def end(self, number: int, completed: bool) -> None:
        """Take note that a trial has ended, by itself or because it was told to."""


@dataclass(slots=True)
class _Run:
    """A trial that was started at least once."""

    number: int
    row: int
    epoch: int = 0


class Simulation:
    """One replay.

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
        self._idle = list(range(workers))
        self._events: list[tuple[float, int, _Run]] = []
        self.best = math.inf
        self.n_reports = 0

    @property
    def n_trials(self) -> int:
        """How many trials were started."""
        return len(self._runs)

    def run(self, budgets: Sequence[float]) -> list[float]:
        """Return the regret at each budget, ascending, in units of one full training."""
        regrets = []
        self._fill(0.0)
        for budget in budgets:
            end_s = budget * self._table.full_training_s
            while self._events and self._events[0][0] <= end_s:
                self._step(*heapq.heappop(self._events))
            regrets.append(self._table.compute_regret(self.best))
        return regrets

    def _step(self, now: float, slot: int, run: _Run) -> None:
        run.epoch += 1
        value = float(self._table.loss[run.row, run.epoch - 1])
        self.n_reports += 1
        if value < self.best:
            self.best = value
        goes_on = self._tuner.report(run.number, run.epoch, value, now)
        completed = run.epoch == self._table.n_epochs
        if goes_on and not completed:
            self._expect_report(now, slot, run)
        else:
            self._tuner.end(run.number, completed)
            self._idle.append(slot)
        self._fill(now)  # a report can let a paused trial go on, too

    def _fill(self, now: float) -> None:
        while self._idle:
            job = self._tuner.assign(self._idle[-1], now)
            if job is None:
                return
            number, unit = job
            run = self._runs.get(number)
            if run is None:
                run = self._runs[number] = _Run(number, self._server.take(unit))
            self._expect_report(now, self._idle.pop(), run)

    def _expect_report(self, now: float, slot: int, run: _Run) -> None:
        due = now + self._delay_s + float(self._table.seconds[run.row])
        heapq.heappush(self._events, (due, slot, run))


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
    simulation = Simulation(table, tuner, options.workers, options.delay)
    yield from state(table, seed, labels, options, simulation.run(sorted(options.budget)))


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
