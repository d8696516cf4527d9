"""Forecasts: what is drawn is like what was seen, and played on by the real sweep."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.replay.courses import Outcomes, find_likely, fit_tail, read_courses
from slurm_sweeps.replay.forecast import MIN_PLAYS, Outlook, find_span, forecast
from slurm_sweeps.replay.simulation import Simulation
from slurm_sweeps.replay.story import Story
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.sweep_types import Report, Turn
from slurm_sweeps.trial import Status
from sweep_scripts import Scripts


@pytest.fixture(scope="module", autouse=True)
def few_plays() -> Iterator[None]:
    """As few as are ever played."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slurm_sweeps.replay.forecast.MAX_PLAYS", MIN_PLAYS)
        yield


ASHA = {"rule": "ASHA", "metric": "loss", "mode": "min", "reduction_factor": 2, "max_t": 4}


def tell_story(
    n: int = 40, settings: dict[str, Any] | None = None, sign: float = 1.0, seed: int = 0
) -> Story:
    """Tell of trials that one slot runs in turn: four reports, a second each, some cut short.

    Every fifth fails at once; the last one still runs, and has reported twice.
    """
    said = {"metric": "loss", "mode": "min", "n_trials": 60, "asha": ASHA, **(settings or {})}
    pruner = ss.ASHA("loss", said["mode"], 2, max_t=4).build_pruner()
    rng = np.random.default_rng(seed)
    now, trials = 0.0, []
    events: list[Report | Turn] = []
    for number in range(n):
        begun, level = now, rng.random()
        events.append(Turn(now, number, 1, Status.RUNNING))
        status = Status.FAILED if number % 5 == 4 else Status.COMPLETED
        for iteration in range(1, 5 if status is Status.COMPLETED else 1):
            now += 1.0
            value = sign * (level + 1 / iteration)
            events.append(Report(now, number, iteration, value))
            decision = pruner.report(number, iteration, value)
            if number == n - 1 and iteration == 2:
                status = Status.RUNNING
                break
            if said["asha"] and decision is Decision.PRUNE and iteration < 4:
                status = Status.PRUNED
                break
        ended = None if status is Status.RUNNING else now
        if ended is not None:
            events.append(Turn(now, number, 1, status))
        trial_id = f"{number:012x}"
        trials.append(
            TrialRecord(number, trial_id, 0, "{}", status=status, start_time=begun, end_time=ended)
        )
    return Story(said, trials, [], events)


def look(story: Story, slots: Sequence[int], hours: Sequence[float] = ()) -> list[Outlook]:
    return list(forecast(story, story.events[-1].at, slots, hours, seed=0).outlooks)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("rule", [ASHA, None])
def test_it_is_played_to_its_end_and_for_some_hours(mode: str, rule: Any) -> None:
    sign = 1.0 if mode == "min" else -1.0
    asha = rule and {**rule, "mode": mode}
    story = tell_story(39, {"mode": mode, "asha": asha}, sign)
    done, short, long = look(story, [2], [10 / 3600, 40 / 3600])
    assert (done.asked_h, short.asked_h, long.asked_h) == (None, 10 / 3600, 40 / 3600)
    assert done.trials == (60, 60, 60)
    # 21 trials to come, two at a time, of 0 to 4 seconds each, and the one that runs.
    assert 0 < done.hours.low <= done.hours.middle <= done.hours.high <= 46 / 3600
    assert short.hours == (short.asked_h,) * 3
    assert done.slot_hours.middle == 2 * done.hours.middle
    assert done.gpu_hours is None
    so_far = min(sign * e.value for e in story.events if isinstance(e, Report))
    for each in (done, short, long):
        assert max(sign * each.best.low, sign * each.best.high) <= so_far
        assert 0 <= each.chance <= 1
    assert short.chance <= long.chance
    assert short.trials.high <= long.trials.high
    assert long.trials.middle > 39


def test_the_same_seed_gives_the_same_and_more_slots_end_sooner() -> None:
    story = tell_story()
    one, many = look(story, [1, 8])
    assert [one, many] == look(story, [1, 8])
    assert many.hours.high < one.hours.low
    assert str(forecast(story, story.events[-1].at, [1], [], 0)) != str(
        forecast(story, story.events[-1].at, [1], [], 1)
    )


def test_a_grid_s_end_a_target_and_a_time_budget_are_limits() -> None:
    grid = tell_story(settings={"draws": {"sampler": "Grid"}})
    (_, late) = look(grid, [4], [1.0])
    assert late.trials == (60, 60, 60)
    assert late.hours.high < 1.0
    near = tell_story(settings={"target": 1.2})
    (_, reached) = look(near, [4], [1.0])
    assert reached.hours.high < 1.0
    story = tell_story(settings={"n_trials": None, "time_budget_s": 200.0, "started_at": 0.0})
    running = replace(story.trials[-1], status=Status.RUNNING, end_time=None)
    story = replace(story, trials=[*story.trials[:-1], running])
    left_s = 200 - story.events[-1].at
    (budget,) = look(story, [2])
    assert budget.hours.middle * 3600 == pytest.approx(left_s)


def test_paused_trials_go_on() -> None:
    story = tell_story(settings={"asha": {**ASHA, "promote": True}})
    paused = [
        replace(each, status=Status.PAUSED) if each.status is Status.PRUNED else each
        for each in story.trials
    ]
    done, _ = look(replace(story, trials=paused), [2], [0.01])
    assert done.trials == (60, 60, 60)


def test_what_learns_is_forecast_from_its_later_half() -> None:
    story = tell_story(60, {"n_trials": 80, "asha": None})
    assert not forecast(story, story.events[-1].at, [1], [], 0).is_learning
    events = [
        e._replace(value=e.value + 5 * (e.number < 30)) if isinstance(e, Report) else e
        for e in story.events
    ]
    learnt = forecast(replace(story, events=events), story.events[-1].at, [1], [], 0)
    assert learnt.is_learning
    assert "Later trials were clearly better" in str(learnt)


def test_what_is_said_fits_a_terminal() -> None:
    story = tell_story()
    said = str(forecast(story, story.events[-1].at, [2, 144], [0.001, 0.002], 0))
    assert max(map(len, said.splitlines())) <= 80
    assert "Until it is done:" in said
    assert "After so many hours:" in said


@pytest.mark.parametrize(
    ("n", "settings", "hours", "said"),
    [
        (9, {}, (), "a forecast needs 10"),
        (40, {"n_trials": None}, (), "say hours"),
        (40, {"objectives": [["a", "min"], ["b", "min"]]}, (), "goes by several metrics"),
        (40, {"repeat": {"path": "seed"}}, (), "several times"),
        (40, {"metric": None, "asha": None}, (), "names no metric"),
        (40, {"asha": {**ASHA, "rule": "Own"}}, (), "is one of your own"),
        (40, {}, (1e5,), "too many to be played"),
    ],
)
def test_what_can_t_be_forecast(n: int, settings: dict[str, Any], hours: Any, said: str) -> None:
    story = tell_story(n)
    with pytest.raises(ss.UsageError, match=said):
        look(replace(story, settings={**story.settings, **settings}), [1], hours)


# --- what it is made of ---------------------------------------------------------------------------


@given(st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=60))
def test_a_span_is_the_narrowest_with_four_fifths_of_what_may_come(values: list[float]) -> None:
    low, middle, high = find_span(values)
    inside = sum(low <= value <= high for value in values)
    assert inside >= 0.8 * len(values)
    assert low <= middle <= high
    ordered, n = sorted(values), min(len(values), math.ceil(0.8 * (len(values) + 1)) + 1)
    assert high - low == min(b - a for a, b in zip(ordered, ordered[n - 1 :], strict=False))


def test_how_often_the_best_is_beaten_is_right() -> None:
    """The best of n further ones beats that of n with a chance of a half, whatever the values."""
    story = tell_story(41, {"asha": None})
    courses = read_courses(story, 1.0)
    sources = [number for number in courses if courses[number].end is Status.COMPLETED]
    likely = find_likely(courses)
    outcomes = Outcomes(courses, likely, sources, {}, np.random.default_rng(0))
    beaten = 0
    for seed in range(400):
        drawn = outcomes.draw(np.random.default_rng([seed, 1]))
        further = [next(drawn) for _ in sources]
        best = min(min(script.lows) + by for script, by in further)
        beaten += best < min(courses[number].score for number in sources)
    assert 0.42 < beaten / 400 < 0.58


def test_how_long_trials_take_is_as_unsure_as_the_mean_of_so_many_is() -> None:
    rng = np.random.default_rng(0)
    told = read_courses(tell_story(41, {"asha": None}), 1.0)
    courses = {n: replace(c, clock=c.clock * rng.lognormal()) for n, c in told.items()}
    sources = [number for number in courses if courses[number].end is Status.COMPLETED]
    times = [float(courses[number].clock[-1]) for number in sources]
    outcomes = Outcomes(courses, find_likely(courses), sources, {}, rng)
    means = []
    for seed in range(300):
        drawn = outcomes.draw(np.random.default_rng([seed, 1]))
        means.append(np.mean([sum(next(drawn)[0].steps_s) for _ in range(300)]))
    expected = np.std(times) * (1 / (len(times) + 1) + 1 / 300) ** 0.5
    assert np.std(means) == pytest.approx(expected, rel=0.2)
    assert np.mean(means) == pytest.approx(np.mean(times), rel=0.1)


def test_what_has_not_reported_takes_longer_than_it_has() -> None:
    courses = read_courses(tell_story(20, {"asha": None}), 1.0)
    unheard = replace(
        courses[0], iterations=courses[0].iterations[:0], clock=courses[0].clock[:0], end=None
    )
    told = {**courses, 20: unheard, 21: unheard}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        outcomes = Outcomes(told, find_likely(courses), sorted(told), {20: 0.5, 21: 60.0}, rng)
        assert outcomes.whole[20].steps_s[0] == pytest.approx(1.0)  # as all others
        assert outcomes.whole[21].steps_s[0] >= 60.0


def test_values_that_diverge_hide_no_steps_and_make_none() -> None:
    courses = read_courses(tell_story(20, {"asha": None}), 1.0)
    huge = replace(courses[0], values=courses[0].values * 1e12, lows=courses[0].lows * 1e12)
    told = {**courses, 0: huge}
    rng = np.random.default_rng(0)
    drawn = Outcomes(told, find_likely(told), sorted(told), {}, rng).draw(rng)
    assert len({by for _, by in (next(drawn) for _ in range(20))} - {0.0}) > 10


@given(st.lists(st.floats(-9, 9, width=16), min_size=1, max_size=40), st.integers(0, 9))
def test_a_tail_lies_below_the_best_and_has_an_end(values: list[float], seed: int) -> None:
    tail = fit_tail(np.sort(np.array(values)), 5)
    rng = np.random.default_rng(seed)
    below = tail.choose(rng).draw(rng, 20)
    assert np.isfinite(below).all()
    assert (below >= 0).all()


def test_what_was_cut_short_goes_on_in_its_own_pace() -> None:
    courses = read_courses(tell_story(), 1.0)
    whole = next(course for course in courses.values() if course.end is Status.COMPLETED)
    cut = replace(
        whole,
        iterations=whole.iterations[:2],
        values=whole.values[:2] + 1,
        lows=whole.lows[:2] + 1,
        clock=3 * whole.clock[:2],
        end=None,
    )
    longer = cut.go_on_like(whole, floor=-1e9)
    assert longer.iterations.tolist() == [1, 2, 3, 4]
    assert longer.values == pytest.approx(whole.values + 1, abs=1e-6)
    assert longer.clock == pytest.approx(3 * whole.clock)
    assert longer.end is Status.COMPLETED


@given(
    st.lists(st.lists(st.floats(0, 9, width=16), min_size=1, max_size=5), max_size=12),
    st.integers(1, 4),
)
def test_slots_are_never_shared_and_all_comes_to_its_end(
    lengths: list[list[float]], slots: int
) -> None:
    class Queue:
        """Runs of some steps each, in turn."""

        def __init__(self) -> None:
            self.left = [list(each) for each in lengths]
            self.running = self.most = 0
            self.times: list[float] = []

        def start(self, slot: int, now: float) -> tuple[list[float], float] | None:
            assert 0 <= slot < slots
            if not self.left:
                return None
            self.running += 1
            self.most = max(self.most, self.running)
            run = self.left.pop(0)
            return run, now + run.pop(0)

        def go_on(self, run: list[float], now: float) -> float | None:
            self.times.append(now)
            if run:
                return now + run.pop(0)
            self.running -= 1
            return None

    queue = Queue()
    simulation = Simulation(queue, slots)
    assert not simulation.run(math.inf)
    assert queue.most == min(slots, len(lengths))
    assert queue.times == sorted(queue.times)
    assert len(queue.times) == sum(map(len, lengths))
    total = sum(map(sum, lengths))
    longest = max(map(sum, lengths), default=0.0)
    assert max(longest, total / slots) - 1e-6 <= simulation.now <= total / slots + longest + 1e-6


# --- a real sweep ---------------------------------------------------------------------------------

SWEEP = """
import time
import slurm_sweeps as ss

def train(cfg):
    for epoch in range(1, 10):
        time.sleep(0.002)
        ss.log({"acc": 1 - cfg["x"] / 2 - 0.4 / epoch}, epoch)

if __name__ == "__main__":
    rule = ss.ASHA("acc", "max", max_t=9)
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, name="first", asha=rule, seed=0).run(40)
"""


@pytest.mark.processes
def test_the_command_line_forecasts_a_sweep(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.run(SWEEP)
    monkeypatch.setattr("slurm_sweeps.replay.forecast.MAX_PLAYS", 100)  # as there

    def call(*words: str, code: int = 0) -> str:
        verb = [str(Path(sys.executable).with_name("slurm-sweeps")), "forecast", "first", *words]
        done = subprocess.run(verb, cwd=scripts.folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    said = call("--slots", "2", "4", "--hours", "0.0001", "0.00005", "--json")
    answer = json.loads(said)
    asked = [(each["slots"], each["asked_h"]) for each in answer["outlooks"]]
    assert asked == [(2, 0.00005), (2, 0.0001), (4, 0.00005), (4, 0.0001)]
    result = ss.Result("first", scripts.folder / "slurm-sweeps")
    best = result.best_trial().value
    assert best is not None
    assert answer["best"] == pytest.approx(best)
    assert all(best <= each["best"]["low"] <= 1 for each in answer["outlooks"])
    forecasts = result.forecast([2, 4], [0.0001, 0.00005])
    assert [each.best.low for each in forecasts.outlooks] == [
        each["best"]["low"] for each in answer["outlooks"]
    ]
    assert "best acc" in call("--hours", "0.0001")
    assert "the sweep is done" in call(code=2)
    assert "requires an argument" in call("--slots", code=2)
    assert "hours must be more than 0" in call("--hours", "0", code=2)
