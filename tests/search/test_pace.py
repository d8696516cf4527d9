"""How long a trial's iterations take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.search.pace import Pace


def test_the_time_to_the_first_report_counts() -> None:
    pace = Pace()
    assert pace.seconds is None
    pace.begin(100.0)
    pace.note(4, 108.0)
    assert pace.seconds == 2.0
    pace.note(5, 300.0)
    assert pace.seconds == 2.0


def test_the_iteration_0_took_one_too() -> None:
    pace = Pace()
    pace.begin(100.0)
    pace.note(0, 103.0)
    assert pace.seconds == 3.0


def test_one_that_goes_on_later_keeps_its_pace() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.note(1, 5.0)
    pace.begin(1000.0)
    pace.note(2, 2000.0)
    assert pace.seconds == 5.0


def test_one_that_begins_again_is_timed_anew() -> None:
    pace = Pace()
    pace.begin(0.0)
    pace.note(1, 5.0)
    pace.begin(1000.0)
    pace.note(1, 1007.0)
    assert pace.seconds == 7.0


@pytest.mark.parametrize("now", [None, 100.0, 99.0])
def test_without_a_clock_that_went_on_nothing_is_known(now: float | None) -> None:
    pace = Pace()
    pace.begin(100.0)
    pace.note(1, now)
    assert pace.seconds is None


def test_a_trial_whose_start_nobody_saw_has_none() -> None:
    pace = Pace()
    pace.note(1, 5.0)
    assert pace.seconds is None


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.001, 1e6)), min_size=1, max_size=20))
def test_it_is_a_function_of_what_is_stored(reports: list[tuple[int, float]]) -> None:
    pace = Pace()
    pace.begin(0.0)
    for iteration, now in reports:
        pace.note(iteration, now)
    stored = dict(reports)  # what is logged again is replaced
    first = min(stored)
    assert pace.seconds == stored[first] / max(first, 1)
