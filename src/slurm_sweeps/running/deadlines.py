"""How long the driver waits for what, and how it divides the time that is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: What a host has loaded has so many seconds for its own end; then the driver ends the host.
LAST_S = 2
LEAVE_S = LAST_S + 0.5

#: What the driver keeps for itself at a job's end: to commit, and to leave, in seconds.
LAST_WORDS_S = LEAVE_S + 0.5

#: At most this part of a job is given to its end, however short the job is.
MOST_OF_JOB = 0.25


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the driver waits, in seconds."""

    stop_grace_s: float = 60.0  # for trials to leave when the driver was told to stop
    prune_grace_s: float = 30.0  # for a trial to leave after `log` has raised
    exit_grace_s: float = 60.0  # for a trial's process to end after `train` has returned
    term_grace_s: float = 5.0  # between TERM and KILL
    answer_s: float = 10.0  # for a worker to tell that it has ended a trial, beyond the above


@dataclass(frozen=True, slots=True)
class StopPlan:
    """How a stop goes: seconds from now."""

    grace_s: float  # until trials that have not left are ended by their workers
    kill_s: float  # until workers that have not answered are killed


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
