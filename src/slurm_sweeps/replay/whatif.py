"""What another rule would have stopped: the stored reports, judged once more. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError, say_count
from ..rules.protocol import Decision, PromotingPruner, PrunerPlan
from ..storage.records import TrialRecord
from ..sweep_types import Report
from ..trial import Status
from .story import Story, build_judge


@dataclass(frozen=True)
class Stopped:
    """A trial that the rule would have stopped.

    Attributes:
        trial: The trial, as it is in fact.
        iteration: That of the report at which it would have been.
        at: When that was, in seconds since 1970.
    """

    trial: TrialRecord
    iteration: int
    at: float


@dataclass(frozen=True)
class WhatIf:
    """What a rule would have made of a sweep's reports, in the order in which they came.

    What would have followed from a stop is left out: other trials would have begun sooner. And of
    trials that were stopped in fact nobody knows how they would have gone on.

    Attributes:
        plan: The rule.
        stopped: The trials that it would have stopped, in that order.
        n_trials: How many trials have reported the metric.
        iterations: Their reports.
        saved_iterations: Those of them that would not have been made.
        saved_s: The time for which trials went on after the report at which they would have been
            stopped, in seconds, that of all slots together.
        unknown: Trials that were stopped in fact, and that the rule would have let go on.
        winner: The trial with the best value in fact; None if no value is finite.
        winner_stopped: Where the rule would have stopped that one; None: nowhere.
        best: The best value that would have been seen, of those that are known; None likewise.
    """

    plan: PrunerPlan
    stopped: tuple[Stopped, ...]
    n_trials: int
    iterations: int
    saved_iterations: int
    saved_s: float
    unknown: tuple[TrialRecord, ...]
    winner: TrialRecord | None
    winner_stopped: Stopped | None
    best: float | None

    def __str__(self) -> str:
        """Say it in a few sentences."""
        share = self.saved_iterations / max(self.iterations, 1)
        lines = [
            f"{self.plan}",
            f"would have stopped {len(self.stopped)} of {self.n_trials} trials, and saved "
            f"{self.saved_iterations} of {self.iterations} reports ({share:.0%}) and "
            f"{self.saved_s / 3600:.2f} hours of a slot.",
        ]
        if self.winner is not None:
            lost = self.winner_stopped
            fate = (
                "come to its end"
                if lost is None
                else f"been stopped at iteration {lost.iteration}; the best value would have been "
                f"{self.best:.6g}"
            )
            lines.append(f"The best trial, {self.winner.trial_id}, would have {fate}.")
        if self.unknown:
            lines.append(
                f"{say_count(len(self.unknown), 'trial that was', 'trials that were')} stopped in "
                "fact would have gone on: how far, and to what value, can't be known."
            )
        return "\n".join(lines)


def judge_again(story: Story, plan: PrunerPlan) -> WhatIf:
    """Let another rule hear a sweep's reports, which are those of its metric.

    Raises:
        UsageError: The rule pauses trials.
    """
    pruner = build_judge(story, plan)
    if isinstance(pruner, PromotingPruner):
        raise UsageError(
            f"{plan!r} pauses trials, and when one would have gone on depends on which slots would "
            "have been free: leave promote out, and see which it would have set aside"
        )
    if not isinstance(plan.metric, str):
        raise UsageError(
            f"{plan!r} has several metrics, of which none says alone which trial is the best: "
            "ask for one of them"
        )
    sign = -1 if plan.mode == "max" else 1
    trials = {trial.number: trial for trial in story.trials}
    reports = story.reports
    last = {report.number: report for report in reports}
    stopped: dict[int, Stopped] = {}
    heard: list[Report] = []
    for report in reports:
        number, trial = report.number, trials[report.number]
        if number in stopped:
            continue
        heard.append(report)
        decision = pruner.report(number, report.iteration, report.value)
        at_its_end = report is last[number] and trial.status is Status.COMPLETED
        if decision is Decision.PRUNE and not at_its_end:
            stopped[number] = Stopped(trial, report.iteration, report.at)
    best, seen = _find_best(reports, sign), _find_best(heard, sign)
    cut_short = (trial for trial in story.trials if trial.status.is_cut_short)
    return WhatIf(
        plan,
        tuple(stopped.values()),
        len(last),
        len(reports),
        len(reports) - len(heard),
        sum(map(_compute_rest_s, stopped.values())),
        tuple(trial for trial in cut_short if trial.number not in stopped),
        best and trials[best.number],
        best and stopped.get(best.number),
        seen and seen.value,
    )


def _find_best(reports: Iterable[Report], sign: float) -> Report | None:
    """Find the best finite value, of equal ones the first."""
    finite = (each for each in reports if math.isfinite(each.value))
    return min(finite, key=lambda each: sign * each.value, default=None)


def _compute_rest_s(stopped: Stopped) -> float:
    end = stopped.trial.end_time
    return 0.0 if end is None else max(0.0, end - stopped.at)
