"""A learning curve of which only a few values are kept, enough to see where it goes."""

from __future__ import annotations


class ThinCurve:
    """A metric's first value from each power of four on, and its last: O(log n) of n values.

    The powers are the iterations 0, 1, 4, 16, …, which also are the usual rungs. What is kept is a
    function of the stored metrics: an iteration that is logged again replaces its value, and the
    order of the reports does not matter.
    """

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first: dict[int, tuple[int, float]] = {}
        self._last: tuple[int, float] | None = None

    def note(self, iteration: int, value: float) -> bool:
        """Take a value in; say whether it is the first from a power of four on.

        Args:
            iteration: 0 or more.
            value: Any number, NaN and infinities included.
        """
        power = (iteration.bit_length() + 1) // 2
        first = self._first.get(power)
        if first is None or iteration <= first[0]:
            self._first[power] = (iteration, value)
        if self._last is None or iteration >= self._last[0]:
            self._last = (iteration, value)
        return first is None

    def read(self) -> dict[int, float]:
        """Return the values that are kept, by iteration, rising."""
        points = sorted(self._first.values())
        return dict(points if self._last is None else [*points, self._last])
