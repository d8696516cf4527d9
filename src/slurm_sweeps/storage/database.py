"""Database: one connection to the file that holds all experiments of a `local_dir`.

The rules that make it work on a cluster:

- One writer, the driver that holds the experiment's lease. Each of its transactions renews the
  lease, and is refused when someone else has taken it meanwhile: a driver that was suspended for
  an hour and wakes up again must not write over its successor.
- Readers may be anywhere the file can be seen. They create nothing, hold no lock between two
  calls, and take long reads in portions, since a reader keeps the writer from committing.
- SQLite's rollback journal, not WAL: WAL needs memory shared by all who have the file open, which
  two hosts don't have.
- The file is never opened but by SQLite: POSIX drops all locks of a process on a file as soon as
  the process closes any descriptor of it (https://www.sqlite.org/howtocorrupt.html, 2.2).

All methods raise `DatabaseBusyError` when another process kept the file locked for the whole
timeout, and `StorageError` with file and remedy for all else that SQLite refuses.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExperimentLockedError
from ..trial import Status
from . import experiments
from . import rows as reading
from .connection import begin, open_connection
from .faults import translate_errors
from .rows import AggregateRows, MetricRows, TrialRow
from .records import (
    Aggregate,
    AttemptRecord,
    ExperimentRecord,
    Lease,
    LeaseOwner,
    Record,
    Request,
    TrialRecord,
)
from .writing import write_records

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How long one call waits for another process's lock.
TIMEOUT_S = 10.0


class Database:
    """A connection, made by `Database.open`; it may change threads, but serves one at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._metric_ids: dict[int, dict[str, int]] = {}

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        create: bool = False,
        read_only: bool = False,
        timeout_s: float = TIMEOUT_S,
    ) -> Database:
        """Open a database.

        Args:
            path: The file.
            create: Make the file and its folder if they are not there.
            read_only: Refuse to write. Such a connection still rolls back what a killed driver
                left half-written, where the file and its folder can be written.
            timeout_s: How long each call waits while another process has the file locked.

        Raises:
            StorageError: The file is not there (and `create` is False), can't be read or written,
                is no database of slurm_sweeps, or is of a newer version.
        """
        file = Path(path)
        return cls(open_connection(file, create, read_only, timeout_s), file)

    def close(self) -> None:
        """Close the connection; a second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_timeout(self, timeout_s: float) -> None:
        """Change how long each call waits while another process has the file locked."""
        with translate_errors(self.path):
            self._connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")

    def snapshot(self) -> AbstractContextManager[sqlite3.Connection]:
        """Let all reads of a `with` block see one state; keep it short, it holds up the writer."""
        return begin(self._connection, self.path, write=False)

    def find_damage(self, limit: int = 10) -> list[str]:
        """Read the whole file for damage; a driver can't write meanwhile.

        Returns:
            SQLite's own words, at most `limit` times; nothing if all is sound.
        """
        with self._reading() as connection:
            rows = connection.execute(f"PRAGMA quick_check({int(limit)})").fetchall()
            lost = connection.execute("PRAGMA foreign_key_check").fetchmany(limit)
        said = [str(row[0]) for row in rows if row[0] != "ok"]
        return [*said, *(f"a row of {table} refers to no {other}" for table, _, other, _ in lost)]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with translate_errors(self.path):
            yield self._connection

    def _writing(self) -> AbstractContextManager[sqlite3.Connection]:
        return begin(self._connection, self.path, write=True)

    # Experiments

    def create_experiment(
        self,
        name: str,
        settings: Mapping[str, Any],
        now: float,
        state: str = "created",
        *,
        owner: LeaseOwner | None = None,
        replace: bool = False,
    ) -> ExperimentRecord:
        """Add an experiment, in one transaction with all that is asked for.

        Args:
            name: Its name; see `layout.check_name`.
            settings: What to write down about it; JSON-able.
            now: The time, seconds since 1970.
            state: Its first state.
            owner: The driver that takes it.
            replace: Remove what there is of this name.

        Raises:
            ExperimentExistsError: There is one of this name.
        """
        with self._writing() as connection:
            if replace:
                experiments.delete_experiment(connection, self.path, name)
            key = experiments.add_experiment(connection, self.path, name, settings, now, state)
            if owner is not None:
                experiments.take_lease(connection, key, owner, now)
        return self.experiment(name)

    def experiments(self) -> list[ExperimentRecord]:
        """All experiments, the oldest first."""
        with self._reading() as connection:
            return experiments.read_experiments(connection)

    def experiment(self, name: str) -> ExperimentRecord:
        """The experiment of a name.

        Raises:
            ExperimentNotFoundError: There is none; the message lists what there is.
        """
        with self._reading() as connection:
            return experiments.read_experiment(connection, self.path, name)

    def set_settings(self, experiment_id: int, settings: Mapping[str, Any]) -> None:
        """Replace the settings of an experiment."""
        with self._writing() as connection:
            experiments.write_settings(connection, experiment_id, settings)

    def delete_experiment(self, name: str) -> None:
        """Remove an experiment and all that belongs to it from the database; its folder stays.

        Raises:
            ExperimentNotFoundError: There is none of this name.
        """
        with self._writing() as connection:
            experiments.delete_experiment(connection, self.path, name)
        self._metric_ids.clear()

    # Records

    def write(
        self,
        experiment_id: int,
        records: Sequence[Record],
        *,
        owner: LeaseOwner | None = None,
        now: float = 0.0,
    ) -> None:
        """Write records in one transaction: all of them or none.

        Args:
            experiment_id: Whose records they are.
            records: In order; a later one of the same key replaces an earlier one.
            owner: Renew the lease of this owner in the same transaction.
            now: The time, seconds since 1970; used with `owner` only.

        Raises:
            ExperimentLockedError: Another driver has taken the lease meanwhile.
            DatabaseBusyError: Another process kept the file locked; nothing was written.
            StorageError: It could not be written.
        """
        try:
            with self._writing() as connection:
                if owner is not None:
                    experiments.renew_lease(connection, self.path, experiment_id, owner, now)
                metric_ids = self._metric_ids.get(experiment_id)
                if metric_ids is None:
                    metric_ids = reading.read_metric_ids(connection, experiment_id)
                    self._metric_ids[experiment_id] = metric_ids
                write_records(connection, experiment_id, records, metric_ids)
        except BaseException:
            self._metric_ids.clear()  # it may hold names that were rolled back
            raise

    def trials(
        self,
        experiment_id: int,
        *,
        statuses: Iterable[Status] | None = None,
        id_prefix: str = "",
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """Trials of an experiment, by number.

        Args:
            experiment_id: The experiment.
            statuses: Only trials of these statuses; None for all.
            id_prefix: Only trials whose id begins like this.
            newest_first: Turn the order round.
            limit: How many at most.
        """
        with self._reading() as connection:
            return reading.read_trials(
                connection,
                experiment_id,
                statuses=statuses,
                id_prefix=id_prefix,
                newest_first=newest_first,
                limit=limit,
            )

    def trial(self, experiment_id: int, number: int) -> TrialRecord | None:
        """The trial of a number, None if there is none."""
        with self._reading() as connection:
            found = reading.read_trials(connection, experiment_id, number=number)
        return found[0] if found else None

    def trial_rows(self, experiment_id: int) -> list[TrialRow]:
        """What tables show of all trials, by number: much faster than `trials`."""
        with self._reading() as connection:
            return reading.read_trial_rows(connection, experiment_id)

    def count_trials(self, experiment_id: int) -> dict[Status, int]:
        """How many trials have each status; statuses that none has are left out."""
        with self._reading() as connection:
            return reading.count_trials(connection, experiment_id)

    def attempts(self, experiment_id: int, number: int | None = None) -> list[AttemptRecord]:
        """The attempts of one trial or of all, by trial and attempt."""
        with self._reading() as connection:
            return reading.read_attempts(connection, experiment_id, number)

    # Metrics

    def metric_ids(self, experiment_id: int) -> dict[str, int]:
        """The key of each metric that was ever logged, by name, in order of first appearance."""
        with self._reading() as connection:
            return reading.read_metric_ids(connection, experiment_id)

    def aggregates(self, experiment_id: int, metric: str) -> list[Aggregate]:
        """What is known of one metric of each trial that logged it, by trial, without its rows."""
        with self.snapshot() as connection:
            metric_id = reading.read_metric_ids(connection, experiment_id).get(metric)
            if metric_id is None:
                return []
            return reading.read_aggregates(connection, experiment_id, metric_id)

    def aggregates_of_trial(self, experiment_id: int, number: int) -> dict[str, Aggregate]:
        """What is known of each metric that one trial has logged, without its rows."""
        with self.snapshot() as connection:
            return reading.read_aggregates_of_trial(connection, experiment_id, number)

    def aggregate_rows(self, experiment_id: int) -> AggregateRows:
        """What tables of trials show of all metrics, as one array."""
        with self.snapshot() as connection:
            return reading.read_aggregate_rows(connection, experiment_id)

    def best(self, experiment_id: int, metric: str, mode: str, limit: int = 1) -> list[Aggregate]:
        """The trials with the best finite value at any iteration, the best first.

        Args:
            experiment_id: The experiment.
            metric: The metric's name.
            mode: "min" or "max".
            limit: How many at most.
        """
        with self.snapshot() as connection:
            metric_id = reading.read_metric_ids(connection, experiment_id).get(metric)
            if metric_id is None:
                return []
            return reading.read_best(connection, experiment_id, metric_id, mode, limit)

    def metrics_of_trial(self, experiment_id: int, number: int) -> dict[str, dict[int, float]]:
        """`{name: {iteration: value}}` of one trial, iterations rising."""
        with self._reading() as connection:
            return reading.read_metrics_of_trial(connection, experiment_id, number)

    def curves(
        self, experiment_id: int, metric: str, numbers: Iterable[int]
    ) -> dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
        """The learning curves of some trials.

        Returns:
            Iterations, rising, and values for each trial's number; empty arrays for a trial that
            did not log the metric.
        """
        with self.snapshot() as connection:
            metric_id = reading.read_metric_ids(connection, experiment_id).get(metric, -1)
            return {
                number: reading.read_curve(connection, experiment_id, number, metric_id)
                for number in numbers
            }

    def first_reports(
        self, experiment_id: int, metric: str
    ) -> dict[int, tuple[int, int, float, float]]:
        """The first report of each trial that logged a metric, by the trial's number.

        Returns:
            The lowest iteration from 1 on, the attempt that logged it, that attempt's start and
            the time at which it was logged (seconds since 1970).
        """
        with self.snapshot() as connection:
            metric_id = reading.read_metric_ids(connection, experiment_id).get(metric, -1)
            return reading.read_first_reports(connection, experiment_id, metric_id)

    def reports(
        self, experiment_id: int, metric: str, numbers: Iterable[int]
    ) -> npt.NDArray[np.void]:
        """What some trials have logged of one metric, and when.

        Pass the trials in portions of some hundreds: a driver may write in between.

        Returns:
            A structured array with `reading.REPORT_FIELDS`, by trial and iteration.
        """
        with self.snapshot() as connection:
            metric_id = reading.read_metric_ids(connection, experiment_id).get(metric, -1)
            return reading.read_reports(connection, experiment_id, metric_id, numbers)

    def metric_rows(self, experiment_id: int) -> MetricRows:
        """All that was ever logged, by trial, metric and iteration.

        Read in portions, between which a running driver may write: trials that report meanwhile
        may be seen further on than others.
        """
        names = {key: name for name, key in self.metric_ids(experiment_id).items()}
        return reading.build_metric_rows(self._iterate_portions(experiment_id), names)

    def _iterate_portions(self, experiment_id: int) -> Iterator[npt.NDArray[np.void]]:
        after = reading.BEFORE_ALL
        while True:
            with self._reading() as connection:
                portion = reading.read_portion(connection, experiment_id, after)
            yield portion
            if len(portion) < reading.PORTION:
                return
            after = portion[-1].item()[:3]  # Python's integers: SQLite takes numpy's for bytes

    # Lease and requests

    def acquire_lease(
        self,
        name: str,
        owner: LeaseOwner,
        now: float,
        is_gone: Callable[[Lease, float], bool],
    ) -> Lease | None:
        """Take an experiment for one driver.

        Args:
            name: The experiment.
            owner: The driver.
            now: The time, seconds since 1970.
            is_gone: Told the lease that is there and the time: whether its owner is gone. Called
                inside the transaction, so that of two drivers only one inherits from a dead one.

        Returns:
            The lease that was taken over from a driver that is gone, None if it was free.

        Raises:
            ExperimentLockedError: Another driver is at work on it.
            ExperimentNotFoundError: There is no such experiment.
        """
        with self._writing() as connection:
            found = experiments.read_experiment(connection, self.path, name)
            if found.lease is not None and not is_gone(found.lease, now):
                raise ExperimentLockedError(
                    experiments.format_locked(name, self.path, found.lease, now)
                )
            experiments.take_lease(connection, found.id, owner, now)
        return found.lease

    def heartbeat(self, experiment_id: int, owner: LeaseOwner, now: float) -> None:
        """Say that the owner of the lease is alive; `write` does so too.

        Raises:
            ExperimentLockedError: The lease is not its own any more.
        """
        with self._writing() as connection:
            experiments.renew_lease(connection, self.path, experiment_id, owner, now)

    def release_lease(self, experiment_id: int, owner: LeaseOwner) -> None:
        """Give the experiment free; does nothing when another driver has it."""
        with self._writing() as connection:
            experiments.release_lease(connection, experiment_id, owner)

    def add_request(self, experiment_id: int, kind: str, argument: str | None, now: float) -> None:
        """Ask something of the driver of an experiment, from outside; see `Request`."""
        with self._writing() as connection:
            experiments.add_request(connection, experiment_id, kind, argument, now)

    def requests(self, experiment_id: int, unseen_only: bool = False) -> list[Request]:
        """What was asked of the driver, the oldest first."""
        with self._reading() as connection:
            return experiments.read_requests(connection, experiment_id, unseen_only)

    def take_requests(self, experiment_id: int, now: float) -> list[Request]:
        """What was asked since the last time, the oldest first; each is handed out once."""
        waiting = self.requests(experiment_id, unseen_only=True)
        if waiting:
            with self._writing() as connection:
                experiments.mark_requests(connection, waiting, now)
        return waiting
