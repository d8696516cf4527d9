"""Reports for the tests of pruners, and the rule said again as plainly as can be."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import strategies as st

from slurm_sweeps.rules.asha import ASHA

#: One report: trial, iteration, value.
Report = tuple[int, int, float]

#: Few different ones, so that ties are common, and all that is not finite.
VALUES = st.one_of(
    st.integers(-3, 3).map(float),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.5, -0.0]),
)

ASHAS = st.builds(
    ASHA,
    st.just("loss"),
    st.sampled_from(["min", "max"]),
    reduction_factor=st.sampled_from([2, 3, 4, 2.5, 2.1]),
    min_t=st.integers(1, 3),
    max_t=st.integers(3, 20),
)


@st.composite
def _curve(draw: st.DrawFn) -> list[tuple[int, float]]:
    """Draw what one trial logs: attempts from 0 or 1 on, with gaps, each a few values long."""
    rows: list[tuple[int, float]] = []
    for _ in range(draw(st.integers(1, 3))):
        iteration = draw(st.sampled_from([0, 0, 1, 1, 2, 5]))
        for _ in range(draw(st.integers(0, 7))):
            rows.append((iteration, draw(VALUES)))
            iteration += draw(st.sampled_from([1, 1, 1, 2, 5]))
    return rows


@st.composite
def _reports(draw: st.DrawFn) -> list[Report]:
    """Draw the reports of a few trials, mixed, each trial's own in their order."""
    curves = draw(st.lists(_curve(), min_size=1, max_size=7))
    turns = [trial for trial, curve in enumerate(curves) for _ in curve]
    left = [iter(curve) for curve in curves]
    return [(trial, *next(left[trial])) for trial in draw(st.permutations(turns))]


REPORTS = _reports()


def find_failing(asha: ASHA, reports: list[Report]) -> set[int]:
    """Apply the rule to all reports at once, trial by trial and rung by rung."""
    curves: dict[int, dict[int, float]] = {}
    for trial, iteration, value in reports:
        curves.setdefault(trial, {})[iteration] = value
    by_resource = {
        trial: {iteration + (min(curve) == 0): value for iteration, value in curve.items()}
        for trial, curve in curves.items()
    }
    failing: set[int] = set()
    for level in asha.rungs:
        entries = {
            trial: curve[min(resource for resource in curve if resource >= level)]
            for trial, curve in by_resource.items()
            if max(curve) >= level
        }
        failing |= set(entries) - find_passing(asha, entries)
    return {trial for trial in failing if max(by_resource[trial]) < asha.max_t}


def find_passing(asha: ASHA, entries: dict[int, float]) -> set[int]:
    """Return the trials of one rung that are among its ⌈n / rf⌉ best."""
    sign = 1 if asha.mode == "min" else -1
    finite = sorted(sign * value for value in entries.values() if math.isfinite(value))
    if not finite:
        return set()
    k = math.ceil(len(finite) / Fraction(str(asha.reduction_factor)))
    return {
        trial
        for trial, value in entries.items()
        if math.isfinite(value) and sign * value <= finite[k - 1]
    }
