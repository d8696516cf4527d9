"""What a driver that died has not stored any more: its trials' journals know it.

Before a sweep goes on, what its database lacks is handed in from the journals of its slots:
reports, ends of trials, and trials that had begun. It counts as if it had come live.

Records are committed in order, so only attempts of which the database has no end are looked at. A
record of a trial that neither the database nor its own journal knows is left aside.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import StorageError
from ..running.attempts import judge_ends, parse_end
from ..running.channel import Record as Said
from ..running.journal import read_journals
from ..storage.database import Database
from ..storage.layout import Layout
from ..storage.records import LeaseOwner, Record, ReportRecord, TrialRecord
from ..storage.rows import read_metrics_of_trial, read_trial, write_records
from ..trial import Status, canonical_json, compute_trial_id


@dataclass(slots=True)
class _Attempt:
    """What the journals say of one attempt at a trial."""

    head: Said | None = None
    reports: list[Said] = field(default_factory=list)
    ends: dict[int, Said] = field(default_factory=dict)  # by rank
    ends_by_children: dict[int, Said] = field(default_factory=dict)  # which are for all of a rank
    drawn: dict[str, Any] = field(default_factory=dict)  # by the trial itself, as it ran


def hand_in(
    database: Database,
    experiment_id: int,
    owner: LeaseOwner,
    layout: Layout,
    notify: Callable[[str], None],
) -> None:
    """Write what the database lacks; then the journals are empty.

    Raises:
        StorageError: The database can't be written, or a journal not be removed.
    """
    files = layout.find_journals()
    said, n_strange = read_journals(files)
    records: list[Record] = []
    for number, attempts in _sort(said).items():
        stored = read_trial(database, experiment_id, number)
        metrics = read_metrics_of_trial(database, experiment_id, number)
        highest = max((max(curve) for curve in metrics.values()), default=0)
        begun, reports = _follow(stored, attempts, highest)
        records += begun
        records += [report for report in reports if not _is_stored(report, metrics)]
    if records:
        write_records(database, experiment_id, records, owner, time.time())
    for file in files:
        try:
            file.unlink()
        except OSError as error:
            raise StorageError(
                f"{file} can't be removed ({error.strerror}): mend that, then try again"
            ) from error
    n_reports = sum(isinstance(record, ReportRecord) for record in records)
    if records:
        notify(
            f"the driver before has died: {n_reports} reports and {len(records) - n_reports} "
            "changes of trials, which it had not stored yet, were taken from its trials' journals"
        )
    if n_strange:
        notify(f"{n_strange} pieces of journals were cut short or made no sense: left aside")


def _sort(said: Iterable[Said]) -> dict[int, dict[int, _Attempt]]:
    """Part what was said by trials, rising, and by their attempts, rising."""
    found: dict[tuple[int, int], _Attempt] = {}
    for record in said:
        if record["kind"] not in ("run", "report", "suggest", "ended") or "attempt" not in record:
            continue
        attempt = found.setdefault((record["number"], record["attempt"]), _Attempt())
        if record["kind"] == "run":
            attempt.head = record
        elif record["kind"] == "report":
            attempt.reports.append(record)
        elif record["kind"] == "suggest":
            ask = record["ask"]
            if isinstance(name := ask.get("name"), str) and "value" in ask:
                attempt.drawn[name] = ask["value"]
        else:
            ends = attempt.ends_by_children if record.get("child") else attempt.ends
            ends[record.get("rank", 0)] = record
    trials: dict[int, dict[int, _Attempt]] = {}
    for number, its in sorted(found):
        trials.setdefault(number, {})[its] = found[number, its]
    return trials


def _follow(
    trial: TrialRecord | None, attempts: dict[int, _Attempt], highest: int
) -> tuple[list[TrialRecord], list[ReportRecord]]:
    """Go through attempts at a trial, from what is stored on; `highest` is the last iteration."""
    records: list[TrialRecord] = []
    reports: list[ReportRecord] = []
    for number, attempt in attempts.items():
        if trial is not None and not _is_news(trial, number):
            continue
        begun = _begin(trial, number, attempt.head)
        if begun is None:
            continue
        lost = _find_lost(trial, begun)
        records += lost
        begun = dataclasses.replace(begun, lost_count=begun.lost_count + len(lost))
        if attempt.drawn:
            cfg = {**json.loads(begun.cfg_json), **attempt.drawn}
            begun = dataclasses.replace(begun, cfg_json=canonical_json(cfg))
        reports += [_build_report(report) for report in attempt.reports]
        ended = _end(begun, attempt)
        if ended.status is Status.COMPLETED and "metrics" in attempt.ends[0]:
            reports.append(_build_last_report(attempt, highest))
        if ended != trial:
            records.append(ended)
        trial = ended
    return records, reports


def _find_lost(trial: TrialRecord | None, begun: TrialRecord) -> list[TrialRecord]:
    """Describe the attempts before one that has begun of which nobody has said how they ended.

    One that was killed before it had a word to say is in no journal.
    """
    first = 1 if trial is None else trial.attempt
    if trial is not None and trial.status not in (Status.RUNNING, Status.SCHEDULED):
        first += 1
    lost: list[TrialRecord] = []
    for number in range(first, begun.attempt):
        is_stored = trial is not None and trial.status is Status.RUNNING and number == first
        known = trial if is_stored and trial is not None else begun
        count = begun.lost_count + len(lost) + 1
        lost.append(
            dataclasses.replace(
                known,
                attempt=number,
                status=Status.LOST,
                lost_count=count,
                end_time=begun.start_time,
            )
        )
    return lost


def _is_news(trial: TrialRecord, attempt: int) -> bool:
    """Whether the database may lack some of an attempt: it has no end of it."""
    if attempt == trial.attempt:
        return trial.status in (Status.RUNNING, Status.SCHEDULED)
    return attempt > trial.attempt


def _begin(trial: TrialRecord | None, attempt: int, head: Said | None) -> TrialRecord | None:
    """Describe a trial whose attempt has begun; None if nobody knows what it is."""
    if trial is not None and trial.status is Status.RUNNING and trial.attempt == attempt:
        return trial
    if head is None or (trial is not None and trial.trial_id != head["trial_id"]):
        return None
    cfg, repetition = head.get("cfg"), head.get("repetition", 0)
    if not isinstance(cfg, dict) or compute_trial_id(cfg, repetition) != head["trial_id"]:
        return None
    return TrialRecord(
        number=head["number"],
        trial_id=head["trial_id"],
        repetition=repetition,
        cfg_json=canonical_json(cfg) if trial is None else trial.cfg_json,
        status=Status.RUNNING,
        attempt=attempt,
        lost_count=0 if trial is None else trial.lost_count,
        slot=head.get("slot"),
        host=head.get("host"),
        gpus=head.get("gpus"),
        start_time=head.get("at"),
    )


def _end(trial: TrialRecord, attempt: _Attempt) -> TrialRecord:
    """Say how an attempt ended, if all of its ranks have said how.

    One of which a child was interrupted is run again, whatever its own process has made of that.
    """
    ends = {rank: attempt.ends_by_children.get(rank, end) for rank, end in attempt.ends.items()}
    if 0 not in ends or len(ends) < ends[0].get("world_size", 1):
        return trial
    ended = parse_end(judge_ends(ends))
    if ended.status is Status.INTERRUPTED:
        return trial
    is_paused = ended.status is Status.PRUNED and ends[0].get("do") == "pause"
    last = max(end.get("at") or 0.0 for end in ends.values())
    return dataclasses.replace(
        trial,
        status=Status.PAUSED if is_paused else ended.status,
        end_time=max(last, trial.start_time or 0.0),
        error=ended.error,
        exit_code=ended.exit_code,
        signal=ended.signal,
    )


def _build_report(said: Said) -> ReportRecord:
    at = said.get("at") or time.time()
    return ReportRecord(said["number"], said["attempt"], said["iteration"], said["metrics"], at)


def _build_last_report(attempt: _Attempt, highest: int) -> ReportRecord:
    """Describe what `train` has returned."""
    end = attempt.ends[0]
    iteration = end.get("iteration", 1)
    if "counts" in end:
        iterations = [report["iteration"] for report in attempt.reports]
        iteration = max(iteration, 1 + max(iterations, default=0), 1 + highest)
    at = end.get("at") or time.time()
    return ReportRecord(end["number"], end["attempt"], iteration, end["metrics"], at)


def _is_stored(report: ReportRecord, metrics: dict[str, dict[int, float]]) -> bool:
    return all(
        _is_same(metrics.get(name, {}).get(report.iteration), value)
        for name, value in report.metrics.items()
    )


def _is_same(stored: float | None, value: float) -> bool:
    return stored == value or (stored is not None and math.isnan(stored) and math.isnan(value))
