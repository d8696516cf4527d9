"""What a sweep is after, and what is left of it in the end: whole sweeps with real processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.cli import main
from slurm_sweeps.storage.database import Database
from slurm_sweeps.trial import Status

SPACE = {"x": ss.Uniform(0, 1)}


def build(tmp_path: Path, train: Any, cfg: Any = None, **kwargs: Any) -> ss.Experiment:
    kwargs = {"name": "e", "local_dir": tmp_path, "seed": 0} | kwargs
    return ss.Experiment(train, SPACE if cfg is None else cfg, **kwargs)


def run(experiment: ss.Experiment, n_trials: int | None, **kwargs: Any) -> ss.Result:
    return experiment.run(n_trials, summary_interval_in_sec=60, **kwargs)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


# --- the goal -------------------------------------------------------------------------------------


def train_two(cfg: dict[str, Any]) -> None:
    """A loss that falls, and an accuracy that says the contrary of which trial is the best."""
    for epoch in (1, 2):
        ss.log({"loss": cfg["x"] / epoch, "accuracy": cfg["x"] * epoch}, epoch)


def test_a_metric_without_a_pruner_is_known_everywhere(tmp_path: Path) -> None:
    sampler = ss.samplers.Model(n_startup=3)
    experiment = build(tmp_path, train_two, sampler=sampler, metric="accuracy", mode="max")
    result = run(experiment, 8)
    best = max(result.trials, key=lambda trial: trial.cfg["x"])
    assert result.best_trial() == best
    assert "best/accuracy" in result.to_dataframe().columns
    assert best.trial_id in call("best", "e", "--local-dir", tmp_path)
    shown = json.loads(call("show", "e", "--local-dir", tmp_path, "--json"))
    assert (shown["metric"], shown["mode"]) == ("accuracy", "max")
    assert shown["best"]["trial_id"] == best.trial_id
    assert {trial.status for trial in result.trials} == {Status.COMPLETED}


def test_a_pruner_judges_by_its_metric_and_the_best_is_chosen_by_the_experiments(
    tmp_path: Path,
) -> None:
    asha = ss.ASHA("loss", "min")
    experiment = build(tmp_path, train_two, asha=asha, metric="accuracy", mode="max")
    result = run(experiment, 20, max_concurrent_trials=1)
    low, high = min(result.trials, key=get_x), max(result.trials, key=get_x)
    assert low.status is Status.COMPLETED
    assert high.status is Status.PRUNED
    values = [max(trial.metrics["accuracy"].values()) for trial in result.trials]
    assert max(result.best_trial().metrics["accuracy"].values()) == max(values)
    # Restored, both are known again: the rule's values, and the goal's.
    again = build(
        tmp_path, train_two, asha=asha, metric="accuracy", mode="max", restore=True, seed=None
    )
    run(again, 24, max_concurrent_trials=1)
    whole_run = build(tmp_path, train_two, asha=asha, metric="accuracy", mode="max", name="f")
    undisturbed = run(whole_run, 24, max_concurrent_trials=1)
    assert [trial.status for trial in result.trials] == [t.status for t in undisturbed.trials]


def get_x(trial: ss.Trial) -> float:
    return float(trial.cfg["x"])


def test_the_target_is_the_experiments(tmp_path: Path) -> None:
    experiment = build(tmp_path, train_two, metric="accuracy", mode="max")
    result = run(experiment, None, target=1.0, max_concurrent_trials=1)
    assert max(result.best_trial().metrics["accuracy"].values()) >= 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": "max"}, "Experiment: mode='max' needs a metric: pass metric= too"),
        ({"metric": "loss"}, 'Experiment: mode must be "min" or "max", got None'),
        ({"metric": 3, "mode": "min"}, "Experiment: metric must be the name of a metric, got 3"),
        (
            {"metric": "loss", "mode": "max", "asha": ss.ASHA("loss", "min")},
            "mode='max' contradicts ASHA(metric='loss', mode='min'",
        ),
    ],
)
def test_a_goal_that_makes_no_sense(tmp_path: Path, arguments: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        build(tmp_path, train_two, **arguments)
    assert words in str(caught.value)


def test_a_metric_of_the_pruner_needs_no_mode(tmp_path: Path) -> None:
    experiment = build(tmp_path, train_two, metric="loss", asha=ss.ASHA("loss", "min"))
    assert run(experiment, 2).best_trial().cfg["x"] < 1
    with Database.open(tmp_path / "slurm-sweeps.db", read_only=True) as database:
        settings = database.experiment("e").settings
    assert (settings["metric"], settings["mode"]) == ("loss", "min")


def test_a_metric_that_no_trial_logs_is_said_at_once(tmp_path: Path) -> None:
    experiment = build(tmp_path, train_two, metric="acc", mode="max")
    with pytest.raises(ss.SweepFailedError, match=r"never logged .acc.*logged .accuracy., .loss."):
        run(experiment, 50, max_concurrent_trials=1)
    assert len(ss.Result("e", tmp_path).trials) == 1
