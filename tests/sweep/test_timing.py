"""Which trial a slot is given that is there for a while only."""

from __future__ import annotations

import math
import statistics
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Ended, TrialState
from slurm_sweeps.timing import Median, Times, WaitingLine
from slurm_sweeps.trial import Status
from sweep_cases import COMPLETED, INTERRUPTED, build_sweep, start

NEEDS = st.floats(0.0, 1e7)


@given(st.lists(st.floats(-1e9, 1e9)))
def test_the_median(numbers: list[float]) -> None:
    median = Median()
    for number in numbers:
        median.add(number)
    assert median.read() == (statistics.median_low(numbers) if numbers else None)


@given(st.lists(NEEDS))
def test_first_in_first_out_where_all_needs_are_met(needs: list[float]) -> None:
    line: WaitingLine[int] = WaitingLine()
    for item, need in enumerate(needs):
        line.append(item, need)
    assert list(line) == list(range(len(needs)))
    assert [line.pop(math.inf) for _ in needs] == list(range(len(needs)))
    assert line.pop(math.inf) is None


@given(st.lists(st.tuples(NEEDS, st.booleans())))
def test_what_goes_to_the_front_comes_first(calls: list[tuple[float, bool]]) -> None:
    line: WaitingLine[int] = WaitingLine()
    wanted: deque[int] = deque()
    for item, (need, to_front) in enumerate(calls):
        (line.appendleft if to_front else line.append)(item, need)
        (wanted.appendleft if to_front else wanted.append)(item)
    assert list(line) == list(wanted)
    assert [line.pop(math.inf) for _ in calls] == list(wanted)


@given(st.lists(st.tuples(NEEDS, st.none() | NEEDS), max_size=60))
def test_nothing_is_given_more_than_it_has_and_nothing_waits_that_fits(
    calls: list[tuple[float, float | None]],
) -> None:
    line: WaitingLine[int] = WaitingLine()
    waiting: dict[int, float] = {}
    for item, (need, have) in enumerate(calls):
        line.append(item, need)
        waiting[item] = need
        if have is None:
            continue
        found = line.pop(have)
        if found is None:  # all that are shorter by an eighth and more would have been found
            assert all(each * 1.125 > have or each < 1.2 for each in waiting.values())
        else:
            assert waiting.pop(found) <= have
        assert len(line) == len(waiting)
        least = line.find_least()
        assert least >= min(waiting.values(), default=math.inf)
        assert least <= max(1.2, 1.2 * min(waiting.values(), default=math.inf))


@pytest.mark.parametrize(
    ("resumes", "pace_s", "lost_s", "need_s"),
    [
        (False, None, 0.0, 100.0),  # as half of the others have needed
        (False, 30.0, 0.0, 300.0),  # its own pace, for as many iterations as others have
        (False, 500.0, 0.0, 400.0),  # the longest that was seen: the first iteration holds a start
        (False, 30.0, 400.0, 500.0),  # it would be lost again
        (True, 30.0, 400.0, 30.0),  # to its next report
        (True, None, 400.0, 20.0),  # as half of the others
    ],
)
def test_what_a_trial_needs(
    resumes: bool, pace_s: float | None, lost_s: float, need_s: float
) -> None:
    times = Times(resumes)
    for first_s, span_s in ((10.0, 90.0), (20.0, 100.0), (30.0, 400.0)):
        times.note_first_report(first_s)
        times.note_end(span_s, 10)
    assert times.estimate(pace_s, lost_s) == need_s


def test_of_the_first_trials_nothing_is_known() -> None:
    times = Times(resumes=False)
    assert (times.estimate_new(), times.estimate(5.0, 0.0)) == (0.0, 0.0)
    times.note_loss(400.0)
    assert times.estimate_new() == times.estimate(None, 400.0) == 500.0


@pytest.mark.parametrize(
    ("ran_s", "lost_s", "within_s", "may"),
    [
        (60.0, 0.0, 40.0, True),
        (60.0, 0.0, 39.0, False),
        (124.0, 0.0, 1.0, True),  # not every trial is as the others
        (125.0, 0.0, 1000.0, False),  # it is another kind
        (125.0, 100.0, 1.0, True),  # as was seen when it was lost
        (60.0, 100.0, 64.0, False),
    ],
)
def test_which_trials_are_let_run_to_their_end(
    ran_s: float, lost_s: float, within_s: float, may: bool
) -> None:
    times = Times(resumes=False)
    assert not times.tells_ends
    assert not times.may_end(ran_s, lost_s, within_s)  # nothing is known
    times.note_end(100.0, 10)
    assert times.tells_ends
    assert times.may_end(ran_s, lost_s, within_s) is may


def test_what_goes_on_from_a_checkpoint_has_no_known_end() -> None:
    sweep = build_sweep(n_trials=3, asha=True)
    run(sweep, 100.0)
    trial = start(sweep)
    sweep.report(trial.number, 1, {"loss": 1.0}, 25.0)
    assert sweep.minds_ends
    assert sweep.may_end(trial, 90.0, within_s=20.0)
    sweep.interrupt(trial.number)
    sweep.end(trial.number, INTERRUPTED, 90.0)
    assert sweep.assign(100.0) is trial
    sweep.report(trial.number, 2, {"loss": 1.0}, 125.0)
    assert not sweep.minds_ends
    assert not sweep.may_end(trial, 190.0, within_s=20.0)


def run(sweep: Sweep, until_s: float, iterations: int = 4, begin_s: float = 0.0) -> TrialState:
    """Let a trial run from 0 s on, and complete."""
    trial = sweep.assign(begin_s)
    assert trial is not None
    for iteration in range(1, iterations + 1):
        at = begin_s + (until_s - begin_s) * iteration / iterations
        sweep.report(trial.number, iteration, {"loss": 1.0}, at)
    sweep.end(trial.number, COMPLETED, until_s)
    return trial


def test_a_slot_gets_no_new_trial_that_would_outlive_it() -> None:
    sweep = build_sweep(n_trials=9)
    assert sweep.assign(0.0, left_s=1.0) is not None  # who knows
    run(sweep, 100.0)
    assert sweep.find_need() == 100.0
    assert sweep.assign(100.0, left_s=99.0) is None
    assert sweep.count_startable(9) == 7
    assert sweep.assign(100.0, left_s=100.0) is not None
    assert sweep.assign(100.0) is not None


def test_the_first_that_fits_of_those_that_wait() -> None:
    """One that was lost late needs long; one that was lost early may fit before it."""
    sweep = build_sweep(n_trials=4, asha=True)
    run(sweep, 80.0)
    run(sweep, 400.0)
    late, early = start(sweep), start(sweep)
    for trial, pace_s, lost_at in ((late, 100.0, 350.0), (early, 25.0, 30.0)):
        sweep.report(trial.number, 1, {"loss": 1.0}, pace_s)
        sweep.interrupt(trial.number)
        assert sweep.end(trial.number, INTERRUPTED, lost_at).runs_again
    assert sweep.find_need() == 100.0
    assert sweep.assign(0.0, left_s=99.0) is None
    assert sweep.assign(0.0, left_s=200.0) is early
    assert sweep.find_need() == 1.25 * 350.0
    assert sweep.assign(0.0, left_s=437.0) is None
    assert sweep.assign(0.0, left_s=438.0) is late


def test_where_trials_go_on_the_next_report_is_enough() -> None:
    """It is seen from the first that goes on, and then holds for those that wait already."""
    sweep = build_sweep(n_trials=3, asha=True)
    trials = [start(sweep), start(sweep)]
    for trial in trials:
        for iteration in range(1, 9):
            sweep.report(trial.number, iteration, {"loss": 1.0}, 10.0 * iteration)
        sweep.interrupt(trial.number)
        sweep.end(trial.number, INTERRUPTED, 85.0)
    assert sweep.find_need() == 1.25 * 85.0
    assert sweep.assign(100.0) is trials[0]
    sweep.report(trials[0].number, 9, {"loss": 1.0}, 110.0)
    assert sweep.find_need() == 10.0
    assert sweep.assign(110.0, left_s=9.0) is None
    assert sweep.assign(110.0, left_s=11.0) is trials[1]


def test_a_trial_that_begins_anew_does_not_go_on() -> None:
    sweep = build_sweep(n_trials=1, asha=True)
    trial = start(sweep)
    for iteration in (1, 2):
        sweep.report(trial.number, iteration, {"loss": 1.0}, 10.0 * iteration)
    sweep.interrupt(trial.number)
    sweep.end(trial.number, INTERRUPTED, 25.0)
    assert sweep.assign(30.0) is trial
    sweep.report(trial.number, 1, {"loss": 1.0}, 40.0)
    sweep.interrupt(trial.number)
    sweep.end(trial.number, Ended(Status.LOST), 50.0)
    assert sweep.find_need() == 1.25 * 25.0


def test_nothing_to_start_fits_nowhere() -> None:
    sweep = build_sweep(n_trials=1)
    run(sweep, 10.0)
    assert sweep.find_need() == math.inf
    assert sweep.assign(10.0, left_s=5.0) is None


@given(st.lists(st.sampled_from([20.0, 60.0, 120.0, math.inf]), min_size=8, max_size=8))
def test_time_changes_when_trials_are_started_and_never_what_they_are(lefts: list[float]) -> None:
    def list_started(minded: bool) -> list[tuple[int, str]]:
        sweep = build_sweep(n_trials=9)
        run(sweep, 100.0)
        found = [sweep.assign(0.0, left_s=left_s if minded else math.inf) for left_s in lefts]
        return [(trial.number, trial.trial_id) for trial in found if trial is not None]

    started = list_started(minded=True)
    assert started == list_started(minded=False)[: len(started)]
    assert len(started) == sum(left_s >= 100.0 for left_s in lefts)
