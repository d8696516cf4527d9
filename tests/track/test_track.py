"""Sweeps that are sent to other tools, and read back with those tools themselves."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from frameworks import require_module
from slurm_sweeps.cli import main
from slurm_sweeps.track import follow, tensorboard
from slurm_sweeps.track.feed import build_key
from sweep_scripts import Scripts, kill

pytestmark = pytest.mark.filterwarnings("default")

SPACE = {
    "lr": ss.LogUniform(1e-3, 1),
    "net": {"width": ss.Integer(1, 4), "name": ss.Choice(["a", "b", None])},
    "fixed": [1, 2],
}
SWEEP = """
import sys
import time
from pathlib import Path

import slurm_sweeps as ss

def train(cfg):
    for epoch in range(1, 4):
        ss.log({"loss": cfg["lr"] / epoch, "val/acc": 1.0}, epoch)
    Path(__file__).with_name(f"logged-{ss.trial_id()}").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    ss.log({"loss": 0.0}, 4)

if __name__ == "__main__":
    cfg = {"lr": ss.LogUniform(1e-3, 1)}
    experiment = ss.Experiment(
        train, cfg, name="e", restore="auto", metric="loss", mode="min", seed=0
    )
    experiment.run(3, 2, track=[ss.track.TensorBoard()])
"""


def train(cfg: dict[str, Any]) -> None:
    """Three epochs; trials of width 4 fail in the last, those of width 1 have no number then."""
    for epoch in (1, 2, 3):
        if epoch == 3 and cfg["net"]["width"] == 4:
            raise ValueError("too wide")
        loss = math.nan if epoch == 3 and cfg["net"]["width"] == 1 else cfg["lr"] / epoch
        ss.log({"loss": loss, "val/acc:1": epoch / 4}, epoch)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of ten trials, stored and not sent anywhere; its local_dir."""
    folder = tmp_path_factory.mktemp("sweep")
    experiment = ss.Experiment(
        train, SPACE, name="e", local_dir=folder, seed=2, asha=ss.ASHA("loss", "min")
    )
    experiment.run(10, 2, summary_interval_in_sec=60)
    statuses = {trial.status for trial in ss.Result("e", folder).trials}
    assert {ss.Status.COMPLETED, ss.Status.PRUNED} <= statuses
    return folder


def export(sweep: Path, *arguments: object) -> str:
    words = ["--local-dir", str(sweep), "export", "e", *map(str, arguments)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def read_trials(sweep: Path) -> list[ss.Trial]:
    return ss.Result("e", sweep).trials


# --- TensorBoard ----------------------------------------------------------------------------------


def list_points(folder: Path, tag: str) -> dict[int, float]:
    """Read a curve from the event files of a folder, record by record."""
    proto = require_module("tensorboardX.proto.event_pb2")
    found = {}
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:  # TFRecord: length, its checksum, the bytes, their checksum
            (size,) = struct.unpack("<Q", data[:8])
            event = proto.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            for value in event.summary.value:
                if value.tag == tag and value.HasField("simple_value"):
                    assert event.step not in found, f"{tag} at {event.step} is there twice"
                    found[event.step] = value.simple_value
    return found


def test_a_sweep_is_followed_and_goes_on_where_it_was(scripts: Scripts) -> None:
    """The driver is killed; what the next one sends is only what is new."""
    require_module("tensorboardX")
    with scripts.start(SWEEP) as driver:
        scripts.wait_for_file("logged-*", 2)
        files = scripts.wait_for_file("runs/e/*/events.*", 2)
        wait_until(
            lambda: all(list_points(file.parent, "loss") for file in files), 60, lambda: files
        )
        kill(driver)
    scripts.wait_until_gone(60)
    (scripts.folder / "go").touch()
    scripts.run(SWEEP)
    trials = read_trials(scripts.folder / "slurm-sweeps")
    assert len(trials) == 3
    for trial in trials:
        folder = scripts.folder / "runs" / "e" / trial.trial_id
        assert list_points(folder, "loss") == pytest.approx(trial.metrics["loss"])
        assert list_points(folder, "val/acc") == trial.metrics["val/acc"]


@pytest.mark.heavy
def test_tensorboard_reads_it(sweep: Path, tmp_path: Path) -> None:
    library = require_module("tensorboard.backend.event_processing.event_accumulator")
    plugin = require_module("tensorboard.plugins.hparams.plugin_data_pb2")
    export(sweep, "--to", "tensorboard", "-o", tmp_path / "runs")
    for trial in read_trials(sweep):
        events = library.EventAccumulator(str(tmp_path / "runs" / "e" / trial.trial_id))
        events.Reload()
        curve = {event.step: event.value for event in events.Scalars("loss")}
        assert curve == pytest.approx(trial.metrics["loss"], nan_ok=True)
        told = events.PluginTagToContent("hparams")
        start = plugin.HParamsPluginData.FromString(told["_hparams_/session_start_info"])
        hparams = start.session_start_info.hparams
        assert hparams["net.width"].number_value == trial.cfg["net"]["width"]
        assert f"status: {trial.status}" in str(events.Tensors("trial/text_summary"))


def test_what_was_removed_is_sent_anew(sweep: Path, tmp_path: Path) -> None:
    require_module("tensorboardX")
    arguments = ("--to", "tensorboard", "-o", tmp_path / "runs")
    assert "sent news of 10 trials" in export(sweep, *arguments)
    assert "sent news of 0 trials" in export(sweep, *arguments)
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert "sent news of 10 trials" in export(sweep, *arguments)
    key = build_key(ss.track.TensorBoard(str(tmp_path / "runs")))
    notes = sweep / "e" / "track" / f"tensorboard-{key}.jsonl"
    lines = notes.read_text().splitlines()
    notes.write_text("\n".join(lines[:5]) + '\n{"number": 4, "pl')  # cut, as by a full disk
    assert "sent news of 6 trials" in export(sweep, *arguments)


# --- MLflow ---------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_mlflow_reads_it(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = require_module("mlflow")
    monkeypatch.chdir(tmp_path)
    uri = "sqlite:///mlruns.db"
    export(sweep, "--to", "mlflow", "-o", uri)
    assert "sent news of 0 trials" in export(sweep, "--to", "mlflow", "-o", uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("e").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    trials = read_trials(sweep)
    assert runs.keys() == {"e", *(trial.trial_id for trial in trials)}
    parent = runs["e"]
    assert (parent.info.status, parent.data.tags["goal"]) == ("FINISHED", "min loss")
    words = {"failed": "FAILED"}
    for trial in trials:
        run = runs[trial.trial_id]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == words.get(trial.status, "FINISHED")
        assert run.data.tags["status"] == trial.status
        assert run.data.params["net.name"] == str(trial.cfg["net"]["name"])
        assert run.info.start_time == round(trial.start_time.timestamp() * 1000)
        for name, stored in (("loss", "loss"), ("val/acc:1", "val/acc_1")):
            history = client.get_metric_history(run.info.run_id, stored)
            found = {each.step: each.value for each in history}
            assert found == pytest.approx(trial.metrics[name], nan_ok=True)


# --- W&B ------------------------------------------------------------------------------------------


def read_wandb(file: Path) -> Iterator[Any]:
    """Yield the records of an offline run: chunks in blocks, as LevelDB writes its log."""
    record = require_module("wandb.proto.wandb_internal_pb2").Record
    data, at, begun = file.read_bytes(), 7, b""
    while at < len(data):
        rest = 32768 - at % 32768
        if rest < 7:
            at += rest
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        begun += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record.FromString(begun)
            begun = b""


def test_an_offline_run_of_wandb(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_module("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    # In a process of its own, as users have it: W&B goes by the environment that it was loaded in.
    verb = [sys.executable, "-m", "slurm_sweeps", "--local-dir", str(sweep), "export", "e"]
    subprocess.run([*verb, "--to", "wandb", "-o", "project"], check=True, timeout=120)
    runs = {}
    for file in tmp_path.glob("wandb/offline-run-*/*.wandb"):
        records = list(read_wandb(file))
        run = next(each.run for each in records if each.HasField("run"))
        assert (run.project, run.run_group) == ("project", "e")
        curve = {}
        for each in records:
            if each.HasField("history"):
                items = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in each.history.item
                }
                curve[items["_step"]] = items["loss"]
        runs[run.display_name] = run, curve
    trials = read_trials(sweep)
    assert runs.keys() == {"e", *(trial.trial_id for trial in trials)}
    assert runs["e"][0].job_type == "sweep"
    for trial in trials:
        run, curve = runs[trial.trial_id]
        assert run.job_type == "trial"
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        assert config["net.width"] == trial.cfg["net"]["width"]
        assert {at: float(value) for at, value in curve.items()} == pytest.approx(
            trial.metrics["loss"], nan_ok=True
        )


# --- Optuna ---------------------------------------------------------------------------------------


def test_optuna_reads_it(sweep: Path, tmp_path: Path) -> None:
    optuna = require_module("optuna")
    file = tmp_path / "study.db"
    export(sweep, "--to", "optuna", "-o", file)
    study = optuna.load_study(study_name="e", storage=f"sqlite:///{file}")
    result = ss.Result("e", sweep)
    trials = result.trials
    assert len(study.trials) == len(trials)
    words = {"completed": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    for trial, theirs in zip(trials, study.trials, strict=True):
        assert theirs.user_attrs["trial_id"] == trial.trial_id
        assert theirs.state.name == words[trial.status]
        assert theirs.params.keys() == {"lr", "net.width", "net.name"}
        assert theirs.params["lr"] == trial.cfg["lr"]
        assert theirs.distributions["lr"] == optuna.distributions.FloatDistribution(
            1e-3, 1, log=True
        )
        assert theirs.intermediate_values == pytest.approx(trial.metrics["loss"], nan_ok=True)
    best = result.best_trial(completed_only=True)
    assert study.best_trial.user_attrs["trial_id"] == best.trial_id
    assert study.best_value == best.value
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}", study_name="e")
    with pytest.raises(AssertionError, match="not of this experiment"):
        export(sweep, "--to", "optuna", "-o", tmp_path / "other.db")


# --- what goes wrong ------------------------------------------------------------------------------


def run(tmp_path: Path, *track: Any) -> ss.Result:
    experiment = ss.Experiment(train, SPACE, name="e", local_dir=tmp_path, seed=0)
    return experiment.run(3, 2, summary_interval_in_sec=60, fail_fast=False, track=list(track))


def test_a_tracker_that_fails_is_told_and_harms_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    require_module("optuna")
    result = run(tmp_path, ss.track.Optuna(str(tmp_path / "nowhere" / "study.db")))
    assert len(result.trials) == 3
    said = capfd.readouterr().out
    assert "track Optuna: OperationalError: (sqlite3.OperationalError) unable to open" in said
    assert "To send the rest, say slurm-sweeps export e --to optuna" in said
    (log,) = (tmp_path / "e" / "track").glob("optuna.log")
    assert "Traceback" in log.read_text()


def test_a_tracker_that_hangs_is_given_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that hangs: a pipe that nobody reads, in the place of a file."""
    require_module("tensorboardX")
    (tmp_path / "runs" / "e").mkdir(parents=True)
    os.mkfifo(tmp_path / "runs" / "e" / tensorboard.MARK)
    monkeypatch.setattr(follow, "LAST_S", 1.0)
    assert len(run(tmp_path, ss.track.TensorBoard(str(tmp_path / "runs"))).trials) == 3
    said = capfd.readouterr().out
    assert "track TensorBoard: given up after 1 s; to send the rest, say slurm-sweeps exp" in said


@pytest.mark.parametrize(
    ("track", "message"),
    [
        (ss.track.TensorBoard(), "track must be a list"),
        ([ss.track.WandB], "is none of ss.track"),
        (["tensorboard"], "'tensorboard' is none of ss.track"),
    ],
)
def test_what_makes_no_sense_is_told(track: Any, message: str, tmp_path: Path) -> None:
    experiment = ss.Experiment(train, SPACE, local_dir=tmp_path)
    with pytest.raises(ss.UsageTypeError, match=message):
        experiment.run(track=track)


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['wandb'] = None\n"
        "import slurm_sweeps as ss\n"
        f"ss.Experiment(print, {{}}, local_dir={str(tmp_path)!r}).run(track=[ss.track.WandB()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "WandB needs wandb: pip install 'slurm-sweeps[wandb]'" in done.stderr
