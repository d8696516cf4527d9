"""The k-th smallest of a growing and shrinking multiset, against sorting."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.rules.ranking import Ranking

FACTORS = st.sampled_from([Fraction(2), Fraction(3), Fraction(4), Fraction(5, 2), Fraction(7)])
STEPS = st.lists(st.tuples(st.booleans(), st.integers(-4, 4).map(float)), max_size=60)


@given(FACTORS, STEPS)
def test_the_threshold_is_the_kth_smallest_at_each_step(
    factor: Fraction, steps: list[tuple[bool, float]]
) -> None:
    ranking, numbers = Ranking(factor), []
    for is_removal, value in steps:
        if is_removal and value in numbers:
            ranking.remove(value)
            numbers.remove(value)
        else:
            ranking.add(value)
            numbers.append(value)
        assert len(ranking) == len(numbers)
        if numbers:
            assert ranking.threshold == sorted(numbers)[math.ceil(len(numbers) / factor) - 1]
        else:
            assert math.isnan(ranking.threshold)


def test_the_dead_are_dropped_when_they_come_to_the_top() -> None:
    ranking = Ranking(Fraction(2))
    for value in range(1000):
        ranking.add(float(value))
    for value in range(1000):
        ranking.remove(float(value))
    assert len(ranking) == 0
    ranking.add(5.0)
    assert ranking.threshold == 5.0
