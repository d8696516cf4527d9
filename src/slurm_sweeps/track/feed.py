"""What a sweep has stored, as news for a tracker: each time only what is new.

What was sent stands in a file beside the sweep, a line for each trial that there was news of, so
that a sweep that goes on, or is sent again, is not told twice. Where the tracker does not have any
more what it was sent, all is told anew. An iteration that a trial logs a second time, or after a
later one, while it is followed, is not told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from ..errors import UsageError
from ..storage import rows
from ..storage.database import Database
from ..storage.layout import Layout
from ..storage.records import ExperimentRecord, RunRecord, TrialRecord
from ..trial import Status, flatten_cfg
from ..views.ranking import get_best, list_goals
from ..views.sight import Sight, look_at_driver


@dataclass(frozen=True, slots=True)
class SweepNews:
    """What is told of an experiment."""

    record: ExperimentRecord  # `state` is what it is at by now
    run: RunRecord | None  # of what code its latest driver is, if that is known

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.record.name

    @property
    def goals(self) -> Sequence[tuple[str, str]]:
        """What the sweep is after; none where nobody has said."""
        return list_goals(self.record.settings)


@dataclass(frozen=True, slots=True)
class TrialNews:
    """What is new of a trial."""

    record: TrialRecord  # `status` is what it is at by now
    cfg: Mapping[str, Any]  # keys of nested dicts joined by dots
    points: list[tuple[str, int, float, float]]  # (metric, iteration, value, when), by iteration
    best: Mapping[str, float]  # of each metric that the sweep is after, where it has one
    place: str | None  # where the tracker keeps it, as `send` has returned; None: not yet

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.record.status is Status.RUNNING

    @property
    def by_iteration(self) -> dict[int, tuple[float, dict[str, float]]]:
        """Its new values: of each iteration when it was logged first, and what, by metric."""
        found: dict[int, tuple[float, dict[str, float]]] = {}
        for metric, iteration, value, at in self.points:
            found.setdefault(iteration, (at, {}))[1][metric] = value
        return found


class Sink(Protocol):
    """An open tracker; may raise anything, and is asked again then, with the same news."""

    def begin(self, sweep: SweepNews, place: str | None) -> str:
        """Open what stands for the experiment, at its old place if that is there still."""

    def send(self, trial: TrialNews) -> str:
        """Take news of a trial; return its place."""

    def end(self, sweep: SweepNews) -> None:
        """Keep what the experiment is at; it may go on later."""


@runtime_checkable
class Tracker(Protocol):
    """Says where to send a sweep, as a frozen dataclass of texts and None."""

    #: What has to be installed: the module, and the extra that brings it.
    NEEDS: ClassVar[tuple[str, str]]

    def open(self) -> Sink:
        """Import what is needed, and open it."""


def check_tracker(tracker: Any) -> None:
    """Raise UsageError if what a tracker needs is not installed."""
    import importlib.util

    module, extra = tracker.NEEDS
    if importlib.util.find_spec(module) is None:
        raise UsageError(
            f"{type(tracker).__name__} needs {module}: pip install 'slurm-sweeps[{extra}]'"
        )


@dataclass(slots=True)
class _Known:
    """What was sent of a trial."""

    place: str
    status: str
    attempt: int
    iterations: dict[str, int] = field(default_factory=dict)  # the last one of each metric


class Feed:
    """Sends an experiment to one tracker, whose open sink comes with it."""

    def __init__(self, layout: Layout, tracker: Any, sink: Sink) -> None:
        self._layout = layout
        self._sink = sink
        kind, key = type(tracker).__name__.lower(), build_key(tracker)
        self._file = layout.track / f"{kind}-{key}.jsonl"
        self._known: dict[int, _Known] = {}
        self._place: str | None = None
        self._begun: float | None = None  # the experiment whose trials are known
        self._is_open = False

    def send_news(self, last: bool = False) -> int:
        """Send what is new; return of how many trials there was news.

        Args:
            last: Say too what the experiment is at.

        Raises:
            Exception: Whatever the tracker raises; what was sent before that is noted.
        """
        count = 0
        with Database.open(self._layout.database, read_only=True) as database:
            record = database.experiment(self._layout.name)
            sight = look_at_driver(record, time.time())
            runs = rows.read_driver_runs(database, record.id)
            record = replace(record, state=sight.state)
            sweep = SweepNews(record, runs[-1] if runs else None)
            self._begin(sweep)
            for news in self._read_news(database, sweep, sight):
                place = self._sink.send(news)
                self._note(news, place)
                count += 1
        if last:
            self._sink.end(sweep)
        return count

    def _begin(self, sweep: SweepNews) -> None:
        created_at = sweep.record.created_at
        if self._begun is None:
            self._read_file(created_at)
        if self._begun != created_at:  # it was begun anew, or nothing is known of it
            self._begun, self._place, self._known = created_at, None, {}
            self._is_open = False
        if self._is_open:
            return
        place = self._sink.begin(sweep, self._place)
        if place != self._place:
            self._place, self._known = place, {}
            self._write({"created_at": created_at, "place": place}, anew=True)
        self._is_open = True

    def _read_news(self, database: Database, sweep: SweepNews, sight: Sight) -> Iterator[TrialNews]:
        for number, status, attempt in rows.read_statuses(database, sweep.record.id):
            known = self._known.get(number)
            is_same = known is not None and (known.status, known.attempt) == (status, attempt)
            if (is_same and status != Status.RUNNING) or status == Status.SCHEDULED:
                continue
            record = rows.read_trial(database, sweep.record.id, number)
            if record is not None:
                record = sight.settle(record)
                news = self._build_news(database, sweep, record, known)
                if known is None or news.points or known.status != record.status:
                    yield news

    def _build_news(
        self, database: Database, sweep: SweepNews, record: TrialRecord, known: _Known | None
    ) -> TrialNews:
        key, after = sweep.record.id, {} if known is None else known.iterations
        aggregates = rows.read_aggregates_of_trial(database, key, record.number)
        found = {
            metric: get_best(aggregates[metric], mode)
            for metric, mode in sweep.goals
            if metric in aggregates
        }
        return TrialNews(
            record,
            flatten_cfg(json.loads(record.cfg_json)),
            rows.read_points(database, key, record.number, after),
            {metric: best[0] for metric, best in found.items() if best is not None},
            None if known is None else known.place,
        )

    # --- what was sent -------------------------------------------------------------------------

    def _note(self, news: TrialNews, place: str) -> None:
        record = news.record
        before = self._known.get(record.number)
        iterations = dict(before.iterations) if before else {}
        for metric, iteration, _, _ in news.points:
            iterations[metric] = iteration
        known = _Known(place, record.status.value, record.attempt, iterations)
        self._known[record.number] = known
        told = {name: getattr(known, name) for name in _Known.__slots__}
        self._write({"number": record.number, **told})

    def _write(self, line: Mapping[str, Any], anew: bool = False) -> None:
        with contextlib.suppress(OSError):  # another user's sweep: it is told anew the next time
            self._file.parent.mkdir(exist_ok=True)
            with self._file.open("w" if anew else "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(line)) + "\n")

    def _read_file(self, created_at: float) -> None:
        """Read what was sent of an experiment; a line that was cut, and all after it, is not."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            lines = self._file.read_text(encoding="utf-8").splitlines()
            head = json.loads(lines[0])
            if head["created_at"] != created_at:
                return
            self._begun, self._place = created_at, head["place"]
            for line in lines[1:]:
                told = json.loads(line)
                number = told.pop("number")
                self._known[number] = _Known(**told)


def build_key(tracker: Tracker) -> str:
    """Name the file of what was sent to a tracker: one for each place to send to."""
    return hashlib.blake2s(repr(tracker).encode(), digest_size=6).hexdigest()


def simplify(value: Any) -> bool | int | float | str:
    """Return a value of a cfg as all trackers take it."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def describe_trial(trial: TrialRecord) -> dict[str, Any]:
    """Describe how a trial ran: status, times in seconds, where."""
    runtime_s = None
    if trial.start_time is not None and trial.end_time is not None:
        runtime_s = trial.end_time - trial.start_time
    return {
        "status": trial.status.value,
        "number": trial.number,
        "attempt": trial.attempt,
        "runtime_s": runtime_s,
        "host": trial.host,
        "error": None if trial.error is None else str(trial.error),
    }


def describe_sweep(sweep: SweepNews) -> dict[str, str]:
    """Describe an experiment: state, what it is after, and of what code it is."""
    settings = sweep.record.settings
    told = {} if sweep.run is None else sweep.run.told
    git = told.get("git") or {}
    described = {
        "state": sweep.record.state,
        "ended_by": settings.get("ended_by"),
        "goal": ", ".join(f"{mode} {metric}" for metric, mode in sweep.goals) or None,
        "seed": settings.get("seed"),
        "n_trials": settings.get("n_trials"),
        "commit": git.get("commit"),
        **{name: told.get(name) for name in ("script", "command", "host", "job_id", "python")},
    }
    return {name: str(value) for name, value in described.items() if value is not None}
