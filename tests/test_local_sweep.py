"""Whole sweeps on this machine: the documented interface, with real processes."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slurm_sweeps as ss
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.trial import Status
from slurm_sweeps.views.summary import read_summary
from sweep_scripts import TIMEOUT_S

SPACE = {"x": ss.Uniform(0, 1), "opt": {"lr": ss.LogUniform(1e-4, 1), "layers": [1, 2]}}


def train(cfg: dict[str, Any]) -> None:
    """Ten epochs of a made-up learning curve."""
    for epoch in range(1, 11):
        ss.log({"loss": (cfg["x"] - 0.3) ** 2 + 1 / epoch, "val/acc": cfg["x"]}, epoch)


def train_nothing(cfg: dict[str, Any]) -> None:
    """No report at all."""


def run(tmp_path: Path, *args: Any, train: Any = train, cfg: Any = None, **kwargs: Any) -> Any:
    """Run a sweep in this process; what `run` takes goes there, the rest to `Experiment`."""
    names = ("n_trials", "max_concurrent_trials", "max_retries", "fail_fast")
    to_run = {name: kwargs.pop(name) for name in names if name in kwargs}
    to_run.setdefault("summary_interval_in_sec", 60)
    for name in ("grace_period_in_sec", "summary_interval_in_sec"):
        if name in kwargs:
            to_run[name] = kwargs.pop(name)
    kwargs.setdefault("local_dir", tmp_path)
    return ss.Experiment(train, SPACE if cfg is None else cfg, *args, **kwargs).run(**to_run)


# --- a sweep and its result -----------------------------------------------------------------------


def test_a_whole_sweep(tmp_path: Path) -> None:
    result = run(tmp_path, name="first", asha=ss.ASHA("loss", "min"), n_trials=12, seed=1)
    assert result.experiment == "first"
    trials = result.trials
    assert len(trials) == 12
    assert {trial.status for trial in trials} <= {Status.COMPLETED, Status.PRUNED}
    assert all(trial.is_terminated() and trial.runtime for trial in trials)
    for trial in trials:
        assert ss.Trial(trial.cfg).trial_id == trial.trial_id
        assert 0 <= trial.cfg["x"] <= 1
        assert trial.cfg["opt"]["layers"] == [1, 2]
        assert set(trial.metrics) == {"loss", "val/acc"}
        iterations = sorted(trial.metrics["loss"])
        assert iterations == list(range(1, iterations[-1] + 1))
        assert (iterations[-1] == 10) or trial.status is Status.PRUNED
    assert any(trial.status is Status.COMPLETED for trial in trials)

    best = result.best_trial()
    lowest = {trial.trial_id: min(trial.metrics["loss"].values()) for trial in trials}
    assert best.trial_id == min(lowest, key=lowest.__getitem__)
    assert f"Trial {best.trial_id}: completed after" in str(best)
    assert result.best_trial("val/acc", "max").metrics["val/acc"][1] == max(
        trial.cfg["x"] for trial in trials
    )


def test_what_it_took_is_the_same_whoever_looks_later(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, name="took", n_trials=2)

    def read_elapsed() -> float | None:
        layout = Layout(tmp_path, "took")
        with Database.open(layout.database, read_only=True) as database:
            return read_summary(database, layout, 0, time.time()).compute_elapsed_s(time.time())

    took = read_elapsed()
    run(tmp_path, name="took", n_trials=2, restore=True)  # it is done already
    assert read_elapsed() == took
    said = f"there is nothing to do: all trials of 'took' are done, 2, and kept in {tmp_path} "
    assert said in capfd.readouterr().out


def test_the_frames(tmp_path: Path) -> None:
    result = run(tmp_path, n_trials=2)
    frame = result.to_dataframe()
    assert list(frame["status"]) == ["completed"] * 2
    assert list(frame["iterations"]) == [10, 10]
    assert {"cfg/x", "cfg/opt.lr", "cfg/opt.layers", "last/loss", "min/loss"} <= set(frame.columns)
    metrics = result.metrics_dataframe()
    assert len(metrics) == 2 * 10 * 2
    assert list(metrics.columns) == ["trial_id", "iteration", "metric", "value", "logged_at"]


def test_without_asha_best_trial_has_to_be_told_what_is_best(tmp_path: Path) -> None:
    result = run(tmp_path, n_trials=1)
    with pytest.raises(ValueError, match="names no metric, nor has it an ASHA that does"):
        result.best_trial()
    assert result.best_trial("loss", "min").number == 0


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = ss.Experiment(train, SPACE)
    assert (experiment.name, experiment.local_dir) == ("MySweep", Path("slurm-sweeps"))
    result = experiment.run()
    assert len(result.trials) == 1
    assert len(ss.Result("MySweep").trials) == 1
    folder = tmp_path / "slurm-sweeps" / "MySweep" / result.trials[0].trial_id
    assert sorted(os.listdir(folder)) == ["cfg.yml", "stderr.log", "stdout.log"]


def test_the_files_of_a_trial(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import sys

        print(os.getcwd(), os.environ["OMP_NUM_THREADS"])
        print("ä", file=sys.stderr)
        (ss.checkpoint_dir() / "model").write_text("weights")

    result = run(tmp_path, train=train, name="my sweep-2 (β)", max_concurrent_trials=2)
    folder = tmp_path / "my sweep-2 (β)" / result.trials[0].trial_id
    n_threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (folder / "stdout.log").read_text() == f"{folder} {n_threads}\n"
    assert (folder / "stderr.log").read_text() == "ä\n"
    assert (folder / "checkpoints" / "model").read_text() == "weights"
    assert f"x: {result.trials[0].cfg['x']}\n" in (folder / "cfg.yml").read_text()


@pytest.mark.parametrize("folder", ["with blanks and 'quotes'", "ümläut/deep/er", "semi;colon"])
def test_folders_of_all_names(tmp_path: Path, folder: str) -> None:
    result = run(tmp_path, local_dir=str(tmp_path / folder), n_trials=2)
    assert [trial.status for trial in result.trials] == [Status.COMPLETED] * 2
    assert (tmp_path / folder / "slurm-sweeps.db").is_file()


# --- what is tried --------------------------------------------------------------------------------


def get_cfgs(result: ss.Result) -> list[dict[str, Any]]:
    return [trial.cfg for trial in result.trials]


def test_a_seed_makes_a_sweep_repeatable(tmp_path: Path) -> None:
    first = get_cfgs(run(tmp_path, name="a", n_trials=4, seed=7, train=train_nothing))
    again = get_cfgs(
        run(tmp_path, name="b", n_trials=4, seed=7, train=train_nothing, max_concurrent_trials=1)
    )
    other = get_cfgs(run(tmp_path, name="c", n_trials=4, seed=8, train=train_nothing))
    none = get_cfgs(run(tmp_path, name="d", n_trials=4, train=train_nothing))
    assert first == again
    assert first != other
    assert first != none


def test_no_search_space_means_repetitions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path, cfg={"a": 1}, n_trials=3, train=train_nothing)
    assert get_cfgs(result) == [{"a": 1}] * 3
    assert len({trial.trial_id for trial in result.trials}) == 3
    assert result.trials[0].trial_id == ss.Trial({"a": 1}).trial_id
    assert "repeat" not in capsys.readouterr().out


def test_a_finite_space_is_repeated_only_when_it_is_used_up_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = {"a": ss.Choice(["x", "y"]), "b": ss.Integer(1, 3)}
    cfgs = get_cfgs(run(tmp_path, cfg=cfg, n_trials=8, train=train_nothing))
    points = [json.dumps(cfg) for cfg in cfgs]
    assert len(set(points[:6])) == 6
    assert max(Counter(points).values()) == 2
    said = "the search space has only 6 different configurations: 2 of the 8 trials repeat an"
    assert capsys.readouterr().out.count(said) == 1


def test_grids_multiply_and_mix_with_random_spaces(tmp_path: Path) -> None:
    cfg = {"a": ss.Grid([1, 2]), "b": {"c": ss.Grid(["x", None, True])}, "r": ss.Uniform(0, 1)}
    cfgs = get_cfgs(run(tmp_path, cfg=cfg, n_trials=1, train=train_nothing))
    points = [(cfg["a"], cfg["b"]["c"]) for cfg in cfgs]
    assert points == [(1, "x"), (1, None), (1, True), (2, "x"), (2, None), (2, True)]
    assert len({cfg["r"] for cfg in cfgs}) == 6


def test_a_sampler_may_draw_from_grids(tmp_path: Path) -> None:
    cfg = {"a": ss.Grid(list(range(100)))}
    kwargs: dict[str, Any] = {"cfg": cfg, "sampler": ss.samplers.Random(), "seed": 1}
    drawn = [
        each["a"] for each in get_cfgs(run(tmp_path, n_trials=5, train=train_nothing, **kwargs))
    ]
    assert len(set(drawn)) == 5
    assert drawn != sorted(drawn)


def test_numbers_of_numpy_will_do(tmp_path: Path) -> None:
    two = np.int64(2)
    result = run(tmp_path, n_trials=two, max_concurrent_trials=two, seed=two, train=train_nothing)
    assert len(result.trials) == 2


def test_values_come_to_train_as_themselves(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        print(repr(cfg["v"]), type(cfg["v"]).__name__)

    plain = [True, None, 1, 1.0, "1", (1, 2), {"k": [1]}, float("inf"), "\udcff"]
    options = [*plain, np.int64(3), len]
    result = run(tmp_path, cfg={"v": ss.Grid(options)}, train=train)
    shown = [
        (tmp_path / "MySweep" / trial.trial_id / "stdout.log").read_text().strip()
        for trial in result.trials
    ]
    assert shown == [
        "True bool",
        "None NoneType",
        "1 int",
        "1.0 float",
        "'1' str",
        "(1, 2) tuple",
        "{'k': [1]} dict",
        "inf float",
        r"'\udcff' str",
        "3 int",
        "<built-in function len> builtin_function_or_method",
    ]


def test_all_spaces_in_one_sweep(tmp_path: Path) -> None:
    cfg = {
        "uniform": ss.Uniform(-1, 1),
        "log": ss.LogUniform(1e-6, 1),
        "choice": ss.Choice([1, "a", None]),
        "grid": ss.Grid([False]),
        "integer": ss.Integer(0, 3),
        "log_integer": ss.LogInteger(1, 1000),
        "normal": ss.Normal(0, 2),
        "quantized": ss.Quantized(ss.Uniform(0, 1), 0.25),
        "seeded": ss.Uniform(0, 1, seed=3),
    }
    (trial,) = run(tmp_path, cfg=cfg, train=train_nothing).trials
    kinds = {name: type(value) for name, value in trial.cfg.items() if name != "choice"}
    assert kinds == {
        "uniform": float,
        "log": float,
        "grid": bool,
        "integer": int,
        "log_integer": int,
        "normal": float,
        "quantized": float,
        "seeded": float,
    }


# --- what is logged -------------------------------------------------------------------------------


def test_any_metrics(tmp_path: Path) -> None:
    names = ["val/loss", "a b", "β", "; DROP TABLE trials", *(f"m{i}" for i in range(60))]

    def train(_cfg: dict[str, Any]) -> None:
        ss.log({name: np.float32(i) for i, name in enumerate(names)}, 0)
        ss.log({"bad": float("nan"), "high": float("inf"), "low": float("-inf")}, 1)
        ss.log({"bad": 3}, 2)

    result = run(tmp_path, train=train)
    metrics = result.trials[0].metrics
    assert {name: metrics[name] for name in names} == {
        name: {0: float(i)} for i, name in enumerate(names)
    }
    assert math.isnan(metrics["bad"][1])
    assert (metrics["high"], metrics["low"]) == ({1: math.inf}, {1: -math.inf})
    assert result.best_trial("bad", "max").number == 0
    with pytest.raises(ValueError, match="has logged a finite value of 'high'"):
        result.best_trial("high", "max")


def test_a_trial_that_never_is_good_is_pruned_and_never_best(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        for epoch in range(1, 5):
            ss.log({"loss": float("nan") if cfg["n"] else 0.5}, epoch)

    asha = ss.ASHA("loss", "min")
    cfg = {"n": ss.Grid([0, 1])}
    result = run(tmp_path, train=train, cfg=cfg, asha=asha, max_concurrent_trials=1)
    assert [trial.status for trial in result.trials] == [Status.COMPLETED, Status.PRUNED]
    assert result.best_trial().number == 0


# --- how it runs ----------------------------------------------------------------------------------


def test_no_more_at_once_than_asked(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import time

        places = [tmp_path / f"place-{i}" for i in range(2)]
        for place in places:
            try:
                place.mkdir()
                break
            except FileExistsError:
                continue
        else:
            raise RuntimeError("a third trial at the same time")
        time.sleep(0.02)
        place.rmdir()

    result = run(tmp_path, train=train, n_trials=20, max_concurrent_trials=2)
    assert [trial.error for trial in result.trials] == [None] * 20


def test_as_many_at_once_as_there_are_cpus(tmp_path: Path) -> None:
    n_cpus = len(os.sched_getaffinity(0))

    def train(_cfg: dict[str, Any]) -> None:
        import time

        (tmp_path / f"there-{ss.trial_id()}").write_text("")
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("there-*"))) < n_cpus:
            assert time.monotonic() < deadline, "the others never come"
            time.sleep(0.01)

    result = run(tmp_path, train=train, n_trials=n_cpus)
    assert [trial.error for trial in result.trials] == [None] * n_cpus
    assert [trial.status for trial in result.trials] == [Status.COMPLETED] * n_cpus


@pytest.mark.parametrize(
    ("gpus", "slots", "seen", "is_said"),
    [
        (1, None, {"5": 1, "GPU-7": 1}, False),
        (1, 3, {"5": 2, "GPU-7": 1}, True),
        (0.5, None, {"5": 2, "GPU-7": 2}, False),
    ],
)
def test_gpus_are_dealt_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gpus: float,
    slots: int | None,
    seen: dict[str, int],
    is_said: bool,
) -> None:
    """To what is imported ahead, too: it may look at them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    (tmp_path / "looks_at_gpus.py").write_text(
        "import os\nSEEN = os.environ['CUDA_VISIBLE_DEVICES']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    n_slots = sum(seen.values())

    def train(_cfg: dict[str, Any]) -> None:
        import time

        import looks_at_gpus

        assert os.environ["CUDA_VISIBLE_DEVICES"] == looks_at_gpus.SEEN
        (tmp_path / f"there-{ss.trial_id()}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("there-*"))) < n_slots:
            assert time.monotonic() < deadline, "the others never come"
            time.sleep(0.01)

    cfg = ss.LocalCfg(gpus=gpus)
    run(tmp_path, train=train, local_cfg=cfg, n_trials=n_slots, max_concurrent_trials=slots)
    assert Counter(file.read_text() for file in tmp_path.glob("there-*")) == seen
    assert ("GPU" in capsys.readouterr().out.split("MySweep:")[0]) == is_said


def test_local_trials_keep_to_cpus_of_their_own(tmp_path: Path) -> None:
    """Which joblib, as one of those that read it, sees too."""
    cpus = sorted(os.sched_getaffinity(0))
    n_slots = min(2, len(cpus))

    def train(_cfg: dict[str, Any]) -> None:
        import time

        import joblib

        assert joblib.cpu_count() == 1
        assert os.environ["OMP_NUM_THREADS"] == os.environ["POLARS_MAX_THREADS"] == "1"
        (tmp_path / f"there-{ss.trial_id()}").write_text(str(os.sched_getaffinity(0)))
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("there-*"))) < n_slots:
            assert time.monotonic() < deadline, "the others never come"
            time.sleep(0.01)

    most = None if n_slots == len(cpus) else n_slots
    cfg = ss.LocalCfg(cpus=1)
    run(tmp_path, train=train, local_cfg=cfg, n_trials=n_slots, max_concurrent_trials=most)
    seen = [file.read_text() for file in tmp_path.glob("there-*")]
    assert len(set(seen)) == n_slots
    assert all(text in [str({cpu}) for cpu in cpus] for text in seen)


def test_a_trial_that_fails_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(cfg: dict[str, Any]) -> None:
        ss.log({"loss": 1.0}, 1)
        if cfg["n"] % 2:
            raise ValueError(f"odd: {cfg['n']}")

    result = run(tmp_path, train=train, cfg={"n": ss.Grid(list(range(6)))})
    trials = result.trials
    assert [str(trial.status) for trial in trials] == ["completed", "failed"] * 3
    error = trials[3].error
    assert (error.type, error.message) == ("ValueError", "odd: 3")
    assert "in train" in error.traceback
    assert "ValueError: odd: 3" in error.traceback
    assert "  ValueError: odd: 3" in str(trials[3])
    with sqlite3.connect(tmp_path / "slurm-sweeps.db") as database:
        rows = database.execute("SELECT * FROM attempts").fetchall()
    database.close()
    assert sum("odd: 3" in str(row) for row in rows) == 1
    out = capsys.readouterr().out
    assert "3 failed" in out
    assert "ValueError" in out
    assert "odd: " in out


def test_a_trial_is_retried_when_asked(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        tries = ss.checkpoint_dir() / "tries"
        with tries.open("a") as file:
            file.write("x")
        ss.log({"attempt": ss.attempt()}, 0)
        if tries.stat().st_size < 3:
            raise RuntimeError("not yet")

    (trial,) = run(tmp_path, train=train, max_retries=5).trials
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 3)
    assert trial.metrics == {"attempt": {0: 3.0}}


def test_a_trial_whose_worker_is_killed_is_run_again(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import signal
        import time

        if ss.attempt() == 1:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)

    (trial,) = run(tmp_path, train=train).trials
    assert (trial.status, trial.attempt) == (Status.COMPLETED, 2)


def test_a_trial_that_swallows_being_pruned_is_ended(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        import time

        for epoch in range(1, 100_000):
            try:
                ss.log({"loss": cfg["n"]}, epoch)
            except Exception:  # noqa: BLE001 - the very mistake that is tried here
                time.sleep(0.01)
            if cfg["n"] == 0 and epoch == 50:
                return

    cfg, asha = {"n": ss.Grid([0, 1])}, ss.ASHA("loss", "min")
    result = run(
        tmp_path,
        train=train,
        cfg=cfg,
        asha=asha,
        grace_period_in_sec=0.3,
        max_concurrent_trials=1,
    )
    assert [trial.status for trial in result.trials] == [Status.COMPLETED, Status.PRUNED]


def test_a_driver_in_a_thread(tmp_path: Path) -> None:
    results: list[ss.Result] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, n_trials=3)))
    thread.start()
    thread.join(TIMEOUT_S)
    assert [trial.status for trial in results[0].trials] == [Status.COMPLETED] * 3


def test_a_second_run_of_the_same_experiment_goes_on(tmp_path: Path) -> None:
    experiment = ss.Experiment(train, SPACE, local_dir=tmp_path, seed=1)
    first = get_cfgs(experiment.run(n_trials=2))
    assert get_cfgs(experiment.run(n_trials=2)) == first
    longer = get_cfgs(experiment.run(n_trials=4))
    assert (len(longer), longer[:2]) == (4, first)
    undisturbed = run(tmp_path, name="undisturbed", seed=1, n_trials=4)
    assert get_cfgs(undisturbed) == longer


def test_overwrite_begins_anew(tmp_path: Path) -> None:
    first = run(tmp_path, n_trials=2, seed=1).trials
    again = run(tmp_path, n_trials=1, seed=2, overwrite=True).trials
    assert len(again) == 1
    folders = {path.name for path in (tmp_path / "MySweep").iterdir()}
    assert folders == {"train.pkl", "slots", again[0].trial_id}
    assert first[0].trial_id not in folders


def test_several_experiments_share_a_database(tmp_path: Path) -> None:
    run(tmp_path, name="a", n_trials=1)
    run(tmp_path, name="b", n_trials=2)
    assert len(ss.Result("a", tmp_path).trials) == 1
    assert len(ss.Result("b", tmp_path).trials) == 2


def test_trials_do_not_see_the_standard_input(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import sys

        print(repr(sys.stdin.read()))

    (trial,) = run(tmp_path, train=train).trials
    assert (tmp_path / "MySweep" / trial.trial_id / "stdout.log").read_text() == "''\n"


class Loud:
    """Says something where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


def test_what_unpickling_a_cfg_says_is_in_the_trial_s_log(tmp_path: Path) -> None:
    def train(cfg: dict[str, Any]) -> None:
        ss.log({"loss": cfg["x"]}, 1)

    cfg = {"x": ss.Uniform(0, 1), "loud": Loud()}
    (trial,) = ss.Experiment(train, cfg, "a", tmp_path).run(1, summary_interval_in_sec=60).trials
    assert "unpickled" in (tmp_path / "a" / trial.trial_id / "stdout.log").read_text()
