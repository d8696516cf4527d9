"""What is in each picture: the data, apart from any drawing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import ExperimentRecord, LeaseOwner
from slurm_sweeps.storage.rows import read_trials, write_records
from slurm_sweeps.trial import Status
from slurm_sweeps.views.pictures.curves import (
    KEPT,
    MAX_CURVE,
    MAX_POINTS,
    compute_curves,
    compute_progress,
    draw_learning_curves,
)
from slurm_sweeps.views.pictures.data import SweepData, read_sweep_data
from slurm_sweeps.views.pictures.importance import MIN_TRIALS, compute_importance
from slurm_sweeps.views.pictures.parameters import (
    Axis,
    build_axes,
    choose_range,
    sample_trials,
)
from slurm_sweeps.views.pictures.slots import compute_occupation
from slurm_sweeps.views.report import compute_savings, group_failures
from slurm_sweeps.views.sight import read_runs
from slurm_sweeps.views.summary import describe_error, read_rows
from views_samples import START, write_sample

MIXED = [Status.COMPLETED, Status.PRUNED, Status.FAILED, Status.PRUNED, Status.RUNNING]


def read(local_dir: Path, statuses: Sequence[Status] = MIXED, **more: Any) -> SweepData:
    layout = write_sample(local_dir, statuses=statuses, **more)
    with Database.open(layout.database, read_only=True) as database:
        return read_sweep_data(database, database.experiment("sample"), START + 100)


def build(data: SweepData, rows: Sequence[tuple[int, int, float, float]]) -> SweepData:
    """The same sweep with other reports: number, iteration, value, time since the start."""
    table = np.array([(n, i, v, START + t) for n, i, v, t in rows], dtype=data.reports.dtype)
    return dataclasses.replace(data, reports=table)


def test_what_is_read(tmp_path: Path) -> None:
    data = read(tmp_path)
    assert data.best.tolist() == pytest.approx([1 / 6, 1.5, 3, 3.5, 4 + 1 / 3])
    assert data.best_iteration.tolist() == [6, 2, 1, 2, 3]
    assert data.iterations.tolist() == [6, 2, 1, 2, 3]
    assert data.last["val/acc"].tolist() == pytest.approx([5 / 6, 0.5, 0, 0.5, 2 / 3])
    assert data.ranking == [0, 1, 2, 3, 4]
    assert len(data.reports) == 14


def test_best_is_the_last_value_where_nobody_says_what_is_best(tmp_path: Path) -> None:
    data = read(tmp_path, asha=False)
    assert (data.metric, data.mode) == ("loss", None)
    assert data.best[0] == pytest.approx(1 / 6)
    assert len(compute_progress(data).value) == 0


def test_an_empty_sweep(tmp_path: Path) -> None:
    data = read(tmp_path, [])
    assert compute_curves(data) == []
    assert len(compute_progress(data).value) == 0
    assert compute_savings(data).run == 0
    assert compute_occupation(data).stretches == []
    assert build_axes(data) == []
    assert compute_importance(data).reason == "no parameter varies"


def test_curves_and_rungs(tmp_path: Path) -> None:
    data = read(tmp_path)
    curves = compute_curves(data)
    assert [curve.trial for curve in curves] == [0, 1, 2, 3, 4]
    assert curves[1].iteration.tolist() == [1, 2]
    assert curves[1].value.tolist() == [2.0, 1.5]
    drawn = draw_learning_curves(data)["layout"]["shapes"]
    assert [(line["x0"], line["label"]["text"]) for line in drawn] == [(1, "rung 1"), (4, "rung 4")]


def test_nan_leaves_gaps_and_is_never_best(tmp_path: Path) -> None:
    data = build(read(tmp_path), [(0, 1, math.nan, 1), (0, 2, math.inf, 2), (1, 1, 5.0, 3)])
    assert np.isnan(compute_curves(data)[0].value).all()
    assert compute_progress(data).value.tolist() == [5.0]


@given(
    st.lists(st.tuples(st.integers(1, 400), st.floats(-10, 10)), min_size=1, max_size=300),
    st.integers(1, 60),
)
def test_thinned_curves_keep_the_best_and_the_ends(
    trials: list[tuple[int, float]], scale: int
) -> None:
    lengths = [length * scale for length, _ in trials]
    number = np.repeat(np.arange(len(trials)), lengths)
    table = np.zeros(
        len(number),
        dtype=[("number", "i8"), ("iteration", "i8"), ("value", "f8"), ("logged_at", "f8")],
    )
    table["number"] = number
    table["iteration"] = np.concatenate([np.arange(1, length + 1) for length in lengths])
    best = np.array([value for _, value in trials])
    data = _bare(table, best)
    curves = compute_curves(data)
    assert sum(len(curve.value) for curve in curves) <= MAX_POINTS + KEPT * (MAX_CURVE + 1)
    shown = {curve.trial for curve in curves}
    assert set(data.ranking[:KEPT]) <= shown
    assert all(curve.iteration[0] == 1 for curve in curves)
    assert all(curve.iteration[-1] == lengths[curve.trial] for curve in curves)


def _bare(reports: Any, best: Any) -> SweepData:
    nothing: Any = ()
    whole = np.zeros(len(best), dtype=np.int64)
    experiment = ExperimentRecord(1, "s", START, START, "running", {}, None)
    return SweepData(
        experiment, "loss", "min", START, START, nothing, nothing, best, whole, {}, whole,
        reports, nothing, nothing,
    )  # fmt: skip


def test_progress_follows_time_not_trials(tmp_path: Path) -> None:
    rows = [(0, 1, 5.0, 1), (0, 2, 1.0, 9), (1, 1, 4.0, 2), (1, 2, 3.0, 3), (2, 1, 9.0, 20)]
    progress = compute_progress(build(read(tmp_path), rows))
    assert progress.value.tolist() == [5.0, 4.0, 3.0, 1.0, 1.0]  # and on to the end
    assert progress.elapsed_s.tolist() == [1, 2, 3, 9, 20]
    assert progress.iterations.tolist() == [1, 2, 3, 4, 5]
    assert progress.trial.tolist() == [0, 1, 1, 0, 0]


@given(st.lists(st.floats(), max_size=60), st.sampled_from(["min", "max"]))
def test_progress_only_gets_better(values: list[float], mode: str) -> None:
    table = np.zeros(
        len(values),
        dtype=[("number", "i8"), ("iteration", "i8"), ("value", "f8"), ("logged_at", "f8")],
    )
    table["value"] = values
    table["logged_at"] = np.arange(len(values))
    data = dataclasses.replace(_bare(table, np.zeros(1)), mode=mode)
    found = compute_progress(data).value
    steps = np.diff(found) if mode == "min" else -np.diff(found)
    assert (steps <= 0).all()
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        assert found[-1] == (min if mode == "min" else max)(finite)


def test_savings(tmp_path: Path) -> None:
    savings = compute_savings(read(tmp_path))
    assert (savings.run, savings.full) == (14, 14 + 2 * 4)  # whole trials have 6
    assert savings.saved_s == pytest.approx(2 * 4 * 5.0)  # 10 s for 2 iterations


def test_savings_before_any_trial_is_complete(tmp_path: Path) -> None:
    savings = compute_savings(read(tmp_path, [Status.PRUNED, Status.PRUNED]))
    assert savings.full == 12  # ASHA's max_t


def test_slots_over_time(tmp_path: Path) -> None:
    occupation = compute_occupation(read(tmp_path, state="running", heard_at=START + 95))
    first = occupation.stretches[0]
    assert (first.slot, first.begin_s, first.end_s, first.status) == (0, 0, 10, "completed")
    assert occupation.labels == ["0 n0", "1 n1"]
    assert occupation.stretches[-1].end_s == 100  # it runs yet
    assert occupation.busy == pytest.approx((4 * 10 + 80) / 200)


def test_slots_are_grouped_by_job_and_a_job_that_has_gone_does_not_idle(tmp_path: Path) -> None:
    data = read(tmp_path, state="running", heard_at=START + 95)
    jobs = ["7", "9", "7", "9", "9"]
    attempts = [dataclasses.replace(a, job_id=jobs[a.number]) for a in data.attempts]
    occupation = compute_occupation(dataclasses.replace(data, attempts=attempts))
    assert occupation.labels == ["job 7: 0 n0", "job 9: 0 n0", "job 9: 1 n1"]
    assert {stretch.slot for stretch in occupation.stretches} == {0, 1, 2}
    whole_s = {}
    for job, slots in (("7", 1), ("9", 2)):
        stay = [s for s, its in zip(occupation.stretches, jobs, strict=True) if its == job]
        whole_s[job] = slots * (max(s.end_s for s in stay) - min(s.begin_s for s in stay))
    used_s = sum(s.end_s - s.begin_s for s in occupation.stretches)
    assert occupation.busy == pytest.approx(used_s / sum(whole_s.values()))


def test_what_a_killed_driver_left_running_ends_with_its_last_sign_of_life(tmp_path: Path) -> None:
    layout = write_sample(tmp_path, statuses=MIXED, state="running", heard_at=START + 40)
    with Database.open(layout.database) as database:
        experiment = database.experiment("sample")
        day = START + 86_400
        occupation = compute_occupation(read_sweep_data(database, experiment, day))
        assert occupation.stretches[-1].end_s == 40  # not a day
        assert occupation.busy == pytest.approx((4 * 10 + 20) / 80)
        rows = {row.more["number"]: row for row in read_rows(database, experiment, None, day)}
        assert rows[4].runtime_s == 20

        # A driver that restores runs the trial again: the first attempt ends with its last report.
        again = dataclasses.replace(
            read_trials(database, experiment.id)[4], attempt=2, start_time=day - 10, end_time=None
        )
        write_records(database, experiment.id, [again])
        owner = LeaseOwner("elsewhere", 2, None, "", "other")
        assert database.take_lease(1, owner, day, database.experiment("sample").lease)
        experiment = database.experiment("sample")
        first, second = read_runs(database, experiment, day, 4)
        stretches = compute_occupation(read_sweep_data(database, experiment, day)).stretches
    assert (first.status, first.end_time) == (Status.INTERRUPTED, START + 30)
    assert (second.status, second.end_time) == (Status.RUNNING, None)
    assert [(s.begin_s, s.end_s) for s in stretches[-2:]] == [(20, 30), (86_390, 86_400)]


def test_axes(tmp_path: Path) -> None:
    axes = {axis.name: axis for axis in build_axes(read(tmp_path, [Status.COMPLETED] * 30))}
    assert list(axes) == ["opt.lr", "opt.name", "width", "extra.kind", "extra.p"]
    assert axes["opt.lr"].is_log
    assert (axes["opt.lr"].positions <= 0).all()
    assert axes["opt.lr"].ticks[1][0] in ("1e-5", "0.0001")
    assert axes["opt.name"].categories == ["None", "adam", "sgd"]
    missing = axes["extra.kind"].positions == 1  # "b", which has no p
    assert np.isnan(axes["extra.p"].positions[missing]).all()
    assert np.isfinite(axes["extra.p"].positions[~missing]).all()


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30))
def test_ticks_lie_on_the_axis(values: list[float]) -> None:
    places, labels = Axis("x", np.array(values), False, None).ticks
    span = max(values) - min(values)
    assert len(places) == len(labels)
    assert len(places) <= 8
    assert all(
        min(values) - span / 9 - 1e-9 <= place <= max(values) + span / 9 + 1e-9 for place in places
    )


def test_whole_numbers_have_whole_ticks() -> None:
    axis = Axis("depth", np.array([1.0, 2.0, 4.0]), False, None)
    assert axis.ticks == ([1.0, 2.0, 3.0, 4.0], ["1", "2", "3", "4"])


def test_a_parameter_with_too_many_names_is_no_axis(tmp_path: Path) -> None:
    space = {"word": ss.Choice([f"w{i}" for i in range(300)]), "x": ss.Uniform(0, 1)}
    axes = build_axes(read(tmp_path, [Status.COMPLETED] * 120, space=space))
    assert [axis.name for axis in axes] == ["x"]


def test_samples_keep_the_best(tmp_path: Path) -> None:
    data = read(tmp_path, [Status.COMPLETED] * 90)
    assert sample_trials(data, 1000) == list(range(90))
    chosen = sample_trials(data, 20, kept=10)
    assert set(range(10)) <= set(chosen)
    assert len(chosen) <= 20


def test_outliers_on_the_bad_side_are_cut() -> None:
    values = np.array([*np.linspace(0, 1, 20), 1e9])
    cut = choose_range(values, "min", False)
    assert cut is not None
    assert cut[0] < 0 < 1 < cut[1] < 10
    assert choose_range(values, "max", False) is None
    assert choose_range(-values, "max", False) is not None
    assert choose_range(values, None, False) is None
    assert choose_range(values, "min", True) is None


def test_failures_are_grouped(tmp_path: Path) -> None:
    (group,) = group_failures(read(tmp_path, [Status.FAILED] * 3))
    assert describe_error(group[-1]) == "ValueError: the <b>rate</b>\nis too large"
    assert len(group) == 3


def test_too_few_trials_to_say_what_mattered(tmp_path: Path) -> None:
    found = compute_importance(read(tmp_path, [Status.COMPLETED] * (MIN_TRIALS - 1)))
    assert found.reason == "too few trials: 29 of 30 that are needed have a value"
    assert not found.names


def test_what_mattered_comes_first(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = read(tmp_path, [Status.COMPLETED] * 80)
    width = np.array([cfg["width"] for cfg in data.cfgs], dtype=float)
    found = compute_importance(dataclasses.replace(data, best=(np.log(width) - 4) ** 2))
    assert found.names[0] == "width"
    assert found.shares[0] > 0.7
    assert sum(found.shares) == pytest.approx(1)
    assert found.score > 0.5
    assert found.reason == ""


def test_chance_is_not_taken_for_importance(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    data = read(tmp_path, [Status.COMPLETED] * 80)
    noise = np.random.default_rng(3).random(80)
    found = compute_importance(dataclasses.replace(data, best=noise))
    assert found.reason == "the parameters explain next to nothing of the result"
