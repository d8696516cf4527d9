"""How long a trial's iterations take, as its first report tells."""

from __future__ import annotations


class Pace:
    """Seconds per iteration, from an attempt's start to the trial's first report.

    The first report is that of the lowest iteration; every trial has one, however soon it is
    stopped, so that all are measured alike. What is known is a function of what is stored: an
    iteration that is logged again counts anew, from the start of the attempt that logged it.

    Attributes:
        seconds: Seconds per iteration, more than 0; None while unknown.
    """

    __slots__ = ("_iteration", "_started_at", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._iteration: int | None = None
        self._started_at: float | None = None

    def begin(self, now: float) -> None:
        """An attempt begins, at so many seconds on some clock."""
        self._started_at = now

    def note(self, iteration: int, now: float | None) -> None:
        """The trial has reported.

        Args:
            iteration: 0 or more; where iterations are counted from 0, the first took one as well.
            now: Seconds on the same clock, None if nobody looked.
        """
        if self._iteration is not None and iteration > self._iteration:
            return
        self._iteration, self.seconds = iteration, None
        if self._started_at is not None and now is not None and now > self._started_at:
            self.seconds = (now - self._started_at) / max(iteration, 1)
