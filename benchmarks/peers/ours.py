"""slurm-sweeps, this checkout: every trial a process of its own, in a persistent store."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common

import slurm_sweeps as ss

SPACE = {"x": ss.Uniform(0, 1)}


ASHA = ss.ASHA("loss", "min", reduction_factor=common.REDUCTION_FACTOR)


def build_experiment(train: object, folder: Path, **options: object) -> ss.Experiment:
    return ss.Experiment(train, SPACE, local_dir=folder, seed=0, **options)


def trivial(task: common.Task) -> None:
    def train(cfg: dict) -> None:
        ss.log({"loss": cfg["x"]}, 1)

    experiment = build_experiment(train, task.folder)
    with common.trivial_trials(task.n):
        result = experiment.run(task.n, max_concurrent_trials=common.SLOTS)
    common.check(sum(trial.status == "completed" for trial in result.trials), task.n)


def program(task: common.Task) -> None:
    experiment = build_experiment(ss.Program([common.PROGRAM]), task.folder)
    with common.trivial_trials(task.n):
        result = experiment.run(task.n, max_concurrent_trials=common.SLOTS)
    common.check(sum(trial.status == "completed" for trial in result.trials), task.n)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def train(cfg: dict) -> None:
        for iteration in range(1, common.EPOCHS + 1):
            common.epoch(mark)
            ss.log({"loss": common.compute_loss(cfg["x"], iteration)}, iteration)

    experiment = build_experiment(train, task.folder, asha=ASHA)
    with common.epochs_of(task.folder):
        result = experiment.run(task.n, max_concurrent_trials=common.SLOTS)
    common.check(sum(bool(trial.metrics) for trial in result.trials), task.n)


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")

    def train(_cfg: dict) -> None:
        common.write_now(mark)
        ss.log({"loss": 0.0}, 1)

    experiment = build_experiment(train, task.folder)
    started = time.time()
    experiment.run(1, max_concurrent_trials=common.SLOTS)
    common.emit_first_line(task.folder, started)


def report(task: common.Task) -> None:
    spans = task.folder / "spans.json"

    def train(_cfg: dict) -> None:
        timed = common.time_reports(lambda loss, iteration: ss.log({"loss": loss}, iteration))
        spans.write_text(json.dumps(timed))

    before = write_history(task, train) if task.rows else 0
    experiment = build_experiment(train, task.folder, asha=ASHA, restore="auto")
    experiment.run(before + 1, max_concurrent_trials=1)
    common.emit_reports(json.loads(spans.read_text()))


def write_history(task: common.Task, train: object) -> int:
    """Put an earlier sweep into the store; return how many trials it had."""
    from slurm_sweeps.storage.database import Database
    from slurm_sweeps.storage.layout import Layout
    from slurm_sweeps.storage.records import ReportRecord, TrialRecord
    from slurm_sweeps.storage.writer import Writer
    from slurm_sweeps.trial import Status, compute_trial_id

    experiment = build_experiment(train, task.folder, asha=ASHA)
    experiment.run(1, max_concurrent_trials=1)
    layout = Layout(task.folder, experiment.name)
    number = 0
    with Database.open(layout.database) as database:
        record = database.experiment(experiment.name)
        with Writer(database.path, record.id) as writer:
            for number, x, reports in common.iterate_history(task.rows):
                cfg = {"x": x}
                trial = TrialRecord(
                    number=number + 1,
                    trial_id=compute_trial_id(cfg),
                    repetition=0,
                    cfg_json=json.dumps(cfg),
                    status=Status.COMPLETED,
                    start_time=time.time(),
                    end_time=time.time(),
                )
                writer.put(trial)
                for iteration in range(1, reports + 1):
                    metrics = {"loss": common.compute_loss(x, iteration)}
                    writer.put(ReportRecord(number + 1, 1, iteration, metrics, time.time()))
            writer.flush()
    return number + 2


if __name__ == "__main__":
    common.main(
        {
            "trivial": trivial,
            "program": program,
            "readme": readme,
            "first_line": first_line,
            "report": report,
        }
    )
