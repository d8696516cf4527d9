"""Replay tables of learning curves: how good a sampler and a pruner are, in simulated time.

    python benchmarks/replay.py TABLE.npz … --workers 4 --budget 10 --seeds 20 --sampler random \\
        --pruner asha --json

prints one JSON line per table, seed and budget; without `--json`, the mean regret and its standard
error per table and budget. A regret is (best validation loss reported so far - the table's
minimum) / (median final loss - minimum). What decides is the real `Sweep`: see
`replay_simulation.py`. Several budgets cost no more than the largest.

`--rows 0.75` gives each seed three quarters of the rows, drawn by the seed. Where one row of a
thousand is far better than all others, a whole table says how soon that one is found; so many
tables say what is to be expected of the next.

`--sampler model-heedless` is the model that doesn't mind what a configuration costs.

`--sampler foresight` is no way to search but a bound: the model, told of each trial's whole curve
with its first report. What a model of its kind could know at best, it knows. `--sampler
clairvoyance` is the bound for everything: the least regret that there is by then, since a trial
takes its time even if it is the right one and begins at once.

`--prior good` gives each axis a guess, that of a row drawn from the best 1 % of the table, `--prior
bad` that of one from the worst 10 %: what guesses are worth, and what wrong ones cost.

`--peer optuna-tpe-multivariate` drives the sampler and the pruner, or the scheduler, of another
library instead, with the same workers, time and rows; its results name its version.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
from environments import OPTUNA, RAY_TUNE, SYNE_TUNE_MODELS, make_environment
from replay_simulation import Tuner, add_options, replay, state
from replay_table import Array, Server, Table, read_table

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.rules.protocol import Decision, Pruner
from slurm_sweeps.samplers import (
    Observation,
    Problem,
    SamplerPlan,
    bind_sampler,
)
from slurm_sweeps.search.draws import list_guesses
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, SweepCfg
from slurm_sweeps.trial import Status

HERE = Path(__file__).resolve().parent

#: What samples on a table; only foresight looks at it.
SAMPLERS: dict[str, Callable[[Table], SamplerPlan]] = {
    "random": lambda _table: ss.samplers.Random(),
    "quasi": lambda _table: ss.samplers.Random(quasi=True),
    "model": lambda _table: ss.samplers.Model(),
    "model-heedless": lambda _table: ss.samplers.Model(cost_weight=0),
    "optuna": lambda _table: ss.samplers.Optuna(),
    "foresight": lambda table: Foresight(table),
}

#: Not sampled at all; see `Table.compute_bound`.
CLAIRVOYANCE = "clairvoyance"

#: A pruner for tables of so many epochs; None runs every trial to its end.
PRUNERS: dict[str, Callable[[int], Pruner | None]] = {
    "none": lambda _max_t: None,
    "asha": lambda max_t: ss.ASHA("loss", "min", max_t=max_t).build_pruner(),
    "asha-promote": lambda max_t: ss.ASHA("loss", "min", max_t=max_t, promote=True).build_pruner(),
    "hyperband": lambda max_t: ss.Hyperband("loss", "min", max_t).build_pruner(),
    "median": lambda _max_t: ss.MedianStopping("loss", "min").build_pruner(),
    "asha-3": lambda max_t: ss.ASHA("loss", "min", 3, max_t=max_t).build_pruner(),
}

#: What the objects of each peer need; see `replay_peers.py`.
PEERS = {
    "optuna-tpe-independent": OPTUNA,
    "optuna-tpe-multivariate": OPTUNA,
    "optuna-random": OPTUNA,
    "syne-cqr": SYNE_TUNE_MODELS,
    "syne-bore": SYNE_TUNE_MODELS,
    "syne-kde": SYNE_TUNE_MODELS,
    "ray-random": RAY_TUNE,
}


class Foresight:
    """The model, told of a trial's whole curve as soon as the trial has reported once."""

    def __init__(self, table: Table) -> None:
        self._loss = table.loss
        self._server = Server(table)  # serves the same rows in the same order as the simulation's
        self._rows: list[int] = []

    def bind(self, problem: Problem) -> Foresight:
        self._model = ss.samplers.Model().bind(problem)
        return self

    def ask(self, now: float) -> dict[str, Any]:
        cfg = self._model.ask(now)
        self._rows.append(self._server.take(read_unit(cfg)))
        return cfg

    def tell(self, trial: Observation) -> None:
        if trial.curve:
            curve = dict(enumerate(self._loss[self._rows[trial.number]].tolist(), start=1))
            trial = replace(trial, status=Status.COMPLETED, curve=curve)
        self._model.tell(trial)


class SweepTuner:
    """The real `Sweep`, with the axes as spaces x0, x1, …"""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    def assign(self, _slot: int, now: float) -> tuple[int, Array] | None:
        trial = self._sweep.assign(now)
        if trial is None:
            return None
        return trial.number, read_unit(trial.cfg)

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        answer = self._sweep.report(number, epoch, {"loss": value}, now)
        return answer.decision is Decision.GO_ON

    def end(self, number: int, completed: bool) -> Status:
        ended = Ended(Status.COMPLETED if completed else Status.PRUNED)
        return self._sweep.end(number, ended).status


def read_unit(cfg: dict[str, Any]) -> Array:
    """Return the point of the cube that a configuration is; [d]."""
    return np.array([cfg[f"x{i}"] for i in range(len(cfg))])


def build_tuner(table: Table, options: argparse.Namespace, seed: int) -> Tuner:
    """Make the sweep of a table: its axes are uniform spaces, its rows all the trials there are."""
    n_rows, n_axes = table.unit.shape
    guess = draw_guess(table, options, seed)
    space = SearchSpace({f"x{i}": ss.Uniform(0, 1, prior=guess[i]) for i in range(n_axes)})
    problem = Problem(space, seed, "loss", "min")
    cfg = SweepCfg(n_rows, Goal("loss", "min"), fail_fast=False, slots=options.workers)
    parts = (
        bind_sampler(SAMPLERS[options.sampler](table), problem),
        PRUNERS[options.pruner](table.n_epochs),
    )
    return SweepTuner(Sweep(cfg, *parts, list_guesses(space, seed)))


def draw_guess(table: Table, options: argparse.Namespace, seed: int) -> list[ss.Prior] | list[None]:
    """Draw the row that is guessed, for each axis; its epochs are not shown to anybody."""
    n_rows, n_axes = table.unit.shape
    if options.prior is None:
        return [None] * n_axes
    order = np.argsort(table.loss[:, -1], kind="stable")  # NaN, which diverged, comes last
    best, worst = order[: max(1, n_rows // 100)], order[-max(1, n_rows // 10) :]
    rows = best if options.prior == "good" else worst
    row = np.random.default_rng([seed, 1]).choice(rows)
    return [ss.Prior(float(x), options.confidence) for x in np.clip(table.unit[row], 0, 1)]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--sampler", choices=[*SAMPLERS, CLAIRVOYANCE], default="random")
    parser.add_argument("--pruner", choices=PRUNERS, default="asha")
    parser.add_argument("--prior", choices=["good", "bad"], help="guess such a row")
    parser.add_argument("--confidence", choices=["low", "medium", "high"], default="medium")
    parser.add_argument("--peer", choices=PEERS, help="drive these objects of a peer instead")
    parser.add_argument("--json", action="store_true", help="one JSON line per result")
    return parser


def replay_all(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the results of all tables and seeds, in turn."""
    labels = {"sampler": options.sampler, "pruner": options.pruner}
    if options.prior:
        labels |= {"prior": options.prior, "confidence": options.confidence}
    for table in map(read_table, options.tables):
        for seed in range(options.seeds):
            drawn = table.draw_share(options.rows, seed)
            if options.sampler == CLAIRVOYANCE:
                if seed and options.rows == 1:
                    break  # nothing is random
                bounds = [drawn.compute_bound(b, options.delay) for b in sorted(options.budget)]
                yield from state(drawn, seed, labels, options, bounds)
            else:
                tuner = build_tuner(drawn, options, seed)
                yield from replay(drawn, tuner, seed, labels, options)


def replay_peer(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield what a peer's objects reach; they live in an environment of their own.

    What draws random points needs NumPy alone, which every peer has.
    """
    command = [make_environment(PEERS[options.peer]), HERE / "replay_peers.py", options.peer]
    command += options.tables
    for name in ("workers", "seeds", "rows", "delay"):
        command += [f"--{name}", getattr(options, name)]
    command += ["--budget", *options.budget]
    words = [str(word) for word in command]
    env = os.environ | {"PYTHONPATH": str(HERE.parent / "src")}
    with subprocess.Popen(words, stdout=PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield {**json.loads(line), "version": PEERS[options.peer][0]}
    if process.returncode:
        sys.exit(process.returncode)


def print_means(table: str, results: list[dict[str, Any]]) -> None:
    """Print the mean regret, in percent, and its standard error at each budget."""
    for budget in sorted({result["budget"] for result in results}):
        regrets = 100 * np.array([r["regret"] for r in results if r["budget"] == budget])
        error = regrets.std(ddof=1) / len(regrets) ** 0.5 if len(regrets) > 1 else float("nan")
        print(f"{table}: {budget:4g} R: {regrets.mean():6.2f} % ± {error:.2f}", flush=True)


def main() -> None:
    options = build_parser().parse_args()
    found = replay_peer(options) if options.peer else replay_all(options)
    for table, results in groupby(found, lambda result: str(result["table"])):
        if options.json:
            for result in results:
                print(json.dumps(result), flush=True)
        else:
            print_means(table, list(results))


if __name__ == "__main__":
    main()
