"""What holds for every pruner: the order of values is all that counts, and the best goes on.

A further pruner joins by a line in `PRUNERS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rung_cases import REPORTS, Report

from slurm_sweeps.rules.asha import ASHA, Hyperband, HyperbandPruner
from slurm_sweeps.rules.median import MedianStopping
from slurm_sweeps.rules.protocol import Decision, Pruner

Build = Callable[[str], Pruner]

PRUNERS = pytest.mark.parametrize(
    "build",
    [
        lambda mode: ASHA("loss", mode).build_pruner(),
        lambda mode: ASHA("loss", mode, reduction_factor=2, min_t=2, max_t=9).build_pruner(),
        lambda mode: ASHA("loss", mode, reduction_factor=2.5, max_t=30).build_pruner(),
        lambda mode: ASHA("loss", mode, reduction_factor=2, promote=True).build_pruner(),
        lambda mode: ASHA("loss", mode, 2.5, min_t=2, max_t=9, promote=True).build_pruner(),
        lambda mode: Hyperband("loss", mode, max_t=9, reduction_factor=2).build_pruner(),
        lambda mode: MedianStopping("loss", mode).build_pruner(),
        lambda mode: MedianStopping("loss", mode, min_t=2, min_trials=1).build_pruner(),
    ],
    ids=["asha-4", "asha-2", "asha-2.5", "promote-2", "promote-2.5", "hyperband", "median", "m-1"],
)


def decide(pruner: Pruner, reports: list[Report]) -> list[Decision]:
    return [pruner.report(*report) for report in reports]


@PRUNERS
@given(reports=REPORTS)
def test_min_on_v_equals_max_on_minus_v(build: Build, reports: list[Report]) -> None:
    mirrored = [(trial, iteration, -value) for trial, iteration, value in reports]
    assert decide(build("min"), reports) == decide(build("max"), mirrored)


@PRUNERS
@given(reports=REPORTS)
def test_increasing_maps_change_nothing(build: Build, reports: list[Report]) -> None:
    mapped = [(trial, iteration, value**3 + 5 * value) for trial, iteration, value in reports]
    # Of an infinity there is nothing left but that it is one.
    assert decide(build("min"), reports) == decide(build("min"), mapped)


@PRUNERS
@given(reports=REPORTS, mode=st.sampled_from(["min", "max"]))
def test_the_best_is_never_pruned(build: Build, reports: list[Report], mode: str) -> None:
    best = -4.0 if mode == "min" else 4.0
    reports = [(t, i, best if t == 0 else v) for t, i, v in reports]
    decisions = decide(build(mode), reports)
    assert all(d is Decision.GO_ON for d, r in zip(decisions, reports, strict=True) if r[0] == 0)


@PRUNERS
@given(reports=REPORTS)
def test_the_names_of_trials_do_not_matter(build: Build, reports: list[Report]) -> None:
    pruner = build("min")
    if isinstance(pruner, HyperbandPruner):
        return  # a trial's number says which bracket it is in
    renamed = [pruner.report(f"trial {t}", i, v) for t, i, v in reports]
    assert renamed == decide(build("min"), reports)


@PRUNERS
@given(reports=REPORTS, data=st.data())
def test_the_stored_metrics_rebuild_it_in_any_order(
    build: Build, reports: list[Report], data: st.DataObject
) -> None:
    lived = build("max")
    decide(lived, reports)
    stored = list({(t, i): (t, i, v) for t, i, v in reports}.values())
    rebuilt = build("max")
    decide(rebuilt, data.draw(st.permutations(stored)))
    again = [(t, i, 0.25) for t, i in itertools.product(range(7), (0, 3, 9))]
    assert decide(rebuilt, again) == decide(lived, again)


@PRUNERS
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_is_not_finite_never_passes_and_does_not_count(
    build: Build, mode: str, bad: float
) -> None:
    pruner = build(mode)
    for trial in range(20):
        assert pruner.report(trial, 8, bad) is Decision.PRUNE
    for trial in range(20, 40):  # whatever the bracket
        assert build(mode).report(trial, 8, 1e9) is Decision.GO_ON
    assert pruner.report(40, 8, 1e9) is Decision.GO_ON


def test_decisions_are_plain_words() -> None:
    assert [str(decision) for decision in (Decision.GO_ON, Decision.PRUNE)] == ["go_on", "prune"]
