"""Examples whose trials are one process each, run as they are: what they print in the end is true.

Those with several ranks are in `tests/ranks`, the one with two objectives in `test_objectives`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from frameworks import require_package
from slurm_sweeps.trial import Status
from sweep_scripts import Scripts, kill

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Importing the libraries takes some of them many seconds.
TIMEOUT_S = 600.0


def read_example(name: str, *packages: str) -> str:
    for package in ("sklearn", *packages):
        require_package(package)
    return (EXAMPLES / f"{name}.py").read_text()


def run_example(scripts: Scripts, name: str, source: str, *arguments: str) -> list[ss.Trial]:
    """Run it to its end; the best that it has loaded, or trained again, is as good as it was."""
    scripts.env |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = scripts.run(source, *arguments, timeout_s=TIMEOUT_S)
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    told = re.search(r" ([\d.]+), again ([\d.]+)\ntest accuracy ([\d.]+)", done.stdout)
    assert told is not None, done.stdout
    value, again, test = map(float, told.groups())
    assert again == pytest.approx(value, abs=2e-4)
    assert test > 0.7
    result = ss.Result(name, scripts.folder / "slurm-sweeps")
    best = result.best_trial(completed_only=name == "xgboost-pruning")
    assert best.value == pytest.approx(value, abs=1e-4)
    for trial in result.trials:
        assert trial.path is not None
        assert trial.error is None
        said = (trial.path / "stderr.log").read_text()  # a killed driver may be told of
        assert "Traceback" not in said or "connection from this trial to its worker is gone" in said
    return result.trials


def kill_when(scripts: Scripts, source: str, checkpoint: str) -> None:
    """Start it, and kill its driver as soon as a trial has a checkpoint."""
    with scripts.start(source) as process:
        pattern = f"slurm-sweeps/*/*/checkpoints/{checkpoint}"
        wait_until(
            lambda: [*scripts.folder.glob(pattern)], TIMEOUT_S, lambda: f"there is no {pattern}"
        )
        kill(process)
    scripts.wait_until_gone(60)


def check_that_some_went_on(trials: list[ss.Trial]) -> list[ss.Trial]:
    """Return the trials of a second attempt; none lacks an iteration."""
    for trial in trials:
        for curve in (trial.metrics or {}).values():
            assert [*curve] == list(range(1, max(curve) + 1))
    again = [trial for trial in trials if trial.attempt > 1]
    assert again
    return again


def check_early_stopping(trials: list[ss.Trial], longest: int) -> None:
    """To end early by itself is a completion; trials that fell behind are pruned."""
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}
    ended = [trial for trial in trials if trial.status is Status.COMPLETED]
    assert min(max(map(max, (trial.metrics or {}).values())) for trial in ended) < longest


def read_log(trial: ss.Trial, name: str) -> str:
    assert trial.path is not None
    return (trial.path / name).read_text()


def test_sklearn_with_all_cpus_of_a_trial_and_a_score_that_is_returned(scripts: Scripts) -> None:
    trials = run_example(scripts, "sklearn-score", read_example("sklearn_score"), "4")
    assert {trial.status for trial in trials} == {Status.COMPLETED}
    assert all([*(trial.metrics or {})["accuracy"]] == [1] for trial in trials)


@pytest.mark.heavy
def test_torch_with_checkpoints_after_a_kill(scripts: Scripts) -> None:
    source = read_example("torch_checkpoints", "torch")
    kill_when(scripts, source, "last.pt")
    trials = run_example(scripts, "torch-checkpoints", source, "6")
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PAUSED}
    again = check_that_some_went_on(trials)
    assert any("goes on after epoch" in read_log(trial, "stdout.log") for trial in again)


@pytest.mark.heavy
def test_torch_in_a_space_with_branches_and_steps(scripts: Scripts) -> None:
    source = read_example("torch_conditional", "torch")
    trials = run_example(scripts, "torch-conditional", source, "6")
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}
    assert {len(trial.cfg["widths"]) for trial in trials} >= {1, 2}
    for trial in trials:
        own = (
            {"momentum", "nesterov"}
            if trial.cfg["optimizer"]["name"] == "SGD"
            else {"weight_decay"}
        )
        assert {*trial.cfg["optimizer"]} == {"name", "lr"} | own
        assert {width % 16 for width in trial.cfg["widths"]} == {0}


@pytest.mark.heavy
def test_lightning_with_early_stopping_after_a_kill(scripts: Scripts) -> None:
    source = read_example("lightning_early_stopping", "torch", "lightning")
    kill_when(scripts, source, "last.ckpt")
    trials = run_example(scripts, "lightning-early-stopping", source, "6")
    check_early_stopping(trials, 27)
    again = check_that_some_went_on(trials)
    assert any("Restored all states from the che" in read_log(t, "stderr.log") for t in again)
    for trial in trials:
        assert trial.checkpoint_dir is not None
        assert {file.name for file in trial.checkpoint_dir.iterdir()} <= {"best.ckpt", "last.ckpt"}


@pytest.mark.heavy
def test_xgboost_with_a_pruning_callback(scripts: Scripts) -> None:
    source = read_example("xgboost_pruning", "xgboost")
    check_early_stopping(run_example(scripts, "xgboost-pruning", source, "6"), 64)


@pytest.mark.heavy
def test_keras_after_a_kill(scripts: Scripts) -> None:
    source = read_example("keras_digits", "keras", "tensorflow")
    kill_when(scripts, source, "best.keras")
    trials = run_example(scripts, "keras-digits", source, "6")
    check_early_stopping(trials, 27)
    for trial in check_that_some_went_on(trials):
        assert trial.checkpoint_dir is not None
        assert {file.stem for file in trial.checkpoint_dir.iterdir()} == {"best", "last"}


@pytest.mark.heavy
def test_jax(scripts: Scripts) -> None:
    trials = run_example(scripts, "jax-digits", read_example("jax_digits", "jax"), "6")
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}


@pytest.mark.heavy
def test_batch_norm_with_cpus_of_its_own(scripts: Scripts) -> None:
    source = read_example("torch_shares", "torch")
    trials = run_example(scripts, "torch-shares", source, "--trials", "6", "--cpus", "1")
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}
    assert {trial.last_metrics["threads"] for trial in trials} == {1.0}
