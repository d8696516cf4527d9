"""What the user said to an experiment, checked where it enters."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import (
    Goal,
    check_flag,
    check_goals,
    check_integer,
    check_real,
    check_seconds,
    is_flag,
    set_fields,
)
from ..errors import UsageError, UsageTypeError
from ..rules.protocol import PrunerPlan
from ..samplers import HOW_TO_NAME_A_GOAL
from ..search.repeat import Repeats
from ..slurm.config import LocalCfg, SlurmCfg
from ..track.feed import Tracker, check_tracker
from .keep import Keep

#: A list in a cfg with more values than this is data, and nobody's list of values to try.
_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class RunCfg:
    """The arguments of `Experiment.run` that decide how the sweep goes, checked."""

    n_trials: int | None
    max_concurrent_trials: int | None
    max_retries: int
    fail_fast: bool
    grace_period_s: float
    time_budget_s: float | None = None
    target: float | None = None
    max_trial_s: float | None = None
    max_silence_s: float | None = None
    out_of_memory: str = "fail"

    def __post_init__(self) -> None:
        n_slots = self.max_concurrent_trials
        set_fields(
            self,
            n_trials=_check_given(check_integer, "n_trials", self.n_trials, 1),
            max_concurrent_trials=_check_given(check_integer, "max_concurrent_trials", n_slots, 1),
            max_retries=check_integer("run", "max_retries", self.max_retries, 0),
            fail_fast=check_flag("run", "fail_fast", self.fail_fast),
            grace_period_s=check_seconds("run", "grace_period_in_sec", self.grace_period_s),
            time_budget_s=_check_given(check_seconds, "time_budget_in_sec", self.time_budget_s),
            target=_check_given(check_real, "target", self.target),
            max_trial_s=_check_given(check_seconds, "max_trial_sec", self.max_trial_s, 1),
            max_silence_s=_check_given(check_seconds, "max_silence_sec", self.max_silence_s, 1),
        )
        if self.out_of_memory not in ("fail", "infeasible"):
            raise UsageError(
                f'run: out_of_memory must be "fail" or "infeasible", got {self.out_of_memory!r}'
            )


def _check_given(check: Callable[..., Any], name: str, value: Any, *least: int) -> Any:
    return None if value is None else check("run", name, value, *least)


def choose_pruner(asha: Any, pruner: Any) -> PrunerPlan | None:
    """Return the rule that was passed as `asha` or as `pruner`; both are an error."""
    if asha is not None and pruner is not None:
        raise UsageError(
            f"asha={asha!r} and pruner={pruner!r} say the same thing: pass one of them"
        )
    for name, plan in (("asha", asha), ("pruner", pruner)):
        # A class has the names too: ss.ASHA where ss.ASHA("loss", "min") was meant.
        if plan is not None and (isinstance(plan, type) or not isinstance(plan, PrunerPlan)):
            raise UsageTypeError(
                f"{name} must be an instance of ss.ASHA, ss.MedianStopping, ss.Hyperband or of "
                f"a class with the same methods; got {plan!r}"
            )
    chosen: PrunerPlan | None = pruner if asha is None else asha
    return chosen


def choose_goals(metric: Any, mode: Any, pruner: PrunerPlan | None) -> tuple[Goal, ...]:
    """Return what the sweep is after: what was passed, else what its rule goes by, if anything."""
    own = check_goals(type(pruner).__name__, pruner.metric, pruner.mode) if pruner else ()
    if metric is None and mode is None:
        return own
    if metric is None:
        raise UsageError(f"Experiment: mode={mode!r} needs a metric: pass metric= too")
    names = [goal.metric for goal in own]
    if mode is None and names == (list(metric) if isinstance(metric, list | tuple) else [metric]):
        return own
    goals = check_goals("Experiment", metric, mode)
    if any(goal not in own for goal in goals if goal.metric in names):
        raise UsageError(
            f"Experiment: mode={mode!r} contradicts {pruner!r}, which goes by the same metric: "
            "leave metric and mode out"
        )
    return goals


def choose_changed(changed_space: Any, restores: Any) -> Mapping[str, Any] | None:
    """Check `changed_space`; return what new parameters were before, None if none may be new."""
    if changed_space is None:
        return None
    if not restores:
        raise UsageError(
            "changed_space is about an experiment that is restored: pass restore=True, or "
            'restore="auto", too'
        )
    if changed_space == "extend":
        return {}
    if not isinstance(changed_space, Mapping):
        raise UsageTypeError(
            'changed_space must be "extend", or a dict of what new parameters were in the earlier '
            f"trials, such as {{'momentum': 0.9}}; got {changed_space!r}"
        )
    return changed_space


def describe_pruner(plan: PrunerPlan) -> dict[str, Any]:
    """Describe a rule for the experiment's settings, JSON-able."""
    kind = type(plan).__name__
    described: dict[str, Any] = {"rule": kind, "metric": plan.metric, "mode": plan.mode}
    if dataclasses.is_dataclass(plan):
        described |= dataclasses.asdict(plan)
    rungs = getattr(plan, "rungs", None)
    return described if rungs is None else described | {"rungs": list(rungs)}


def check_arguments(
    train: Any, slurm_cfg: Any, local_cfg: Any, restore: Any, overwrite: Any, join: Any = False
) -> None:
    """Check the arguments of `Experiment` that no class of their own checks."""
    if not callable(train):
        raise UsageTypeError(f"train must be a function that takes a cfg dict; got {train!r}")
    kinds = inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction
    call = getattr(type(train), "__call__", None)  # noqa: B004 - the method itself is wanted
    if any(is_kind(train) or is_kind(call) for is_kind in kinds):
        raise UsageTypeError(
            f"train {train!r} is a generator or async function: calling it would run nothing of "
            "it. Wrap it in a function that runs it, with asyncio.run for instance"
        )
    _check_signature(train)
    for name, value, kind in (
        ("slurm_cfg", slurm_cfg, SlurmCfg),
        ("local_cfg", local_cfg, LocalCfg),
    ):
        if value is not None and not isinstance(value, kind):
            raise UsageTypeError(f"{name} must be an instance of ss.{kind.__name__}; got {value!r}")
    check_flag("Experiment", "overwrite", overwrite)
    if not is_flag(restore) and restore != "auto":
        raise UsageError(f'restore must be True, False or "auto"; got {restore!r}')
    check_flag("Experiment", "join", join)
    if join and overwrite:
        raise UsageError(
            "join and overwrite contradict each other: each job that joins would delete what those "
            "before it have begun. Leave overwrite out, and delete with 'slurm-sweeps rm' before"
        )
    if restore and overwrite:
        raise UsageError(
            "restore and overwrite contradict each other: restore goes on with an experiment, "
            "overwrite deletes it. Pass one of them"
        )


def choose_steps(launch: str | None, slurm_cfg: SlurmCfg | None) -> SlurmCfg | None:
    """Give each trial of a program that an srun is to launch a job step of its own."""
    if launch is None:
        return slurm_cfg
    if slurm_cfg is not None and slurm_cfg.fresh_step is False:
        raise UsageError(
            "Program(launch='srun') starts a job step for each trial, which "
            "SlurmCfg(fresh_step=False) forbids: leave one of them out"
        )
    return dataclasses.replace(slurm_cfg or SlurmCfg(), fresh_step=True)


def check_keep(keep: Any, goals: Sequence[Goal]) -> Keep | None:
    """Check whose checkpoints are to be kept; what is best must be known for that."""
    if keep is None:
        return None
    if not isinstance(keep, Keep):
        raise UsageTypeError(f"keep must be an instance of ss.Keep; got {keep!r}")
    if not goals:
        raise UsageError(f"Experiment: keep={keep!r} needs to know what is best: pass metric=")
    if len(goals) > 1:
        names = [goal.metric for goal in goals]
        raise UsageError(f"Experiment: keep={keep!r} goes by one metric, and there are {names!r}")
    return keep


def check_repeats(
    repeats: Repeats | None, goals: Sequence[Goal], pruner: PrunerPlan | None, keep: Any
) -> None:
    """Check that configurations that are run several times can be compared by one metric."""
    if repeats is None:
        return
    where = f"cfg[{repeats.path!r}] is a Repeat, by whose runs configurations are compared"
    names = [goal.metric for goal in goals]
    if not names:
        raise UsageError(f"{where}, and nobody says by what: {HOW_TO_NAME_A_GOAL}")
    if len(names) > 1:
        raise UsageError(f"{where} by one metric, and the experiment has {names!r}: name one")
    if pruner is not None and pruner.metric != names[0]:
        raise UsageError(
            f"{where} by one metric: {pruner!r} goes by another than the experiment, which is "
            f"after {names[0]!r}; let both go by the same"
        )
    if keep is not None:
        raise UsageError(
            f"{where}, so that none is out of the race for good, and keep={keep!r} would delete "
            "what may become the best: leave it out"
        )


def check_trackers(track: Any) -> None:
    """Check what a sweep is to be sent to; what that needs must be installed."""
    if isinstance(track, str | Tracker) or not isinstance(track, Sequence):
        raise UsageTypeError(f"track must be a list, of ss.track.TensorBoard() say; got {track!r}")
    for tracker in track:
        if isinstance(tracker, type) or not isinstance(tracker, Tracker):
            raise UsageTypeError(
                f"track: {tracker!r} is none of ss.track.TensorBoard(), MLflow(), WandB(), Optuna()"
            )
        check_tracker(tracker)


def check_backend(backend: Any) -> None:
    """Say what took the place of an argument of version 0.1, which scripts may still pass."""
    if backend is not None:
        raise UsageTypeError(
            "backend was an argument of version 0.1: pass slurm_cfg=ss.SlurmCfg(nodes=..., "
            f"ntasks=..., args=...) instead, or nothing without Slurm; got {backend!r}"
        )


def _check_signature(train: Callable[..., Any]) -> None:
    """Raise UsageTypeError if a function can't be called with one argument, as far as is known."""
    try:
        signature = inspect.signature(train)
    except (TypeError, ValueError):  # of some that are written in C
        return
    try:
        signature.bind({})
    except TypeError as error:
        name = getattr(train, "__name__", "train")
        raise UsageTypeError(
            f"each trial calls train(cfg), with one dict, and {name}{signature} can't be called "
            f"so ({error}): write def {name}(cfg), and take what it needs from cfg"
        ) from error


def list_constant_lists(template: Any, all_kinds: bool, path: str = "") -> Iterator[str]:
    """Say which lists in a cfg look like values to try, though each is one value.

    Args:
        all_kinds: Take tuples for such lists too: they are what a value is written as (a kernel's
            size, betas), so only where nothing else varies.
    """
    for key, value in template.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            yield from list_constant_lists(value, all_kinds, f"{name}.")
        elif isinstance(value, (list, tuple) if all_kinds else list) and _vary(value):
            yield (
                f"{name} is a constant, the {type(value).__name__} {value!r}: write "
                f"ss.Choice({list(value)!r}), or ss.Grid, to try each{_offer_range(value)}"
            )


def _offer_range(values: Sequence[Any]) -> str:
    """Offer the spaces of numbers whose bounds two values may be meant as."""
    if {*map(type, values)} - {int, float} or len(values) > 2 or values[0] > values[1]:
        return ""
    low, high = values
    kind = "Integer" if type(low) is type(high) is int and high - low > 1 else "Uniform"
    logarithmic = f" or ss.Log{kind}({low!r}, {high!r})" if low > 0 else ""
    return f"; ss.{kind}({low!r}, {high!r}){logarithmic} for any number between"


def _vary(values: Sequence[Any]) -> bool:
    """Whether these are different numbers or texts, a few."""
    kinds = all(isinstance(value, (str, int, float)) for value in values)
    return kinds and 1 < len(values) <= _MOST_LISTED and len(set(values)) == len(values)


def check_summary(interval_s: Any, rows: Any, columns: Any, report: Any) -> None:
    """Check what `run` was told of what it is to show."""
    check_seconds("run", "summary_interval_in_sec", interval_s)
    _check_given(check_integer, "nr_of_rows_in_summary", rows, 0)
    check_flag("run", "report", report)
    names = isinstance(columns, list | tuple) and all(isinstance(c, str) for c in columns)
    if not is_flag(columns) and not names:
        raise UsageError(
            f"summarize_cfg_and_metrics must be True, False or a list of names; got {columns!r}"
        )
