"""Peers on the replay: their own samplers, pruners and schedulers behind the simulator's calls.

Run by `replay.py --peer`, in the peer's environment; prints one JSON line per table, seed and
budget. All get rungs from epoch 1 on and a reduction factor of 4. Where points are random they are
those that `samplers.Random()` draws with the same seed, so that rules for stopping are compared on
the same trials. A loss that is not a number goes to Syne Tune as the largest of its table: its
models can't take it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import random
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
from replay_simulation import add_options, replay
from replay_table import Array, Table, read_table

from slurm_sweeps.samplers.protocol import Problem
from slurm_sweeps.samplers.simple import Random
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Uniform

REDUCTION_FACTOR = 4


class RandomPoints:
    """The points that this project's random sampler draws."""

    def __init__(self, table: Table, seed: int) -> None:
        names = name_axes(table)
        space = SearchSpace({name: Uniform(0, 1) for name in names})
        self._sampler = Random().bind(Problem(space, seed))
        self._names = names

    def draw(self) -> Array:
        """Return the next point; [d]."""
        cfg = self._sampler.ask(0.0)
        return np.array([cfg[name] for name in self._names])


class OptunaTuner:
    """A study asked and told; `SuccessiveHalvingPruner` decides.

    Args:
        table: The learning curves.
        seed: Which run this is.
        sampler: The name of one of Optuna's samplers; "random" for the common random points.
    """

    pruner = "SuccessiveHalvingPruner"

    def __init__(self, table: Table, seed: int, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._states = optuna.trial.TrialState
        pruner = optuna.pruners.SuccessiveHalvingPruner(1, REDUCTION_FACTOR)
        self._points = RandomPoints(table, seed) if sampler == "random" else None
        name, options = OPTUNA_SAMPLERS[sampler]
        proposes = getattr(optuna.samplers, name)(seed=seed, **options)
        self._study = optuna.create_study(sampler=proposes, pruner=pruner)
        self._names = name_axes(table)
        self._n_rows = len(table.unit)
        self._trials: dict[int, Any] = {}
        self._last: dict[int, float] = {}

    def assign(self, _slot: int, _now: float) -> tuple[int, Array] | None:
        if len(self._trials) == self._n_rows:
            return None
        if self._points is not None:
            self._study.enqueue_trial(dict(zip(self._names, self._points.draw(), strict=True)))
        trial = self._study.ask()
        self._trials[trial.number] = trial
        return trial.number, np.array([trial.suggest_float(name, 0, 1) for name in self._names])

    def report(self, number: int, epoch: int, value: float, _now: float) -> bool:
        self._trials[number].report(value, epoch)
        self._last[number] = value
        return not self._trials[number].should_prune()

    def end(self, number: int, completed: bool) -> None:
        last = self._last.pop(number)
        if completed and np.isfinite(last):
            self._study.tell(self._trials[number], last)
        else:
            self._study.tell(self._trials[number], state=self._states.PRUNED)


class SyneTuner:
    """Syne Tune's asynchronous successive halving with one of its searchers."""

    pruner = "AsynchronousSuccessiveHalving"

    def __init__(self, table: Table, seed: int, searcher: str) -> None:
        from syne_tune.backend.trial_status import Trial
        from syne_tune.config_space import uniform
        from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving

        logging.disable(logging.WARNING)
        np.random.seed(seed)  # some of its searchers draw from there
        random.seed(seed)
        self._make_trial = Trial
        self._names = name_axes(table)
        self._scheduler = AsynchronousSuccessiveHalving(
            {name: uniform(0, 1) for name in self._names},
            "loss",
            searcher=searcher,
            time_attr="epoch",
            max_t=table.n_epochs,
            reduction_factor=REDUCTION_FACTOR,
            random_seed=seed,
        )
        self._largest = float(np.nanmax(np.where(np.isfinite(table.loss), table.loss, np.nan)))
        self._n_rows = len(table.unit)
        self._trials: list[Any] = []
        self._last: dict[int, dict[str, float]] = {}

    def assign(self, _slot: int, _now: float) -> tuple[int, Array] | None:
        number = len(self._trials)
        suggestion = self._scheduler.suggest() if number < self._n_rows else None
        if suggestion is None:
            return None
        config = suggestion.config
        trial = self._make_trial(number, config, datetime.datetime.now())
        self._trials.append(trial)
        self._scheduler.on_trial_add(trial)
        return number, np.array([config[name] for name in self._names])

    def report(self, number: int, epoch: int, value: float, _now: float) -> bool:
        loss = value if np.isfinite(value) else self._largest
        result = self._last[number] = {"loss": loss, "epoch": epoch}
        return bool(self._scheduler.on_trial_result(self._trials[number], result) == "CONTINUE")

    def end(self, number: int, completed: bool) -> None:
        result = self._last.pop(number)
        if completed:
            self._scheduler.on_trial_complete(self._trials[number], result)
        else:
            self._scheduler.on_trial_remove(self._trials[number])


class RayTuner:
    """Random points; Ray Tune's `AsyncHyperBandScheduler` decides."""

    pruner = "AsyncHyperBandScheduler"

    def __init__(self, table: Table, seed: int, _sampler: str) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler

        self._scheduler = AsyncHyperBandScheduler(
            "epoch", "loss", "min", table.n_epochs, reduction_factor=REDUCTION_FACTOR
        )
        self._points = RandomPoints(table, seed)
        self._n_rows = len(table.unit)
        self._trials: list[Any] = []
        self._last: dict[int, dict[str, float]] = {}

    def assign(self, _slot: int, _now: float) -> tuple[int, Array] | None:
        number = len(self._trials)
        if number == self._n_rows:
            return None
        trial = SimpleNamespace(trial_id=str(number))  # it looks at nothing else
        self._trials.append(trial)
        self._scheduler.on_trial_add(None, trial)
        return number, self._points.draw()

    def report(self, number: int, epoch: int, value: float, _now: float) -> bool:
        result = self._last[number] = {"loss": value, "epoch": epoch}
        decision = self._scheduler.on_trial_result(None, self._trials[number], result)
        return bool(decision == self._scheduler.CONTINUE)

    def end(self, number: int, completed: bool) -> None:
        result = self._last.pop(number)
        if completed:
            self._scheduler.on_trial_complete(None, self._trials[number], result)
        else:
            self._scheduler.on_trial_remove(None, self._trials[number])


#: The class, and its arguments besides the seed.
OPTUNA_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("RandomSampler", {}),
    "tpe-independent": ("TPESampler", {"multivariate": False}),
    "tpe-multivariate": ("TPESampler", {"multivariate": True}),
}

TUNERS: dict[str, tuple[type[Any], str]] = {
    "optuna-tpe-independent": (OptunaTuner, "tpe-independent"),
    "optuna-tpe-multivariate": (OptunaTuner, "tpe-multivariate"),
    "optuna-random": (OptunaTuner, "random"),
    "syne-cqr": (SyneTuner, "cqr"),
    "syne-bore": (SyneTuner, "bore"),
    "syne-kde": (SyneTuner, "kde"),
    "ray-random": (RayTuner, "random"),
}


def name_axes(table: Table) -> list[str]:
    """Return a name for each axis of a table."""
    return [f"x{i}" for i in range(table.unit.shape[1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=TUNERS)
    add_options(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    build, sampler = TUNERS[options.peer]
    labels = {"sampler": options.peer, "pruner": build.pruner}
    for table in map(read_table, options.tables):
        for seed in range(options.seeds):
            drawn = table.draw_share(options.rows, seed)
            for result in replay(drawn, build(drawn, seed, sampler), seed, labels, options):
                print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
