"""How a sweep will go on: its own curves and paces, drawn again and played in simulated time. Pure.

Each play is the real `Sweep`, with its rule as it stands: running trials go on, paused ones wait,
new ones are drawn (`courses`). What is the same in all plays is likely; where they differ, nobody
knows. A play draws the same trials in turn however many slots there are, so that what differs
between two numbers of slots is due to them.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..checks import Goal
from ..errors import UsageError, say_count
from ..rules.protocol import Decision, Pruner, PrunerPlan
from ..samplers import Observation
from ..sweep import Sweep
from ..sweep_types import Ended, SweepCfg, TrialState
from ..trial import Status
from .courses import (
    Outcomes,
    Script,
    choose_sources,
    find_likely,
    measure_starts,
    measure_waits,
    read_courses,
)
from .simulation import Simulation
from .story import Story, build_plan

#: With fewer trials that have reported, or none that has come to its end, nothing is said.
MIN_TRIALS = 10

#: How often a sweep is played: fewer times where a play is long, see `N_REPORTS`.
MIN_PLAYS, MAX_PLAYS = 25, 100

#: About so many reports are played for each number of slots; if the fewest plays have more than the
#: most, nothing is said.
N_REPORTS, MOST_REPORTS = 40_000, 500_000

#: What was cut short goes on in so many ways, each of which serves several plays.
_N_OUTCOMES = 25

#: How much of the plays a band holds.
_BAND = 0.8

#: Trials that go on, or are run again.
_OPEN = (Status.RUNNING, Status.SCHEDULED, Status.INTERRUPTED, Status.PAUSED)


class Span(NamedTuple):
    """The narrowest range that holds 80 % of the plays, and the median of all."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """What is likely with so many slots.

    Attributes:
        slots: How many trials run at once.
        asked_h: After how many hours that is; None: when the sweep is done as it was set up.
        hours: How long it takes: less than was asked for where nothing is left to try.
        best: The best value by then.
        chance: How likely that is better than the best up to now, from 0 to 1.
        trials: How many trials have begun by then, those up to now included.
        slot_hours: The time of all slots from now on, busy or not: what a job is charged for.
        gpu_hours: The same of GPUs; None where trials have none.
    """

    slots: int
    asked_h: float | None
    hours: Span
    best: Span
    chance: float
    trials: Span
    slot_hours: Span
    gpu_hours: Span | None


@dataclass(frozen=True)
class Forecast:
    """How a sweep will go on, as far as what it has seen tells. Printed, it is a table.

    Attributes:
        metric: What the sweep is after.
        mode: "min" or "max".
        best: The best value up to now; None where none is finite.
        outlooks: Until the sweep is done, where that is to come and has an end, by slots; then
            those of the hours that were asked for, by slots and hours.
        n_trials: Of how many trials' courses new ones are drawn.
        n_whole: How many of these have come to their end.
        is_learning: Whether later trials were clearly better, so that new ones are like those.
        plays: How often the sweep was played, at least.
    """

    metric: str
    mode: str
    best: float | None
    outlooks: tuple[Outlook, ...]
    n_trials: int
    n_whole: int
    is_learning: bool
    plays: int

    def __str__(self) -> str:
        """Say it in tables of up to 80 columns."""
        return "\n".join(_format(self))


def list_metrics(settings: Mapping[str, Any]) -> tuple[Goal, PrunerPlan | None, tuple[str, ...]]:
    """Return what a sweep is after, its rule, and the metrics that these need, its own first.

    Raises:
        UsageError: It is after none, or after several, or has a rule of the user's own, or
            a Repeat.
    """
    plan = build_plan(settings["asha"]) if settings.get("asha") else None
    if settings.get("objectives") or (plan is not None and not isinstance(plan.metric, str)):
        raise UsageError(
            "the experiment goes by several metrics, of which no single value is the best, so that "
            "none can be forecast"
        )
    if settings.get("repeat"):
        raise UsageError(
            "the experiment runs configurations several times (ss.Repeat), and which of them leads "
            "can't be forecast"
        )
    metric, mode = settings.get("metric"), settings.get("mode")
    if metric is None or mode is None:
        raise UsageError(
            "the experiment names no metric, so that no best value can be forecast: pass metric= "
            "and mode= to the experiment"
        )
    judged = () if plan is None or plan.metric == metric else (plan.metric,)
    return Goal(metric, mode), plan, (metric, *judged)


def forecast(
    story: Story, now: float, slots: Sequence[int], hours: Sequence[float], seed: int
) -> Forecast:
    """Play a sweep on.

    Args:
        story: What is stored; its reports are those of what `list_metrics` names.
        now: In seconds since 1970; what runs has run up to then.
        slots: How many trials run at once, in turn; each 1 or more.
        hours: After how many hours it is looked at, each more than 0; how many trials the sweep was
            to have is no limit then, but a grid's end is. None of them: only when it is done.
        seed: What is drawn; the same numbers follow from the same seed.

    Raises:
        UsageError: There is too little to draw from; or nothing to play; or too much; or what
            `list_metrics` raises.
    """
    start = Start(story, now, seed)
    asked: list[tuple[float | None, ...]] = [(None,)] if start.has_end else []
    asked += [tuple(sorted({*hours}))] if hours else []
    if not asked:
        raise UsageError(
            "the sweep is done, or has no end but its target: say hours, after which to look at it"
        )
    outlooks, fewest = [], MAX_PLAYS
    for when in asked:
        for n_slots in slots:
            plays = start.choose_plays(n_slots, when[-1])
            fewest = min(fewest, plays)
            played = [start.play(number, n_slots, when) for number in range(plays)]
            outlooks += [
                start.look(n_slots, asked_h, sights)
                for asked_h, sights in zip(when, zip(*played, strict=True), strict=True)
            ]
    best = start.goal.sign * start.best if math.isfinite(start.best) else None
    sources, n = start.sources, sum(trial.start_time is not None for trial in story.trials)
    is_learning = len(sources) < 0.8 * n
    return Forecast(
        *(start.goal.metric, start.goal.mode, best, tuple(outlooks)),
        *(len(sources), start.n_whole, is_learning, fewest),
    )


class _Sight(NamedTuple):
    """What a play is at."""

    hours: float
    best: float  # low is better
    trials: int


class Start:
    """Where all plays begin: the sweep as it stands.

    Args:
        story, now, seed: See `forecast`.

    Attributes:
        goal: What the sweep is after.
        best: The best value up to now, low being better; infinite without one.
        sources: The numbers of the trials that new ones are like.
        n_whole: How many of these have come to their end.
        between_s: From a trial's end to the next one's start.
        restart_s: What it takes to go on with a trial that was paused.

    Raises:
        UsageError: There is too little to draw from, or what `list_metrics` raises.
    """

    def __init__(self, story: Story, now: float, seed: int) -> None:
        self.goal, self._plan, self._names = list_metrics(story.settings)
        self._story, self._now, self._seed = story, now, seed
        courses = self._courses = read_courses(story, self.goal.sign)
        self.sources = choose_sources(courses)
        reported = [courses[number] for number in self.sources if len(courses[number].lows)]
        self.n_whole = sum(course.end is Status.COMPLETED for course in reported)
        if len(reported) < MIN_TRIALS or not self.n_whole:
            have = say_count(len(reported), "trial has", "trials have")
            raise UsageError(
                f"{have} reported {self.goal.metric!r}, {self.n_whole} of them to the end: a "
                f"forecast needs {MIN_TRIALS}, one of them to the end, so ask again later"
            )
        self._reports_each = sum(len(course.lows) for course in reported) / len(self.sources)
        self._report_s = sum(float(course.clock[-1]) for course in reported) / (
            self._reports_each * len(self.sources)
        )
        self._open = [trial for trial in story.trials if trial.status in _OPEN]
        self.best = min(course.score for course in courses.values())
        self.between_s, self.restart_s = measure_starts(story, courses)
        self._pruner = pickle.dumps(self._hear())
        likely = find_likely(courses)
        rngs = (np.random.default_rng([seed, i]) for i in range(_N_OUTCOMES))
        waited = self._waited = measure_waits(story, now)
        self._outcomes = [Outcomes(courses, likely, self.sources, waited, rng) for rng in rngs]

    def _hear(self) -> Pruner | None:
        """Let the rule hear all that was reported."""
        pruner = self._plan.build_pruner() if self._plan else None
        unheard = self._story.unheard
        for each in self._story.reports if pruner else ():
            if each is not unheard.get(each.number):
                value = each.value if len(self._names) == 1 else each.value[-1]
                pruner.report(each.number, each.iteration, value)  # type: ignore[union-attr] # above
        return pruner

    # --- how long plays are ---------------------------------------------------------------------

    @property
    def has_end(self) -> bool:
        """Whether something is still to come until the sweep is done, and an end to that."""
        n_trials = self._find_most(None)
        if n_trials is None:
            return math.isfinite(self._find_left_s())
        return bool(self._open) or n_trials > len(self._story.trials)

    def _find_most(self, asked_h: float | None) -> int | None:
        """Return how many trials there can be in all."""
        settings = self._story.settings
        is_grid = (settings.get("draws") or {}).get("sampler") == "Grid"
        most: int | None = settings.get("n_trials") if asked_h is None or is_grid else None
        return most

    def _find_left_s(self) -> float:
        """Return what is left of the time that a running sweep was given."""
        settings = self._story.settings
        budget_s, begun = settings.get("time_budget_s"), settings.get("started_at")
        runs = any(trial.status is Status.RUNNING for trial in self._story.trials)
        if not runs or budget_s is None or begun is None:
            return math.inf
        return max(0.0, float(begun + budget_s - self._now))

    def choose_plays(self, slots: int, asked_h: float | None) -> int:
        """Choose how often to play.

        Raises:
            UsageError: Even the fewest plays would take minutes.
        """
        until_s = self._find_left_s() if asked_h is None else 3600 * asked_h
        n_trials = self._find_most(asked_h)
        left = math.inf if n_trials is None else n_trials - len(self._story.trials)
        n_reports = max(
            1.0,
            min(
                slots * until_s / max(self._report_s, 1e-6),
                (left + len(self._open)) * self._reports_each,
            ),
        )
        if n_reports * MIN_PLAYS > MOST_REPORTS:
            raise UsageError(
                f"{slots} slots would make about {n_reports:.2g} reports, too many to be played: "
                "ask for fewer hours or slots"
            )
        return int(min(MAX_PLAYS, max(MIN_PLAYS, N_REPORTS / n_reports)))

    # --- a play ---------------------------------------------------------------------------------

    def play(self, number: int, slots: int, when: Sequence[float | None]) -> list[_Sight]:
        """Play it on; say what it is at after some hours, rising; None: at its end."""
        play = _Play(self, number, self._build_sweep(slots, self._find_most(when[0])))
        simulation = Simulation(play, slots)
        sights = []
        for hours in when:
            until_s = self._find_left_s() if hours is None else 3600 * hours
            goes_on = simulation.run(until_s)
            now_s = until_s if goes_on else simulation.now
            sights.append(_Sight(now_s / 3600, play.best, play.sweep.drawn))
        return sights

    def _build_sweep(self, slots: int, n_trials: int | None) -> Sweep:
        """Build the sweep as it stands; what was open waits to be run."""
        settings = self._story.settings
        cfg = SweepCfg(
            n_trials,
            self.goal,
            fail_fast=False,
            slots=slots,
            target=settings.get("target"),
            judged_by=self._names[-1],
        )
        sweep = Sweep(cfg, _Endless(), pickle.loads(self._pruner))
        sweep.drawn = len(self._story.trials)
        states = [
            TrialState(each.number, each.trial_id, 0, {}, each.status, each.attempt)
            for each in self._open
        ]
        unfinished = [each.number for each in self._open if each.status is not Status.PAUSED]
        sweep.restore(states, unfinished, self._names)
        return sweep

    def begin(self, play: int) -> tuple[dict[int, _Run], Iterator[_Run]]:
        """Return the runs that a play begins with, by number, and without end those to come."""
        outcomes = self._outcomes[play % _N_OUTCOMES]
        rng = np.random.default_rng([self._seed, _N_OUTCOMES, play])
        drawn = (_Run(*each) for each in outcomes.draw(rng))
        runs = {}
        for each in self._open:
            script = outcomes.whole.get(each.number)
            run = next(drawn) if script is None else _Run(script)
            run.at = 0 if script is None else len(self._courses[each.number].lows)
            run.waited_s = self._waited.get(each.number, 0.0)
            runs[each.number] = run
        return runs, drawn

    def read_metrics(self, run: _Run) -> dict[str, float]:
        """Return what a run reports next."""
        first, *others = run.script.values[run.at]
        values = (self.goal.sign * (first + run.by), *others)
        return dict(zip(self._names, values, strict=True))

    # --- what came out --------------------------------------------------------------------------

    def look(self, slots: int, asked_h: float | None, sights: Sequence[_Sight]) -> Outlook:
        """Sum up what some plays are at."""
        best = np.array([sight.best for sight in sights])
        hours = find_span([sight.hours for sight in sights])
        cost = Span(*(slots * each for each in hours))
        gpus = self._count_gpus()
        return Outlook(
            slots,
            asked_h,
            hours,
            find_span(self.goal.sign * best),
            float((best < self.best).mean()),
            find_span([sight.trials for sight in sights]),
            cost,
            Span(*(gpus * each for each in cost)) if gpus else None,
        )

    def _count_gpus(self) -> float:
        """Count the GPUs of a slot."""
        told = [each.gpus for each in self._story.attempts if each.gpus is not None]
        return float(np.median([len(gpus.split(",")) if gpus else 0 for gpus in told or [""]]))


def find_span(values: Iterable[float]) -> Span:
    """Find the narrowest range that holds 80 % of some values, of equal ones the lowest."""
    ordered = np.sort(np.array([*values], dtype=float))
    # Of n draws k in a row hold (k - 1) / (n + 1) of all that there could be.
    n = min(len(ordered), math.ceil(_BAND * (len(ordered) + 1)) + 1)
    with np.errstate(invalid="ignore"):  # infinite ones
        widths = np.nan_to_num(ordered[n - 1 :] - ordered[: len(ordered) - n + 1], nan=0.0)
    first = int(widths.argmin())
    middle = float(ordered[(len(ordered) - 1) // 2])
    return Span(float(ordered[first]), middle, float(ordered[first + n - 1]))


class _Endless:
    """A sampler: what trials are like is drawn elsewhere, as many as a play has time for."""

    def ask(self, now: float) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {}

    def tell(self, trial: Observation) -> None:
        """There is nothing to learn."""


@dataclass(slots=True)
class _Run:
    """A trial in a play: what it does, and how far it is."""

    script: Script
    by: float = 0.0  # so much higher are its values
    at: int = 0  # how many reports it has made
    waited_s: float = 0.0  # for how long it has worked on what is next
    number: int = -1


class _Play:
    """The game that is played: a sweep, and trials that go as was drawn.

    Attributes:
        best: The best value so far, low being better.
    """

    def __init__(self, start: Start, number: int, sweep: Sweep) -> None:
        self.sweep, self.best = sweep, start.best
        self._runs, self._drawn = start.begin(number)
        self._start = start

    def start(self, slot: int, now: float) -> tuple[_Run, float] | None:  # noqa: ARG002 - a game's
        trial = self.sweep.assign(now)
        if trial is None:
            return None
        run = self._runs.get(trial.number)
        if run is None:
            run = self._runs[trial.number] = next(self._drawn)
        run.number = trial.number
        step_s = run.script.steps_s[run.at]
        if run.waited_s:  # it runs at the time
            return run, now + max(0.0, step_s - run.waited_s)
        resumes_s = self._start.restart_s if run.at else 0.0
        return run, now + self._start.between_s + resumes_s + step_s

    def go_on(self, run: _Run, now: float) -> float | None:
        at, script, run.waited_s = run.at, run.script, 0.0
        if at == len(script.lows):
            self.sweep.end(run.number, Ended(script.end), now)
            return None
        self.best = min(self.best, script.lows[at] + run.by)
        metrics = self._start.read_metrics(run)
        run.at += 1
        is_last = run.at == len(script.lows) and script.end is Status.COMPLETED
        answer = self.sweep.report(run.number, script.iterations[at], metrics, now, is_last)
        if answer.reached:  # the driver stops then
            self.sweep.stop()
        if answer.decision is Decision.GO_ON:
            return now + script.steps_s[run.at]
        is_stop = answer.decision is Decision.STOP
        self.sweep.end(run.number, Ended(Status.INTERRUPTED if is_stop else Status.PRUNED), now)
        return None


# --- printed -------------------------------------------------------------------------------------


def _format(forecast: Forecast) -> Iterator[str]:
    best = "no finite one" if forecast.best is None else f"{forecast.best:.4g}"
    trials = say_count(forecast.n_trials, "trial")
    yield (
        f"The best {forecast.metric} of {trials}, {forecast.n_whole} of which came to the end, is "
        f"{best}."
    )
    done = [each for each in forecast.outlooks if each.asked_h is None]
    then = [each for each in forecast.outlooks if each.asked_h is not None]
    for title, rows in (("Until it is done:", done), ("After so many hours:", then)):
        if rows:
            yield ""
            yield title
            yield from _format_rows(rows, forecast.metric)
    yield ""
    yield f"In brackets what 80 % of {forecast.plays} plays or more came to. What can't be known:"
    yield "whether trials yet to come are like those that there were, and what nodes do."
    if forecast.is_learning:
        yield "Later trials were clearly better, so that new ones are drawn from these alone."


#: In what times are told, the largest first, by seconds.
_UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}


def _format_rows(outlooks: Sequence[Outlook], metric: str) -> Iterator[str]:
    longest_s = 3600 * max(each.hours.middle for each in outlooks)
    unit = next((name for name, size in _UNITS.items() if longest_s >= size), "seconds")
    cost = "slot h" if outlooks[0].gpu_hours is None else "GPU h"
    yield _align("slots", unit, f"best {metric}"[:31], "better", "trials", cost)
    for each in outlooks:
        times = Span(*(3600 / _UNITS[unit] * hours for hours in each.hours))
        spent = (each.gpu_hours or each.slot_hours).middle
        yield _align(
            str(each.slots),
            _format_span(times, 3, 19),
            _format_span(each.best, 4, 31),
            f"{each.chance:.0%}",
            f"{each.trials.middle:.0f}",
            f"{spent:.0f}" if spent >= 10 else f"{spent:.2g}",
        )


def _format_span(span: Span, digits: int, width: int) -> str:
    low, middle, high = (f"{each:.{digits}g}" for each in span)
    text = middle if low == middle == high else f"{middle} ({low} to {high})"
    return text if len(text) <= width or digits == 1 else _format_span(span, digits - 1, width)


def _align(slots: str, times: str, best: str, better: str, trials: str, cost: str) -> str:
    return f"{slots:>5}  {times:<19}  {best:<31}{better:>7}{trials:>7}{cost:>7}"
