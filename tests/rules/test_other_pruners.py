"""What each pruner beside plain ASHA does: promotion, brackets, the median, and what is said."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rung_cases import VALUES

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.rules.asha import ASHA, Hyperband, PromotionPruner
from slurm_sweeps.rules.median import MedianStopping
from slurm_sweeps.rules.protocol import Decision, PromotingPruner, PrunerPlan
from slurm_sweeps.rules.ranking import compute_rank_correlation

GO_ON, PRUNE, PAUSE = Decision.GO_ON, Decision.PRUNE, Decision.PAUSE


def build_promotion() -> PromotionPruner:
    pruner = ASHA("loss", "min", 2, max_t=8, promote=True).build_pruner()
    assert isinstance(pruner, PromotionPruner)
    return pruner


def test_a_trial_waits_until_it_is_among_the_best() -> None:
    pruner = build_promotion()
    assert pruner.report("first", 1, 0.5) is GO_ON
    assert pruner.report("second", 1, 0.6) is PAUSE
    pruner.pause("second")
    assert pruner.find_promotable() is None
    assert pruner.report("third", 1, 0.7) is PAUSE  # the second is now one of the two best of three
    assert pruner.find_promotable() == "second"
    pruner.promote("second")
    assert pruner.find_promotable() is None
    assert pruner.report("second", 2, 0.4) is GO_ON


def test_the_highest_rung_comes_first() -> None:
    pruner = build_promotion()
    for trial, value in enumerate([0.1, 0.2, 0.3, 0.4]):
        pruner.report(trial, 1, value)
        pruner.report(trial, 2, value)
        pruner.pause(trial)
    assert pruner.find_promotable() == 0
    pruner.promote(0)
    assert pruner.find_promotable() == 1


def test_one_that_others_have_overtaken_waits_from_its_next_report_on() -> None:
    pruner = build_promotion()
    assert pruner.report("old", 4, 0.5) is GO_ON
    assert pruner.report("old", 5, math.nan) is GO_ON  # what it has in the rung is what counts
    for trial in range(10):
        assert pruner.report(trial, 4, 0.1) is GO_ON
    assert pruner.report("old", 6, 0.0) is PAUSE
    pruner.pause("old")
    assert pruner.find_promotable() is None
    for trial in range(10, 30):
        pruner.report(trial, 4, 0.9)
    assert pruner.find_promotable() == "old"
    pruner.promote("old")
    assert pruner.report("old", 7, 0.0) is GO_ON


def test_rungs_below_the_highest_do_not_count() -> None:
    pruner = build_promotion()
    assert pruner.report("slow", 1, 0.5) is GO_ON
    assert pruner.report("slow", 2, 0.2) is GO_ON
    for trial in range(10):
        pruner.report(trial, 1, 0.1)
    assert pruner.report("slow", 3, 0.2) is GO_ON


def test_a_value_that_is_not_finite_can_never_be_promoted() -> None:
    pruner = build_promotion()
    assert pruner.report("bad", 1, math.inf) is PRUNE
    pruner.pause("bad")
    assert pruner.find_promotable() is None


def test_pauses_may_be_told_before_the_metrics() -> None:
    pruner = build_promotion()
    pruner.pause("waits")
    for trial, value in (("waits", 0.2), ("best", 0.1), ("worst", 0.3)):
        pruner.report(trial, 1, value)
    assert pruner.find_promotable() == "waits"


@given(st.lists(st.integers(0, 5), max_size=40))
def test_nobody_waits_who_is_among_the_best(values: list[int]) -> None:
    pruner = build_promotion()
    paused = set()
    for trial, value in enumerate(values):
        if pruner.report(trial, 1, float(value)) is PAUSE:
            pruner.pause(trial)
            paused.add(trial)
    while (trial := pruner.find_promotable()) is not None:
        pruner.promote(trial)
        paused.remove(trial)
    n_best = math.ceil(len(values) / 2)
    assert all(values[trial] > sorted(values)[n_best - 1] for trial in paused)
    assert len(values) - len(paused) >= n_best


def test_brackets_get_the_shares_of_hyperband() -> None:
    pruner = Hyperband("loss", "min", max_t=50).build_pruner()
    for trial in range(1000):
        pruner.report(trial, 1, float(trial % 2))
    first, second, third = (len(bracket._rankings[0]) for bracket in pruner._brackets)
    # Rungs 1, 4, 16: shares of 16, 4 · 3/2 and 3 in 25; only the first has a rung at 1.
    assert (first, second, third) == (640, 0, 0)
    for trial in range(1000):
        pruner.report(trial, 16, 0.0)
    assert [len(bracket._rankings[-1]) for bracket in pruner._brackets] == [640, 240, 120]


def test_brackets_judge_among_their_own() -> None:
    pruner = Hyperband("loss", "min", max_t=50).build_pruner()
    answers = Counter(pruner.report(trial, 1, random.Random(trial).random()) for trial in range(99))
    assert answers[PRUNE] < 60
    assert Hyperband("loss", "min", 60, 3).rungs == (1, 3, 9, 27)


def test_the_median_is_of_those_who_came_as_far() -> None:
    pruner = MedianStopping("loss", "min", min_trials=3).build_pruner()
    for trial, value in enumerate([0.1, 0.2, 0.3]):
        for iteration in (1, 2):
            pruner.report(trial, iteration, value)
    assert pruner.report(3, 1, 0.9) is PRUNE
    assert pruner.report(4, 1, 0.15) is GO_ON
    assert pruner.report(4, 2, 0.9) is GO_ON  # its best stands
    assert pruner.report(0, 3, 0.9) is GO_ON
    assert pruner.report(2, 3, 0.9) is GO_ON  # two came as far, and three are wanted
    assert pruner.report(4, 3, 0.9) is GO_ON
    assert pruner.report(3, 3, 0.8) is PRUNE


def test_the_median_does_not_judge_before_min_t() -> None:
    pruner = MedianStopping("loss", "max", min_t=3, min_trials=1).build_pruner()
    pruner.report(0, 3, 1.0)
    assert [pruner.report(1, i, -1.0) for i in (1, 2, 3)] == [GO_ON, GO_ON, PRUNE]
    assert [pruner.report(2, i, -2.0) for i in (0, 1, 2)] == [GO_ON, GO_ON, PRUNE]


def test_iterations_in_the_millions_cost_few_numbers() -> None:
    pruner = MedianStopping("loss", "min", min_trials=1).build_pruner()
    assert pruner.report(0, 10_000_000, 0.1) is GO_ON
    assert pruner.report(1, 9_999_999, 0.2) is PRUNE
    assert len(pruner._levels) < 250


def test_an_iteration_that_is_logged_again_does_not_cost_the_whole_curve() -> None:
    pruner = MedianStopping("loss", "min").build_pruner()
    for iteration in range(1, 5001):
        pruner.report(0, iteration, 1 / iteration)
    n_calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal n_calls
        n_calls += event == "call"

    sys.setprofile(count)
    try:
        for iteration in range(1, 101):
            pruner.report(0, iteration, 2 / iteration)
    finally:
        sys.setprofile(None)
    assert 100 < n_calls < 100 * 5000 / 4


@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from(VALUES)), min_size=1, max_size=60))
def test_levels_hold_the_best_up_to_the_first_report_beyond(reports: list[Any]) -> None:
    pruner = MedianStopping("loss", "min").build_pruner()
    for iteration, value in reports:
        pruner.report(0, iteration, value)
    curve = dict(reports)
    resources = {at + (0 in curve): value for at, value in curve.items()}
    expected = []
    for level in (level for level in pruner._levels if level <= max(resources)):
        end = min(resource for resource in resources if resource >= level)
        values = [v for r, v in resources.items() if r <= end and math.isfinite(v)]
        expected.append(min(values, default=math.inf))
    assert pruner._courses[0].at_levels == expected


def test_a_first_rung_that_says_nothing_is_told_of_once() -> None:
    pruner = ASHA("loss", "min", 2).build_pruner()
    rng, said = random.Random(0), []
    for trial in range(400):
        pruner.report(trial, 0, rng.random())  # before any training
        pruner.report(trial, 1, rng.random())
        said.append(pruner.pop_doubt())
    (text,) = filter(None, said)
    assert "at resource 1 the metric says next to nothing about resource 2" in text
    assert "try a larger min_t" in text


def test_a_first_rung_that_says_something_is_trusted() -> None:
    pruner = ASHA("loss", "min", 2).build_pruner()
    rng = random.Random(0)
    for trial in range(400):
        quality = rng.random()
        pruner.report(trial, 1, quality + 0.3 * rng.random())
        pruner.report(trial, 2, quality + 0.3 * rng.random())
        assert pruner.pop_doubt() is None


def test_rank_correlation() -> None:
    assert compute_rank_correlation([(1, 5), (2, 6), (9, 70)]) == pytest.approx(1)
    assert compute_rank_correlation([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert compute_rank_correlation([(1, 3), (1, 2)]) == 0
    assert compute_rank_correlation([]) == 0
    assert compute_rank_correlation([(1, 1), (2, 1), (3, 2)]) == pytest.approx(3**0.5 / 2)


@pytest.mark.parametrize(
    "plan", [ASHA("a", "min"), Hyperband("a", "min"), MedianStopping("a", "max")]
)
def test_all_plans_have_the_same_face(plan: Any) -> None:
    assert isinstance(plan, PrunerPlan)
    assert not isinstance(plan.build_pruner(), PromotingPruner)


def test_promotion_is_told_by_its_methods() -> None:
    assert isinstance(build_promotion(), PromotingPruner)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: MedianStopping("a", "low"), UsageError, "MedianStopping: mode must be"),
        (lambda: MedianStopping("", "min"), UsageError, "MedianStopping: metric must be the name"),
        (lambda: MedianStopping(1, "min"), UsageTypeError, "name of a metric, got 1 (int)"),  # type: ignore[arg-type] # the test
        (lambda: MedianStopping("a", "min", 0), UsageError, "min_t must be 1 or more, got 0"),
        (lambda: MedianStopping("a", "min", 1, 0), UsageError, "min_trials must be 1 or more"),
        (lambda: Hyperband("a", "min", 0), UsageError, "Hyperband: max_t must be 1 or more, got 0"),
        (lambda: Hyperband("a", "min", 9, 1), UsageError, "reduction_factor must be 2 or more"),
        (lambda: ASHA("a", "min", promote=1), UsageTypeError, "promote must be True or False"),  # type: ignore[arg-type] # the test
    ],
)
def test_what_makes_no_sense_is_named(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)
