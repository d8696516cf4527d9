"""Scripts as people write them: what their authors would expect, or one clear sentence."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from slurm_sweeps.running.train import LARGE_MB, describe_size
from slurm_sweeps.trial import compute_trial_seed
from sweep_scripts import Scripts

RUN = """
if __name__ == "__main__":
    trials = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, seed=3).run(2, fail_fast=False).trials
    print([(str(t.status), t.metrics, t.error and t.error.message) for t in trials])
"""
BESIDE = "A trial runs in a folder of its own: write ss.script_dir() / 'data.csv'"
NO_TERMINAL = "A trial has no terminal to read from: call train(cfg) by hand to debug it"


def run(scripts: Scripts, train: str) -> list[Any]:
    """Run a sweep of two trials; return status, metrics and message of each."""
    said = scripts.run("import slurm_sweeps as ss\n" + train + RUN).stdout
    return list(ast.literal_eval(said.splitlines()[-1]))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("open('data.csv')", f"No such file or directory: 'data.csv'. {BESIDE}"),
        ("open('nowhere.csv')", "No such file or directory: 'nowhere.csv'"),
        ("breakpoint()", NO_TERMINAL),
        ("input('name? ')", f"EOF when reading a line. {NO_TERMINAL}"),
    ],
)
def test_what_is_other_in_a_trial_is_said(scripts: Scripts, body: str, words: str) -> None:
    scripts.write("x,y", "data.csv")
    for status, _, message in run(scripts, f"def train(cfg):\n    {body}\n"):
        assert (status, message.partition("Errno 2] ")[2] or message) == ("failed", words)


def test_a_watchdog_interrupts_a_trial_as_by_hand(scripts: Scripts) -> None:
    train = """
import _thread
def train(cfg):
    try:
        _thread.interrupt_main()
        while True: pass
    except KeyboardInterrupt:
        ss.log({"interrupted": 1}, 1)
"""
    assert run(scripts, train) == [("completed", {"interrupted": {1: 1.0}}, None)] * 2


def test_a_trial_has_its_own_seed_and_a_script_its_folder(scripts: Scripts) -> None:
    train = """
import sys
def train(cfg):
    assert ss.script_dir().joinpath("sweep.py").exists() and sys.argv[0].startswith("/")
    if ss.attempt() == 1:
        print(ss.trial_seed())
    ss.log({"seed": ss.trial_seed()}, 1)
"""
    metrics = [trial[1]["seed"][1] for trial in run(scripts, train)]
    assert metrics == [compute_trial_seed(3, 0), compute_trial_seed(3, 1)]


def test_seeds_of_trials_are_what_is_documented() -> None:
    # Of `printf '0:0' | sha256sum`, and so on: no version may change them.
    assert [compute_trial_seed(seed, number) for seed, number in ((0, 0), (0, 1), (2**32, 7))] == [
        2893166218,
        4011020074,
        127327794,
    ]


def test_a_train_that_takes_much_along_is_said() -> None:
    assert describe_size(LARGE_MB * 10**6 - 1) is None
    assert (describe_size(1_234_567_890) or "").startswith("train takes 1234 MB along")
