"""What a driver that died has not stored is handed in from journals; what it has stored stays."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.experiment.hand_in import hand_in
from slurm_sweeps.running.channel import Record, encode
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import LeaseOwner, ReportRecord, TrialRecord
from slurm_sweeps.storage.rows import (
    read_attempts,
    read_metrics_of_trial,
    read_trials,
    write_records,
)
from slurm_sweeps.trial import Status, canonical_json, compute_trial_id


class Stored:
    """An experiment whose driver has died, and its journals."""

    def __init__(self, folder: Path, database: Database, owner: LeaseOwner) -> None:
        self.layout = Layout(folder, "a")
        self.layout.slots.mkdir(parents=True)
        self.database, self.owner = database, owner
        self.key = database.create_experiment("a", {}, 0.0, owner).id
        self.notices: list[str] = []

    def store(self, *records: TrialRecord | ReportRecord) -> None:
        write_records(self.database, self.key, records)

    def journal(self, *records: Any, slot: int = 0, rank: str = "") -> None:
        file = self.layout.slots / f"slot-{slot}{rank}.journal"
        with file.open("ab") as journal:
            journal.write(b"".join(map(encode, records)))

    def hand_in(self) -> TrialRecord:
        """Hand in; return the last trial."""
        hand_in(self.database, self.key, self.owner, self.layout, self.notices.append)
        assert self.layout.find_journals() == []
        return read_trials(self.database, self.key)[-1]

    def losses(self, number: int = 0) -> dict[int, float]:
        return read_metrics_of_trial(self.database, self.key, number).get("loss", {})

    def attempts(self) -> list[tuple[int, int, Status]]:
        found = read_attempts(self.database, self.key)
        return [(each.number, each.attempt, each.status) for each in found]


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    with Database.open(tmp_path / "slurm-sweeps.db", create=True) as database:
        yield Stored(tmp_path, database, build_owner())


def build_cfg(number: int) -> dict[str, float]:
    return {"x": float(number)}


def build_trial(
    status: Status = Status.RUNNING, attempt: int = 1, number: int = 0, **more: Any
) -> TrialRecord:
    cfg = build_cfg(number)
    start = {} if status is Status.SCHEDULED else {"start_time": 10.0}
    more = {"status": status, "attempt": attempt, **start, **more}
    return TrialRecord(number, compute_trial_id(cfg), 0, canonical_json(cfg), **more)


def run(attempt: int = 1, number: int = 0, **more: Any) -> Record:
    cfg = build_cfg(number)
    head = {"kind": "run", "number": number, "attempt": attempt, "dir": "d", "slot": 4}
    return {**head, "trial_id": compute_trial_id(cfg), "cfg": cfg, "at": 11.0, **more}


def log(iteration: int, loss: float, attempt: int = 1, number: int = 0) -> Record:
    key = {"number": number, "attempt": attempt, "iteration": iteration}
    return {"kind": "report", **key, "metrics": {"loss": loss}, "at": 20.0 + iteration}


def end(how: str = "completed", attempt: int = 1, number: int = 0, **more: Any) -> Record:
    return {"kind": "ended", "how": how, "number": number, "attempt": attempt, "at": 30.0, **more}


def logged(iteration: int, loss: float, attempt: int = 1, number: int = 0) -> ReportRecord:
    return ReportRecord(number, attempt, iteration, {"loss": loss}, 5.0)


def test_reports_that_are_missing_are_handed_in_once(stored: Stored) -> None:
    stored.store(build_trial(), logged(1, 0.1), logged(2, math.nan))
    stored.journal(run(), log(1, 0.1), log(2, math.nan), log(3, 0.3), log(4, math.inf))
    assert stored.hand_in() == build_trial()
    assert stored.losses() == pytest.approx({1: 0.1, 2: math.nan, 3: 0.3, 4: math.inf}, nan_ok=True)
    assert stored.notices == [
        "the driver before has died: 2 reports and 0 changes of trials, which it had not stored "
        "yet, were taken from its trials' journals"
    ]
    stored.hand_in()
    assert len(stored.notices) == 1


@pytest.mark.parametrize(
    ("ended", "status"),
    [
        (end(), Status.COMPLETED),
        (end("pruned", do="prune"), Status.PRUNED),
        (end("pruned", do="pause"), Status.PAUSED),
        (end("failed", exit_code=3, error_type="E", message="m", traceback="t"), Status.FAILED),
    ],
)
def test_an_end_is_handed_in(stored: Stored, ended: Record, status: Status) -> None:
    stored.store(build_trial())
    stored.journal(run(), log(1, 0.1), ended)
    trial = stored.hand_in()
    assert (trial.status, trial.start_time, trial.end_time) == (status, 10.0, 30.0)
    if status is Status.FAILED:
        assert trial.error is not None
        assert (trial.exit_code, trial.error.type, trial.error.message) == (3, "E", "m")


@pytest.mark.parametrize(
    ("by_child", "status"),
    [
        (end("pruned", child=True), Status.PRUNED),
        (end("pruned", child=True, do="pause"), Status.PAUSED),
        (end("failed", child=True, error_type="UsageError", message="no"), Status.FAILED),
        (end("interrupted", child=True, do="stop"), Status.RUNNING),  # it is run again
    ],
)
def test_what_a_child_has_said_of_the_end_stands(
    stored: Stored, by_child: Record, status: Status
) -> None:
    """Once its trial has ended, which may have taken no note of it; before, it goes on."""
    stored.store(build_trial(), build_trial(number=1))
    stored.journal(run(), end())
    stored.journal(run(), log(1, 0.1), by_child, rank=".child1")
    stored.journal(run(number=1), {**by_child, "number": 1}, rank=".child2")
    assert stored.hand_in().status is Status.RUNNING
    assert read_trials(stored.database, stored.key)[0].status is status
    assert stored.losses() == {1: 0.1}


def test_reports_of_several_processes_are_handed_in_as_they_came(stored: Stored) -> None:
    stored.store(build_trial())
    stored.journal(run(), {**log(1, 0.1), "at": 20.0}, {**log(2, 0.3), "at": 22.0})
    stored.journal(run(), {**log(2, 0.2), "at": 21.0}, {**log(3, 0.4), "at": 23.0}, rank=".child1")
    stored.hand_in()
    assert stored.losses() == {1: 0.1, 2: 0.3, 3: 0.4}


@pytest.mark.parametrize(("counts", "at"), [({}, 3), ({"counts": True}, 6)])
def test_what_train_has_returned_is_handed_in(
    stored: Stored, counts: dict[str, bool], at: int
) -> None:
    stored.store(build_trial(), logged(5, 0.5))
    last = end(iteration=3, metrics={"loss": 0.7}, **counts)
    stored.journal(run(), log(1, 0.1), last)
    assert stored.hand_in().status is Status.COMPLETED
    assert stored.losses() == {1: 0.1, 5: 0.5, at: 0.7}


def test_a_trial_of_several_ranks_has_ended_when_all_have(stored: Stored) -> None:
    stored.store(build_trial(), build_trial(number=1))
    for number in (0, 1):
        stored.journal(run(number=number), end(number=number, rank=0, world_size=2), slot=number)
    stored.journal(end(number=1, rank=1, world_size=2), slot=1, rank=".1")
    stored.hand_in()
    statuses = [trial.status for trial in read_trials(stored.database, stored.key)]
    assert statuses == [Status.RUNNING, Status.COMPLETED]


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.LOST, Status.INTERRUPTED])
def test_what_has_ended_in_the_database_stays_as_it_is(stored: Stored, status: Status) -> None:
    stored.store(build_trial(status), logged(1, 0.1))
    stored.journal(run(), log(1, 9.0), log(2, 9.0), end("failed"))
    assert stored.hand_in() == build_trial(status)
    assert stored.losses() == {1: 0.1}
    assert stored.notices == []


def test_what_a_later_attempt_has_logged_again_stands(stored: Stored) -> None:
    """Whichever journal is read first."""
    stored.store(build_trial(attempt=2), logged(1, 0.2, attempt=2))
    stored.journal(run(), log(1, 0.1), log(2, 0.1), slot=0)
    stored.journal(run(2), log(2, 0.2, attempt=2), slot=1)
    stored.hand_in()
    assert stored.losses() == {1: 0.2, 2: 0.2}


@pytest.mark.parametrize("before", [Status.RUNNING, Status.SCHEDULED])
def test_attempts_that_are_not_stored_are_handed_in(stored: Stored, before: Status) -> None:
    stored.store(build_trial(before))
    stored.journal(run(2), log(2, 0.2, attempt=2), log(3, 0.3, attempt=2), slot=0)
    stored.journal(run(), log(1, 0.1), log(2, 0.1), slot=1)
    trial = stored.hand_in()
    assert (trial.status, trial.attempt, trial.lost_count, trial.slot) == (Status.RUNNING, 2, 1, 4)
    assert stored.attempts() == [(0, 1, Status.LOST), (0, 2, Status.RUNNING)]
    assert stored.losses() == {1: 0.1, 2: 0.2, 3: 0.3}


@pytest.mark.parametrize(
    ("before", "lost"),
    [(None, [1, 2]), (Status.SCHEDULED, [1, 2]), (Status.RUNNING, [1, 2]), (Status.FAILED, [2])],
)
def test_attempts_that_had_no_word_to_say_were_lost(
    stored: Stored, before: Status | None, lost: list[int]
) -> None:
    """Killed before their first report, they are in no journal."""
    if before is not None:
        stored.store(build_trial(before))
    stored.journal(run(3), log(1, 0.3, attempt=3))
    trial = stored.hand_in()
    assert (trial.attempt, trial.status, trial.lost_count) == (3, Status.RUNNING, len(lost))
    first = [(0, 1, before)] if before is Status.FAILED else []
    assert stored.attempts() == [
        *first,
        *((0, attempt, Status.LOST) for attempt in lost),
        (0, 3, Status.RUNNING),
    ]


def test_a_trial_that_is_not_stored_is_handed_in(stored: Stored) -> None:
    stored.store(build_trial())
    stored.journal(run(number=2, repetition=0), log(1, 0.1, number=2), end(number=2))
    trial = stored.hand_in()
    assert trial == dataclasses.replace(
        build_trial(Status.COMPLETED, number=2), slot=4, start_time=11.0, end_time=30.0
    )
    assert stored.losses(2) == {1: 0.1}


@pytest.mark.parametrize("is_stored", [True, False])
def test_what_a_trial_has_drawn_as_it_ran_is_handed_in(stored: Stored, is_stored: bool) -> None:
    if is_stored:
        stored.store(build_trial())
    key = {"kind": "suggest", "number": 0, "attempt": 1}
    asks = [{"name": "y", "value": 0.5}, {"name": "z", "value": None}, {"name": "cut"}, {}]
    stored.journal(run(repetition=0), *({**key, "ask": ask} for ask in asks), log(1, 0.1), end())
    trial = stored.hand_in()
    assert json.loads(trial.cfg_json) == {"x": 0.0, "y": 0.5, "z": None}
    assert (trial.status, trial.trial_id) == (Status.COMPLETED, compute_trial_id(build_cfg(0)))


def test_what_belongs_to_no_trial_is_left_aside(stored: Stored) -> None:
    """One without its `run`, one whose cfg is not what its id says, one that is another's."""
    stored.store(build_trial(Status.SCHEDULED))
    stored.journal(log(1, 0.1, number=1), end(number=1))
    stored.journal(run(number=2, cfg={"x": 3.0}), log(1, 0.1, number=2))
    stored.journal(run(trial_id="0123456789ab"), log(1, 0.1), end())
    assert stored.hand_in() == build_trial(Status.SCHEDULED)
    assert stored.losses() == {}


def test_strange_pieces_are_told(stored: Stored) -> None:
    stored.store(build_trial())
    (stored.layout.slots / "slot-7.journal").write_bytes(b"\x1e{}\nabc\x1e[1,")
    stored.hand_in()
    assert stored.notices == ["2 pieces of journals were cut short or made no sense: left aside"]


def log_one(cfg: dict[str, Any]) -> None:
    ss.log({"loss": cfg["x"]}, ss.attempt())


@pytest.mark.processes
def test_what_was_drawn_before_a_trial_is_drawn_again(tmp_path: Path) -> None:
    """Trial 3 had begun and reported, trial 2 had not come to that."""

    def sweep(folder: str, n_trials: int) -> list[ss.Trial]:
        space = {"x": ss.Uniform(0, 1)}
        experiment = ss.Experiment(log_one, space, "a", tmp_path / folder, restore="auto", seed=1)
        return experiment.run(n_trials, 1, summary_interval_in_sec=60).trials

    undisturbed = sweep("undisturbed", 5)
    sweep("killed", 2)
    cfg, trial_id = undisturbed[3].cfg, undisturbed[3].trial_id
    head = run(number=3, trial_id=trial_id, cfg=cfg, at=time.time())
    journal = Layout(tmp_path / "killed", "a").slot_journal(0)
    journal.write_bytes(encode(head) + encode(log(1, cfg["x"], number=3)))
    trials = sweep("killed", 5)
    assert [trial.cfg for trial in trials] == [trial.cfg for trial in undisturbed]
    assert [trial.attempt for trial in trials] == [1, 1, 1, 2, 1]
    assert trials[3].metrics == {"loss": {1: cfg["x"], 2: cfg["x"]}}
