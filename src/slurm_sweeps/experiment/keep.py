"""Whose checkpoints stay, and the thread that deletes the others while a sweep runs.

Only trials are looked at that are out of the race: nothing may follow their status any more
(`trial.TRANSITIONS`), and that is committed. What runs, waits, is paused, was lost or has failed
(`retry` runs it again) is never touched. The values of those that are looked at change no more, so
one that has fallen behind the best of them never comes back: what is left in the end depends on how
the trials went, and not on when this looked. A driver that dies leaves something undone at the
worst, which the next one takes up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..checks import Goal, check_integer, set_fields
from ..errors import StorageError
from ..running.background import Rounds
from ..storage.database import Database
from ..storage.layout import Layout
from ..storage.lease import remove_folder
from ..storage.rows import read_best, read_trial_ids
from ..trial import TRANSITIONS, Status

#: What has one of these is out of the race.
ENDED = [status for status, may_follow in TRANSITIONS.items() if not may_follow]

#: Of these one may be among the best.
VALID = [status for status in ENDED if status is not Status.INFEASIBLE]

#: Seconds between two looks at the database.
PAUSE_S = 5.0

#: How long the last look, and what it deletes, may take, in seconds.
LAST_S = 60.0


@dataclass(frozen=True, slots=True)
class Keep:
    """Whose checkpoints to keep: those of the best trials, and of all that may still go on.

    The folder `checkpoints` of a trial that is completed, pruned or infeasible is deleted while the
    sweep runs, unless the trial is among the `best` of the first two by the experiment's metric
    (its best value at any iteration, of equal ones the earlier trial). Those of trials that run,
    are paused, were interrupted or lost, or have failed stay, as do all logs and configurations.

    Args:
        best: How many; 0 keeps only what trials need to go on.

    Raises:
        UsageError: `best` is negative.
        UsageTypeError: It is no integer.
    """

    best: int

    def __post_init__(self) -> None:
        set_fields(self, best=check_integer("Keep", "best", self.best, 0))


@dataclass
class Keeper:
    """Deletes checkpoints of one experiment as a `Keep` says."""

    _keep: Keep
    _goal: Goal
    _layout: Layout
    _experiment_id: int
    _notify: Callable[[str], object]  # told in a sentence what can't be deleted, once
    _done: set[int] = field(default_factory=set)

    def begin(self) -> Rounds:
        """Return a thread that looks again and again while entered."""
        return Rounds("slurm-sweeps-keep", self.look, PAUSE_S, LAST_S)

    def look(self) -> None:
        """Delete what is not to be kept by now."""
        try:
            ended, kept = self._read()
        except StorageError:  # locked for the moment; what is wrong for good the driver says
            return
        for number in sorted(ended.keys() - kept - self._done):
            self._done.add(number)
            try:
                remove_folder(self._layout.trial(ended[number]).checkpoints, lambda: None)
            except StorageError as error:
                self._notify(f"keep: {error}")

    def _read(self) -> tuple[dict[int, str], set[int]]:
        """Read the ids of the trials that are out of the race, and the numbers of the best."""
        metric, mode = self._goal
        with Database.open(self._layout.database, read_only=True) as store, store.reading():
            ended = read_trial_ids(store, self._experiment_id, ENDED)
            best = read_best(
                store, self._experiment_id, metric, mode, self._keep.best, statuses=VALID
            )
        return ended, {each.number for each in best}
