"""The samplers that an experiment can be given: what to try next."""

from __future__ import annotations

from ..errors import UsageTypeError
from .define_by_run import DefineByRun as DefineByRun
from .designs import Design as Design
from .designs import DesignSampler as DesignSampler
from .designs import LatinHypercube as LatinHypercube
from .designs import Saltelli as Saltelli
from .designs import Sobol as Sobol
from .model import Model as Model
from .model import ModelSampler as ModelSampler
from .optuna import Optuna as Optuna
from .optuna import OptunaSampler as OptunaSampler
from .protocol import HOW_TO_NAME_A_GOAL as HOW_TO_NAME_A_GOAL
from .protocol import NumberedSampler as NumberedSampler
from .protocol import Observation as Observation
from .protocol import Problem as Problem
from .protocol import Sampler as Sampler
from .protocol import SamplerPlan as SamplerPlan
from .protocol import StudyingSampler as StudyingSampler
from .protocol import SuggestingSampler as SuggestingSampler
from .simple import Grid as Grid
from .simple import GridSampler as GridSampler
from .simple import Random as Random
from .simple import RandomSampler as RandomSampler


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
