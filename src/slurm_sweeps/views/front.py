"""The front of a sweep of several objectives: the trials that no other one dominates.

A trial stands where it was last: at the last value of each objective. One that is infeasible, or
lacks a finite value of one of them, does not count. A trial dominates another if it is as good in
all objectives and better in one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import Goal
from ..storage import rows
from ..storage.database import Database
from ..trial import Status

#: The last value of each objective of the trials on the front, by the trial's number, in the order
#: of the first objective, the best first; of equal ones the earlier.
Front = dict[int, tuple[float, ...]]


def list_objectives(settings: Mapping[str, Any]) -> tuple[Goal, ...]:
    """Return what a sweep of several objectives is after; nothing for one of a single metric."""
    return tuple(Goal(*each) for each in settings.get("objectives") or ())


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
