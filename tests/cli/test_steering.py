"""The command beside a sweep that really runs: watching it, pruning a trial, stopping, retrying."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.storage.faults import EmptyDatabaseError
from slurm_sweeps.trial import Status
from sweep_scripts import Scripts

SWEEP = """
import pathlib, time
import slurm_sweeps as ss

ENOUGH = pathlib.Path("enough").absolute()

def train(cfg):
    if cfg["x"] == 0 and ss.attempt() == 1:
        raise ValueError("this one fails at first")
    for i in range(1, STOP):
        print("iteration", i, flush=True)
        time.sleep(0.02)
        ss.log({"loss": cfg["x"] / i}, i)
        if ENOUGH.exists():
            break

if __name__ == "__main__":
    cfg = {"x": ss.Grid(list(range(6)))}
    ss.Experiment(train, cfg, name="steered", restore="auto").run(
        max_concurrent_trials=3, summary_interval_in_sec=1
    )
"""


def call(folder: Path, *arguments: str, code: int = 0) -> str:
    argv = [sys.executable, "-m", "slurm_sweeps", *arguments]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def find(folder: Path, status: Status) -> list[ss.Trial]:
    if not (folder / "slurm-sweeps" / "slurm-sweeps.db").exists():
        return []
    try:
        trials = ss.Result("steered", folder / "slurm-sweeps").trials
    except (ss.ExperimentNotFoundError, EmptyDatabaseError):  # the driver is just making them
        return []
    return [trial for trial in trials if trial.status is status]


def wait_for(folder: Path, check: Callable[[], object]) -> None:
    wait_until(check, 60, lambda: call(folder, "list", code=0))


def test_prune_one_then_stop_then_retry(scripts: Scripts) -> None:
    folder = scripts.folder
    with scripts.start(SWEEP.replace("STOP", "100_000")) as driver:
        wait_for(folder, lambda: any(t.metrics for t in find(folder, Status.RUNNING)))
        wait_for(folder, lambda: find(folder, Status.FAILED))
        victim = find(folder, Status.RUNNING)[0].trial_id

        said = call(folder, "stop", "steered", "--trial", victim[:10])
        assert f"the driver is told: trial {victim} is to stop" in said
        wait_for(folder, lambda: find(folder, Status.PRUNED))
        assert [trial.trial_id for trial in find(folder, Status.PRUNED)] == [victim]
        said = call(folder, "stop", "steered", "--trial", victim, code=2)
        assert f"trial {victim} is pruned; only a running one can be pruned" in said
        assert driver.poll() is None

        failed = find(folder, Status.FAILED)[0].trial_id
        said = call(folder, "retry", "steered", "--failed")
        assert "1 failed trial is marked: the script, run with restore=True, tries" in said
        assert "the driver is told: experiment 'steered'" in call(folder, "stop", "steered")
        text, _ = driver.communicate(timeout=60)
        assert driver.returncode == 75, text
    assert f"trial {victim} is pruned as someone asked" in text
    assert "stop request: starting nothing new" in text
    assert call(folder, "list", "--json").count('"state": "stopped"') == 1

    interrupted = find(folder, Status.INTERRUPTED)[0].trial_id
    scripts.run(SWEEP.replace("STOP", "3"))
    told = json.loads(call(folder, "trial", "steered", interrupted, "--json"))
    times = [each["end_time"] - each["start_time"] for each in told["attempts"]]
    assert len(times) == 2
    assert told["runtime_s"] == pytest.approx(sum(times))
    shown = json.loads(call(folder, "show", "steered", "--json"))["trials"]
    assert told["runtime_s"] in [each["runtime_s"] for each in shown]
    assert "run 2: took" in call(folder, "show", "steered")
    retried = {trial.trial_id: trial for trial in find(folder, Status.COMPLETED)}
    assert retried[failed].attempt == 2
    assert [trial.trial_id for trial in find(folder, Status.PRUNED)] == [victim]


def test_watch_and_follow_until_the_end(scripts: Scripts) -> None:
    folder = scripts.folder
    followed, watched = folder / "followed.txt", folder / "watched.txt"

    @contextlib.contextmanager
    def start(output: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        argv = [sys.executable, "-m", "slurm_sweeps", *arguments]
        with output.open("wb") as file, subprocess.Popen(argv, cwd=folder, stdout=file) as process:
            try:
                yield process
            finally:
                process.kill()

    with (
        start(watched, "watch", "steered", "--interval", "0.2") as watch,
        scripts.start(SWEEP.replace("STOP", "100_000")) as driver,
    ):
        wait_for(folder, lambda: any(t.metrics for t in find(folder, Status.RUNNING)))
        trial_id = next(t.trial_id for t in find(folder, Status.RUNNING) if t.metrics)
        with start(followed, "logs", "steered", trial_id, "--follow") as follow:
            wait_for(folder, lambda: "iteration 1\n" in followed.read_text())
            wait_for(folder, lambda: "steered: running" in watched.read_text())
            (folder / "enough").touch()
            assert follow.wait(60) == 0
            assert watch.wait(60) == 0
        driver.communicate(timeout=60)
    (trial,) = (t for t in find(folder, Status.COMPLETED) if t.trial_id == trial_id)
    assert trial.metrics is not None
    assert followed.read_text().splitlines() == [f"iteration {i}" for i in trial.metrics["loss"]]
    assert "steered: completed, 6 of 6 done (100%)" in watched.read_text()


def test_a_report_is_kept_in_the_folder(scripts: Scripts) -> None:
    pytest.importorskip("plotly")
    source = SWEEP.replace("STOP", "3").replace("summary_interval_in_sec=1", "report=True")
    scripts.run(source)
    page = (scripts.folder / "slurm-sweeps" / "steered" / "report.html").read_text()
    assert "completed, as of" in page
    assert "this page loads itself again" not in page
