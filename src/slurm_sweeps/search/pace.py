"""How long a trial's iterations take, as its first report tells."""

from __future__ import annotations


class Pace:
    """Seconds per iteration, from a trial's start to its first report.

    The first report is that of the lowest iteration from 1 on (0 is logged before any training by
    many); every trial has one, however soon it is stopped, so that all are measured alike. Start
    and loading count, as they do for the sweep. Only the first attempt is timed: a later one may
    go on from a checkpoint, and nobody knows from which. Where it logs the first report once more,
    nothing is known: what is known is a function of what is stored.

    Attributes:
        seconds: Seconds per iteration, more than 0; None while unknown.
    """

    __slots__ = ("_iteration", "_started_at", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._iteration: int | None = None
        self._started_at: float | None = None

    def begin(self, attempt: int, now: float) -> None:
        """An attempt, counted from 1, begins at so many seconds on some clock."""
        self._started_at = now if attempt == 1 else None

    def note(self, iteration: int, now: float | None) -> None:
        """The trial has reported.

        Args:
            iteration: 0 or more.
            now: Seconds on the same clock, None if nobody looked.
        """
        if iteration < 1 or (self._iteration is not None and iteration > self._iteration):
            return
        self._iteration, self.seconds = iteration, None
        if self._started_at is not None and now is not None and now > self._started_at:
            self.seconds = (now - self._started_at) / iteration
