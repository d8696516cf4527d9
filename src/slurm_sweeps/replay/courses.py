"""How trials go: what is known of those that there were, and likely ones drawn of it. Pure.

A drawn trial is one that there was, with its values, its pace and its end. What was cut short (by a
rule, or as it still runs) goes on like one that has gone further and had stood near it at that
iteration: the other's steps from there on, in its own pace. Which one is drawn anew each time.

How good the best of many more will be is a question of order first. Of n exchangeable trials a
further one is as likely to fall between any two that are neighbours in order, or before the first
or behind the last (Hill 1968, A(n)); of many further ones, the shares of these n + 1 gaps are drawn
from Dirichlet's distribution. So how often the best is beaten is right, whatever the values. Within
a gap, a value is anywhere; before the first, it is drawn from a generalised Pareto tail of the
leaders' distances, whose shape and scale are drawn from those that the leaders leave possible. A
trial that falls into a gap is its neighbour, with all values shifted by the difference.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..storage.records import AttemptRecord, TrialRecord
from ..sweep_types import Report, Turn
from ..trial import Status
from .story import Story

Array = npt.NDArray[np.float64]

#: Curves are thinned to about so many iterations, close at first.
MAX_POINTS = 100

#: New trials are drawn so many at a time.
_BLOCK = 64

#: What was cut short goes on like one of so many that had stood nearest.
N_NEAREST = 5

#: Shapes that the tail of the best values may have: from an end that many come near, to none.
_SHAPES = np.linspace(-1.0, 0.75, 15)[:, None]
_SCALES = np.geomspace(0.05, 50.0, 60)

#: That later trials are better is no chance, which would make it so once in a thousand sweeps.
_CLEARLY = 3.1


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a trial goes."""

    iterations: npt.NDArray[np.int64]  # at which it reports, rising; [n]
    values: Array  # for each metric; of the first, which the sweep is after, low is good; [n, m]
    # The lowest finite value of that one since the report before, also of those that thinning has
    # left out; infinite without one; [n].
    lows: Array
    clock: Array  # seconds of work up to each report; [n]
    rest_s: float  # from the last one to the end
    end: Status | None  # None if it was cut short
    is_stopped: bool = False  # cut short by the rule, which would do it again

    @property
    def score(self) -> float:
        """Its best value; infinite if there is none, or none that counts."""
        return math.inf if self.end is Status.INFEASIBLE else float(self.lows.min(initial=math.inf))

    def find(self, iteration: int) -> int:
        """Return the position of its latest report up to an iteration, -1 before the first."""
        return int(np.searchsorted(self.iterations, iteration, side="right")) - 1

    def go_on_like(self, other: Course, floor: float) -> Course:
        """Return this one with the other's steps from here on, in its own pace.

        Of the first metric's height above the floor the same share is left as of the other's.
        """
        here = other.find(int(self.iterations[-1]))
        after = slice(here + 1, None)
        pace = self.clock[-1] / other.clock[here] if other.clock[here] > 0 else 1.0
        values = other.values[after] + (self.values[-1] - other.values[here])
        share = (self.values[-1, 0] - floor) / (other.values[here, 0] - floor)
        values[:, 0] = floor + share * (other.values[after, 0] - floor)
        lows = floor + share * (other.lows[after] - floor)
        clock = self.clock[-1] + pace * (other.clock[after] - other.clock[here])
        return Course(
            np.concatenate((self.iterations, other.iterations[after])),
            np.concatenate((self.values, values)),
            np.concatenate((self.lows, np.where(np.isfinite(lows), lows, math.inf))),
            np.concatenate((self.clock, clock)),
            pace * other.rest_s,
            other.end,
        )


class Script(NamedTuple):
    """A course to be played: the same as lists, which are read faster."""

    iterations: list[int]
    values: list[list[float]]
    lows: list[float]  # infinite where none counts
    steps_s: list[float]  # up to each report, and to the end
    end: Status


def write_script(course: Course) -> Script:
    """Write a course down; one that was cut short comes to its end."""
    lows: list[float] = course.lows.tolist()
    return Script(
        course.iterations.tolist(),
        course.values.tolist(),
        [math.inf] * len(lows) if course.end is Status.INFEASIBLE else lows,
        [*np.diff(course.clock, prepend=0.0).tolist(), course.rest_s],
        course.end or Status.COMPLETED,
    )


#: So a trial ends when nothing cuts it short.
_ENDS = (Status.COMPLETED, Status.FAILED, Status.INFEASIBLE)


def read_courses(story: Story, sign: float) -> dict[int, Course]:
    """Read how trials have gone, by number, those that have begun.

    Args:
        story: Its reports are those of the sweep's metric, or tuples of which it is the first.
        sign: What makes low values of that one the better ones.
    """
    reports: dict[int, list[Report]] = defaultdict(list)
    starts: dict[int, list[float]] = defaultdict(list)
    for event in story.events:
        if isinstance(event, Report):
            reports[event.number].append(event)
        elif isinstance(event, Turn) and event.status is Status.RUNNING:
            starts[event.number].append(event.at)
    seen = np.unique([each.iteration for some in reports.values() for each in some])
    kept = set(seen[_choose_kept(len(seen))].tolist())
    return {
        trial.number: _read_course(trial, reports[trial.number], starts[trial.number], sign, kept)
        for trial in story.trials
        if starts[trial.number]
    }


def _choose_kept(n: int) -> npt.NDArray[np.int64]:
    """Choose about `MAX_POINTS` of n positions, close at first."""
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.unique(np.geomspace(1, n, MAX_POINTS).round().astype(np.int64)) - 1


def _read_course(
    trial: TrialRecord, reports: list[Report], starts: list[float], sign: float, kept: set[int]
) -> Course:
    end = trial.status if trial.status in _ENDS else None
    reports = sorted(reports, key=lambda each: each.iteration)
    if end is Status.INFEASIBLE:  # no rule hears the report by which it is
        del reports[-1:]
    width = len(reports[0].value) if reports and isinstance(reports[0].value, tuple) else 1
    values = np.array([each.value for each in reports], dtype=float).reshape(-1, width)
    values[:, 0] *= sign
    at = np.array([each.at for each in reports])
    # Each report's work began with the report before, or with its own attempt.
    begun = np.array(starts)[np.searchsorted(starts, at, side="right").clip(1) - 1]
    clock = np.maximum(at - np.maximum(begun, np.r_[-math.inf, at][:-1]), 0.0).cumsum()
    last = at.max(initial=starts[-1])
    keep = [i for i, each in enumerate(reports) if each.iteration in kept or i == len(reports) - 1]
    lows = np.where(np.isfinite(values[:, 0]), values[:, 0], math.inf)
    return Course(
        np.array([reports[i].iteration for i in keep], dtype=np.int64),
        values[keep],
        np.minimum.reduceat(lows, [0, *(i + 1 for i in keep[:-1])]) if keep else lows,
        clock[keep],
        0.0 if trial.end_time is None else max(0.0, trial.end_time - last),
        end,
        trial.status in (Status.PRUNED, Status.PAUSED),
    )


def measure_waits(story: Story, now: float) -> dict[int, float]:
    """Measure for how long running trials have worked on what comes next, in seconds, by number."""
    runs = {trial.number for trial in story.trials if trial.status is Status.RUNNING}
    latest = {event.number: event.at for event in story.events if event.number in runs}
    return {number: max(0.0, now - at) for number, at in latest.items()}


def measure_starts(story: Story, courses: Mapping[int, Course]) -> tuple[float, float]:
    """Measure what starts take, in seconds, the medians.

    Returns:
        From a trial's end to the next one's start in the same slot, and how much longer a first
        report takes than the later ones do.
    """
    slots: dict[tuple[str | None, int | None], list[AttemptRecord]] = defaultdict(list)
    for each in story.attempts:
        if each.start_time is not None and each.slot is not None:
            slots[each.job_id, each.slot].append(each)
    between = [
        after.start_time - before.end_time
        for runs in slots.values()
        for before, after in pairwise(sorted(runs, key=lambda each: each.start_time or 0.0))
        if after.start_time and before.end_time and after.start_time >= before.end_time
    ]
    first = [
        max(0.0, float(course.clock[0] - np.median(np.diff(course.clock))))
        for course in courses.values()
        if len(course.clock) > 1
    ]
    return float(np.median(between or [0.0])), float(np.median(first or [0.0]))


class Tail(NamedTuple):
    """What the leaders leave possible of how values lie below the best."""

    distance: float  # from the best to the threshold, above which nothing is looked at
    shapes: Array  # of a generalised Pareto distribution of distances below it; [k]
    scales: Array  # the same; [k]
    weights: Array  # how likely these are; [k]

    def choose(self, rng: np.random.Generator) -> Tail:
        """Choose one shape and scale."""
        i = rng.choice(len(self.weights), p=self.weights)
        return Tail(self.distance, self.shapes[i : i + 1], self.scales[i : i + 1], np.ones(1))

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        """Draw how far below the best further values are, by the first shape and scale; [n]."""
        shape, scale = self.shapes[0], self.scales[0] + self.shapes[0] * self.distance
        u = 1 - rng.random(n)
        below = -scale * np.log(u) if abs(shape) < 1e-9 else scale / shape * (u**-shape - 1)
        return np.asarray(below)


def fit_tail(scores: Array, n_leaders: int) -> Tail:
    """Weigh shapes and scales by how likely they make the leaders' distances.

    Args:
        scores: Finite ones, rising; [n].
        n_leaders: How many lie in the tail, as far as there are so many.
    """
    n_leaders = min(len(scores) - 1, n_leaders)
    below = scores[n_leaders] - scores[:n_leaders] if n_leaders > 0 else np.zeros(1)
    if below[0] <= 0 or not n_leaders:
        return Tail(0.0, np.zeros(1), np.zeros(1), np.ones(1))
    scales = below.mean() * _SCALES
    x = below[:, None, None] / scales  # [leaders, 1, scales]
    inner = 1 + _SHAPES * x  # [leaders, shapes, scales]
    with np.errstate(divide="ignore", invalid="ignore"):
        exponential = np.abs(_SHAPES) < 1e-9
        log_density = np.where(exponential, -x, -(1 + 1 / _SHAPES) * np.log(inner)).sum(axis=0)
    log_density = log_density - n_leaders * np.log(scales)
    log_density[(inner <= 0).any(axis=0)] = -math.inf
    weights = np.exp(log_density - log_density.max())
    shapes, scales = np.broadcast_arrays(_SHAPES, scales)
    return Tail(float(below[0]), shapes.ravel(), scales.ravel(), (weights / weights.sum()).ravel())


class Outcomes:
    """Courses that are whole: each that was cut short goes on like another, and new ones.

    Args:
        courses: Those of a sweep, by number.
        likely: Of `find_likely`.
        sources: The numbers of those that new trials are like.
        waited: For how long those that run have worked on what comes next, in seconds, by number.
        rng: Draws whom they are like.

    Attributes:
        whole: By number.
    """

    def __init__(
        self,
        courses: Mapping[int, Course],
        likely: Mapping[int, Sequence[int]],
        sources: Sequence[int],
        waited: Mapping[int, float],
        rng: np.random.Generator,
    ) -> None:
        whole: dict[int, Course] = {}
        weights = rng.standard_exponential(1 + max(courses, default=0))
        self._bound, self._step = _find_bound(courses), _find_step(courses)
        floor = max(_find_floor(courses), self._bound - 1e-9)
        for number, others in likely.items():
            course = courses[number]
            if others:
                among = weights[others] / rng.standard_exponential(len(others))
                course = course.go_on_like(whole[others[int(among.argmax())]], floor)
            whole[number] = course  # if nobody has gone further, it is at its end
        begun = [course for course in whole.values() if len(course.clock)]
        for number in courses.keys() - whole.keys():
            whole[number] = _draw_slow(begun, waited.get(number, 0.0), rng)
        self.whole = {number: write_script(course) for number, course in whole.items()}
        # What was stopped won't come to more under the same rule, whatever it might come to.
        judged = {n: course if course.is_stopped else whole[n] for n, course in courses.items()}
        ranked = sorted(sources, key=lambda number: judged[number].score)
        self._ranked = [self.whole[number] for number in ranked]
        self._scores = np.array([judged[number].score for number in ranked])
        # None is shifted beyond the bound, though it may come further than what it is ranked by.
        self._least = [self._bound - whole[number].score for number in ranked]
        self._tail = self._fit_tail(rng)

    def draw(self, rng: np.random.Generator) -> Iterator[tuple[Script, float]]:
        """Draw new trials without end, and how much higher their values are."""
        n_gaps = len(self._scores) + 1
        shares, splits = rng.standard_exponential(n_gaps).cumsum(), rng.beta(0.5, 0.5, n_gaps)
        tail = self._tail.choose(rng)
        while True:
            for script, by in self._draw_some(rng, shares, splits, tail):
                yield script, round(by / self._step) * self._step if self._step else by

    def _fit_tail(self, rng: np.random.Generator) -> Tail:
        """Fit a tail to so many of the leaders as are drawn: nobody knows where it begins."""
        scores = self._scores[np.isfinite(self._scores)]
        if math.isfinite(self._bound):
            scores = np.log(np.maximum(scores - self._bound, np.finfo(float).tiny))
        most = max(5, len(scores) // 2)
        return fit_tail(scores, round(math.exp(rng.uniform(math.log(3), math.log(most)))))

    def _draw_beyond(self, rng: np.random.Generator, tail: Tail) -> Array:
        """Draw how far below the best further values are."""
        beyond = tail.draw(rng, _BLOCK)
        height = self._scores[0] - self._bound
        return height * -np.expm1(-beyond) if math.isfinite(height) else beyond

    def _draw_some(
        self, rng: np.random.Generator, shares: Array, splits: Array, tail: Tail
    ) -> list[tuple[Script, float]]:
        scores, size = self._scores, len(self._scores)
        gaps = np.searchsorted(shares, rng.random(_BLOCK) * shares[-1])
        u, beyond = rng.random(_BLOCK), self._draw_beyond(rng, tail)
        drawn = []
        for gap, place, by in zip(gaps.tolist(), u.tolist(), beyond.tolist(), strict=True):
            if gap == 0:
                drawn.append((self._ranked[0], max(-by, self._least[0])))
                continue
            above = min(gap, size - 1)
            is_left = place < splits[gap]
            near = gap - 1 if is_left else above
            width = scores[above] - scores[gap - 1] if math.isfinite(scores[above]) else 0.0
            rise = float((place if is_left else place - 1) * width)
            drawn.append((self._ranked[near], max(rise, self._least[near])))
        return drawn


def _draw_slow(courses: Sequence[Course], waited_s: float, rng: np.random.Generator) -> Course:
    """Draw one of those whose first report came later than that, or a slower one.

    Of something that has taken longer than all others it is as likely as not that it takes twice as
    long as up to now.
    """
    slower = [course for course in courses if course.clock[0] > waited_s]
    if slower:
        return slower[int(rng.integers(len(slower)))]
    course = courses[int(rng.integers(len(courses)))]
    pace = waited_s / (max(course.clock[0], 1e-9) * (1 - rng.random()))
    return replace(course, clock=course.clock * pace, rest_s=course.rest_s * pace)


def _find_floor(courses: Mapping[int, Course]) -> float:
    """Return what values fall towards: as far below the best as the best quarter is wide."""
    scores = np.sort([course.score for course in courses.values()])
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return 0.0
    width = scores[len(scores) // 4] - scores[0] or abs(scores[0]) or 1.0
    return float(scores[0] - width)


def _find_step(courses: Mapping[int, Course]) -> float:
    """Return the step of values that have one, such as error rates; 0 for those that have none."""
    values = np.sort(_list_values(courses))
    values = values[: (len(values) + 1) // 2]  # the worst are of another size where some diverge
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
    levels = np.unique((values / scale).round(6))  # what differs less is due to rounding
    has_step = 1 < len(levels) < len(values) / 2
    return scale * float(np.diff(levels).min()) if has_step else 0.0


def _find_bound(courses: Mapping[int, Course]) -> float:
    """Return what no value is taken to be below: 0 where none was, -1 for shares turned round."""
    values = _list_values(courses)
    if values.min() >= 0:
        return 0.0
    return -1.0 if values.min() >= -1 and values.max() <= 0 else -math.inf


def _list_values(courses: Mapping[int, Course]) -> Array:
    values = np.concatenate([course.values[:, 0] for course in courses.values()])
    return np.asarray(values[np.isfinite(values)])


def find_likely(courses: Mapping[int, Course]) -> dict[int, list[int]]:
    """Find whom each course that was cut short may go on like, those that went furthest first.

    Returns:
        The numbers of those that have gone further and stood nearest, for each number that has
        reported or ended; none where it has ended by itself, or nobody has gone further.
    """
    reported = {n: course for n, course in courses.items() if len(course.iterations)}
    order = sorted(reported, key=lambda n: (-int(reported[n].iterations[-1]), n))
    likely: dict[int, list[int]] = {n: [] for n in courses if n not in reported and courses[n].end}
    at: dict[int, tuple[list[int], Array]] = {}
    for number in order:
        course = reported[number]
        likely[number] = []
        if course.end is None:
            last = int(course.iterations[-1])
            if last not in at:
                at[last] = _list_further(reported, last)
            others, values = at[last]
            if others:
                nearest = np.abs(values - course.values[-1, 0]).argsort(kind="stable")[:N_NEAREST]
                likely[number] = [others[i] for i in nearest]
    return likely


def _list_further(courses: Mapping[int, Course], iteration: int) -> tuple[list[int], Array]:
    """List those that have gone further, and their values at an iteration."""
    places = {
        n: course.find(iteration)
        for n, course in courses.items()
        if course.iterations[-1] > iteration
    }
    others = [
        n for n, place in places.items() if place >= 0 and courses[n].end is not Status.FAILED
    ]
    return others, np.array([courses[n].values[places[n], 0] for n in others])


def choose_sources(courses: Mapping[int, Course]) -> list[int]:
    """Choose which trials further ones are like: all, or the later half where it is clearly better.

    It is if its first values are lower by the rank-sum test; a sampler has learnt then.
    """
    numbers = sorted(courses)
    reported = [n for n in numbers if len(courses[n].iterations)]
    half = len(reported) // 2
    first = np.nan_to_num([courses[n].values[0, 0] for n in reported], nan=math.inf)
    late = first[half:, None]
    wins = (late < first[:half]).sum() + 0.5 * (late == first[:half]).sum()
    product = half * (len(reported) - half)
    spread = math.sqrt(product * (len(reported) + 1) / 12)
    if spread and (wins - product / 2) / spread > _CLEARLY:
        return [n for n in numbers if n >= reported[half]]
    return numbers
