"""Sweeps made of the real parts, for the tests of the state machine."""

from __future__ import annotations

from typing import Any

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, SweepCfg, TrialState
from slurm_sweeps.trial import Status, TrialError

TEMPLATES: dict[str, dict[str, Any]] = {
    "continuous": {"lr": ss.LogUniform(1e-4, 1), "n": ss.Integer(1, 4)},
    "finite": {"a": ss.Choice(["x", "y", None]), "b": ss.Integer(1, 2)},
    "grid": {"a": ss.Grid([1, 2, 3]), "b": ss.Uniform(0, 1)},
    "constant": {"a": 1},
}
UNFINISHED = (Status.SCHEDULED, Status.RUNNING, Status.LOST, Status.INTERRUPTED)


def build_sweep(
    template: str = "continuous",
    asha: bool = False,
    seed: int = 1,
    promote: bool = False,
    **cfg: Any,
) -> Any:
    """Make a sweep of the real parts; `cfg` goes to `SweepCfg`."""
    plan = ss.ASHA("loss", "min", reduction_factor=2, max_t=8, promote=promote)
    problem = Problem(SearchSpace(TEMPLATES[template]), seed, "loss", "min")
    goal = {"goal": Goal("loss", "min")} if asha else {}
    settings = SweepCfg(**({"n_trials": 4} | goal | cfg))
    return Sweep(settings, bind_sampler(None, problem), plan.build_pruner() if asha else None)


def start(sweep: Sweep) -> TrialState:
    trial = sweep.assign(0.0)
    assert trial is not None
    return trial


COMPLETED = Ended(Status.COMPLETED)
FAILED = Ended(Status.FAILED, TrialError("ValueError", "no", "Traceback: no"), 1)
LOST = Ended(Status.LOST)
INTERRUPTED = Ended(Status.INTERRUPTED)
