"""What must hold of a sweep that is over, whatever was done to it: an independent look.

It reads the database by SQL of its own and the files that trials wrote by themselves (`told`), and
imports nothing of slurm_sweeps: a mistake that this makes twice, once in writing and once in
reading, is seen here. It finds all faults, in words, and raises nothing.

A trial's file has a line for each thing that its `train` did: `asks` before an iteration's
checkpoint and `log`, `answered` when `log` has returned or raised what it raises by an answer,
`ended` right before `train` returns; with the attempt, the process, and the iteration.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Expected(NamedTuple):
    """What a sweep is to be in the end."""

    n_trials: int
    iterations: int  # of a trial that is complete
    statuses: frozenset[str]  # that its trials may have
    has_checkpoints: bool  # or every attempt begins anew


class Run(NamedTuple):
    """A process of a trial: two have the same attempt where the first was never stored."""

    attempt: int
    pid: int


@dataclass
class Told:
    """What a trial wrote down."""

    asked: dict[Run, list[int]] = field(default_factory=lambda: defaultdict(list))
    answered: dict[Run, list[int]] = field(default_factory=lambda: defaultdict(list))
    ended: set[Run] = field(default_factory=set)

    def find_runs(self, attempt: int) -> list[Run]:
        return [run for run in self.asked if run.attempt == attempt]


class Stored(NamedTuple):
    """A trial in the database."""

    number: int
    trial_id: str
    status: str
    attempt: int
    cfg: dict[str, Any]
    attempts: dict[int, str]  # their statuses
    reports: dict[int, tuple[float, int]]  # by iteration: the loss, and of which attempt


def compute_loss(cfg: dict[str, Any], iteration: int) -> float:
    """What every trial is to log."""
    loss: float = cfg["x"] + 1 / iteration
    return loss


def find_faults(local_dir: Path, expected: Expected) -> list[str]:
    """Look at the one sweep in a folder; say all that is wrong with it."""
    database = local_dir / "slurm-sweeps.db"
    trials, told = read_trials(database), read_told(local_dir)
    faults = [*_check_file(database), *_check_list(trials, expected)]
    for trial in trials:
        said = told.pop(trial.trial_id, Told())
        for found in (
            *_check_attempts(trial, said),
            *_check_reports(trial, said, expected),
            *_check_answers(trial, said),
        ):
            faults.append(f"trial {trial.number} ({trial.trial_id}): {found}; {trial}, {said}")
    for trial_id, said in told.items():
        if said.answered:
            faults.append(f"trial {trial_id} is not in the database; {said}")
    return faults


def read_rows(database: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def read_trials(database: Path) -> list[Stored]:
    """Read all trials, by number."""
    attempts: dict[int, dict[int, str]] = defaultdict(dict)
    for number, attempt, status in read_rows(
        database, "SELECT number, attempt, status FROM attempts"
    ):
        attempts[number][attempt] = status
    reports: dict[int, dict[int, tuple[float, int]]] = defaultdict(dict)
    for number, iteration, value, attempt in read_rows(
        database,
        "SELECT number, iteration, value, attempt FROM metrics WHERE metric_id = "
        "(SELECT id FROM metric_names WHERE name = 'loss')",
    ):
        reports[number][iteration] = (value, attempt)
    rows = read_rows(
        database, "SELECT number, trial_id, status, attempt, cfg FROM trials ORDER BY number"
    )
    return [
        Stored(number, trial_id, status, attempt, json.loads(cfg), attempts[number],
               reports[number])
        for number, trial_id, status, attempt, cfg in rows
    ]  # fmt: skip


def read_told(local_dir: Path) -> dict[str, Told]:
    """Read what trials have written down, by their ids."""
    found: dict[str, Told] = {}
    for file in local_dir.glob("*/*/told"):
        told = found[file.parent.name] = Told()
        for line in file.read_text().splitlines():
            what, attempt, pid, iteration = line.split()
            run = Run(int(attempt), int(pid))
            if what == "asks":
                told.asked[run].append(int(iteration))
            elif what == "answered":
                told.answered[run].append(int(iteration))
            else:
                told.ended.add(run)
    return found


def _check_file(database: Path) -> Iterator[str]:
    """Whether the file is sound, its sums are right, and nobody holds it any more."""
    for look, good in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
        if (said := read_rows(database, f"PRAGMA {look}")) != good:
            yield f"PRAGMA {look} says {said}"
    experiments = read_rows(database, "SELECT state, lease_host, lease_pid FROM experiments")
    if experiments != [("completed", None, None)]:
        yield f"the experiment is left as {experiments}"
    sums = "count(*), min(iteration), max(iteration), min(value), max(value)"
    computed = f"SELECT number, metric_id, {sums} FROM metrics GROUP BY number, metric_id"
    stored = (
        "SELECT number, metric_id, count, first_iteration, last_iteration, min_value, max_value "
        "FROM aggregates"
    )
    for row in set(read_rows(database, computed)) ^ set(read_rows(database, stored)):
        yield f"an aggregate is not what its metrics give: {row}"


def _check_list(trials: list[Stored], expected: Expected) -> Iterator[str]:
    """Whether every trial is there exactly once, with a final status."""
    numbers = [trial.number for trial in trials]
    if numbers != list(range(expected.n_trials)):
        yield f"the trials are {numbers}"
    if len({trial.trial_id for trial in trials}) != len(trials):
        yield f"ids are there twice: {[trial.trial_id for trial in trials]}"
    for trial in trials:
        if trial.status not in expected.statuses:
            yield f"trial {trial.number} is left as {trial.status!r}; {trial}"


def _check_attempts(trial: Stored, said: Told) -> Iterator[str]:
    """Whether a trial's attempts are all there, and ended as `train` did."""
    if sorted(trial.attempts) != list(range(1, trial.attempt + 1)):
        yield "attempts are missing"
    if trial.attempts.get(trial.attempt) != trial.status:
        yield "its last attempt ended in another way"
    for attempt, status in trial.attempts.items():
        if status in ("scheduled", "running"):
            yield f"attempt {attempt} is left as {status}"
        runs = said.find_runs(attempt)
        have_ended = {run in said.ended for run in runs}
        if status == "completed" and have_ended and True not in have_ended:
            yield f"attempt {attempt} is called complete, and train did not reach its end"
        if status in ("pruned", "paused", "failed") and have_ended == {True}:
            yield f"attempt {attempt} is called {status}, and train reached its end"


def _check_reports(trial: Stored, said: Told, expected: Expected) -> Iterator[str]:
    """Whether what is stored was logged, and nothing that a complete trial logged is missing."""
    for iteration, (loss, attempt) in trial.reports.items():
        if loss != compute_loss(trial.cfg, iteration):
            yield f"the loss of iteration {iteration} is wrong"
        if not any(iteration in said.asked[run] for run in said.find_runs(attempt)):
            yield f"attempt {attempt} never logged iteration {iteration}"
    if trial.status != "completed":
        return
    heard_of = {iteration for its in said.answered.values() for iteration in its}
    cut_off = {asked[-1] for asked in said.asked.values()}
    for iteration in {*range(1, expected.iterations + 1)} - {*trial.reports}:
        if not expected.has_checkpoints:
            yield f"iteration {iteration} is missing, and an attempt that logs all is complete"
        # Killed between its checkpoint and its report, a trial goes on behind that report. One that
        # was answered is looked at by `_check_answers`.
        elif iteration not in heard_of | cut_off:
            yield f"iteration {iteration} is missing, and no attempt was killed there"


def _check_answers(trial: Stored, said: Told) -> Iterator[str]:
    """Whether each report that was answered is stored."""
    for run, answered in said.answered.items():
        for iteration in sorted({*answered} - {*trial.reports}):
            yield f"iteration {iteration} of attempt {run.attempt} was answered and is missing"
