"""The sweep's state machine: what it decides, event by event, without a process or a clock."""

from __future__ import annotations

import pytest

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.sweep import MAX_LOST
from slurm_sweeps.sweep_types import Ended
from slurm_sweeps.trial import Status, TrialError
from sweep_cases import COMPLETED, FAILED, INTERRUPTED, LOST, build_sweep, start


def test_an_undisturbed_sweep() -> None:
    sweep = build_sweep(n_trials=3)
    for number in range(3):
        assert not sweep.is_done
        trial = start(sweep)
        assert (trial.number, trial.attempt, trial.status) == (number, 1, Status.RUNNING)
        assert sweep.report(number, 1, {"loss": 0.1}).decision is Decision.GO_ON
        assert sweep.end(number, COMPLETED).status is trial.status is Status.COMPLETED
    assert sweep.assign(0.0) is None
    assert sweep.is_done
    assert sweep.drawn == 3


def test_a_grid_ends_when_it_is_through() -> None:
    sweep = build_sweep("grid", n_trials=None)
    seen = []
    while (trial := sweep.assign(0.0)) is not None:
        seen.append(trial.cfg["a"])
        sweep.end(trial.number, COMPLETED)
    assert seen == [1, 2, 3]
    assert sweep.is_done


def test_repetitions_of_a_cfg_have_ids_of_their_own() -> None:
    sweep = build_sweep("constant", n_trials=3)
    trials = [start(sweep) for _ in range(3)]
    assert [trial.repetition for trial in trials] == [0, 1, 2]
    assert len({trial.trial_id for trial in trials}) == 3
    assert trials[1].trial_id == ss.Trial({"a": 1}, repetition=1).trial_id


def test_how_many_can_be_started() -> None:
    sweep = build_sweep(n_trials=3)
    assert sweep.count_startable(2) == 2
    assert sweep.count_startable(9) == 3
    start(sweep)
    assert sweep.count_startable(9) == 2
    sweep.end(0, LOST)
    assert sweep.count_startable(9) == 3
    sweep.stop()
    assert sweep.count_startable(9) == 0


# --- run again ------------------------------------------------------------------------------------


def test_a_failed_trial_is_run_again_as_often_as_asked() -> None:
    sweep = build_sweep(n_trials=2, max_retries=2)
    for attempt in (1, 2, 3):
        trial = start(sweep)  # what must be run again comes before what is new
        assert (trial.number, trial.attempt) == (0, attempt)
        outcome = sweep.end(0, FAILED)
        assert (outcome.status, outcome.runs_again) == (Status.FAILED, attempt < 3)
    assert start(sweep).number == 1


@pytest.mark.parametrize("status", [Status.FAILED, Status.LOST])
def test_what_runs_out_of_memory_can_be_infeasible(status: Status) -> None:
    out = Ended(status, TrialError("OutOfMemory", "CUDA out of memory"))
    usual = build_sweep(n_trials=9, max_retries=1)
    start(usual)
    assert usual.end(0, out).status is status
    sweep = build_sweep(n_trials=9, max_retries=1, learns_memory=True)
    for number in range(5):  # nor is that a reason to give up
        start(sweep)
        outcome = sweep.end(number, out)
        assert (outcome.status, outcome.runs_again) == (Status.INFEASIBLE, False)
    assert sweep.fatal is None
    start(sweep)
    assert sweep.end(5, FAILED).status is Status.FAILED


def test_a_lost_trial_is_run_again_three_times() -> None:
    sweep = build_sweep(n_trials=1)
    for attempt in range(1, MAX_LOST + 2):
        assert start(sweep).attempt == attempt
        outcome = sweep.end(0, LOST)
        assert (outcome.status, outcome.runs_again) == (Status.LOST, attempt <= MAX_LOST)
    assert sweep.is_done


def test_a_trial_that_was_told_to_leave_was_not_lost() -> None:
    sweep = build_sweep(asha=True)
    start(sweep)
    start(sweep)
    assert sweep.report(0, 1, {"loss": 0.1}).decision is Decision.GO_ON
    assert sweep.report(1, 1, {"loss": 0.2}).decision is Decision.PRUNE
    assert sweep.end(1, LOST).status is Status.PRUNED
    sweep.stop()
    outcome = sweep.end(0, LOST)
    assert (outcome.status, outcome.runs_again) == (Status.INTERRUPTED, False)


def test_a_pruned_trial_that_goes_on_reporting_stays_pruned() -> None:
    sweep = build_sweep(asha=True)
    start(sweep)
    start(sweep)
    sweep.report(0, 1, {"loss": 0.1})
    assert sweep.report(1, 1, {"loss": 0.2}).decision is Decision.PRUNE
    assert sweep.report(1, 2, {"loss": 0.0}).decision is Decision.PRUNE
    assert sweep.report(1, 3, {"other": 0.0}).decision is Decision.PRUNE


def test_a_report_without_the_metric_is_judged_by_nobody() -> None:
    sweep = build_sweep(asha=True)
    trial = start(sweep)
    assert sweep.report(0, 1, {"other": 0.0}).decision is Decision.GO_ON
    assert (trial.curve.read(), trial.last_iteration) == ({}, 1)


def test_a_sweep_that_is_stopped_tells_every_trial_at_its_next_report() -> None:
    sweep = build_sweep()
    start(sweep)
    sweep.stop()
    assert sweep.assign(0.0) is None
    assert not sweep.is_done
    assert sweep.report(0, 1, {"loss": 0.1}).decision is Decision.STOP
    assert sweep.end(0, INTERRUPTED).runs_again is False
    assert sweep.is_done


# --- when going on makes no sense -----------------------------------------------------------------


@pytest.mark.parametrize(("slots", "needed"), [(1, 3), (3, 3), (5, 5)])
def test_a_sweep_whose_first_trials_all_fail_is_ended(slots: int, needed: int) -> None:
    sweep = build_sweep(n_trials=100, slots=slots)
    for number in range(needed):
        assert sweep.fatal is None
        start(sweep)
        sweep.end(number, FAILED)
    assert sweep.assign(0.0) is None
    assert sweep.is_done
    assert f"the first {needed} trials have all failed and none has logged a metric" in sweep.fatal
    assert f"{needed} of them with ValueError: no" in sweep.fatal
    assert "fail_fast=False" in sweep.fatal
    assert "Traceback: no" in sweep.fatal


def test_attempts_that_are_run_again_are_no_failed_trials_yet() -> None:
    sweep = build_sweep(n_trials=100, max_retries=5)
    for _ in range(6):
        start(sweep)
        sweep.end(0, FAILED)
    assert sweep.fatal is None
    assert start(sweep).number == 1


@pytest.mark.parametrize("what", ["off", "reported", "one completed"])
def test_a_sweep_whose_trials_fail_goes_on_if(what: str) -> None:
    sweep = build_sweep(n_trials=100, fail_fast=what != "off")
    for number in range(50):
        start(sweep)
        if number == 1 and what == "reported":
            sweep.report(number, 1, {"loss": 1.0})
        done = number == 1 and what == "one completed"
        sweep.end(number, COMPLETED if done else FAILED)
    assert sweep.fatal is None


def test_a_metric_that_is_never_logged_is_told_at_the_end_of_the_first_trial() -> None:
    sweep = build_sweep(asha=True, n_trials=1000)
    trial = start(sweep)
    sweep.report(0, 1, {"Loss": 1.0, "acc": 0.5})
    sweep.end(0, COMPLETED)
    assert sweep.fatal == (
        f"trial {trial.trial_id} is complete and never logged 'loss', the metric that decides "
        "which trials are stopped or best; it logged 'Loss', 'acc'. Log 'loss', or name another "
        "metric in ASHA or the experiment"
    )


def test_a_trial_that_logs_nothing_at_all_is_told_of_too() -> None:
    sweep = build_sweep(asha=True)
    start(sweep)
    sweep.end(0, COMPLETED)
    assert "it logged nothing at all" in sweep.fatal


def test_the_metric_is_found_among_hundreds() -> None:
    sweep = build_sweep(asha=True)
    start(sweep)
    for iteration in range(1, 200):
        sweep.report(0, iteration, {f"metric {iteration}": 0.0})
    sweep.report(0, 200, {"loss": 1.0})
    sweep.end(0, COMPLETED)
    assert sweep.fatal is None


def test_nobody_needs_a_metric_without_a_pruner() -> None:
    sweep = build_sweep()
    start(sweep)
    sweep.end(0, COMPLETED)
    assert sweep.fatal is None


def test_a_transition_that_is_none_is_a_bug_and_says_so() -> None:
    sweep = build_sweep()
    trial = start(sweep)
    with pytest.raises(RuntimeError, match=f"{trial.trial_id}: running can't become scheduled"):
        sweep.end(0, Ended(Status.SCHEDULED))


# --- what an answer carries -----------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "values"), [("min", [2, 0.5]), ("max", [0.5, 2])])
def test_the_report_that_reaches_the_target_says_so_once(mode: str, values: list[float]) -> None:
    sweep = build_sweep(target=1.0, goal=Goal("loss", mode))
    start(sweep)
    answers = [sweep.report(0, i, {"loss": value}) for i, value in enumerate([*values, *values])]
    assert [answer.reached for answer in answers] == [False, True, False, False]


def test_an_answer_says_when_a_paused_trial_can_go_on() -> None:
    sweep = build_sweep(asha=True, promote=True)
    for loss, promotable in ((0.1, False), (0.2, False), (0.3, True)):
        number = start(sweep).number
        answer = sweep.report(number, 1, {"loss": loss})
        assert answer.promotable is promotable
        if answer.decision is Decision.PAUSE:
            assert sweep.end(number, Ended(Status.PRUNED)).status is Status.PAUSED
    assert (start(sweep).number, sweep.running[1].attempt) == (1, 2)


def test_the_end_that_makes_going_on_senseless_says_why() -> None:
    sweep = build_sweep(n_trials=100)
    ends = []
    for number in range(3):
        start(sweep)
        sweep.end(number, FAILED)
        ends.append(sweep.fatal)
    assert ends == [None, None, sweep.fatal]
    assert sweep.fatal is not None


def test_a_trial_begins_when_the_sampler_has_thought() -> None:
    times = iter([17.0])
    trial = build_sweep().assign(5.0, lambda: next(times))
    assert trial.began_at == 17.0
    assert build_sweep().assign(5.0).began_at == 5.0


@pytest.mark.parametrize("can_draw", [True, False])
def test_a_sampler_that_could_not_learn_is_named(can_draw: bool) -> None:
    sweep, drawn = build_sweep(), []
    if can_draw:
        sweep._sampler.draw_at_random = lambda: drawn.append(True)
    text = sweep.study_failed(ValueError("singular"))
    name = type(sweep._sampler).__name__
    assert text.startswith(f"the sampler {name} could not learn: ValueError: singular")
    assert sweep.fatal == (None if can_draw else text)
    assert ("restore=True" in text, "draws at random" in text) == (not can_draw, can_draw)
    assert bool(drawn) is can_draw


def test_the_example_of_what_failed_is_one_of_the_commonest() -> None:
    sweep, ids = build_sweep(n_trials=9), []
    for number, message in enumerate(["rare", "common 1e-3", "common 0.2\nand more"]):
        ids.append(start(sweep).trial_id)
        error = TrialError("ValueError", message, f"Traceback: {message}")
        sweep.end(number, Ended(Status.FAILED, error))
    assert sweep.fatal is not None
    assert f"2 of them with ValueError: common 1e-3 (trial {ids[1]})" in sweep.fatal
    assert sweep.fatal.endswith("Traceback: common 1e-3")


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        ("lr=0.1 is too large", "lr=-3e-05 is too large", True),
        ("no file '/a/b c.csv'", "no file '/d/e c.csv'", True),
        ("no file data/1/x.csv: why", "no file data/2/yy.csv: why", True),
        ("<f at 0x7fa0>, 8 of 1,024", "<f at 0x81bc>, 16 of 2,048", True),
        ("in trial 1f0c0be3a7d2", "in trial deadbeefcafe", True),
        ("size 3\nbut 4", "size 5\nor else", True),
        ("'train/loss'", "'val/loss'", False),
        ("", "x", False),
    ],
)
def test_errors_that_differ_in_numbers_and_paths_alone_are_alike(
    one: str, other: str, are_alike: bool
) -> None:
    first, second = (TrialError("ValueError", message) for message in (one, other))
    assert (first.kind == second.kind) is are_alike
    assert first.kind != TrialError("TypeError", one).kind
