"""An experiment made of an objective that was written for Optuna."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError, UsageTypeError
from ..integrations.optuna import Objective
from ..samplers import DefineByRun
from .experiment import Experiment

#: What takes the place of arguments of `create_study`.
INSTEAD = {
    "study_name": "name=…",
    "storage": "local_dir=…",
    "load_if_exists": 'restore="auto"',
    "directions": "direction=[…]",
    "cfg": "what the objective's trial.suggest_… draw",
}


def from_optuna(
    objective: Callable[[Any], Any],
    direction: str | Sequence[str] = "minimize",
    sampler: Any = None,
    *,
    metric: str | Sequence[str] | None = None,
    **arguments: Any,
) -> Experiment:
    """Make an experiment of an objective that was written for Optuna.

        experiment = ss.from_optuna(objective, "minimize", asha=ss.ASHA("value", "min"))
        result = experiment.run(n_trials=100)

    The two lines take the place of `create_study` and `optimize`. Trials ask the driver for each
    value as they run, so that the space needs no other definition; what they have drawn is their
    cfg. Needs Optuna (`pip install 'slurm-sweeps[optuna]'`).

    Args:
        objective: Called as `objective(trial)`; the number that it returns is to be small or large.
            `trial` draws (`suggest_…`), reports (`report`, `should_prune`), and knows its `number`,
            `params` and `user_attrs`. Trials have one task each.
        direction: "minimize" or "maximize"; a list of them where the objective returns several
            values, of which trials can't `report`: `ss.log` does.
        sampler: One of Optuna's; None is a tree-structured Parzen estimator.
        metric: What its value, and what it reports, are called: by default "value"; several are
            "value_0", "value_1", ….
        arguments: Those of `Experiment`: name, asha or pruner, slurm_cfg, restore, seed, ….

    Raises:
        UsageError, UsageTypeError: As `Experiment`, or an argument can't be taken over.
    """
    modes = {"minimize": "min", "maximize": "max"}
    directions = [direction] if isinstance(direction, str) else list(direction)
    if not directions or not set(directions) <= modes.keys():
        raise UsageError(
            f'from_optuna: direction is "minimize" or "maximize", or a list, got {direction!r}'
        )
    names = [f"value_{i}" for i in range(len(directions))] if len(directions) > 1 else ["value"]
    if metric is not None:
        names = [metric] if isinstance(metric, str) else list(metric)
    if len(names) != len(directions):
        raise UsageError(
            f"from_optuna: as many names are needed as directions, got metric={metric!r} and "
            f"direction={direction!r}"
        )
    goal = [modes[each] for each in directions]
    for name, value in arguments.items():
        if name in INSTEAD:
            raise UsageTypeError(f"from_optuna: instead of {name} there is {INSTEAD[name]}")
        if name == "pruner" and type(value).__module__.startswith("optuna."):
            raise UsageTypeError(
                f"from_optuna: pruner={type(value).__name__}() of Optuna can't be used: pass "
                f'asha=ss.ASHA({names[0]!r}, "{goal[0]}"), or ss.MedianStopping as pruner'
            )
    if not callable(objective):
        raise UsageTypeError(f"from_optuna needs an objective(trial), got {objective!r}")
    return Experiment(
        Objective(objective, names),
        {},
        metric=names if len(names) > 1 else names[0],
        mode=goal if len(goal) > 1 else goal[0],
        sampler=DefineByRun(sampler),
        **arguments,
    )
