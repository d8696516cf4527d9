"""Stored reports, judged once more: nothing differs but what was edited; what other rules say."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.replay.story import Story
from slurm_sweeps.replay.verify import verify
from slurm_sweeps.replay.whatif import judge_again
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.sweep_types import Report, Turn
from slurm_sweeps.trial import Status, canonical_json, compute_trial_id
from sweep_scripts import Scripts

#: Sweeps of each kind, in one script: a grid with points of the user's own, rules that stop and
#: that pause, trials that fail and are run again, values that are returned.
SWEEPS = """
import math
import slurm_sweeps as ss

def train(cfg):
    for epoch in range(1, 20):
        value = (cfg["x"] - 0.3) ** 2 + cfg["opt"].get("m", 0.5) / epoch
        ss.log({"loss": math.nan if cfg["x"] > 0.95 else value, "late": -value}, epoch)
        again = cfg["x"] < 0.5 and ss.trial_dir().parent.name == "median"
        if again and ss.attempt() == 1 and epoch == 3:
            raise ValueError("once")
    return value

SPACE = {
    "x": ss.Uniform(0, 1),
    "opt": ss.Choice([{"a": 1}, {"m": ss.LogUniform(1e-3, 1)}]),
    "n": ss.LogInteger(1, 9),
    "q": ss.Quantized(ss.Normal(0, 1), 0.25),
}
if __name__ == "__main__":
    rules = {
        "asha": ss.ASHA("loss", "min"),
        "promote": ss.ASHA("loss", "min", promote=True),
        "hyperband": ss.Hyperband("late", "max", max_t=19),
        "median": ss.MedianStopping("loss", "min"),
        "several": ss.ASHA(["loss", "late"], ["min", "max"]),
        "none": None,
    }
    for name, rule in rules.items():
        experiment = ss.Experiment(
            train, SPACE, name=name, pruner=rule,
            **({} if name == "several" else {"metric": "loss", "mode": "min"}),
            points_to_evaluate=[{"x": 0.5}],
        )
        experiment.run(30, max_retries=1)
    space = {**SPACE, "g": ss.Grid([1, 2, 3]), "h": ss.Grid(["a", "b"])}
    ss.Experiment(lambda cfg: None, {}, name="aimless").run(3)
    ss.Experiment(train, space, name="grid", asha=rules["asha"], restore="auto").run(None)
"""
RULES = ("asha", "promote", "hyperband", "median", "several", "none", "grid")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scripts = Scripts(tmp_path_factory.mktemp("swept"))
    scripts.run(SWEEPS)
    return scripts.folder / "slurm-sweeps"


@pytest.fixture
def swept(stored: Path, tmp_path: Path) -> Path:
    """A copy, to be edited."""
    return Path(shutil.copytree(stored, tmp_path / "slurm-sweeps"))


def edit(folder: Path, statement: str, *values: Any) -> None:
    with sqlite3.connect(folder / "slurm-sweeps.db") as connection:
        assert connection.execute(statement, values).rowcount


def test_what_is_stored_is_what_would_be_decided_and_what_was_edited_is_found(swept: Path) -> None:
    for name in RULES:
        verdict = ss.Result(name, swept).verify()
        assert verdict, f"{name}: {verdict}"
        assert (verdict.decisions > 0) == (name != "none")
        assert verdict.cfgs == (6 if name == "grid" else 29)
    assert ss.Result("aimless", swept).verify()
    result = ss.Result("asha", swept)
    assert len(result.what_if(ss.ASHA("loss", "min")).stopped) == sum(
        trial.status == "pruned" for trial in result.trials
    )
    best = result.best_trial()
    # Values by which the best trial would have been stopped on its way; NaN passes no rung at all.
    for iteration, value in ((2, 99.0), (4, None)):
        edit(
            swept,
            "UPDATE metrics SET value = ? WHERE iteration = ? AND number = (SELECT number FROM "
            "trials WHERE trial_id = ? AND metrics.experiment_id = experiment_id)",
            value,
            iteration,
            best.trial_id,
        )
    edit(swept, "UPDATE trials SET cfg = replace(cfg, '\"n\"', '\"m\"') WHERE number = 5")
    differences = result.verify().differences
    assert any(best.trial_id in said and "the rule says prune" in said for said in differences)
    assert any(best.trial_id in said and "best and last" in said for said in differences)
    assert any("the id of its configuration is" in said for said in differences)
    assert any("number 5 of this seed is drawn as" in said for said in differences)


def test_the_command_line_judges_by_another_rule(swept: Path) -> None:
    def call(*words: str, code: int = 0) -> str:
        verb = [str(Path(sys.executable).with_name("slurm-sweeps")), *words]
        done = subprocess.run(verb, cwd=swept.parent, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "Nothing differs" in call("verify", "asha")
    answer = json.loads(call("whatif", "none", "--asha", "reduction_factor=3, min_t=2", "--json"))
    assert answer["n_trials"] == 30
    assert not answer["unknown"]
    assert 0 < answer["saved_iterations"] < answer["iterations"]
    assert min(each["iteration"] for each in answer["stopped"]) == 2
    assert "would have stopped" in call("whatif", "none", "--median")
    assert "can't be known" in call("whatif", "asha", "--asha", "min_t=10")
    for rule, said in {
        "foo=1": "--asha has no 'foo'",
        "min_t": "'min_t' is none of name=value",
        "promote=true": "leave promote out",
        "min_t=0": "min_t",
    }.items():
        assert said in call("whatif", "none", "--asha", rule, code=2)
    assert "say one rule" in call("whatif", "none", code=2)


def test_a_sweep_that_a_rule_of_ones_own_has_judged_can_be_asked(swept: Path) -> None:
    """Of such a rule the database has but the name."""
    edit(swept, "UPDATE experiments SET settings = replace(settings, '\"ASHA\"', '\"Own\"')")
    result = ss.Result("asha", swept)
    assert result.what_if(ss.MedianStopping("loss", "min")).n_trials == 30
    with pytest.raises(ss.UsageError, match="the rule 'Own' is one of your own"):
        result.verify()


# --- simulated ------------------------------------------------------------------------------------


def tell_story(curves: list[list[float]], order: list[int], plan: Any) -> Story:
    """Play trials to a rule, one report after the other in some order, as a driver does."""
    pruner, at = plan.build_pruner(), 0.0
    events: list[Report | Turn] = []
    trials = []
    iteration = dict.fromkeys(range(len(curves)), 0)
    status: dict[int, Status] = {}
    for number in [*order, *(n for n in range(len(curves)) for _ in curves[n])]:
        if number >= len(curves) or number in status:
            continue
        at += 1.0
        if iteration[number] == 0:
            events.append(Turn(at, number, 1, Status.RUNNING))
        value = curves[number][iteration[number]]
        iteration[number] += 1
        events.append(Report(at, number, iteration[number], value))
        if pruner.report(number, iteration[number], value) is Decision.PRUNE:
            status[number] = Status.PRUNED
        elif iteration[number] == len(curves[number]):
            status[number] = Status.COMPLETED
        if number in status:
            events.append(Turn(at, number, 1, status[number]))
    for number in iteration:
        cfg = {"n": number}
        trials.append(
            TrialRecord(
                number,
                compute_trial_id(cfg),
                0,
                canonical_json(cfg),
                status=status[number],
                start_time=0.0,
                end_time=at,
            )
        )
    return Story({}, trials, [], events)


VALUES = st.floats(-9, 9, width=16) | st.just(math.nan)
CURVES = st.lists(st.lists(VALUES, min_size=1, max_size=9), min_size=1, max_size=9)
PLANS = st.sampled_from(
    [
        ss.ASHA("loss", "min", reduction_factor=2),
        ss.ASHA("loss", "max", min_t=2, max_t=4),
        ss.MedianStopping("loss", "min", min_trials=2),
    ]
)


@given(CURVES, st.lists(st.integers(0, 8), max_size=60), PLANS)
def test_what_a_rule_has_decided_it_decides_again(
    curves: list[list[float]], order: list[int], plan: Any
) -> None:
    story = tell_story(curves, order, plan)
    assert verify(story, plan).differences == ()
    again = judge_again(story, plan)
    cut = {trial.number for trial in story.trials if trial.status is Status.PRUNED}
    assert {each.trial.number for each in again.stopped} == cut
    assert again.saved_iterations == 0
    assert not again.unknown


@given(CURVES, st.lists(st.integers(0, 8), max_size=60), PLANS)
def test_a_trial_that_is_said_to_have_been_pruned_and_was_not_is_found(
    curves: list[list[float]], order: list[int], plan: Any
) -> None:
    story = tell_story(curves, order, plan)
    done = [event for event in story.events if isinstance(event, Turn)]
    whole = next((e for e in done if e.status is Status.COMPLETED), None)
    if whole is None or math.isnan(curves[whole.number][-1]):
        return
    events = [e._replace(status=Status.PRUNED) if e is whole else e for e in story.events]
    told = Story({}, story.trials, [], events)
    pruner = plan.build_pruner()
    last = Decision.GO_ON
    for event in story.events:
        if isinstance(event, Report):
            decision = pruner.report(event.number, event.iteration, event.value)
            last = decision if event.number == whole.number else last
    assert bool(verify(told, plan).differences) == (last is Decision.GO_ON)
