"""Reports for the tests of pruners, and the rule said again as plainly as can be."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

from hypothesis import strategies as st

from slurm_sweeps.rules.asha import ASHA

#: One report: trial, iteration, value.
Report = tuple[int, int, float]

#: Few different values, so that ties are common, and all that is not finite.
VALUES = [0.0, -0.0, 0.5, 1.0, 2.0, 3.0, -1.0, -2.0, -3.0, math.nan, math.inf, -math.inf]

ASHAS = st.builds(
    ASHA,
    st.just("loss"),
    st.sampled_from(["min", "max"]),
    reduction_factor=st.sampled_from([2, 3, 4, 2.5, 2.1]),
    min_t=st.integers(1, 3),
    max_t=st.integers(3, 20),
)


#: What a trial does before it reports: so many iterations more, or an attempt anew from one on.
STEPS = [("on", 1)] * 5 + [("on", 2), ("on", 5), ("from", 0), ("from", 1), ("from", 2), ("from", 5)]
#: One draw for each report: drawing takes longer than what is tested.
_MOVES = st.sampled_from(list(itertools.product(range(7), STEPS, VALUES)))


@st.composite
def _reports(draw: st.DrawFn) -> list[Report]:
    """Draw the reports of up to seven trials, mixed, each trial's own in their order."""
    n = draw(st.integers(1, 60))
    reached: dict[int, int] = {}
    reports = []
    for trial, (how, count), value in draw(st.lists(_MOVES, min_size=n, max_size=n)):
        begun = how == "on" and trial in reached
        reached[trial] = reached[trial] + count if begun else count
        reports.append((trial, reached[trial], value))
    return reports


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
