"""How the time of a stop is divided."""

from __future__ import annotations

import math

import pytest

from slurm_sweeps.running.deadlines import (
    GAP_S,
    Clock,
    Patience,
    StopPlan,
    compute_end_margin,
    compute_last_margin,
    plan_stop,
)

PATIENCE = Patience(stop_grace_s=60.0, term_grace_s=5.0, answer_s=10.0)


@pytest.mark.parametrize(
    ("time_left_s", "plan"),
    [
        (math.inf, StopPlan(60.0, 75.0)),
        (1000.0, StopPlan(60.0, 75.0)),
        (78.0, StopPlan(60.0, 75.0)),  # three seconds are the driver's own
        (30.0, StopPlan(21.0, 27.0)),
        (9.0, StopPlan(0.0, 6.0)),
        (1.0, StopPlan(0.0, 0.0)),
        (-5.0, StopPlan(0.0, 0.0)),
    ],
)
def test_trials_leave_before_workers_are_killed_before_slurm_does(
    time_left_s: float, plan: StopPlan
) -> None:
    assert plan_stop(PATIENCE, time_left_s) == plan


def test_a_short_job_is_not_spent_on_its_end() -> None:
    assert compute_end_margin(PATIENCE, 3600.0) == 78.0
    assert compute_end_margin(PATIENCE, 100.0) == 25.0
    assert compute_last_margin(PATIENCE, 100.0) == 8.0  # TERM, KILL, and the driver's own
    assert compute_last_margin(PATIENCE, 20.0) == compute_end_margin(PATIENCE, 20.0) == 5.0


def test_time_in_which_a_loop_is_held_up_does_not_pass() -> None:
    real = [100.0]
    clock = Clock(lambda: real[0])
    real[0] += GAP_S - 0.5
    assert clock.note_turn() == 0.0
    assert clock() == real[0]
    deadline = clock() + 60.0
    real[0] += 3600.0  # suspended
    assert clock.note_turn() == 3600.0
    assert deadline - clock() == 60.0
    real[0] += 30.0
    assert clock.note_turn(allowed_s=30.0) == 0.0  # it was to wait so long
    assert deadline - clock() == 30.0
    real[0] += 3600.0
    assert clock.note_turn(allowed_s=math.inf) == 0.0  # nothing was due
