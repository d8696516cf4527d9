"""Slots in simulated time: what runs there is told when its time has come. Pure."""

from __future__ import annotations

import heapq
from typing import Generic, Protocol, TypeVar

Run = TypeVar("Run")


class Game(Protocol[Run]):
    """What is played in the slots."""

    def start(self, slot: int, now: float) -> tuple[Run, float] | None:
        """Give a free slot a run, and say when the first thing happens in it; None: there is none.

        Asked again whenever something has happened.
        """

    def go_on(self, run: Run, now: float) -> float | None:
        """Do what is due in a run; say when the next thing happens, None if it has ended."""


class Simulation(Generic[Run]):
    """Events in the order of their time, O(log slots) each; of equal times the lower slot's first.

    Attributes:
        now: When the latest event was, in seconds from 0.
    """

    def __init__(self, game: Game[Run], slots: int) -> None:
        self.now = 0.0
        self._game = game
        self._idle = list(range(slots))
        self._due: list[tuple[float, int, Run]] = []

    def run(self, until: float) -> bool:
        """Let all happen up to a time; say whether something still runs then."""
        self._fill()
        while self._due and self._due[0][0] <= until:
            self.now, slot, run = heapq.heappop(self._due)
            due = self._game.go_on(run, self.now)
            if due is None:
                self._idle.append(slot)
            else:
                heapq.heappush(self._due, (due, slot, run))
            self._fill()
        return bool(self._due)

    def _fill(self) -> None:
        while self._idle:
            started = self._game.start(self._idle[-1], self.now)
            if started is None:
                return
            run, due = started
            heapq.heappush(self._due, (due, self._idle.pop(), run))
