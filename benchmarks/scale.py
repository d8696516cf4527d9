"""What deciding costs at scale: the real `Sweep`, driven by virtual workers in virtual time.

No process and no channel: up to 10,000 virtual workers ask for trials, report and end, in the order
of a virtual clock. One line of JSON for each size goes to stdout, each size in a process of its
own. Seconds are CPU seconds, so that a busy machine changes little.

    python benchmarks/scale.py [--trials 1000 10000 100000 1000000] [--workers 10000] [--profile]

A decision is an answer of the sweep: a trial for a free worker, or the verdict on a report. The
figure for all of them has the virtual workers' own cost in it; `sweep only` has it taken out.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import json
import pstats
import random
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Answer, Ended, Sweep, SweepCfg, TrialState
from slurm_sweeps.trial import Status

MAX_T = 27
SIZES = [1_000, 10_000, 100_000, 1_000_000]
TEMPLATE = {
    "lr": ss.LogUniform(1e-5, 1.0),
    "dropout": ss.Uniform(0.0, 0.5),
    "layers": ss.Integer(1, 8),
    "optimizer": {"name": ss.Choice(["sgd", "adam"]), "decay": 0.1},
}


@dataclass(frozen=True, slots=True)
class Tally:
    """How much was decided."""

    trials: int
    reports: int

    @property
    def decisions(self) -> int:
        return self.trials + self.reports


def build_sweep(trials: int, workers: int) -> Sweep:
    """The sweep that an experiment with these settings has."""
    asha = ss.ASHA("loss", "min", reduction_factor=3, max_t=MAX_T)
    sampler = bind_sampler(None, Problem(SearchSpace(TEMPLATE), 1, asha.metric, asha.mode))
    goal = Goal(asha.metric, asha.mode)
    cfg = SweepCfg(trials, goal, slots=workers)
    return Sweep(cfg, sampler, asha.build_pruner())


def simulate(sweep: Sweep, workers: int) -> Tally:
    """Let virtual workers run the sweep to its end, each trial for at most `MAX_T` reports."""
    rng = random.Random(0)
    draw = rng.random
    reports = 0
    completed, pruned = Ended(Status.COMPLETED), Ended(Status.PRUNED)
    # When; which worker; its trial; the next iteration; how good the trial can get.
    queue: list[tuple[float, int, TrialState, int, float]] = []

    def begin(worker: int, now: float) -> None:
        trial = sweep.assign(now)
        if trial is not None:
            heapq.heappush(queue, (now + 0.5 + draw(), worker, trial, 1, draw()))

    for worker in range(workers):
        begin(worker, 0.0)
    while queue:
        now, worker, trial, iteration, floor = queue[0]
        reports += 1
        loss = floor + draw() / iteration
        decision = sweep.report(trial.number, iteration, {"loss": loss}).decision
        if decision is Decision.GO_ON and iteration < MAX_T:
            heapq.heapreplace(queue, (now + 0.5 + draw(), worker, trial, iteration + 1, floor))
            continue
        heapq.heappop(queue)
        sweep.end(trial.number, pruned if decision is Decision.PRUNE else completed)
        begin(worker, now)
    return Tally(sweep.drawn, reports)


class Nothing:
    """Answers as a sweep does, at no cost: what is left is the virtual workers' own."""

    def __init__(self, tally: Tally) -> None:
        self.drawn = 0
        self._trials = tally.trials
        self._length = max(1, round(tally.reports / tally.trials))

    def assign(self, _now: float) -> TrialState | None:
        if self.drawn == self._trials:
            return None
        self.drawn += 1
        return _BLANK

    def report(self, _number: int, iteration: int, _metrics: dict[str, float]) -> Answer:
        return _GO_ON if iteration < self._length else _PRUNE

    def end(self, _number: int, _ended: Ended) -> None:
        return None


_GO_ON, _PRUNE = Answer(Decision.GO_ON), Answer(Decision.PRUNE)
_BLANK = TrialState(0, "", 0, {})


def measure(trials: int, workers: int) -> dict[str, object]:
    """Simulate one sweep; tell what a decision and a trial cost."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    tally = simulate(build_sweep(trials, workers), workers)
    elapsed_s = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    simulate(Nothing(tally), workers)  # type: ignore[arg-type] # it answers alike
    own_s = time.process_time() - started
    return {
        "trials": tally.trials,
        "workers": workers,
        "reports": tally.reports,
        "decisions/s": round(tally.decisions / elapsed_s),
        "decisions/s, sweep only": round(tally.decisions / max(elapsed_s - own_s, 1e-9)),
        "cpu_s": round(elapsed_s, 2),
        "bytes/trial": round((peak - before) * 1024 / tally.trials),
    }


def profile(trials: int, workers: int) -> None:
    """Print where the time goes."""
    profiler = cProfile.Profile()
    profiler.runcall(simulate, build_sweep(trials, workers), workers)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure each size in a process of its own: memory that was freed would be used again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=SIZES)
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="of the first size, with cProfile")
    options = parser.parse_args()
    if options.profile:
        profile(options.trials[0], options.workers)
    elif len(options.trials) == 1:
        print(json.dumps(measure(options.trials[0], options.workers)), flush=True)
    else:
        for trials in options.trials:
            argv = ["--trials", str(trials), "--workers", str(options.workers)]
            subprocess.run([sys.executable, __file__, *argv], check=True)


if __name__ == "__main__":
    main()
