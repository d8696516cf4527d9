"""What is stored of a sweep, in the order in which its driver heard of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from ..errors import UsageError
from ..race import Race, build_pruner
from ..rules.asha import ASHA, Hyperband
from ..rules.median import MedianStopping
from ..rules.protocol import Pruner, PrunerPlan
from ..search.extension import build_template
from ..search.repeat import find_repeats
from ..search.search_space import SearchSpace
from ..storage.database import Database
from ..storage.records import AttemptRecord, ExperimentRecord, TrialRecord
from ..storage.rows import read_attempts, read_trials, read_values
from ..trial import Status

#: The rules that can be made of an experiment's settings.
RULES: dict[str, Callable[..., PrunerPlan]] = {
    rule.__name__: rule for rule in (ASHA, Hyperband, MedianStopping)
}


class Report(NamedTuple):
    """A value of the metric that trials are judged by."""

    at: float  # seconds since 1970
    number: int  # the trial's
    iteration: int
    value: Any  # a float, or of several metrics a tuple


class Turn(NamedTuple):
    """The start or the end of an attempt."""

    at: float
    number: int
    attempt: int
    status: Status  # RUNNING: it starts


@dataclass(frozen=True)
class Story:
    """What is stored of a sweep.

    Attributes:
        events: Reports, and starts and ends of attempts, in their order. What was reported comes
            before what was seen at the same time, for it led to that.
        asked: The ids of trials that were pruned as someone asked.
        has_added: Whether someone has added configurations while it ran.
    """

    settings: Mapping[str, Any]
    trials: Sequence[TrialRecord]
    attempts: Sequence[AttemptRecord]
    events: Sequence[Report | Turn]
    asked: frozenset[str] = frozenset()
    has_added: bool = False


def read_story(
    database: Database, record: ExperimentRecord, metric: str | tuple[str, ...] | None
) -> Story:
    """Read what is stored of an experiment.

    Args:
        database: Where.
        record: The experiment.
        metric: Whose reports, or a tuple of several that are judged together; None for no reports.
    """
    trials = read_trials(database, record.id)
    numbers = [trial.number for trial in trials]
    names = metric if isinstance(metric, tuple) else (metric or "",)  # "": none has that name
    rows = read_values(database, record.id, names, numbers)
    reports: list[Report | Turn] = [Report(at, n, i, v) for n, i, v, at in rows]
    attempts = read_attempts(database, record.id)
    turns: list[Report | Turn] = [*_list_turns(attempts)]
    requests = database.requests(record.id)
    asked = {each.argument for each in requests if each.kind == "prune"}
    return Story(
        record.settings,
        trials,
        attempts,
        sorted(reports + turns, key=attrgetter("at")),  # stable: reports come first
        frozenset(filter(None, asked)),
        any(each.kind == "add" for each in requests),
    )


def build_judge(story: Story, plan: PrunerPlan) -> Pruner:
    """Return the rule as it judges a sweep: where configurations have several runs, by these."""
    rule, race = plan.build_pruner(), build_race(story)
    return rule if race is None else build_pruner(race, rule)


def build_race(story: Story) -> Race | None:
    """Return the configurations of a sweep with a Repeat, of all of its trials; else None."""
    repeat = story.settings.get("repeat")
    if repeat is None:
        return None
    repeats = find_repeats(SearchSpace(build_template(story.settings["space"])))
    sign = -1 if story.settings["mode"] == "max" else 1
    race = Race(repeat["path"], repeats.values if repeats else (), sign, repeat["counts_at"])
    for trial in story.trials:
        race.note(trial.number, json.loads(trial.cfg_json))
    return race


def _list_turns(attempts: Sequence[AttemptRecord]) -> Iterator[Turn]:
    for each in attempts:
        if each.start_time is not None:
            yield Turn(each.start_time, each.number, each.attempt, Status.RUNNING)
        if each.end_time is not None:
            yield Turn(each.end_time, each.number, each.attempt, each.status)


def build_plan(described: Mapping[str, Any]) -> PrunerPlan:
    """Build a rule from what an experiment's settings say of it.

    Raises:
        UsageError: It is a rule of the user's own.
    """
    arguments = dict(described)
    kind = arguments.pop("rule", "ASHA")
    arguments.pop("rungs", None)
    if kind not in RULES:
        raise UsageError(
            f"the rule {kind!r} is one of your own, and the database has only its name: pass it, "
            "as in Result(…).what_if(MyRule(…))"
        )
    return RULES[kind](**arguments)
