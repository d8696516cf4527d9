"""The incremental ASHA, against the rule said plainly."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rung_cases import ASHAS, REPORTS, Report, find_failing

from slurm_sweeps.rules.asha import ASHA, compute_rungs
from slurm_sweeps.rules.protocol import Decision

GO_ON, PRUNE = Decision.GO_ON, Decision.PRUNE


@pytest.mark.parametrize(
    ("min_t", "max_t", "factor", "expected"),
    [
        (1, 50, 4, (1, 4, 16)),
        (1, 64, 4, (1, 4, 16, 64)),
        (1, 63, 4, (1, 4, 16)),
        (3, 3, 2, (3,)),
        (2, 17, 3, (2, 6)),
        (1, 20, 2.5, (1, 3, 7, 16)),
        (1, 10**9, 10, tuple(10**k for k in range(10))),
        (5, 3**20 * 5, 3, tuple(5 * 3**k for k in range(21))),
    ],
)
def test_rungs(min_t: int, max_t: int, factor: float, expected: tuple[int, ...]) -> None:
    assert compute_rungs(min_t, max_t, factor) == expected


@given(ASHAS, REPORTS)
def test_each_report_is_answered_by_the_rule(asha: ASHA, reports: list[Report]) -> None:
    pruner = asha.build_pruner()
    for n, (trial, iteration, value) in enumerate(reports, start=1):
        decision = pruner.report(trial, iteration, value)
        failing = find_failing(asha, reports[:n])
        assert decision is (PRUNE if trial in failing else GO_ON)
        assert {t for t in range(7) if pruner.judge(t) is PRUNE} == failing


def test_many_trials_are_judged_as_by_sorting() -> None:
    asha, rng = ASHA("loss", "max", reduction_factor=3, max_t=30), random.Random(0)
    pruner, reports = asha.build_pruner(), []
    for trial in range(400):
        for iteration in range(rng.choice([0, 1]), 30, rng.choice([1, 5])):
            reports.append((trial, iteration, rng.choice([rng.random(), 0.5, math.nan])))
            if pruner.report(*reports[-1]) is PRUNE:
                break
    failing = {trial for trial in range(400) if pruner.judge(trial) is PRUNE}
    assert failing == find_failing(asha, reports)
    assert 0 < len(failing) < 400


def test_a_trial_that_passed_fails_as_better_ones_arrive() -> None:
    pruner = ASHA("loss", "min").build_pruner()
    assert pruner.report("a", 1, 3.0) is GO_ON
    assert [pruner.report(name, 1, 1.0) for name in "bcd"] == [GO_ON] * 3
    assert pruner.report("a", 2, 0.0) is PRUNE


def test_levels_jumped_over_are_entered_with_the_same_report() -> None:
    pruner = ASHA("loss", "min").build_pruner()
    assert pruner.report("a", 20, 2.0) is GO_ON
    assert [pruner.report("b", i, v) for i, v in [(1, 1.0), (4, 1.0), (16, 3.0)]] == [
        GO_ON, GO_ON, PRUNE,
    ]  # fmt: skip


def test_counting_from_zero_or_one_is_the_same() -> None:
    pruner = ASHA("loss", "min").build_pruner()
    for iteration in range(4):
        pruner.report("from 0", iteration, 1.0)
    assert pruner.report("from 1", 3, 9.0) is PRUNE  # of the first rung, both have entered that
    assert pruner.report("from 1", 1, 1.0) is GO_ON
    assert pruner.report("from 1", 3, 9.0) is GO_ON  # has not entered the second
    assert pruner.report("from 1", 4, 9.0) is PRUNE


def test_at_max_t_a_trial_is_not_pruned_any_more() -> None:
    pruner = ASHA("loss", "min", max_t=16).build_pruner()
    for iteration in (1, 4, 15):
        pruner.report("good", iteration, 0.0)
        assert pruner.report("bad", iteration, 1.0) is PRUNE
    assert pruner.report("bad", 16, math.nan) is GO_ON
    assert pruner.report("bad", 3, 1.0) is GO_ON
    assert pruner.report("from 0", 0, 1.0) is PRUNE
    assert pruner.report("from 0", 15, 1.0) is GO_ON


def test_a_retry_replaces_what_it_logs_again() -> None:
    pruner = ASHA("loss", "min").build_pruner()
    pruner.report("a", 1, 1.0)
    assert pruner.report("b", 1, 2.0) is PRUNE
    assert pruner.report("b", 1, 0.5) is GO_ON
    assert pruner.judge("a") is PRUNE


def test_a_trial_never_heard_of_goes_on() -> None:
    pruner = ASHA("loss", "min").build_pruner()
    assert pruner.judge("a") is GO_ON


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_exactly_the_best_quarter_passes(values: list[float]) -> None:
    pruner = ASHA("loss", "min").build_pruner()
    for trial, value in enumerate(values):
        pruner.report(trial, 1, value)
    passing = {t for t in range(len(values)) if pruner.judge(t) is GO_ON}
    threshold = sorted(values)[math.ceil(len(values) / 4) - 1]
    assert passing == {t for t, value in enumerate(values) if value <= threshold}
