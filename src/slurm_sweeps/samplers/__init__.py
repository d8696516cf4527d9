"""The samplers that an experiment can be given: what to try next.

Those that not every sweep uses are loaded when they are first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import UsageTypeError
from .protocol import HOW_TO_NAME_A_GOAL as HOW_TO_NAME_A_GOAL
from .protocol import Observation as Observation
from .protocol import Problem as Problem
from .protocol import Sampler as Sampler
from .protocol import SamplerPlan as SamplerPlan
from .protocol import StudyingSampler as StudyingSampler
from .protocol import SuggestingSampler as SuggestingSampler
from .simple import Design as Design
from .simple import DesignSampler as DesignSampler
from .simple import Grid as Grid
from .simple import GridSampler as GridSampler
from .simple import NumberedSampler as NumberedSampler
from .simple import Random as Random
from .simple import RandomSampler as RandomSampler

if TYPE_CHECKING:
    from .define_by_run import DefineByRun as DefineByRun
    from .designs import LatinHypercube as LatinHypercube
    from .designs import Saltelli as Saltelli
    from .designs import Sobol as Sobol
    from .model import Model as Model
    from .model import ModelSampler as ModelSampler
    from .optuna import Optuna as Optuna

#: The same, for when they are named.
_HOMES = {
    **dict.fromkeys(("LatinHypercube", "Saltelli", "Sobol"), "designs"),
    **dict.fromkeys(("Model", "ModelSampler"), "model"),
    **{"DefineByRun": "define_by_run", "Optuna": "optuna"},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]


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
