"""Whose an experiment's name is: what is there already, and which driver may work on it.

A name is claimed in the database, under a lease, so that of two drivers only one has it; its folder
follows. What can be told without the lease is told early, when the `Experiment` is made.

A job that Slurm has queued again runs its script once more, from the top: it goes on with what it
has begun, whatever the script says of `restore` and `overwrite`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import (
    ExperimentExistsError,
    ExperimentNotFoundError,
    LaunchError,
    StorageError,
    TrainError,
    UsageError,
)
from ..slurm.client import is_job_over
from ..storage.database import Database
from ..storage.faults import EmptyDatabaseError, describe_old
from ..storage.layout import Layout
from ..storage.lease import acquire_lease, build_owner, remove_folder
from ..storage.records import ExperimentRecord, LeaseOwner
from ..storage.rows import read_trials

#: An experiment that is held: its database, what it is, and as whom.
Held = tuple[Database, ExperimentRecord, LeaseOwner]


@dataclass
class Claim:
    """The claim of one `Experiment` on its name."""

    _layout: Layout  # where the experiment is
    _restore: bool | str  # go on with what is there: True, False or "auto"
    _overwrite: bool  # delete what is there
    _describe_search: Callable[[], dict[str, Any]]  # gives the settings of a new experiment
    _notice: str | None = None

    @property
    def _name(self) -> str:
        return self._layout.name

    def check(self) -> None:
        """Say early what `run` will say again, when it holds the lease."""
        check_owned(self._layout)
        exists = False
        if self._layout.database.exists():
            # A driver that was killed, or the disk full, as it was made, has left it empty.
            with (
                contextlib.suppress(EmptyDatabaseError),
                Database.open(self._layout.database, read_only=True) as database,
            ):
                exists = self._is_in(database)
        self._check_claim(exists)

    def _describe_settings(self) -> dict[str, Any]:
        return {**self._describe_search(), "job_id": _find_job()}

    def _is_in(self, database: Database) -> bool:
        found = next((each for each in database.experiments() if each.name == self._name), None)
        if found is not None and not self._restore and _was_begun_by_this_job(found):
            self._restore, self._overwrite = True, False
            self._notice = (
                f"job {_find_job()} was queued again, and goes on with {self._name!r}, which it "
                "has begun; to begin anew, submit a new job"
            )
        return found is not None

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
                f"{describe_old(where)}"
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
    def hold(self, notify: Callable[[str], None]) -> Iterator[Held]:
        """Open the database and hold the experiment's lease.

        What an earlier driver has not stored any more is handed in. `updated_at` of the experiment
        is when that was last heard of.
        """
        check_owned(self._layout)
        owner = build_owner(_find_job())
        with Database.open(self._layout.database, create=True) as database:
            found = self._take(database, owner, notify)
            if self._notice is not None:
                notify(self._notice)
            key, asked = database.experiment(self._name).id, self._restore
            is_new = found is None or self._overwrite
            try:
                if found is not None and self._overwrite:
                    self._replace(database, key, owner)
                elif found is not None:
                    from .hand_in import hand_in  # only who goes on with something needs it

                    hand_in(database, key, owner, self._layout, notify)
                self._restore, self._overwrite = True, False  # a further run goes on from here
                record = database.experiment(self._name)
                seen_at = record.updated_at if found is None else found.updated_at
                yield database, dataclasses.replace(record, updated_at=seen_at), owner
            except (UsageError, TrainError, LaunchError):
                if is_new and not read_trials(database, key, limit=1):  # it must not be in the way
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
            exists = self._is_in(database)
            self._check_claim(exists)
            with contextlib.suppress(ExperimentExistsError, ExperimentNotFoundError):
                if exists:
                    found = database.experiment(self._name)
                    self._acquire(database, owner, notify)
                    return found
                settings = self._describe_settings()
                database.create_experiment(self._name, settings, time.time(), owner)
                return None

    def _acquire(
        self, database: Database, owner: LeaseOwner, notify: Callable[[str], None]
    ) -> None:
        def is_other_job_over(job_id: str) -> bool | None:
            if job_id == owner.job_id:  # Slurm would say that it runs: it is this one, requeued
                return True if _was_queued_again() else None
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
        database.reset_experiment(key, self._describe_settings(), owner, time.time())


def _find_job() -> str | None:
    return os.environ.get("SLURM_JOB_ID")


def _was_queued_again() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _was_begun_by_this_job(record: ExperimentRecord) -> bool:
    """Whether this job began the experiment, in a run before Slurm has queued it again."""
    job_id = record.settings.get("job_id")
    return job_id is not None and job_id == _find_job() and _was_queued_again()


def check_owned(layout: Layout) -> None:
    """Refuse an experiment of another user, and a folder in which others could exchange it.

    Trials would run their code. Where the folder is sticky they can't: each moves only what is his
    own. Nobody else is in a user's own group, by which many systems make folders writable (umask
    002).

    Raises:
        UsageError: The folder is another user's, or others can write it, or it is out of reach.
    """
    local_dir, me = layout.local_dir, os.geteuid()
    status, its_owner = None, me
    try:
        status = local_dir.stat()
        its_owner = layout.folder.stat().st_uid
    except PermissionError as error:
        raise UsageError(
            f"{error.filename} is out of your reach (user {me}, {error.strerror}): a sweep, and "
            "the jobs that lend to it, are of one user"
        ) from error
    except OSError:  # it is made later, or the database can't be, which says more
        if status is None:
            return
    if its_owner != me:
        raise UsageError(
            f"the experiment in {layout.folder} belongs to user {its_owner}, not to you ({me}): "
            "only its owner's jobs can lend to it, and go on with it"
        )
    reason = "an experiment's folder in it could be exchanged, and its trials run code of others"
    if status.st_uid not in (0, me):
        raise UsageError(
            f"local_dir {local_dir} belongs to user {status.st_uid}, not to you ({me}): "
            f"refused, since {reason}. Use a local_dir of your own"
        )
    others = stat.S_IWOTH | (0 if _is_own_group(status.st_gid) else stat.S_IWGRP)
    if status.st_mode & others and not status.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"local_dir {local_dir} can be written by others (mode "
            f"{stat.S_IMODE(status.st_mode):o}): refused, since {reason}. Use a local_dir of your "
            f"own, below it perhaps; or do: chmod +t '{local_dir}', then each can still add to it, "
            "but exchange only what is his own"
        )


def _is_own_group(gid: int) -> bool:
    """Whether a group is the user's own: named as the user is, with nobody else in it."""
    import grp  # here, as the next: it is rarely asked
    import pwd

    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return (
        gid == user.pw_gid and group.gr_name == user.pw_name and {*group.gr_mem} <= {user.pw_name}
    )
