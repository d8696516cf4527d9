"""Whose an experiment's name is: what is there already, and which driver may work on it.

A name is claimed in the database, under a lease, so that of two drivers only one has it; its folder
follows. What can be told without the lease is told early, when the `Experiment` is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
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
from ..slurm.client import (
    is_job_over,
)
from ..storage.database import Database
from ..storage.faults import EmptyDatabaseError
from ..storage.layout import Layout
from ..storage.lease import build_owner, is_gone
from ..storage.records import ExperimentRecord, Lease, LeaseOwner


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
        self._exists = False

    @property
    def is_new(self) -> bool:
        """Whether the experiment begins anew, as far as `check` or the last `hold` could tell."""
        return self._overwrite or not self._exists

    def check(self) -> None:
        """Say early what `run` will say again, when it holds the lease."""
        if not self._layout.database.exists():
            self._check_claim(exists=False)
            return
        try:
            with Database.open(self._layout.database, read_only=True) as database:
                self._exists = self._is_in(database)
        except EmptyDatabaseError:  # a driver was killed, or the disk full, as it was made
            self._exists = False
        self._check_claim(self._exists)

    def _is_in(self, database: Database) -> bool:
        return any(found.name == self._name for found in database.experiments())

    def _check_claim(self, exists: bool) -> None:
        where = self._layout.local_dir
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
        """Open the database and hold the experiment's lease."""
        owner = build_owner(os.environ.get("SLURM_JOB_ID"))
        with Database.open(self._layout.database, create=True) as database:
            exists = self._take(database, owner, notify)
            key, asked = database.experiment(self._name).id, self._restore
            try:
                if exists and self._overwrite:
                    self._replace(database, owner)
                record = database.experiment(self._name)
                key = record.id
                self._restore, self._overwrite = True, False  # a further run goes on from here
                self._exists = True
                yield database, record, owner
            except (TrainError, LaunchError):
                if not database.trials(key):  # nothing came of it: it must not stand in the way
                    database.delete_experiment(self._name)
                    self._restore, self._exists = asked, False
                raise
            finally:
                # One that can't be given back is taken from a process that has ended.
                with contextlib.suppress(StorageError):
                    database.release_lease(key, owner)

    def _take(self, database: Database, owner: LeaseOwner, notify: Callable[[str], None]) -> bool:
        """Take the experiment, a new one if there is none; tell whether there was one."""
        while True:  # another driver may come or go between a look and what follows from it
            exists = self._is_in(database)
            self._check_claim(exists)
            with contextlib.suppress(ExperimentExistsError, ExperimentNotFoundError):
                if exists:
                    self._acquire(database, owner, notify)
                else:
                    self._create(database, owner)
                return exists

    def _create(self, database: Database, owner: LeaseOwner, replace: bool = False) -> None:
        database.create_experiment(
            self._name, self._describe_settings(), time.time(), owner=owner, replace=replace
        )

    def _acquire(
        self, database: Database, owner: LeaseOwner, notify: Callable[[str], None]
    ) -> None:
        def is_owner_gone(lease: Lease, now: float) -> bool:
            return is_gone(lease, now, here=owner, is_job_over=is_other_job_over)

        def is_other_job_over(job_id: str) -> bool | None:
            if job_id == owner.job_id:  # Slurm would say that it runs: it is this one, requeued
                return True if os.environ.get("SLURM_RESTART_COUNT", "0") != "0" else None
            return is_job_over(job_id)

        found = database.acquire_lease(self._name, owner, time.time(), is_owner_gone)
        if found is not None:
            before = found.owner
            job = f", job {before.job_id}" if before.job_id else ""
            notify(
                f"took {self._name!r} over from a driver that is gone (host {before.host}, pid "
                f"{before.pid}{job})"
            )

    def _replace(self, database: Database, owner: LeaseOwner) -> None:
        # The folder first: without its rows it would be taken for somebody else's.
        shutil.rmtree(self._layout.folder, ignore_errors=True)
        self._create(database, owner, replace=True)
