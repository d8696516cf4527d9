"""Whose an experiment's name is: what is there already, and which driver may work on it.

A name is claimed in the database, under a lease, so that of two drivers only one has it; its folder
follows. What can be told without the lease is told early, when the `Experiment` is made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import (
    ExperimentExistsError,
    ExperimentNotFoundError,
    LaunchError,
    StorageError,
    TrainError,
)
from ..slurm.client import is_job_over
from ..storage.database import Database
from ..storage.faults import EmptyDatabaseError
from ..storage.layout import Layout
from ..storage.lease import acquire_lease, build_owner, remove_folder
from ..storage.records import ExperimentRecord, LeaseOwner
from ..storage.rows import read_trials
from .hand_in import hand_in


class Claim:
    """The claim of one `Experiment` on its name.

    Args:
        layout: Where the experiment is.
        restore: Go on with what is there: True, False or "auto".
        overwrite: Delete what is there.
        describe_settings: Gives the settings of a new experiment.
    """

    def __init__(
        self,
        layout: Layout,
        restore: bool | str,
        overwrite: bool,
        describe_settings: Callable[[], dict[str, Any]],
    ) -> None:
        self._layout = layout
        self._name = layout.name
        self._restore = restore
        self._overwrite = overwrite
        self._describe_settings = describe_settings

    def check(self) -> None:
        """Say early what `run` will say again, when it holds the lease."""
        found = None
        if self._layout.database.exists():
            # A driver that was killed, or the disk full, as it was made, has left it empty.
            with (
                contextlib.suppress(EmptyDatabaseError),
                Database.open(self._layout.database, read_only=True) as database,
            ):
                found = self._find(database)
        self._check_claim(found)

    def _find(self, database: Database) -> ExperimentRecord | None:
        return next((each for each in database.experiments() if each.name == self._name), None)

    def _check_claim(self, found: ExperimentRecord | None) -> None:
        where, exists = self._layout.local_dir, found is not None
        if found is not None and _was_begun_here(found):
            self._restore, self._overwrite = True, False
        if exists and not self._restore and not self._overwrite:
            raise ExperimentExistsError(
                f"experiment {self._name!r} exists in {where}: pass restore=True to go on with it, "
                "overwrite=True to delete it and begin anew, or another name"
            )
        if not exists and self._restore is True:
            raise ExperimentNotFoundError(
                f"there is no experiment {self._name!r} in {where} to restore: pass "
                'restore="auto" to create it if need be, or check name and local_dir'
            )
        foreign = None if exists else self._find_foreign_file()
        if foreign is not None:  # overwrite would delete it some day
            raise ExperimentExistsError(
                f"the folder {self._layout.folder} exists and holds {foreign.name!r}, but "
                f"{self._layout.database} knows no experiment {self._name!r}: choose another name, "
                "or move the folder away"
            )

    def _find_foreign_file(self) -> Path | None:
        """Find a file in the experiment's folder that a run without any trial has not left."""
        own = {path.name for path in self._layout.without_trials}
        try:
            files = sorted(self._layout.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return None
        return next((file for file in files if file.name not in own), None)

    @contextmanager
    def hold(
        self, notify: Callable[[str], None]
    ) -> Iterator[tuple[Database, ExperimentRecord, LeaseOwner]]:
        """Open the database and hold the experiment's lease.

        What an earlier driver has not stored any more is handed in. `updated_at` of the experiment
        is when that was last heard of.
        """
        owner = build_owner(os.environ.get("SLURM_JOB_ID"))
        with Database.open(self._layout.database, create=True) as database:
            found = self._take(database, owner, notify)
            key, asked = database.experiment(self._name).id, self._restore
            try:
                if found is not None and self._overwrite:
                    self._replace(database, key, owner)
                elif found is not None:
                    hand_in(database, key, owner, self._layout, notify)
                self._restore, self._overwrite = True, False  # a further run goes on from here
                record = database.experiment(self._name)
                seen_at = record.updated_at if found is None else found.updated_at
                yield database, dataclasses.replace(record, updated_at=seen_at), owner
            except (TrainError, LaunchError):
                if not read_trials(database, key, limit=1):  # it must not stand in the way
                    database.delete_experiment(key, owner, time.time())
                    self._restore = asked
                raise
            finally:
                # One that can't be given back is taken from a process that has ended.
                with contextlib.suppress(StorageError):
                    database.release_lease(key, owner)

    def _take(
        self, database: Database, owner: LeaseOwner, notify: Callable[[str], None]
    ) -> ExperimentRecord | None:
        """Take the experiment, a new one if there is none; return it as it was found."""
        while True:  # another driver may come or go between a look and what follows from it
            found = self._find(database)
            self._check_claim(found)
            with contextlib.suppress(ExperimentExistsError, ExperimentNotFoundError):
                if found is not None:
                    self._acquire(database, owner, notify)
                    return found
                settings = self._begin_settings()
                database.create_experiment(self._name, settings, time.time(), owner)
                return None

    def _acquire(
        self, database: Database, owner: LeaseOwner, notify: Callable[[str], None]
    ) -> None:
        def is_other_job_over(job_id: str) -> bool | None:
            if job_id == owner.job_id:  # Slurm would say that it runs: it is this one, requeued
                return True if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else None
            return is_job_over(job_id)

        found = acquire_lease(database, self._name, owner, is_other_job_over)
        if found is not None:
            before = found.owner
            job = f", job {before.job_id}" if before.job_id else ""
            notify(
                f"took {self._name!r} over from a driver that is gone (host {before.host}, pid "
                f"{before.pid}{job})"
            )

    def _replace(self, database: Database, key: int, owner: LeaseOwner) -> None:
        # The folder first: without its rows it would be taken for somebody else's.
        remove_folder(self._layout.folder, lambda: database.renew_lease(key, owner, time.time()))
        database.reset_experiment(key, self._begin_settings(), owner, time.time())

    def _begin_settings(self) -> dict[str, Any]:
        return {**self._describe_settings(), "job_id": os.environ.get("SLURM_JOB_ID")}


def _was_begun_here(found: ExperimentRecord) -> bool:
    """Whether it was begun by this very job, which Slurm has queued again since.

    Then it goes on, whatever the script says: that was meant for its first start.
    """
    job_id = os.environ.get("SLURM_JOB_ID")
    was_queued_again = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
    return job_id is not None and was_queued_again and found.settings.get("job_id") == job_id
