"""What is stored of a sweep, in the order in which its driver heard of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

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
from ..sweep_types import Report, Turn
from ..trial import Status

#: The rules that can be made of an experiment's settings.
RULES: dict[str, Callable[..., PrunerPlan]] = {
    rule.__name__: rule for rule in (ASHA, Hyperband, MedianStopping)
}


@dataclass(frozen=True)
class Story:
    """What is stored of a sweep."""

    settings: Mapping[str, Any]
    trials: Sequence[TrialRecord]
    attempts: Sequence[AttemptRecord]
    # In their order. What was reported comes before what was seen at the same time, for it led to
    # that.
    events: Sequence[Report | Turn]
    asked: frozenset[str] = frozenset()  # the ids of trials that were pruned as someone asked
    has_added: bool = False  # whether someone has added configurations while it ran

    @property
    def reports(self) -> list[Report]:
        """The reports among the events."""
        return [event for event in self.events if isinstance(event, Report)]

    @property
    def unheard(self) -> dict[int, Report]:
        """By number, that by which a trial is infeasible: it is none of the rule's business."""
        infeasible = {t.number for t in self.trials if t.status is Status.INFEASIBLE}
        return {each.number: each for each in self.reports if each.number in infeasible}


def read_story(
    database: Database, record: ExperimentRecord, metric: str | tuple[str, ...] | None
) -> Story:
    """Read what is stored; the reports are of a metric, or of several that are judged together."""
    trials, attempts = read_trials(database, record.id), read_attempts(database, record.id)
    names = metric if isinstance(metric, tuple) else (metric or "",)  # "": none has that name
    requests = database.requests(record.id)
    asked = {each.argument for each in requests if each.kind == "prune"}
    return Story(
        record.settings,
        trials,
        attempts,
        read_events(database, record.id, names, trials, attempts),
        frozenset(filter(None, asked)),
        any(each.kind == "add" for each in requests),
    )


def read_events(
    database: Database,
    experiment_id: int,
    names: tuple[str, ...],
    trials: Iterable[TrialRecord],
    attempts: Iterable[AttemptRecord],
) -> list[Report | Turn]:
    """Read what trials, by number, have reported of some metrics; see `Story` for the order."""
    rows = read_values(database, experiment_id, names, [trial.number for trial in trials])
    events: list[Report | Turn] = [Report(at, n, i, value) for n, i, value, at in rows]
    for each in attempts:
        if each.start_time is not None:
            events.append(Turn(each.start_time, each.number, each.attempt, Status.RUNNING))
        if each.end_time is not None:
            events.append(Turn(each.end_time, each.number, each.attempt, each.status))
    events.sort(key=attrgetter("at"))  # stable: reports come first
    return events


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
