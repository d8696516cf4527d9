"""Whether what is stored is what this version would have decided: everything derived once more.

- A trial's id follows from its configuration, and its aggregates from its reports.
- A configuration follows from the seed and the trial's number, where the sampler learns nothing.
- Each decision follows from the reports that came before it. A trial that is run again may log an
  iteration again, which replaces what was judged then: what was decided in between can't be
  checked, and is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import samplers
from ..rules.protocol import Decision, PromotingPruner, PrunerPlan
from ..samplers import Observation, Problem, bind_sampler
from ..search.extension import build_template
from ..search.repeat import find_repeats
from ..search.search_space import SearchSpace
from ..storage.records import TrialRecord
from ..sweep_types import Report
from ..trial import Status, canonical_json, compute_trial_id, split_cfg
from .story import Story, build_judge, build_race

#: What an attempt may count as that was told so; to leave for good is the graver.
_OBEYED = {Decision.PRUNE: Status.PRUNED, Decision.PAUSE: Status.PAUSED}

#: Ends that no rule has decided.
_OTHERS = frozenset(Status) - {*_OBEYED.values()}


@dataclass(frozen=True)
class Verdict:
    """What came out. It is true if nothing differs.

    Attributes:
        differences: A sentence for each thing that is stored otherwise than it would be decided.
        decisions: How many reports were judged again.
        unchecked: How many of these can't be checked: trials may have logged over what was judged.
        cfgs: How many configurations were drawn again; 0 where the sampler learns.
    """

    differences: tuple[str, ...]
    decisions: int
    unchecked: int
    cfgs: int

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [*self.differences]
        if not lines:
            lines.append("Nothing differs.")
        lines.append(
            f"{self.decisions - self.unchecked} reports were judged again, and {self.cfgs} "
            "configurations drawn again."
        )
        if self.unchecked:
            lines.append(
                f"{self.unchecked} further reports can't be checked: they came while a trial ran "
                "that was run again later, and may have logged over what was judged then."
            )
        return "\n".join(lines)


def verify(story: Story, plan: PrunerPlan | None, wrong: Sequence[tuple[str, str]] = ()) -> Verdict:
    """Derive what is stored of a sweep once more, and compare.

    Args:
        story: Its reports are those of the rule's metric.
        plan: The rule that it was judged by, if there was one.
        wrong: Trials and metrics whose aggregates are not those of their reports.
    """
    differences = [
        f"trial {trial_id}: its best and last {metric!r} are not those of its reports"
        for trial_id, metric in wrong
    ]
    if story.settings.get("space") != {}:  # else trials may have drawn as they ran
        completed = story.settings.get("completed_before", 0)  # their ids are of less
        differences += _compare_ids(story.trials, completed)
    n_cfgs = 0
    for trial, drawn in _draw_again(story):
        n_cfgs += 1
        if canonical_json(drawn) != canonical_json(json.loads(trial.cfg_json)):
            differences.append(
                f"trial {trial.trial_id}: number {trial.number} of this seed is drawn as "
                f"{canonical_json(drawn)}, and is stored as {trial.cfg_json}"
            )
    unsure = _find_unsure(story)
    if not unsure:
        differences += _race_again(story)
    if plan is None:
        return Verdict(tuple(differences), 0, 0, n_cfgs)
    judge = _Judge(plan, unsure)
    judge.play(story)
    differences += judge.compare(story)
    return Verdict(tuple(differences), judge.n_reports, judge.n_unsure, n_cfgs)


def _compare_ids(trials: Sequence[TrialRecord], begin: int) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for trial in trials:
        cfg = json.loads(trial.cfg_json)
        first = compute_trial_id(cfg)
        expected = compute_trial_id(cfg, seen[first]) if seen[first] else first
        seen[first] += 1
        if expected != trial.trial_id and trial.number >= begin:
            yield f"trial {trial.trial_id}: the id of its configuration is {expected}"


def _draw_again(story: Story) -> Iterator[tuple[TrialRecord, dict[str, Any]]]:
    """Draw the configurations of a sweep whose sampler learns nothing."""
    draws = story.settings.get("draws")
    if draws is None or story.has_added:
        return
    space = SearchSpace(build_template(story.settings["space"]))
    trials = story.trials
    if repeats := find_repeats(space):
        space = repeats.space
        first = repeats.values[0]  # what is drawn has this one
        trials = [t for t in trials if split_cfg(json.loads(t.cfg_json), repeats.path)[1] == first]
    plan = getattr(samplers, draws["sampler"])(**draws["arguments"])
    sampler = bind_sampler(plan, Problem(space, story.settings["seed"]))
    for trial in trials[: draws["points"]]:  # drawn otherwise: taken as tried
        cfg = space.revive(json.loads(trial.cfg_json))
        sampler.tell(Observation(trial.number, cfg, trial.status))
    for trial in trials[draws["points"] :]:
        drawn = sampler.ask(0.0)
        if drawn is None:
            return
        yield trial, drawn


def _race_again(story: Story) -> Iterator[str]:
    """Yield a sentence for each run that a configuration was given without leading then."""
    race = build_race(story)
    if race is None:
        return
    trials = {trial.number: trial for trial in story.trials}
    race.forget_given()
    for event in story.events:
        if isinstance(event, Report):
            race.note_value(event.number, event.iteration, event.value)
        elif event.status is not Status.RUNNING:
            race.note_status(event.number, event.status)
        elif event.attempt == 1 and not race.give(event.number):
            trial = trials[event.number]
            yield (
                f"trial {trial.trial_id}: it is a further run of a configuration that did not lead "
                "when it began"
            )


@dataclass
class _Attempt:
    """What the rule says to an attempt's reports."""

    decision: Decision = Decision.GO_ON  # the gravest
    told: Report | None = None  # the first that was not answered by going on
    went_on: int = 0  # reports after that
    last: Report | None = None
    end: Status | None = None
    is_sure: bool = True  # nothing of what was judged has been logged over since


@dataclass
class _Judge:
    """Plays a story to a rule, and compares what that says to what became of it."""

    plan: PrunerPlan
    unsure: list[tuple[float, float]]  # spans in which something was judged that may be logged over
    attempts: dict[tuple[int, int], _Attempt] = field(default_factory=dict)
    n_reports: int = 0
    n_unsure: int = 0

    def play(self, story: Story) -> None:
        """Let the rule hear all reports."""
        pruner = build_judge(story, self.plan)
        promoter = pruner if isinstance(pruner, PromotingPruner) else None
        unheard = story.unheard
        current: dict[int, _Attempt] = {}
        paused: set[int] = set()
        for event in story.events:
            number = event.number
            if isinstance(event, Report):
                if event is not unheard.get(number):
                    attempt = current.setdefault(number, _Attempt())
                    decision = pruner.report(number, event.iteration, event.value)
                    self._note(attempt, event, decision)
                continue
            if event.status is Status.RUNNING:
                current[number] = self.attempts[number, event.attempt] = _Attempt()
                if promoter is not None and number in paused:
                    promoter.promote(number)
                paused.discard(number)
                continue
            attempt = current.setdefault(number, _Attempt())
            attempt.end = event.status
            if attempt.last is not None and event.status in _OBEYED.values():
                # Where its driver died in between, the answer came from the next one, at this time.
                report = attempt.last
                self._decide(attempt, report, pruner.report(number, report.iteration, report.value))
            if promoter is not None and event.status is Status.PAUSED:
                promoter.pause(number)
                paused.add(number)

    def _note(self, attempt: _Attempt, report: Report, decision: Decision) -> None:
        self.n_reports += 1
        if any(since <= report.at <= until for since, until in self.unsure):
            attempt.is_sure = False
            self.n_unsure += 1
        attempt.went_on += attempt.told is not None
        attempt.last = report
        self._decide(attempt, report, decision)

    def _decide(self, attempt: _Attempt, report: Report, decision: Decision) -> None:
        if decision is not Decision.GO_ON:
            attempt.told = attempt.told or report
            if attempt.decision is not Decision.PRUNE:
                attempt.decision = decision

    def compare(self, story: Story) -> Iterator[str]:
        """Yield a sentence for each attempt that did not end as the rule says."""
        trials = {trial.number: trial for trial in story.trials}
        for (number, _), attempt in self.attempts.items():
            trial = trials[number]
            if not attempt.is_sure or attempt.end is None or attempt.last is None:
                continue
            which = f"trial {trial.trial_id}"
            obeyed = _OBEYED.get(attempt.decision)
            if attempt.told is not None and attempt.went_on:
                yield (
                    f"{which}: the rule says {attempt.decision} at iteration "
                    f"{attempt.told.iteration}, and it has reported {attempt.went_on} times after "
                    "that: the values are not those that were judged, or train catches TrialPruned"
                )
            elif attempt.end not in (obeyed, *_OTHERS) and trial.trial_id not in story.asked:
                yield (
                    f"{which} was {attempt.end} at iteration {attempt.last.iteration}, where the "
                    f"rule says {attempt.decision}"
                )


def _find_unsure(story: Story) -> list[tuple[float, float]]:
    """Find the spans in which something was judged that a later attempt has logged over.

    They begin with the attempt whose reports were replaced, and end when all of them had been.
    """
    reports: dict[int, list[Report]] = {}
    for report in story.reports:
        reports.setdefault(report.number, []).append(report)
    spans = []
    for each in story.attempts:
        begun, ended, last = each.start_time, each.end_time, each.last_iteration
        if begun is not None and ended is not None and last is not None:
            after = (r for r in reports.get(each.number, ()) if r.at > ended)
            replaced = [r.at for r in after if r.iteration <= last]
            if replaced:
                spans.append((begun, max(replaced)))
    return spans
