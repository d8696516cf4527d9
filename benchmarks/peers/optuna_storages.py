"""Optuna with the storage that the environment variable BENCH_STORAGE names.

`memory`: trials are calls in threads of one process. `journal` and `sqlite`: two processes work on
one study, as its documentation has it; short trials go faster in one, so `trivial` uses one. No
trial is a process of its own: what one leaves behind, or breaks, the next one finds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import optuna
from optuna.distributions import FloatDistribution

optuna.logging.set_verbosity(optuna.logging.ERROR)
STORAGE = os.environ.get("BENCH_STORAGE", "memory")


def build_storage(folder: Path) -> object:
    if STORAGE == "memory":
        return optuna.storages.InMemoryStorage()
    if STORAGE == "journal":
        backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
        return optuna.storages.JournalStorage(backend)
    return optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")


def build_study(folder: Path, asha: bool) -> optuna.Study:
    factor = common.REDUCTION_FACTOR
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    return optuna.create_study(
        study_name="bench",
        storage=build_storage(folder),
        sampler=optuna.samplers.RandomSampler(),
        pruner=pruner if asha else optuna.pruners.NopPruner(),
        direction="minimize",
        load_if_exists=True,
    )


def trivial(task: common.Task) -> None:
    def objective(trial: optuna.Trial) -> float:
        loss = trial.suggest_float("x", 0, 1)
        trial.report(loss, 1)
        return loss

    study = build_study(task.folder, asha=False)
    with common.trivial_trials(task.n):
        study.optimize(objective, n_trials=task.n)
    common.check(len(study.trials), task.n)


def readme(task: common.Task) -> None:
    mark = str(task.folder / "epochs")

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        for iteration in range(1, common.EPOCHS + 1):
            common.epoch(mark)
            trial.report(common.compute_loss(x, iteration), iteration)
            if trial.should_prune():
                raise optuna.TrialPruned
        return common.compute_loss(x, iteration)

    study = build_study(task.folder, asha=True)
    with common.epochs_of(task.folder):
        if STORAGE == "memory":
            study.optimize(objective, n_trials=task.n, n_jobs=common.SLOTS)
        else:
            run_processes(task, objective)
    # Two processes may both begin a last one.
    common.check(min(len(study.trials), task.n), task.n)


def run_processes(task: common.Task, objective: Callable[[optuna.Trial], float]) -> None:
    """Let two forks of this process work on the study until it has its trials."""
    limit = optuna.study.MaxTrialsCallback(task.n, states=None)

    def work() -> None:
        build_study(task.folder, asha=True).optimize(objective, callbacks=[limit])

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work) for _ in range(common.SLOTS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def first_line(task: common.Task) -> None:
    mark = str(task.folder / "first")

    def objective(_trial: optuna.Trial) -> float:
        common.write_now(mark)
        return 0.0

    started = time.time()
    build_study(task.folder, asha=True).optimize(objective, n_trials=1)
    common.emit_first_line(task.folder, started)


def report(task: common.Task) -> None:
    study = build_study(task.folder, asha=True)
    study.add_trials(
        optuna.trial.create_trial(
            params={"x": x},
            distributions={"x": FloatDistribution(0, 1)},
            intermediate_values={i: common.compute_loss(x, i) for i in range(1, reports + 1)},
            value=x,
        )
        for _, x, reports in common.iterate_history(task.rows)
    )
    trial = study.ask({"x": FloatDistribution(0, 1)})

    def log(loss: float, iteration: int) -> None:
        trial.report(loss, iteration)
        trial.should_prune()

    common.emit_reports(common.time_reports(log))


if __name__ == "__main__":
    common.main({"trivial": trivial, "readme": readme, "first_line": first_line, "report": report})
