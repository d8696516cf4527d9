"""Points to try first, and what earlier sweeps found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slurm_sweeps as ss
from slurm_sweeps.experiment.warm_start import read_warm_start
from slurm_sweeps.samplers import Problem, bind_sampler
from slurm_sweeps.search.draws import fill_points
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import ReportRecord, TrialRecord
from slurm_sweeps.storage.rows import write_records
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import SweepCfg
from slurm_sweeps.trial import Status, compute_trial_id

SPACE = {
    "opt": ss.Choice([{"name": "sgd", "momentum": ss.Uniform(0, 1)}, {"name": "adam"}]),
    "lr": ss.LogUniform(1e-4, 1),
    "fixed": 3,
}


def train(cfg: dict[str, Any]) -> None:
    for epoch in (1, 2):
        ss.log({"loss": cfg["x"] + 1 / epoch}, epoch)


def test_partial_points_are_filled_up_alike_in_every_process() -> None:
    points = [{"opt": {"name": "sgd"}, "lr": 0.01}, {"opt": {"momentum": 0.5}}, {}]
    first, second = (fill_points(points, SearchSpace(SPACE), 7) for _ in range(2))
    assert first == second
    assert first[0]["opt"]["name"] == "sgd"
    assert first[0]["lr"] == pytest.approx(0.01)
    assert first[1]["opt"] == {"name": "sgd", "momentum": 0.5}
    assert all(cfg["fixed"] == 3 for cfg in first)


@pytest.mark.parametrize(
    ("points", "error", "text"),
    [
        ("lr", ss.UsageTypeError, "points_to_evaluate must be a list of dicts, got 'lr'"),
        ({"lr": 1}, ss.UsageTypeError, "must be a list of dicts, got {'lr': 1}"),
        ([3], ss.UsageTypeError, r"points_to_evaluate[0] must be a dict, got 3 (int)"),
        ([{}, {"lr": 5.0}], ss.UsageError, "points_to_evaluate[1] = {'lr': 5.0} is no part of any"),
        ([{"new": 1}], ss.UsageError, "points_to_evaluate[0] = {'new': 1} is no part of any"),
    ],
)
def test_what_is_no_point_is_named(
    tmp_path: Path, points: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        ss.Experiment(train, SPACE, local_dir=tmp_path, points_to_evaluate=points)
    assert text in str(caught.value)


@pytest.mark.parametrize("template", [{"x": ss.Integer(1, 4)}, {"x": ss.Grid([1, 2, 3, 4])}])
def test_points_come_first_and_only_once(template: dict[str, Any]) -> None:
    space = SearchSpace(template)
    first = fill_points([{"x": 3}, {"x": 2}], space, 0)
    sweep = Sweep(SweepCfg(4), bind_sampler(None, Problem(space, 0)), None, first)
    xs = [trial.cfg["x"] for slot in range(4) if (trial := sweep.assign(0.0))]
    assert xs[:2] == [3, 2]
    assert sorted(xs) == [1, 2, 3, 4]


@pytest.mark.parametrize("as_frame", [False, True])
@pytest.mark.parametrize("space", [ss.Integer(1, 6), ss.Grid([1, 2, 3, 4, 5, 6])])
def test_what_an_earlier_sweep_tried_is_not_tried_again(
    tmp_path: Path, as_frame: bool, space: Any
) -> None:
    cfg = {"x": space, "deep": {"er": ss.Choice(["a"])}}
    earlier = ss.Experiment(
        train, {"x": ss.Integer(1, 4), "deep": {"er": "a"}}, "first", tmp_path
    ).run(4)
    source = earlier.to_dataframe() if as_frame else earlier
    experiment = ss.Experiment(train, cfg, "second", tmp_path, warm_start=source)
    result = experiment.run(2)
    assert sorted(trial.cfg["x"] for trial in result.trials) == [5, 6]


def test_the_model_starts_from_what_an_earlier_sweep_found(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    asha = ss.ASHA("loss", "min")
    cfg = {"x": ss.Uniform(0, 1)}
    earlier = ss.Experiment(train, cfg, "first", tmp_path, asha, seed=0).run(25)
    result = ss.Experiment(
        train,
        cfg,
        "second",
        tmp_path,
        asha,
        seed=1,
        sampler=ss.samplers.Model(),
        warm_start=earlier,
    ).run(10, 1)
    assert sorted(trial.cfg["x"] for trial in result.trials)[4] < 0.3


def test_the_last_value_is_what_counts(tmp_path: Path) -> None:
    earlier = ss.Experiment(train, {"x": 0.25}, "first", tmp_path).run()
    space = SearchSpace({"x": ss.Uniform(0, 1)})
    for source in (earlier, earlier.to_dataframe()):
        assert read_warm_start(source, space, ("loss",)) == [({"x": 0.25}, 0.75)]
        assert read_warm_start(source, space, ()) == [({"x": 0.25}, None)]


def write_trials(folder: Path, cfgs: list[dict[str, Any]]) -> ss.Result:
    """An earlier sweep with these cfgs; each has logged its number as loss."""
    path = folder / "slurm-sweeps.db"
    with Database.open(path, create=True) as database:
        key = database.create_experiment("first", {}, 0.0).id
        trials = [
            TrialRecord(
                number, compute_trial_id(cfg, number), 0, json.dumps(cfg), status=Status.COMPLETED
            )
            for number, cfg in enumerate(cfgs)
        ]
        reports = [ReportRecord(n, 1, 1, {"loss": float(n)}, 0.0) for n in range(len(cfgs))]
        write_records(database, key, [*trials, *reports])
    return ss.Result("first", folder)


NESTED = {
    "opt": ss.Choice(
        [
            {"name": "a"},
            {"name": "b", "k": ss.Choice([1, 2, 3]), "fixed": 7},
            {"name": "c", "k": ss.Integer(10, 20)},
            {"name": "d", "k": ss.Choice([0.5, 4.0]), "q": ss.Quantized(ss.Integer(0, 9), 3)},
        ]
    ),
    "clip": ss.Choice([None, 1, 2.5]),
    "depth": ss.Choice([None, {"layers": ss.Choice([2, 4])}]),
}


def test_a_frame_warms_as_its_result_does(tmp_path: Path) -> None:
    """pandas has made floats of integers, and NaN of None."""
    rng = np.random.default_rng(0)
    space = SearchSpace(NESTED)
    result = write_trials(tmp_path, [space.sample(rng) for _ in range(60)])
    told: list[str] = []

    known = read_warm_start(result.to_dataframe(), space, ("loss",), told.append)

    assert len(known) == 60
    assert json.dumps(known) == json.dumps(read_warm_start(result, space, ("loss",), told.append))
    assert told == []


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    cfgs = [{"x": 1}, {"x": 9}, {"x": 2, "more": 0}, {"x": 3}]
    result = write_trials(tmp_path, cfgs)
    space = SearchSpace({"x": ss.Integer(1, 4)})
    for source in (result, result.to_dataframe()):
        told: list[str] = []
        known = read_warm_start(source, space, ("loss",), told.append)
        assert known == [({"x": 1}, 0.0), ({"x": 3}, 3.0)]
        (text,) = told
        assert text.startswith("warm_start: 2 of 4 trials are no configurations of this search")
        assert text.endswith("left out: cfg['x']: 9 is no value of Integer(1, 4)")


def test_run_tells_what_the_warm_start_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frame = write_trials(tmp_path, [{"x": 0.5}, {"x": 7.0}]).to_dataframe()
    cfg = {"x": ss.Uniform(0, 1)}
    ss.Experiment(train, cfg, "second", tmp_path, warm_start=frame).run()
    assert "warm_start: 1 of 2 trials are no configurations" in capfd.readouterr().out


def test_what_can_warm_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"must be a Result or its to_dataframe\(\), got str"):
        ss.Experiment(train, SPACE, local_dir=tmp_path, warm_start="first")  # type: ignore[arg-type] # the test
    earlier = ss.Experiment(train, {"x": 0.25}, "first", tmp_path).run()
    with pytest.raises(ValueError, match="none of the trials of Result is a configuration of this"):
        ss.Experiment(train, SPACE, local_dir=tmp_path, warm_start=earlier)


def test_a_sampler_that_can_not_be_warmed_is_named(tmp_path: Path) -> None:
    class Halves:
        def bind(self, problem: Problem) -> Halves:
            self.space = problem.space
            return self

        def ask(self, _now: float) -> dict[str, Any]:
            return self.space.build(lambda _leaf: 0.5)

        def tell(self, trial: object) -> None: ...

    cfg = {"x": ss.Uniform(0, 1)}
    earlier = ss.Experiment(train, cfg, "first", tmp_path).run()
    experiment = ss.Experiment(train, cfg, "b", tmp_path, sampler=Halves(), warm_start=earlier)
    with pytest.raises(ValueError, match=r"needs a sampler with a method warm_up\(cfg, value\)"):
        experiment.run()
