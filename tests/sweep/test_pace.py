"""How long a trial's iterations take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.sweep_types import Pace


def test_the_time_to_the_first_report_counts() -> None:
    pace = Pace()
    assert pace.seconds is None
    pace.begin(1, 100.0)
    pace.note(4, 108.0)
    assert pace.seconds == 2.0
    pace.note(5, 300.0)
    assert pace.seconds == 2.0


def test_the_iteration_0_is_logged_before_any_training() -> None:
    pace = Pace()
    pace.begin(1, 100.0)
    pace.note(0, 101.0)
    assert pace.seconds is None
    pace.note(1, 105.0)
    assert pace.seconds == 5.0


def test_one_that_goes_on_later_keeps_its_pace() -> None:
    pace = Pace()
    pace.begin(1, 0.0)
    pace.note(1, 5.0)
    pace.begin(2, 1000.0)
    pace.note(2, 2000.0)
    assert pace.seconds == 5.0


@pytest.mark.parametrize("logged", [1, 50])
def test_a_later_attempt_is_not_timed(logged: int) -> None:
    """It may have gone on from a checkpoint, where an iteration is a part of what it looks."""
    pace = Pace()
    pace.begin(1, 0.0)
    if logged == 1:
        pace.note(1, 5.0)
    pace.begin(2, 1000.0)
    pace.note(logged, 1007.0)
    assert pace.seconds is None


@pytest.mark.parametrize("now", [None, 100.0, 99.0])
def test_without_a_clock_that_went_on_nothing_is_known(now: float | None) -> None:
    pace = Pace()
    pace.begin(1, 100.0)
    pace.note(1, now)
    assert pace.seconds is None


def test_a_trial_whose_start_nobody_saw_has_none() -> None:
    pace = Pace()
    pace.note(1, 5.0)
    assert pace.seconds is None


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.001, 1e6)), max_size=20))
def test_what_is_logged_again_counts(reports: list[tuple[int, float]]) -> None:
    pace = Pace()
    pace.begin(1, 0.0)
    for iteration, now in reports:
        pace.note(iteration, now)
    stored = {iteration: now for iteration, now in reports if iteration}
    first = min(stored, default=None)
    assert pace.seconds == (None if first is None else stored[first] / first)
