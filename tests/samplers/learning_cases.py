"""A bowl in a conditional space, and how samplers that learn are driven over it."""

from __future__ import annotations

import math
from typing import Any

from slurm_sweeps import samplers
from slurm_sweeps.samplers import Observation, Problem
from slurm_sweeps.search.choices import Choice
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, LogUniform, Uniform
from slurm_sweeps.trial import Status, canonical_json

MIXED = {
    "lr": LogUniform(1e-5, 1),
    "opt": Choice([{"name": "sgd", "m": Uniform(0, 1)}, {"name": "adam"}, None]),
    "n": [Integer(1, 4), Uniform(-1, 1)],
}

#: A model that begins early.
MODEL = samplers.Model(n_startup=5)


def bind(
    plan: Any = MODEL, template: dict[str, Any] = MIXED, seed: int = 1, mode: str = "min"
) -> Any:
    """Return the plan's sampler of a metric `loss`."""
    return plan.bind(Problem(SearchSpace(template), seed, "loss", mode))


def run(sampler: Any, losses: list[float | None], first: int = 0) -> list[str]:
    """Ask for one trial after the other, telling how each ended; return their cfgs."""
    cfgs = []
    for number, loss in enumerate(losses, first):
        cfg = sampler.ask(0.0)
        sampler.tell(Observation(number, cfg, Status.RUNNING))
        status = Status.FAILED if loss is None else Status.PRUNED
        sampler.tell(Observation(number, cfg, status, 1, loss))
        cfgs.append(canonical_json(cfg))
    return cfgs


def search(plan: Any, seed: int, n: int, mode: str = "min") -> list[dict[str, Any]]:
    """Look for the best of the bowl; return the cfgs in their order, each with its loss."""
    sign = 1 if mode == "min" else -1
    sampler, cfgs = bind(plan, seed=seed, mode=mode), []
    for number in range(n):
        cfg = sampler.ask(0.0)
        momentum = cfg["opt"].get("m", 1.0) if cfg["opt"] else 2.0
        loss = abs(math.log10(cfg["lr"]) + 3) + momentum + abs(cfg["n"][1])
        sampler.tell(Observation(number, cfg, Status.COMPLETED, 1, sign * loss))
        cfgs.append(cfg | {"loss": loss})
    return cfgs
