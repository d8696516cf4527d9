"""The few values of a learning curve that a sampler is told."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.sweep_types import ThinCurve

REPORTS = st.lists(st.tuples(st.integers(0, 3000), st.floats(-9, 9)), max_size=60)


def thin(reports: list[tuple[int, float]]) -> dict[int, float]:
    curve = ThinCurve()
    for iteration, value in reports:
        curve.note(iteration, value)
    return curve.read()


def test_the_first_value_from_each_power_of_four_on_and_the_last_are_kept() -> None:
    assert thin([]) == {}
    assert thin([(i, -float(i)) for i in range(1, 51)]) == {1: -1, 4: -4, 16: -16, 50: -50}
    assert list(thin([(i, 0.0) for i in range(71)])) == [0, 1, 4, 16, 64, 70]
    assert list(thin([(i, 0.0) for i in range(5, 200, 10)])) == [5, 25, 65, 195]


def test_it_says_when_a_further_value_is_kept() -> None:
    curve = ThinCurve()
    assert [i for i in range(1, 200) if curve.note(i, 0.0)] == [1, 4, 16, 64]
    assert not curve.note(1, 2.0)  # logged again: nothing new, and another value
    assert curve.read()[1] == 2.0
    assert curve.note(0, 3.0)


@given(REPORTS, st.randoms(use_true_random=False))
def test_it_is_a_function_of_the_stored_values(reports, random) -> None:
    stored = dict(reports)  # what is logged again is replaced
    in_any_order = list(stored.items())
    random.shuffle(in_any_order)
    kept = thin(reports)
    assert kept == thin(in_any_order) == thin(sorted(stored.items()))
    assert kept.items() <= stored.items()
    assert list(kept) == sorted(kept)
    if stored:
        assert min(stored) in kept
        assert max(stored) in kept
        assert len(kept) <= 3 + math.log(max(stored) + 1, 4)
