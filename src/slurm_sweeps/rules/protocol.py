"""What a pruner is: it hears every report of the metric and says whether the trial goes on."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Any, Protocol, runtime_checkable


class Decision(str, Enum):
    """The answer to a report. The values are the words used on the channel and in tables."""

    GO_ON = "go_on"
    PRUNE = "prune"
    PAUSE = "pause"  # leave the slot to others; it may go on later, from its checkpoint
    STOP = "stop"  # the driver was told to stop; said by the sweep, never by a pruner

    def __str__(self) -> str:
        return self.value


class Pruner(Protocol):
    """Decides on running trials, from what all trials reported so far.

    Its state is a function of the stored metrics: for each trial one value per iteration, the last
    one reported for it. A retried trial that logs an iteration again replaces the value there; what
    an earlier attempt logged beyond stands until it is replaced. To resume, report all stored
    values to a fresh pruner, in any order, and leave the answers aside.
    """

    def report(self, trial: Hashable, iteration: int, value: Any) -> Decision:
        """Take in a value and decide on the trial that reported it.

        Args:
            trial: What tells trials apart: their number or id.
            iteration: 0 or more.
            value: The metric, a float, NaN and infinities included; of a plan with several metrics
                a tuple, once an iteration has all of them.
        """


@runtime_checkable
class PromotingPruner(Pruner, Protocol):
    """A pruner that pauses trials, and lets one go on when it has become one of the best."""

    def pause(self, trial: Hashable) -> None:
        """Take note that a trial has left its slot and waits; its metrics may be told later."""

    def find_promotable(self) -> Hashable | None:
        """Return a waiting trial that is to go on, None while there is none."""

    def promote(self, trial: Hashable) -> None:
        """Take note that a waiting trial is going on."""


@runtime_checkable
class DoubtingPruner(Pruner, Protocol):
    """A pruner that may find its own rule unfit for the trials that it hears."""

    def pop_doubt(self) -> str | None:
        """Return a sentence for the user, once; None if there is none. Asked after each report."""


@runtime_checkable
class PrunerPlan(Protocol):
    """A pruner as the user configures it, before any report."""

    @property
    def metric(self) -> Any:
        """The metric that it hears, or a tuple of several."""

    @property
    def mode(self) -> Any:
        """Either "min" or "max"; of several metrics a tuple of these."""

    def build_pruner(self) -> Pruner:
        """Return the rule with no trial known yet."""
