"""What a sweep is after, and what is left of it in the end: whole sweeps with real processes."""

from __future__ import annotations

import json
import pickle
from collections import Counter
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


# --- one final value ------------------------------------------------------------------------------


def test_what_train_returns_is_learned_from_and_never_pruned(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> float:
        return float(-((cfg["x"] - 0.3) ** 2))

    experiment = build(
        tmp_path, train, asha=ss.ASHA("score", "max"), sampler=ss.samplers.Model(n_startup=5)
    )
    result = run(experiment, 12)
    assert {trial.status for trial in result.trials} == {Status.COMPLETED}
    for trial in result.trials:
        assert trial.metrics == {"score": {1: -((trial.cfg["x"] - 0.3) ** 2)}}
    assert abs(result.best_trial().cfg["x"] - 0.3) == min(
        abs(trial.cfg["x"] - 0.3) for trial in result.trials
    )


def test_a_dict_of_numbers_follows_what_was_logged(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> dict[str, float]:
        ss.log({"loss": 2.0})
        ss.log({"loss": 1.0})
        return {"test": cfg["x"], "loss": 0.5}

    (trial,) = run(build(tmp_path, train), 1).trials
    assert trial.metrics == {"loss": {1: 2.0, 2: 1.0, 3: 0.5}, "test": {3: trial.cfg["x"]}}


def test_a_number_without_a_name_is_called_value(tmp_path: Path) -> None:
    result = run(build(tmp_path, lambda cfg: cfg["x"]), 2)
    assert result.best_trial("value", "max").cfg["x"] == max(t.cfg["x"] for t in result.trials)


def test_a_wrong_dict_fails_the_trial_and_says_why(tmp_path: Path) -> None:
    (trial,) = run(build(tmp_path, lambda _cfg: {"history": [1, 2]}), 1).trials
    assert trial.status is Status.FAILED
    assert trial.error.type == "UsageTypeError"
    assert "a dict that train returns is its last report, and this is none" in trial.error.message


def test_a_final_value_reaches_the_target(tmp_path: Path) -> None:
    experiment = build(tmp_path, lambda cfg: cfg["x"], metric="score", mode="max")
    result = run(experiment, None, target=0.5, max_concurrent_trials=1)
    *others, last = result.trials
    assert last.cfg["x"] >= 0.5
    assert all(trial.cfg["x"] < 0.5 for trial in others)
    assert last.status is Status.COMPLETED


def test_trials_that_log_once_and_are_pruned_are_noticed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(cfg: dict[str, Any]) -> None:
        ss.log({"loss": cfg["x"]})

    result = run(build(tmp_path, train, asha=ss.ASHA("loss", "min")), 20)
    assert {trial.status for trial in result.trials} == {Status.COMPLETED, Status.PRUNED}
    assert read_said(capfd).count("let train return the value instead of logging it") == 1


def train_on_checkpoints(cfg: dict[str, Any]) -> float:
    """Five steps that count by themselves, the first attempt of which fails after two."""
    state = ss.checkpoint_dir() / "step"
    done = int(state.read_text()) if cfg["saves"] and state.exists() else 0
    for step in range(done + 1, 6):
        if cfg["saves"]:
            state.write_text(str(step))
        ss.log({"step": step})
        if step == 2 and ss.attempt() == 1:
            raise RuntimeError("once")
    return 6.0


@pytest.mark.parametrize("saves", [True, False])
def test_iterations_go_on_from_a_checkpoint_and_else_begin_anew(
    tmp_path: Path, saves: bool
) -> None:
    experiment = build(tmp_path, train_on_checkpoints, {"saves": saves}, metric="step", mode="max")
    (trial,) = run(experiment, 1, max_retries=1).trials
    assert trial.attempt == 2
    assert trial.metrics == {"step": {n: float(n) for n in range(1, 7)}}


def test_a_restored_sweep_goes_on_counting(tmp_path: Path) -> None:
    def build_again(**kwargs: Any) -> ss.Experiment:
        return build(tmp_path, train_on_checkpoints, {"saves": True}, **kwargs)

    run(build_again(), 1)
    again = run(build_again(restore=True, seed=None), 1, max_retries=1)
    (trial,) = again.trials
    assert trial.metrics["step"] == {n: float(n) for n in range(1, 6)}
    assert trial.metrics["value"] == {6: 6.0}


# --- what ends a sweep, and what is left of it ----------------------------------------------------


def read_said(capfd: pytest.CaptureFixture[str]) -> str:
    said = capfd.readouterr()
    return " ".join((said.out + said.err).split())


@pytest.mark.parametrize(
    ("n_trials", "words"),
    [(None, None), (6, None), (2, "have 6 points, each of which is run once"), (9, "(9) says")],
)
def test_a_grid_is_run_once_whatever_n_trials_says(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], n_trials: int | None, words: str | None
) -> None:
    grid = {"a": ss.Grid([1, 2, 3]), "b": ss.Grid([0, 1])}
    result = run(build(tmp_path, lambda cfg: cfg["a"] * cfg["b"], grid), n_trials)
    assert Counter((t.cfg["a"], t.cfg["b"]) for t in result.trials) == Counter(
        (a, b) for a in (1, 2, 3) for b in (0, 1)
    )
    said = read_said(capfd)
    assert (words or "n_trials") in said if words else "n_trials" not in said


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"time_budget_in_sec": 0.0}, "time budget"), ({"target": 0.0}, "target")],
)
def test_an_end_as_wanted_is_a_completed_sweep(
    tmp_path: Path, limits: dict[str, Any], reason: str
) -> None:
    def train(cfg: dict[str, Any]) -> None:
        for _ in range(10**9):
            ss.log({"score": cfg["x"]})

    run(build(tmp_path, train, metric="score", mode="max"), None, **limits)
    assert f"completed ({reason})" in call("watch", "e", "--local-dir", tmp_path)
    shown = json.loads(call("show", "e", "--local-dir", tmp_path, "--json"))
    assert (shown["state"], shown["ended_by"]) == ("completed", reason)
    # Nothing of it is left in one that goes on and comes to its own end.
    again = build(tmp_path, lambda _cfg: None, restore=True, seed=None)
    run(again, max(1, len(again.run(1).trials)))
    assert json.loads(call("show", "e", "--local-dir", tmp_path, "--json"))["ended_by"] is None


def test_a_first_bug_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def build_one(key: str) -> ss.Experiment:
        def train(cfg: dict[str, Any]) -> None:
            ss.log({"loss": cfg[key]}, 1)

        return build(tmp_path, train, restore="auto")

    with pytest.raises(ss.SweepFailedError, match="go on with restore=True, which runs them again"):
        run(build_one("lr"), 8)
    shown = call("show", "e", "--local-dir", tmp_path)
    assert "the script, run with restore=True, tries failed trials again" in shown
    assert "retry" not in shown
    result = run(build_one("x"), 8)
    assert [trial.status for trial in result.trials] == [Status.COMPLETED] * 8
    assert "that failed are run again" in read_said(capfd)


def test_few_trials_that_all_fail_are_run_again_too(tmp_path: Path) -> None:
    def build_one(bug: bool) -> ss.Experiment:
        return build(tmp_path, lambda _cfg: 1 // (1 - bug), restore="auto")

    result = run(build_one(True), 1)
    assert result.trials[0].status is Status.FAILED
    with pytest.raises(ss.UsageError, match=r"newest failure, trial .*: ZeroDivisionError"):
        result.best_trial("loss", "min")
    (trial,) = run(build_one(False), 1).trials
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 2)


def test_trials_that_failed_among_others_stay_and_how_to_retry_them_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(cfg: dict[str, Any]) -> float:
        return float(1 / cfg["a"])

    run(build(tmp_path, train, {"a": ss.Grid([0, 1])}), None)
    capfd.readouterr()
    result = run(build(tmp_path, train, {"a": ss.Grid([0, 1])}, restore=True), None)
    assert [trial.attempt for trial in result.trials] == [1, 1]
    assert "1 failed trial stays as it is: 'slurm-sweeps retry e --failed' marks" in read_said(
        capfd
    )


def relu(x: float) -> float:
    return max(x, 0.0)


def test_a_result_has_what_train_received_and_where_its_files_are(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        assert cfg["kernel"] == (3, 3)
        for epoch, loss in enumerate(cfg["losses"], 1):
            (ss.checkpoint_dir() / f"{epoch}").write_text(str(loss))
            ss.log({"loss": cfg["act"](loss)})

    cfg = {"act": relu, "kernel": (3, 3), "losses": ss.Grid([(3.0, 0.1, 2.0), (1.0, 0.9, 0.8)])}
    result = run(build(tmp_path, train, cfg, metric="loss", mode="min"), None)
    best = result.best_trial()
    assert best.cfg == {"act": relu, "kernel": (3, 3), "losses": (3.0, 0.1, 2.0)} == result.best_cfg
    assert (best.value, best.best_iteration) == (0.1, 2)
    assert best.path == tmp_path / "e" / best.trial_id
    assert (best.checkpoint_dir / str(best.best_iteration)).read_text() == "0.1"
    assert [(t.value, t.best_iteration) for t in result.trials] == [(0.1, 2), (0.8, 3)]
    # From the database alone it is what JSON holds.
    stored = pickle.loads(pickle.dumps(result)).best_trial()
    assert stored.cfg["kernel"] == [3, 3]
    assert stored.trial_id == best.trial_id
    # By the last value the other one is the best.
    last = result.best_trial(scope="last")
    assert (last.value, last.best_iteration, last.cfg["losses"][0]) == (0.8, 3, 1.0)
    assert [t.value for t in result.best_trials(5, scope="last")] == [0.8, 2.0]
    assert last.trial_id in call("best", "e", "--local-dir", tmp_path, "--scope", "last")
    assert "completed" in result._repr_html_()
    assert "&lt;function relu" in best._repr_html_()
