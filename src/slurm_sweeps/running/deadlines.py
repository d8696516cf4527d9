"""How long the driver waits for what, and how it divides the time that is left. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: A loop that is this late was held up: its process was suspended, say. In seconds.
GAP_S = 5.0

#: What a host has loaded has so many seconds for its own end; then the driver ends the host.
LAST_S = 2
LEAVE_S = LAST_S + 0.5

#: A trial that is beyond its limits has so long to write where its threads are, in seconds.
STACKS_S = 5.0

#: What the driver keeps for itself at a job's end: to commit, and to leave, in seconds.
LAST_WORDS_S = LEAVE_S + 0.5

#: At most this part of a job is given to its end, however short the job is.
MOST_OF_JOB = 0.25


class Clock:
    """Seconds that pass while a loop runs: none do while its process is held up.

    So whoever had ten seconds to answer when a job was suspended has ten when it goes on.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._turn_at = read()
        self._lost_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self._read() - self._lost_s

    def note_turn(self, allowed_s: float = 0.0) -> float:
        """Begin a turn of the loop; return for how long that was held up, else 0.

        `allowed_s` is for how long it may have waited.
        """
        before, self._turn_at = self._turn_at, self._read()
        late_s = self._turn_at - before - allowed_s
        if late_s < GAP_S:
            return 0.0
        self._lost_s += late_s
        return late_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the driver waits, in seconds."""

    stop_grace_s: float = 60.0  # for trials to leave when the driver was told to stop
    prune_grace_s: float = 30.0  # for a trial to leave after `log` has raised
    exit_grace_s: float = 60.0  # for a trial's process to end after `train` has returned
    term_grace_s: float = 5.0  # between TERM and KILL
    answer_s: float = 10.0  # for a worker to tell that it has ended a trial, beyond the above
    max_trial_s: float | None = None  # these two: for a trial, see `ends`; None for ever
    max_silence_s: float | None = None


@dataclass(frozen=True, slots=True)
class StopPlan:
    """How a stop goes: seconds from now."""

    grace_s: float  # until trials that have not left are ended by their workers
    kill_s: float  # until workers that have not answered are killed

    def describe(self, count: int) -> str:
        """Say what so many running trials have left."""
        if not count:
            return "no trial is running"
        have, their = ("trial has", "its") if count == 1 else ("trials have", "their")
        return f"{count} running {have} {self.grace_s:.0f} s to reach {their} next report"


def plan_stop(patience: Patience, time_left_s: float) -> StopPlan:
    """Divide the time that is wanted, or that is left until Slurm kills everything."""
    wanted_s = patience.stop_grace_s + patience.term_grace_s + patience.answer_s
    kill_s = max(0.0, min(wanted_s, time_left_s - LAST_WORDS_S))
    return StopPlan(
        max(0.0, min(patience.stop_grace_s, kill_s - patience.term_grace_s - 1.0)), kill_s
    )


def compute_end_margin(patience: Patience, whole_s: float) -> float:
    """Return how long before its end a job that lasts `whole_s` seconds has to begin to stop."""
    wanted = patience.stop_grace_s + patience.term_grace_s + patience.answer_s + LAST_WORDS_S
    return min(wanted, whole_s * MOST_OF_JOB)


def compute_last_margin(patience: Patience, whole_s: float) -> float:
    """Return how long before a job's end trials that should end by themselves are ended.

    They have no time to reach a report any more, but TERM's.
    """
    margin_s = compute_end_margin(patience, whole_s)
    return min(margin_s, patience.term_grace_s + LAST_WORDS_S)
