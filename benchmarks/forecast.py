"""How often forecasts hold: whole sweeps on tables of learning curves, forecast on their way.

    python benchmarks/forecast.py TABLE.npz … [--seeds 10] [--jobs 2]

Each sweep is played by `replay_simulation.py` to its end, and forecast as it stood after a tenth, a
quarter and half of its time: the best value that it comes to, and how long it still takes. Counted
is how often the band of 80 %, of the fewest plays that there ever are, has held what then happened.
Where too little was known by then, nothing is said, and that is counted too.

A sweep tries a fraction of a table's rows: one that tried most of them would find a best value
below which there is nothing, which is not how search spaces are. Without a rule that judges by
rungs, trials report at every fifth epoch, which changes little and is played faster.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from replay import PRUNERS, SweepTuner
from replay_simulation import TableGame
from replay_table import Array, Table, read_table

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.experiment.arguments import describe_pruner
from slurm_sweeps.replay import forecast as forecasting
from slurm_sweeps.replay.forecast import Outlook, forecast
from slurm_sweeps.replay.story import Story
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Report, SweepCfg, Turn
from slurm_sweeps.trial import Status

#: How many trials a sweep has, by its rule and the number of workers.
SWEEPS = {
    ("asha", 4): 600,
    ("asha", 12): 600,
    ("asha-promote", 4): 600,
    ("hyperband", 12): 600,
    ("median", 4): 200,
    ("none", 4): 120,
    ("none", 12): 240,
}

#: Without rungs, trials report at every so many-th epoch.
STRIDE = 5
SHARES = (0.1, 0.25, 0.5)

#: As few plays as there ever are: bands are least sure then.
forecasting.MAX_PLAYS = forecasting.MIN_PLAYS

#: What each rule is in an experiment's settings.
PLANS: dict[str, Any] = {
    "asha": lambda t: ss.ASHA("loss", "min", max_t=t),
    "asha-promote": lambda t: ss.ASHA("loss", "min", max_t=t, promote=True),
    "hyperband": lambda t: ss.Hyperband("loss", "min", t),
    "median": lambda _t: ss.MedianStopping("loss", "min"),
    "none": lambda _t: None,
}


class Recorder:
    """A tuner that keeps what happens as the database does."""

    def __init__(self, tuner: SweepTuner) -> None:
        self._tuner, self._now = tuner, 0.0
        self._attempts: dict[int, int] = defaultdict(int)
        self.events: list[Report | Turn] = []

    def assign(self, slot: int, now: float) -> tuple[int, Array] | None:
        job = self._tuner.assign(slot, now)
        if job is not None:
            self._attempts[job[0]] += 1
            self.events.append(Turn(now, job[0], self._attempts[job[0]], Status.RUNNING))
        return job

    def report(self, number: int, epoch: int, value: float, now: float) -> bool:
        self._now = now
        self.events.append(Report(now, number, epoch, value))
        return self._tuner.report(number, epoch, value, now)

    def end(self, number: int, completed: bool) -> None:
        status = self._tuner.end(number, completed)
        self.events.append(Turn(self._now, number, self._attempts[number], status))

    def cut(self, at: float, settings: dict[str, Any]) -> Story:
        """Return what is stored at a time."""
        events = [event for event in self.events if event.at <= at]
        turns = {event.number: event for event in events if isinstance(event, Turn)}
        starts: dict[int, float] = {}
        for event in events:
            starts.setdefault(event.number, event.at)
        trials = [
            TrialRecord(
                number,
                f"{number:012x}",
                0,
                "{}",
                status=turn.status,
                attempt=turn.attempt,
                start_time=starts[number],
                end_time=None if turn.status is Status.RUNNING else turn.at,
            )
            for number, turn in sorted(turns.items())
        ]
        return Story(settings, trials, [], events)


class Outcome(NamedTuple):
    """What was forecast, and what then happened."""

    rule: str
    workers: int
    table: str
    share: float
    outlook: Outlook | None  # None: too little was known
    now: float
    best: float
    hours: float


def play(task: tuple[Path, str, int, int]) -> list[Outcome]:
    """Play a sweep to its end, and forecast it on its way."""
    path, rule, workers, seed = task
    table = read_table(path)
    if rule in ("median", "none"):
        table = replace(table, loss=table.loss[:, STRIDE - 1 :: STRIDE])
        table = replace(table, seconds=table.seconds * STRIDE)
    recorder, settings = run(table, rule, workers, seed)
    reports = [event for event in recorder.events if isinstance(event, Report)]
    end = recorder.events[-1].at
    outcomes = []
    for share in SHARES:
        now = share * end
        seen = [each.value for each in reports if each.at <= now]
        try:
            (outlook,) = forecast(recorder.cut(now, settings), now, [workers], [], seed).outlooks
        except ss.UsageError:
            outlook = None
        best, so_far = (float(np.nanmin(v)) for v in ([each.value for each in reports], seen))
        outcomes.append(
            Outcome(rule, workers, table.name, share, outlook, so_far, best, (end - now) / 3600)
        )
    return outcomes


def run(table: Table, rule: str, workers: int, seed: int) -> tuple[Recorder, dict[str, Any]]:
    """Run a sweep on a table to its end."""
    n_trials, plan = SWEEPS[rule, workers], PLANS[rule](table.n_epochs)
    space = SearchSpace({f"x{i}": ss.Uniform(0, 1) for i in range(table.unit.shape[1])})
    sampler = bind_sampler(ss.samplers.Random(), Problem(space, seed, "loss", "min"))
    cfg = SweepCfg(n_trials, Goal("loss", "min"), fail_fast=False, slots=workers)
    sweep = Sweep(cfg, sampler, PRUNERS[rule](table.n_epochs))
    recorder = Recorder(SweepTuner(sweep))
    TableGame(table, recorder, workers).run([float("inf")])
    settings = {"metric": "loss", "mode": "min", "n_trials": n_trials}
    return recorder, settings | {"asha": describe_pruner(plan) if plan else None}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.npz")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=sorted(PLANS), default=sorted(PLANS))
    options = parser.parse_args()
    tasks = [
        (path, rule, workers, seed)
        for rule, workers in SWEEPS
        for path in options.tables
        for seed in range(options.seeds)
        if rule in options.only
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        outcomes = [each for some in pool.map(play, tasks) for each in some]
    print("\n".join(tabulate(outcomes)))


def tabulate(outcomes: list[Outcome]) -> Iterator[str]:
    """Write the tables: by rule and workers, and by table."""
    for title, key in (
        ("rule, workers", lambda each: f"{each.rule}, {each.workers}"),
        ("table", lambda each: each.table),
        ("all", lambda _each: "all"),
    ):
        band = "in band | below | above"
        yield f"| {title} | after | said | best {band} | hours {band} |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for name in dict.fromkeys(map(key, outcomes)):
            for share in SHARES:
                rows = [each for each in outcomes if key(each) == name and each.share == share]
                yield f"| {name} | {share:.0%} | {format_counts(rows)} |"
        yield ""


def format_counts(rows: list[Outcome]) -> str:
    """Say how many were forecast, and how often the truth lay in, below and above each band."""
    said = [each for each in rows if each.outlook is not None]
    cells = [f"{len(said)} of {len(rows)}"]
    for name in ("best", "hours"):
        spans = [(getattr(each, name), getattr(each.outlook, name)) for each in said]
        # What is the same but for rounding is in a band.
        below = sum(truth < span.low - 1e-9 * abs(span.low) for truth, span in spans)
        above = sum(truth > span.high + 1e-9 * abs(span.high) for truth, span in spans)
        shares = [(len(said) - below - above), below, above]
        cells += [f"{each / max(len(said), 1):.0%}" for each in shares]
    return " | ".join(cells)


if __name__ == "__main__":
    main()
