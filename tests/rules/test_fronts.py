"""Points ranked by fronts and crowding, against what follows from the definitions alone."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.rules.fronts import FrontRanking, Point, find_front
from slurm_sweeps.rules.protocol import Decision


def dominates(one: Point, other: Point) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def measure_room(front: list[Point]) -> dict[Point, float]:
    """The crowding distances of a front."""
    room = dict.fromkeys(front, 0.0)
    for i in range(len(front[0])):
        levels = sorted({point[i] / 2 for point in front})  # whose range is finite
        for point in room if len(levels) > 1 else ():
            at = levels.index(point[i] / 2)
            is_outer = at in (0, len(levels) - 1)
            gap = math.inf if is_outer else levels[at + 1] - levels[at - 1]
            room[point] += gap / (levels[-1] - levels[0])
    return room


def find_best(points: list[Point], factor: Fraction) -> set[Point]:
    """The ⌈n / factor⌉ best, front by front, and of the last of these who has the most room."""
    left, best = list(points), set()
    n_left = math.ceil(len(points) / factor)
    while n_left > 0:
        front = [point for point in left if not any(dominates(each, point) for each in left)]
        left = [point for point in left if point not in front]
        room = measure_room(front)
        least = sorted((room[point] for point in front), reverse=True)[:n_left][-1]
        best |= {point for point in front if room[point] >= least}
        n_left -= len(front)
    return best


FACTORS = st.sampled_from([Fraction(2), Fraction(3), Fraction(4), Fraction("2.5")])
COORDINATES = st.one_of(st.integers(0, 4).map(float), st.floats(-1e308, 1e308))


@st.composite
def changes(draw: Any) -> tuple[Fraction, list[tuple[str, Point]]]:
    """Points that are put in and taken out again."""
    d = draw(st.integers(2, 4))
    point = st.tuples(*[COORDINATES] * d)
    steps: list[tuple[str, Point]] = []
    there: list[Point] = []
    for _ in range(draw(st.integers(1, 25))):
        if there and draw(st.integers(0, 3)) == 0:
            steps.append(("remove", there.pop(draw(st.integers(0, len(there) - 1)))))
        else:
            there.append(draw(point))
            steps.append(("add", there[-1]))
    return draw(FACTORS), steps


@given(changes())
def test_who_is_among_the_best(case: tuple[Fraction, list[tuple[str, Point]]]) -> None:
    factor, steps = case
    ranking, points = FrontRanking(factor), []
    for step, point in steps:
        getattr(ranking, step)(point)
        (points.append if step == "add" else points.remove)(point)
        assert len(ranking) == len(points)
        best = {each for each in points if each <= ranking.threshold}
        assert best == find_best(points, factor)


def test_many_points() -> None:
    """Enough for many fronts, some of which come to lie beyond those that are kept apart."""
    rng = random.Random(0)
    ranking, points = FrontRanking(Fraction(4)), []
    for number in range(400):  # getting better, so that early ones fall back
        points.append((rng.random() - number / 400, rng.random() - number / 400))
        ranking.add(points[-1])
    for point in rng.sample(points, 100):
        ranking.remove(point)
        points.remove(point)
    best = {point for point in points if point <= ranking.threshold}
    assert best == find_best(points, Fraction(4))
    assert sorted(points[at] for at in find_front(points)) == sorted(
        point for point in points if not any(dominates(each, point) for each in points)
    )


def test_a_queue_has_the_best_in_front() -> None:
    ranking = FrontRanking(Fraction(2))
    queue = ranking.build_queue()
    assert queue.find_best() is None
    points = {"a": (1.0, 4.0), "b": (0.0, 3.0), "c": (3.0, 0.0), "d": (9.0, 9.0)}
    for name, point in points.items():
        ranking.add(point)
        queue.put(name, point)
    assert queue.find_best() == "b"  # as good as c, and has waited longer
    queue.drop("b")
    assert queue.find_best() == "c"
    queue.drop("c")
    assert queue.find_best() is None
    for _ in range(4):
        ranking.add((9.0, 9.0))
    assert queue.find_best() == "a"


# --- the rules ------------------------------------------------------------------------------------

TWO = (["loss", "ms"], "min")
REPORTS = st.lists(
    st.tuples(
        st.integers(0, 7),
        st.integers(0, 9),
        st.tuples(*[st.integers(0, 5).map(float) | st.just(math.nan)] * 2),
    ),
    max_size=40,
)


def enter(reports: list[Any], level: int) -> dict[int, Point]:
    """What each trial has at a level: the finite values of its first iteration from it on."""
    offsets = {trial: 1 for trial, iteration, _ in reports if iteration == 0}
    latest = {(trial, iteration): value for trial, iteration, value in reports}
    entered: dict[int, Point] = {}
    for (trial, iteration), value in sorted(latest.items(), reverse=True):
        if iteration + offsets.get(trial, 0) >= level:
            entered[trial] = value
    return entered


@given(REPORTS, st.booleans())
def test_asha_of_two_metrics(reports: list[Any], promote: bool) -> None:
    """The last report is decided as follows from all of them by the definition."""
    plan = ss.ASHA(*TWO, reduction_factor=2, max_t=8, promote=promote)
    pruner: Any = plan.build_pruner()
    decision = Decision.GO_ON
    for trial, iteration, value in reports:
        decision = pruner.report(trial, iteration, value)
    if not reports:
        return
    trial = reports[-1][0]
    fails, has_nan = [], []
    for level in (1, 2, 4):
        entered = enter(reports, level)
        if trial in entered:
            finite = [point for point in entered.values() if not any(map(math.isnan, point))]
            is_nan = any(map(math.isnan, entered[trial]))
            has_nan.append(is_nan)
            fails.append(is_nan or entered[trial] not in find_best(finite, Fraction(2)))
    if trial in enter(reports, 8) or not fails:
        assert decision is Decision.GO_ON
    elif promote:
        wanted = Decision.PRUNE if has_nan[-1] else Decision.PAUSE
        assert decision is (wanted if fails[-1] else Decision.GO_ON)
    else:
        assert decision is (Decision.PRUNE if any(fails) else Decision.GO_ON)


@given(REPORTS, st.permutations(range(40)))
def test_the_order_of_reports_makes_no_difference(reports: list[Any], order: list[int]) -> None:
    latest = {(trial, iteration): value for trial, iteration, value in reports}
    rows = [(*key, value) for key, value in latest.items()]
    shuffled = [rows[at] for at in order if at < len(rows)]
    judged = []
    for each in (rows, shuffled):
        pruner: Any = ss.ASHA(*TWO, reduction_factor=2, max_t=8).build_pruner()
        for row in each:
            pruner.report(*row)
        judged.append([pruner.judge(trial) for trial in range(8)])
    assert judged[0] == judged[1]


@pytest.mark.parametrize(
    "plan", [ss.ASHA(*TWO, max_t=27), ss.Hyperband(["loss", "ms"], ["min", "max"], max_t=27)]
)
def test_max_is_min_of_the_negative(plan: Any) -> None:
    modes = ["max" if goal == "min" else "min" for goal in plan.mode]
    turned = type(plan)(plan.metric, modes, max_t=27)
    rng = random.Random(0)
    one, other = plan.build_pruner(), turned.build_pruner()
    decisions = []
    for number in range(300):
        point = (rng.random(), rng.random())
        decision = one.report(number, 1, point)
        assert decision is other.report(number, 1, tuple(-value for value in point))
        decisions.append(decision)
    assert {Decision.GO_ON, Decision.PRUNE} == set(decisions)


def test_a_paused_trial_is_promotable_when_it_has_come_to_be_among_the_best() -> None:
    plan = ss.ASHA(*TWO, reduction_factor=2, max_t=8, promote=True)
    pruner: Any = plan.build_pruner()
    assert pruner.report(0, 1, (1.0, 1.0)) is Decision.GO_ON
    assert pruner.report(1, 1, (2.0, 2.0)) is Decision.PAUSE
    pruner.pause(1)
    assert pruner.find_promotable() is None
    assert pruner.report(2, 1, (3.0, 3.0)) is Decision.PAUSE
    assert pruner.find_promotable() == 1
    pruner.promote(1)
    assert pruner.find_promotable() is None


def test_a_first_rung_that_tells_of_one_metric_is_not_doubted() -> None:
    rng = random.Random(0)
    for tells in (False, True):
        pruner: Any = ss.ASHA(*TWO, reduction_factor=2, max_t=8).build_pruner()
        for number in range(60):
            loss = rng.random()
            pruner.report(number, 1, (loss, rng.random()))
            pruner.report(number, 2, (loss if tells else rng.random(), rng.random()))
        assert (pruner.pop_doubt() is None) is tells


def test_trials_to_prune_of_a_frame() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "trial_id": ["a", "b", "c"],
            "iteration": 1,
            "metric_loss": [1, 2, 3],
            "metric_ms": [3, 4, 1],
        }
    )
    assert ss.ASHA(*TWO, reduction_factor=2).find_trials_to_prune(frame) == ["b"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ss.ASHA(["a", "b"], ["min"]), "mode must be one word for all metrics, or a list"),
        (lambda: ss.ASHA([], "min"), "got metric=[], mode='min'"),
        (lambda: ss.ASHA(["a", "a"], "min"), "each metric must be named once, got ['a', 'a']"),
        (lambda: ss.ASHA(["a", 3], "min"), "metric must be the name of a metric, got 3"),
        (lambda: ss.Hyperband(["a", "b"], ["min", "low"]), 'mode must be "min" or "max", got'),
        (lambda: ss.MedianStopping(["a", "b"], "min"), "MedianStopping goes by one metric"),
    ],
)
def test_metrics_that_make_no_sense(build: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build()
    assert words in str(caught.value)


def test_a_list_of_one_is_that_one() -> None:
    assert ss.ASHA(["loss"], ["min"]) == ss.ASHA("loss", "min")
