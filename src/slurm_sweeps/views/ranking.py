"""Which trials are the best: by one metric a ranking; by several the front.

On the front are the trials that no other one dominates. There a trial stands where it was last: at
the last value of each objective. One that is infeasible, or lacks a finite value of one of them,
does not count. A trial dominates another if it is as good in all objectives and better in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..checks import Goal, check_goal
from ..errors import UsageError
from ..storage import rows
from ..storage.database import Database
from ..storage.records import Aggregate, ExperimentRecord, TrialRecord
from ..trial import Status

if TYPE_CHECKING:
    from .compare import Runs

#: What a trial is chosen by: its best value, or its last one.
SCOPES = ("best", "last")

#: The last value of each objective of the trials on the front, by the trial's number, in the order
#: of the first objective, the best first; of equal ones the earlier.
Front = dict[int, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Best:
    """The best value so far; of several runs of a configuration their mean, and the best trial."""

    trial_id: str
    value: float
    iteration: int
    runs: int = 1


def list_goals(settings: Mapping[str, Any]) -> tuple[Goal, ...]:
    """Return what a sweep is after: a goal, several, or none where nobody has said."""
    metric, mode = settings.get("metric"), settings.get("mode")
    alone = () if metric is None or mode is None else ((metric, mode),)
    return tuple(Goal(*each) for each in settings.get("objectives") or alone)


def choose_goal(experiment: ExperimentRecord, metric: str | None, mode: str | None) -> Goal:
    """Complete a metric and a mode by what the experiment was set up with.

    Raises:
        UsageError: One of them is missing in both, or the mode is neither "min" nor "max".
    """
    modes = dict(list_goals(experiment.settings))
    if metric is None and len(modes) > 1:
        raise UsageError(
            f"experiment {experiment.name!r} is after several metrics, {list(modes)!r}, so that no "
            "one trial is the best: Result.front() has those that no other one dominates; or pass "
            "metric= for the best by one of them"
        )
    if metric is None:
        metric = next(iter(modes), None)
    if metric is None:
        raise UsageError(
            f"experiment {experiment.name!r} names no metric, nor has it an ASHA that does; "
            "pass metric= and mode='min' or mode='max'"
        )
    mode = modes.get(metric) if mode is None else mode
    if mode is None:
        raise UsageError(
            f"experiment {experiment.name!r} does not say whether a low or a high {metric!r} is "
            "best; pass mode='min' or mode='max'"
        )
    return check_goal("best", metric, mode)


def read_ranking(
    database: Database,
    experiment: ExperimentRecord,
    goal: Goal,
    limit: int,
    scope: str = "best",
    completed_only: bool = False,
) -> list[tuple[TrialRecord, Best]]:
    """Read the trials with the best finite values of a metric, the best first.

    Where the cfg has a `Repeat`, configurations are ranked, and of each its best trial is returned,
    with the mean of its runs.

    Args:
        scope: "best" goes by each trial's best value, "last" by its last one.
        completed_only: Leave out all but completed trials.

    Raises:
        UsageError: `scope` is neither.
    """
    if scope not in SCOPES:
        raise UsageError(f"scope must be 'best' or 'last', got {scope!r}")
    if experiment.settings.get("repeat") is None:
        return _read_best_trials(database, experiment.id, goal, limit, scope, completed_only)
    found = read_configurations(database, experiment, goal, scope, completed_only)
    return [
        (each.best[0], Best(each.best[0].trial_id, each.mean, each.best[2], each.n))
        for each in found[:limit]
    ]


def read_configurations(
    database: Database,
    experiment: ExperimentRecord,
    goal: Goal,
    scope: str = "best",
    completed_only: bool = False,
) -> list[Runs]:
    """Read and rank configurations of several runs; see `read_ranking` for the arguments."""
    from .compare import rank_configurations  # only sweeps with a Repeat need it

    count = sum(rows.count_trials(database, experiment.id).values())
    found = _read_best_trials(database, experiment.id, goal, count, scope, completed_only)
    return rank_configurations(
        ((trial, best.value, best.iteration) for trial, best in found),
        experiment.settings["repeat"],
        goal.mode,
    )


def _read_best_trials(
    database: Database, key: int, goal: Goal, limit: int, scope: str, completed_only: bool
) -> list[tuple[TrialRecord, Best]]:
    ranking, by_last = [], scope == "last"
    statuses = [Status.COMPLETED] if completed_only else None
    for aggregate in rows.read_best(
        database, key, *goal, limit, by_last=by_last, statuses=statuses
    ):
        trial = rows.read_trial(database, key, aggregate.number)
        last = aggregate.last_value, aggregate.last_iteration
        found = last if by_last else get_best(aggregate, goal.mode)
        if trial is not None and found is not None:
            ranking.append((trial, Best(trial.trial_id, *found)))
    return ranking


def get_best(aggregate: Aggregate, mode: str | None) -> tuple[float, int] | None:
    """The better extreme of a metric and its iteration, None where nobody knows which is better."""
    value, iteration = {
        "min": (aggregate.min_value, aggregate.min_iteration),
        "max": (aggregate.max_value, aggregate.max_iteration),
    }.get(mode or "", (None, None))
    return None if value is None or iteration is None else (value, iteration)


def describe_unlogged(
    database: Database, experiment: ExperimentRecord, metric: str, completed_only: bool = False
) -> str:
    """Say why no trial has a value of a metric."""
    names = list(rows.read_metric_ids(database, experiment.id))
    where = f"experiment {experiment.name!r} in {database.path}"
    if metric in names:
        are_beyond = Status.INFEASIBLE in rows.count_trials(database, experiment.id)
        which = "completed " if completed_only else "feasible " if are_beyond else ""
        return f"no {which}trial of {where} has logged a finite value of {metric!r}"
    if not names:
        return f"no trial of {where} has logged anything yet, so none of {metric!r}"
    return f"no trial of {where} has logged {metric!r}; logged are {names!r}"


# --- several objectives ---------------------------------------------------------------------------


def read_front(
    database: Database, experiment_id: int, objectives: Sequence[Goal], completed_only: bool = False
) -> Front:
    """Read the trials on the front."""
    if not objectives:
        return {}
    chosen = [Status.COMPLETED] if completed_only else None
    tables = [
        rows.read_known_values(database, experiment_id, goal.metric, statuses=chosen)
        for goal in objectives
    ]
    first, *others = tables
    numbers = [number for number in first if all(number in table for table in others)]
    return choose_front({n: tuple(table[n] for table in tables) for n in numbers}, objectives)


def choose_front(points: Mapping[int, tuple[float, ...]], objectives: Sequence[Goal]) -> Front:
    """Choose those of the points, all of them finite, that no other one dominates."""
    if not points:
        return {}
    from ..rules.fronts import find_front  # loads NumPy

    numbers = sorted(points)
    signs = [goal.sign for goal in objectives]
    signed = [tuple(s * v for s, v in zip(signs, points[n], strict=True)) for n in numbers]
    places = sorted(find_front(signed), key=lambda at: (signed[at][0], at))
    return {numbers[at]: points[numbers[at]] for at in places}
