"""Sweeps for the tests of views, written into a real database without running any trial."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import slurm_sweeps as ss
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.records import LeaseOwner, ReportRecord, StateRecord, TrialRecord
from slurm_sweeps.storage.rows import (
    write_records,
)
from slurm_sweeps.trial import Status, TrialError, compute_trial_id

#: When all samples began, seconds since 1970.
START = 1_700_000_000.0

SPACE: dict[str, Any] = {
    "opt": {"lr": ss.LogUniform(1e-5, 1.0), "name": ss.Choice(["adam", "sgd", None])},
    "width": ss.LogInteger(8, 512),
    "extra": ss.Choice([{"kind": "a", "p": ss.Uniform(0, 1)}, {"kind": "b"}]),
    "fixed": "yes",
}


def write_sample(
    local_dir: Path,
    name: str = "sample",
    statuses: Sequence[Status] = (),
    *,
    iterations: int = 6,
    space: dict[str, Any] | None = None,
    nan: bool = False,
    state: str = "completed",
    slots: int = 2,
    asha: bool = True,
    heard_at: float | None = None,
) -> Layout:
    """Write an experiment whose trial number k reports `loss` = k + 1/iteration.

    A pruned trial stops after 2 iterations, a failed one after 1; a running one is at its 3rd.

    Args:
        statuses: One for each trial.
        nan: Whether all values are NaN.
        heard_at: When a driver on another host gave its last sign of life; None for no driver.
    """
    search = SearchSpace(SPACE if space is None else space)
    settings: dict[str, Any] = {
        "version": "1.0.0",
        "seed": 1,
        "space": search.describe(),
        "metric": "loss" if asha else None,
        "mode": "min" if asha else None,
        "asha": None,
        "n_trials": len(statuses) + (3 if state == "running" else 0),
        "slots": slots,
        "started_at": START,
        "done_before": 0,
    }
    if asha:
        settings["asha"] = {"metric": "loss", "mode": "min", "max_t": iterations, "rungs": [1, 4]}
    layout = Layout(local_dir, name)
    rng = np.random.default_rng(0)
    with Database.open(layout.database, create=True) as database:
        key = database.create_experiment(name, settings, START).id
        records: list[Any] = []
        for number, status in enumerate(statuses):
            cfg = search.sample(rng)
            records += build_trial(number, cfg, status, iterations, nan, slots)
        write_records(database, key, [*records, StateRecord(state)])
        if heard_at is not None:
            owner = LeaseOwner("elsewhere", 1, None, "", "nonce")
            assert database.take_lease(key, owner, heard_at, None)
    return layout


#: What steers a terminal, forges a line, opens an element and ends a script.
NASTY = "\x1b]0;x\x07\x9b2J\nforged line</script><img src=x onerror=document.title='owned'>"


def write_foreign(local_dir: Path, trial_id: str = NASTY) -> Layout:
    """Write an experiment as a stranger might: its every text, ids too, is `NASTY`."""
    settings = {"metric": NASTY, "mode": "min", "n_trials": 2, "slots": 1, NASTY: NASTY}
    settings["space"] = {NASTY: {"$space": "Uniform", "args": [0, 1]}, "fixed": NASTY}
    layout = Layout(local_dir, "foreign")
    fate = {"host": NASTY, "gpus": NASTY, "slot": 0, "start_time": START}
    records: list[Any] = []
    for number, value in enumerate([0.5, NASTY]):
        known = (number, f"{trial_id}{number}", 0, json.dumps({NASTY: value, "fixed": NASTY}))
        error = TrialError(NASTY, NASTY, NASTY)
        ended = {"end_time": START + 9, "error": error if number else None}
        status = Status.FAILED if number else Status.COMPLETED
        records.append(TrialRecord(*known, status=Status.RUNNING, **fate))
        records += [ReportRecord(number, 1, at, {NASTY: 1 / at}, START + at) for at in (1, 2)]
        records.append(TrialRecord(*known, status=status, **fate, **ended))
    with Database.open(layout.database, create=True) as database:
        key = database.create_experiment("foreign", settings, START).id
        write_records(database, key, [*records, StateRecord(NASTY)])
    return layout


def build_trial(
    number: int, cfg: dict[str, Any], status: Status, iterations: int, nan: bool, slots: int
) -> list[Any]:
    """The records of one trial; it takes 10 s, one after another in each slot."""
    begin = START + 10.0 * (number // slots)
    error = None
    if status is Status.FAILED:
        error = TrialError(
            "ValueError", "the <b>rate</b>\nis too large", "Traceback\nValueError: x"
        )
    length = {Status.PRUNED: 2, Status.FAILED: 1, Status.RUNNING: 3}.get(status, iterations)
    trial = TrialRecord(
        number,
        compute_trial_id(cfg, number),
        number,
        json.dumps(cfg),
        status=Status.RUNNING,
        slot=number % slots,
        host=f"n{number % slots}",
        start_time=begin,
    )
    reports = [
        ReportRecord(
            number,
            1,
            at,
            {"loss": math.nan if nan else number + 1 / at, "val/acc": 1 - 1 / at},
            begin + 10.0 * at / length,
        )
        for at in range(1, length + 1)
    ]
    if status is Status.RUNNING:
        return [trial, *reports]
    ended = replace(trial, status=status, end_time=begin + 10.0, error=error)
    return [trial, *reports, ended]
