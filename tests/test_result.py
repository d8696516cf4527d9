from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slurm_sweeps.errors import ExperimentNotFoundError, StorageError, UsageError
from slurm_sweeps.result import Result
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import build_database_path
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import Record, ReportRecord, TrialRecord
from slurm_sweeps.storage.rows import write_records
from slurm_sweeps.trial import Status, TrialError, compute_trial_id

SETTINGS = {"metric": "loss", "mode": "min", "asha": {"reduction_factor": 4}, "seed": 0}


def make_trial(number: int, cfg: dict[str, object], **more: object) -> TrialRecord:
    """A trial that is completed, unless `more` says otherwise."""
    fields = {"status": Status.COMPLETED, "start_time": 1e9, "end_time": 1e9 + 90.25, **more}
    return TrialRecord(number, compute_trial_id(cfg), 0, json.dumps(cfg), **fields)  # type: ignore[arg-type] # the test's business


def log(number: int, iteration: int, **metrics: float) -> ReportRecord:
    """What a trial logged, a second after the one before."""
    return ReportRecord(number, 1, iteration, metrics, 1e9 + iteration)


#: Three trials: one that ended, one that failed, one that runs and has not logged anything.
CFGS: list[dict[str, object]] = [
    {"lr": 0.1, "opt": {"name": "adam", "decay": {"rate": 0.5}}},
    {"lr": 0.2, "opt": {"name": "sgd"}, "layers": [1, 2]},
    {"lr": 0.3},
]
ERROR = TrialError("ValueError", "boom", "Traceback …")
RECORDS: list[Record] = [
    make_trial(0, CFGS[0], host="node1", memory_mb=512.0, cpu_s=1.5),
    make_trial(1, CFGS[1], status=Status.FAILED, error=ERROR, attempt=2),
    make_trial(2, CFGS[2], status=Status.RUNNING, end_time=None),
    log(0, 1, loss=3.0, acc=0.1),
    log(0, 2, loss=1.0, acc=0.9),
    log(0, 3, loss=2.0, acc=0.5),
    log(1, 1, loss=math.nan, acc=0.2),
    log(1, 2, loss=1.5),
]


def store(local_dir: Path, records: list[Record], name: str = "a", **settings: object) -> None:
    """Make an experiment as a driver would."""
    with Database.open(build_database_path(local_dir), create=True) as database:
        experiment = database.create_experiment(name, SETTINGS | settings, 0.0)
        write_records(database, experiment.id, records)
        database.take_lease(experiment.id, build_owner(), time.time(), None)  # it is at work


@pytest.fixture
def result(tmp_path: Path) -> Result:
    store(tmp_path, RECORDS)
    return Result("a", tmp_path)


def test_a_result_names_what_it_is_of(result: Result, tmp_path: Path) -> None:
    assert result.experiment == "a"
    assert result.local_dir == tmp_path
    assert repr(result) == f"Result('a', local_dir={str(tmp_path)!r})"


def test_trials(result: Result) -> None:
    first, second, third = result.trials

    assert [trial.cfg for trial in result.trials] == CFGS
    assert [trial.trial_id for trial in result.trials] == [compute_trial_id(cfg) for cfg in CFGS]
    assert first.metrics == {"loss": {1: 3.0, 2: 1.0, 3: 2.0}, "acc": {1: 0.1, 2: 0.9, 3: 0.5}}
    assert first.start_time == datetime.fromtimestamp(1e9, tz=timezone.utc)
    assert first.runtime == timedelta(seconds=90.25)
    assert (first.status, first.number, first.host) == (Status.COMPLETED, 0, "node1")
    assert (second.status, second.error, second.attempt) == (Status.FAILED, ERROR, 2)
    assert (third.status, third.end_time, third.metrics) == (Status.RUNNING, None, {})


def test_it_grows_with_a_running_sweep(result: Result, tmp_path: Path) -> None:
    with Database.open(build_database_path(tmp_path)) as database:
        write_records(database, 1, [log(2, 1, loss=-1.0)])

    assert result.trials[2].metrics == {"loss": {1: -1.0}}
    assert result.best_trial().number == 2


# The best trial


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ({}, 0),
        ({"metric": "loss"}, 0),
        ({"mode": "max"}, 0),
        ({"metric": "acc", "mode": "min"}, 0),
        ({"metric": "acc", "mode": "max"}, 0),
        ({"metric": "loss", "mode": "min"}, 0),
    ],
)
def test_best_trial(result: Result, arguments: dict[str, str], number: int) -> None:
    best = result.best_trial(**arguments)

    assert best.number == number
    assert best.metrics == result.trials[number].metrics


def test_by_the_last_value_one_that_is_not_finite_never_wins(tmp_path: Path) -> None:
    store(tmp_path, [*RECORDS, log(0, 4, loss=-math.inf), log(2, 1, loss=9.0)])
    result = Result("a", tmp_path)
    assert [trial.number for trial in result.best_trials(9, scope="last")] == [1, 2]
    assert [trial.number for trial in result.best_trials(9)] == [0, 1, 2]
    assert [trial.number for trial in result.best_trials(9, completed_only=True)] == [0]
    with pytest.raises(UsageError, match="no completed trial of experiment 'a'"):
        result.best_trial(scope="last", completed_only=True)
    with pytest.raises(UsageError, match="scope must be 'best' or 'last', got 'first'"):
        result.best_trial(scope="first")


def test_the_best_trial_prints_legibly(result: Result) -> None:
    printed = str(result.best_trial())

    assert printed.splitlines() == [
        f"Trial {compute_trial_id(CFGS[0])}: completed after 0:01:30.250000 on node1",
        "  lr = 0.1",
        "  opt.name = 'adam'",
        "  opt.decay.rate = 0.5",
        "  loss: 2 at iteration 3 (lowest 1 at 2, highest 3 at 1)",
        "  acc: 0.5 at iteration 3 (lowest 0.1 at 1, highest 0.9 at 2)",
    ]


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (
            {"metric": None, "mode": None},
            {},
            "names no metric, nor has it an ASHA that does",
        ),
        ({"metric": None, "mode": None}, {"metric": "acc"}, "a low or a high 'acc' is best; pass"),
        ({}, {"metric": "acc"}, "does not say whether a low or a high 'acc' is best; pass mode="),
        ({}, {"mode": "low"}, 'mode must be "min" or "max", got'),
        ({}, {"metric": "f1", "mode": "max"}, "has logged 'f1'; logged are ['loss', 'acc', 'bad']"),
        ({}, {"metric": "bad", "mode": "max"}, "has logged a finite value of 'bad'"),
    ],
)
def test_no_best_trial(
    tmp_path: Path, settings: dict[str, object], arguments: dict[str, str], message: str
) -> None:
    store(tmp_path, [*RECORDS, log(1, 1, bad=math.nan), log(1, 2, bad=math.inf)], **settings)

    with pytest.raises(ValueError, match=r"pass|must be|no trial") as caught:
        Result("a", tmp_path).best_trial(**arguments)

    assert isinstance(caught.value, UsageError)
    assert message in str(caught.value)


def test_no_best_trial_before_anything_is_logged(tmp_path: Path) -> None:
    store(tmp_path, [])

    with pytest.raises(ValueError, match="has logged anything yet, so none of 'loss'"):
        Result("a", tmp_path).best_trial()


# Frames


USAGE = ["memory_mb", "cpu_sec", "gpu_memory_mb"]


def test_to_dataframe(result: Result) -> None:
    frame = result.to_dataframe()

    assert list(frame.columns) == [
        "trial_id",
        "status",
        "start_time",
        "end_time",
        "runtime",
        "iterations",
        *USAGE,
        "cfg/lr",
        "cfg/opt.name",
        "cfg/opt.decay.rate",
        "cfg/layers",
        "last/loss",
        "best/loss",
        "min/loss",
        "max/loss",
        "last/acc",
        "min/acc",
        "max/acc",
    ]
    assert frame["trial_id"].tolist() == [compute_trial_id(cfg) for cfg in CFGS]
    assert frame["status"].tolist() == ["completed", "failed", "running"]
    assert frame["start_time"].iloc[0] == datetime.fromtimestamp(1e9, tz=timezone.utc)
    assert frame["end_time"].isna().tolist() == [False, False, True]
    assert frame["runtime"].iloc[0] == timedelta(seconds=90.25)
    assert frame["runtime"].iloc[2] > timedelta(days=365)  # it has been running since 2001
    assert frame["iterations"].tolist() == [3, 2, 0]
    assert frame[USAGE].iloc[0].tolist()[:2] == [512.0, 1.5]
    assert frame[USAGE].isna().sum().tolist() == [2, 2, 3]
    assert frame["cfg/lr"].tolist() == [0.1, 0.2, 0.3]
    assert frame["cfg/opt.name"].fillna("-").tolist() == ["adam", "sgd", "-"]
    assert frame["cfg/layers"].iloc[1] == [1, 2]
    assert frame["last/loss"].iloc[:2].tolist() == [2.0, 1.5]
    assert frame["best/loss"].iloc[:2].tolist() == [1.0, 1.5]
    assert frame["max/acc"].iloc[:2].tolist() == [0.9, 0.2]
    assert frame.filter(regex="^(last|best|min|max)/").iloc[2].isna().all()


def test_to_dataframe_with_another_metric(result: Result) -> None:
    frame = result.to_dataframe("acc", "max")

    assert frame["best/acc"].iloc[:2].tolist() == [0.9, 0.2]
    assert frame["best/loss"].iloc[0] == 1.0
    with pytest.raises(ValueError, match="a low or a high 'acc'"):
        result.to_dataframe("acc")


def test_metrics_dataframe(result: Result) -> None:
    frame = result.metrics_dataframe()

    assert list(frame.columns) == ["trial_id", "iteration", "metric", "value", "logged_at"]
    assert len(frame) == 9
    first = frame.iloc[0]
    assert (first["trial_id"], first["iteration"]) == (compute_trial_id(CFGS[0]), 1)
    assert (first["metric"], first["value"]) == ("loss", 3.0)
    assert first["logged_at"] == datetime.fromtimestamp(1e9 + 1, tz=timezone.utc)
    assert frame["value"].isna().sum() == 1
    assert (frame["value"].dtype, frame["iteration"].dtype) == (float, int)
    acc = frame[(frame["metric"] == "acc") & (frame["trial_id"] == compute_trial_id(CFGS[0]))]
    assert acc["value"].tolist() == [0.1, 0.9, 0.5]


def test_frames_of_nothing(tmp_path: Path) -> None:
    store(tmp_path, [])
    result = Result("a", tmp_path)

    assert list(result.to_dataframe().columns) == [
        "trial_id",
        "status",
        "start_time",
        "end_time",
        "runtime",
        "iterations",
        *USAGE,
    ]
    assert len(result.to_dataframe()) == 0
    assert len(result.metrics_dataframe()) == 0
    assert result.trials == []


def test_frames_of_trials_that_have_not_begun(tmp_path: Path) -> None:
    store(tmp_path, [make_trial(0, {}, status=Status.SCHEDULED, start_time=None, end_time=None)])

    frame = Result("a", tmp_path).to_dataframe()

    assert frame["runtime"].isna().all()
    assert frame["start_time"].isna().all()
    assert frame["iterations"].tolist() == [0]


# What is not there


def test_an_experiment_that_is_not_there(tmp_path: Path) -> None:
    store(tmp_path, [], name="digits")

    with pytest.raises(ExperimentNotFoundError, match=r"no experiment 'digit' .*mean 'digits'\?"):
        Result("digit", tmp_path)


def test_a_local_dir_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentNotFoundError, match=r"no experiment 'a': .* does not exist; check"
    ):
        Result("a", tmp_path / "x")

    assert list(tmp_path.iterdir()) == []


def test_a_name_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a slash"):
        Result("a/b", tmp_path)


def test_a_database_that_is_none(tmp_path: Path) -> None:
    build_database_path(tmp_path).write_text("no " * 1000)

    with pytest.raises(StorageError, match="is not a database"):
        Result("a", tmp_path)


@pytest.mark.processes
def test_reading_loads_no_pandas_and_no_numpy_before_a_frame_is_asked_for(tmp_path: Path) -> None:
    store(tmp_path, RECORDS)
    script = (
        "import sys; from slurm_sweeps.result import Result; "
        f"r = Result('a', {str(tmp_path)!r}); r.best_trial(); r.trials; "
        "print(sorted({'pandas', 'numpy', 'cloudpickle', 'pickle', 'rich'} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
