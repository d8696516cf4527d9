"""What the search costs: µs per report at n trials, bytes per trial, µs per ask.

Run with `python benchmarks/rungs.py [n ...]`; the default is 1,000, 100,000 and 1,000,000 trials.
"""

from __future__ import annotations

import random
import sys
import time
import tracemalloc

from slurm_sweeps.rules.asha import ASHA
from slurm_sweeps.rules.protocol import Decision, Pruner
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.choices import Choice
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, LogUniform, Quantized, Uniform

N_PROBED = 10_000
SPACES = {
    "3 continuous": {"lr": LogUniform(1e-5, 1), "p": Uniform(0, 1), "opt": Choice(["sgd", "adam"])},
    "3 finite": {
        "n": Integer(1, 10_000),
        "p": Quantized(Uniform(0, 1), 0.01),
        "opt": Choice(["sgd", "adam"]),
    },
}


MAX_T = 50


def run_trials(pruner: Pruner, numbers: range) -> int:
    """Run trials one after the other until pruned or at max_t; return the number of reports."""
    rng = random.Random(numbers.start)
    return sum(run_trial(pruner, number, rng) for number in numbers)


def run_trial(pruner: Pruner, number: int, rng: random.Random) -> int:
    quality = rng.random()
    for iteration in range(1, MAX_T + 1):
        decision = pruner.report(number, iteration, quality + 0.3 * rng.random())
        if decision is Decision.PRUNE:
            return iteration
    return MAX_T


def measure_report(n_trials: int) -> None:
    pruner = ASHA("loss", "min", max_t=MAX_T).build_pruner()
    run_trials(pruner, range(n_trials))
    start = time.perf_counter()
    n_reports = run_trials(pruner, range(n_trials, n_trials + N_PROBED))
    elapsed_s = time.perf_counter() - start
    print(f"report at n = {n_trials:>9,}: {elapsed_s / n_reports * 1e6:6.2f} µs")


def measure_memory(n_trials: int) -> None:
    tracemalloc.start()
    pruner = ASHA("loss", "min", max_t=MAX_T).build_pruner()
    run_trials(pruner, range(n_trials))
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"memory at n = {n_trials:>9,}: {n_bytes / n_trials:6.0f} bytes a trial")


def measure_ask(name: str, template: dict[str, object]) -> None:
    sampler = bind_sampler(None, Problem(SearchSpace(template), seed=1))
    start = time.perf_counter()
    for _ in range(N_PROBED):
        sampler.ask(0.0)
    print(f"ask, {name}: {(time.perf_counter() - start) / N_PROBED * 1e6:6.2f} µs")


def main() -> None:
    for n_trials in [int(arg) for arg in sys.argv[1:]] or [1_000, 100_000, 1_000_000]:
        measure_report(n_trials)
        measure_memory(n_trials)
    for name, template in SPACES.items():
        measure_ask(name, template)


if __name__ == "__main__":
    main()
