"""The samplers that an experiment can be given: what to try next."""

from __future__ import annotations

from ..errors import UsageTypeError
from .model import Model, ModelSampler
from .optuna import Optuna, OptunaSampler
from .protocol import (
    Observation,
    Problem,
    Sampler,
    SamplerPlan,
    StudyingSampler,
)
from .simple import Grid, GridSampler, Random, RandomSampler

__all__ = [
    "Grid",
    "GridSampler",
    "Model",
    "ModelSampler",
    "Observation",
    "Optuna",
    "OptunaSampler",
    "Problem",
    "Random",
    "RandomSampler",
    "Sampler",
    "SamplerPlan",
    "StudyingSampler",
    "bind_sampler",
]


def bind_sampler(plan: SamplerPlan | None, problem: Problem) -> Sampler:
    """Bind what the user passed as `sampler`; None is Grid where the cfg has grids, else Random.

    Raises:
        UsageTypeError: `plan` has no `bind`.
    """
    if plan is None:
        plan = Grid() if problem.space.grids else Random()
    # A class has the attribute too, but unbound: Random where Random() was meant.
    if isinstance(plan, type) or not isinstance(plan, SamplerPlan):
        raise UsageTypeError(
            f"sampler must have a method bind(problem), as samplers.Random() has, got {plan!r}"
        )
    return plan.bind(problem)
