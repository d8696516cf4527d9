"""Whose checkpoints stay, and what is copied of the best trial: whole sweeps, real files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.experiment.keep import Keep, Keeper
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.records import ReportRecord, TrialRecord
from slurm_sweeps.storage.rows import write_records
from slurm_sweeps.trial import Status

SPACE = {"x": ss.Uniform(0, 1)}


def train(cfg: dict[str, Any]) -> None:
    """Go on from a checkpoint, save one before each report; the best trial fails in the end."""
    saved = ss.checkpoint_dir() / "epoch"
    first = int(saved.read_text()) + 1 if saved.exists() else 1
    for epoch in range(first, 5):
        saved.write_text(str(epoch))
        ss.log({"loss": cfg["x"] + 1 / epoch}, epoch)
    if cfg["x"] < 0.02:
        raise ValueError("too small")


def run(tmp_path: Path, n_trials: int = 12, **kwargs: Any) -> ss.Result:
    kwargs = {"name": "e", "local_dir": tmp_path, "seed": 0, "restore": "auto"} | kwargs
    experiment = ss.Experiment(train, SPACE, **kwargs)
    return experiment.run(n_trials, 1, summary_interval_in_sec=60)  # one after the other


def list_kept(result: ss.Result) -> list[int]:
    return [trial.number for trial in result.trials if list(trial.checkpoint_dir.glob("*"))]


def find_wanted(result: ss.Result, best: int) -> list[int]:
    """The trials that may go on, and the best of the others."""
    ended = [t for t in result.trials if t.status in (Status.COMPLETED, Status.PRUNED)]
    first = sorted(ended, key=lambda trial: (trial.value, trial.number))[:best]
    others = [trial for trial in result.trials if trial not in ended]
    return sorted(trial.number for trial in first + others)


def test_the_best_and_what_may_go_on_keep_their_checkpoints(tmp_path: Path) -> None:
    result = run(tmp_path, asha=ss.ASHA("loss", "min", reduction_factor=2), keep=ss.Keep(best=2))
    wanted = find_wanted(result, 2)
    assert list_kept(result) == wanted
    statuses = {result.trials[number].status for number in wanted}
    assert Status.FAILED in statuses
    assert len(wanted) < 12
    for trial in result.trials:
        assert (trial.path / "cfg.yml").exists()
        assert (trial.path / "stderr.log").exists()


def test_paused_trials_find_their_checkpoints(tmp_path: Path) -> None:
    asha = ss.ASHA("loss", "min", reduction_factor=2, promote=True)
    result = run(tmp_path, 16, asha=asha, keep=ss.Keep(best=0))
    assert list_kept(result) == find_wanted(result, 0)
    statuses = [trial.status for trial in result.trials]
    assert Status.PAUSED in statuses
    again = [trial for trial in result.trials if trial.attempt > 1]
    assert again  # some were promoted
    for trial in result.trials:  # none has begun anew
        curve = trial.metrics["loss"]
        assert sorted(curve) == list(range(1, max(curve) + 1))
        text = (trial.path / "stderr.log").read_text()
        assert "began again" not in text


def test_a_restore_takes_up_what_was_left(tmp_path: Path) -> None:
    result = run(tmp_path, metric="loss", mode="min")
    assert len(list_kept(result)) == 12
    run(tmp_path, metric="loss", mode="min", keep=ss.Keep(best=3))  # which has nothing to run
    assert list_kept(result) == find_wanted(result, 3)


def test_what_cant_be_deleted_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = run(tmp_path, 3, metric="loss", mode="min", keep=ss.Keep(best=3))
    ended = next(trial for trial in result.trials if trial.status is Status.COMPLETED)
    (ended.checkpoint_dir / "epoch").unlink()
    ended.checkpoint_dir.rmdir()
    ended.checkpoint_dir.write_text("a file where a folder was")
    run(tmp_path, 3, metric="loss", mode="min", keep=ss.Keep(best=0))
    assert f"keep: the folder {ended.checkpoint_dir} can't be removed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("keep", "metric", "message"),
    [
        (5, "loss", "keep must be an instance of ss.Keep; got 5"),
        (ss.Keep(5), None, "needs to know what is best: pass metric="),
    ],
)
def test_what_makes_no_sense_is_told(keep: Any, metric: Any, message: str, tmp_path: Path) -> None:
    mode = metric and "min"
    with pytest.raises((ss.UsageError, ss.UsageTypeError), match=message):
        ss.Experiment(train, SPACE, local_dir=tmp_path, keep=keep, metric=metric, mode=mode)


def test_a_number_that_makes_no_sense_is_told() -> None:
    with pytest.raises(ss.UsageError, match="Keep: best must be 0 or more, got -1"):
        ss.Keep(best=-1)


ENDED = (Status.COMPLETED, Status.PRUNED, Status.INFEASIBLE)
ENDS = st.sampled_from([s for s in Status if s not in (Status.SCHEDULED, Status.RUNNING)])
TRIALS = st.lists(st.tuples(ENDS, st.sampled_from([0.0, 1.0, 2.0, float("nan")])), max_size=8)


@settings(max_examples=15)
@given(trials=TRIALS, looks=st.sets(st.integers(0, 7)), best=st.integers(0, 3), data=st.data())
def test_when_it_looks_makes_no_difference(
    trials: list[tuple[Status, float]], looks: set[int], best: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(trials))))
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(folder, "e")
        with Database.open(layout.database, create=True) as database:
            key = database.create_experiment("e", {}, 0.0).id
            for number, (_, value) in enumerate(trials):
                write_records(
                    database,
                    key,
                    [
                        build_trial(number, Status.RUNNING),
                        ReportRecord(number, 1, 1, {"loss": value}, 5.0),
                    ],
                )
                layout.trial(f"{number:012x}").checkpoints.mkdir(parents=True)
            keeper = Keeper(Keep(best), Goal("loss", "max"), layout, key, pytest.fail)
            for at, number in enumerate(order):
                write_records(database, key, [build_trial(number, trials[number][0])])
                if at in looks:
                    keeper.look()
            Keeper(Keep(best), Goal("loss", "max"), layout, key, pytest.fail).look()
            left = [n for n in order if layout.trial(f"{n:012x}").checkpoints.exists()]
    ended = [n for n in order if trials[n][0] in ENDED]
    valid = [n for n in ended if trials[n][0] is not Status.INFEASIBLE]
    finite = [n for n in valid if trials[n][1] == trials[n][1]]
    first = sorted(finite, key=lambda n: (-trials[n][1], n))[:best]
    assert sorted(left) == sorted({*order} - {*ended} | {*first})


def build_trial(number: int, status: Status) -> TrialRecord:
    return TrialRecord(number, f"{number:012x}", 0, "{}", status=status)


# --- the winner -----------------------------------------------------------------------------------


def test_the_best_is_copied(tmp_path: Path) -> None:
    result = run(tmp_path, 4, metric="loss", mode="min")
    best = result.best_trial()
    result.report(tmp_path / "e" / "report.html")
    target = tmp_path / "some" / "winner"
    assert result.export_best(target) == target
    assert sorted(path.name for path in target.iterdir()) == [
        *("cfg.yml", "checkpoints", "report.html", "stderr.log", "stdout.log", "trial.json")
    ]
    assert (target / "checkpoints" / "epoch").read_text() == "4"
    told = json.loads((target / "trial.json").read_text())
    assert (told["trial_id"], told["value"]) == (best.trial_id, best.value)
    assert told["metrics"]["loss"]["4"] == best.metrics["loss"][4]
    assert [path.name for path in target.parent.iterdir()] == ["winner"]

    with pytest.raises(ss.UsageError, match="is there and not empty: choose another folder"):
        result.export_best(target)
    with pytest.raises(ss.StorageError, match="can't be copied to"):
        result.export_best(target / "cfg.yml" / "winner")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (result.export_best(empty, completed_only=True) / "cfg.yml").exists()
