"""On which nodes workers may be started: what has failed there, and how long it is let be. Pure.

Two kinds of failures are told apart. Workers that begin and die are held against their node: after
three in a row, before any of their trials has ended, it is left out for a while. That Slurm starts
no worker (its controller is away, a Prolog takes long) is held against nobody: the node is let be
for a moment. Either time grows with each failure; the first worker that is started then goes alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: A node is left out when this many workers on it in a row have ended before any of their trials.
MAX_DEATHS = 3

#: How long a node is left out, in seconds: doubled each time, up to the last.
FIRST_REST_S, LONGEST_REST_S = 60.0, 3600.0

#: How long it is let be when Slurm starts no worker there; likewise.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0

#: For so long others wait for what becomes of a worker that was started alone, in seconds.
ALONE_S = 60.0

#: What nodes have in common is told at once, if it comes within so many seconds.
GATHER_S = 2.0


@dataclass(slots=True)
class _Node:
    """Points in time are those of whoever tells it."""

    deaths: int = 0  # workers in a row that ended before any of their trials
    died_at: float = -math.inf
    rests: int = 0  # how often it was left out in a row
    refusals: int = 0  # starts in a row that Slurm has refused
    refused_at: float = math.inf  # the first of them, and the last
    last_refused_at: float = -math.inf
    stalled_at: float = math.inf  # since when workers are waited for, if none has begun
    why: str = ""  # of both
    until: float = 0.0  # no worker is started before
    alone_since: float = -math.inf  # when the one that goes alone was started


def double(first_s: float, longest_s: float, times: int) -> float:
    """Return a time that doubles with each failure: the first, the second, … up to the longest."""
    return min(first_s * 2.0 ** min(times - 1, 30), longest_s)  # some fail for days


class Nodes:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._nodes: defaultdict[str, _Node] = defaultdict(_Node)
        self._untold: dict[str, list[str]] = {}  # nodes where Slurm starts no worker, by its reason
        self._tell_at = math.inf

    def note_death(self, names: Iterable[str], worker_since: float, now: float) -> None:
        """A worker has died: one failure more if it was started after the last one died."""
        for node in map(self._nodes.__getitem__, names):
            if worker_since > node.died_at:
                node.deaths += 1
                node.died_at = now

    def leave_out(self, names: Iterable[str], now: float) -> Iterator[str]:
        """Leave nodes out on which too many workers have died; say which, and for how long."""
        for name in names:
            node = self._nodes[name]
            if node.deaths >= MAX_DEATHS:
                node.deaths -= 1  # the next one is enough
                node.rests += 1
                rest_s = double(FIRST_REST_S, LONGEST_REST_S, node.rests)
                node.until = now + rest_s
                yield (
                    f"{name} is left out for {rest_s:.0f} s: {MAX_DEATHS} workers in a row ended "
                    "there before any of their trials did"
                )

    def note_refusal(self, names: Iterable[str], why: str, worker_since: float, now: float) -> None:
        """Slurm has not started a worker: one refusal more if that was asked after the last one."""
        for name in names:
            node = self._nodes[name]
            if worker_since <= node.last_refused_at and worker_since != node.alone_since:
                continue
            if not node.refusals:
                node.refused_at = now
                self._untold.setdefault(why, []).append(name)
                self._tell_at = min(self._tell_at, now + GATHER_S)
            node.refusals += 1
            node.last_refused_at, node.why, node.alone_since = now, why, -math.inf
            node.until = now + double(FIRST_PAUSE_S, LONGEST_PAUSE_S, node.refusals)

    def count_refusals(self, names: Iterable[str]) -> int:
        """Return how many workers in a row Slurm has not started."""
        return max(self._nodes[name].refusals for name in names)

    def note_stall(self, names: Iterable[str], why: str, worker_since: float) -> None:
        """Slurm lets the step of a worker wait."""
        for node in map(self._nodes.__getitem__, names):
            node.stalled_at = min(node.stalled_at, worker_since)
            node.why = node.why if node.refusals else why
            if worker_since == node.alone_since:  # nothing is learnt from it
                node.until, node.alone_since = 0.0, -math.inf

    def take_refusals(self, now: float) -> Iterator[str]:
        """Say where Slurm has begun to start no worker."""
        if now < self._tell_at:
            return
        for why, names in self._untold.items():
            yield (
                f"Slurm starts no worker on {', '.join(names)}: {why}. It is asked again and "
                "again; this is held against no trial, slot or node"
            )
        self._untold.clear()
        self._tell_at = math.inf

    def note_start(self, names: Iterable[str], now: float) -> None:
        """A worker is being started: alone, where others were not, or have died."""
        for node in map(self._nodes.__getitem__, names):
            if node.refusals or node.rests:
                node.until, node.alone_since = now + ALONE_S, now

    def note_begun(self, names: Iterable[str], now: float) -> Iterator[str]:
        """A worker has begun: others may; say so where that is news."""
        for name in names:
            node = self._nodes[name]
            if node.refusals:
                yield f"Slurm starts workers on {name} again, after {now - node.refused_at:.0f} s"
            node.refusals, node.until, node.stalled_at = 0, 0.0, math.inf

    def note_success(self, names: Iterable[str]) -> Iterator[str]:
        """A trial has ended there by itself; say if that is news."""
        for name in names:
            node = self._nodes[name]
            if node.rests:
                yield f"{name} is in use again: a trial has ended there"
            node.deaths = node.rests = 0

    def find_start(self, names: Iterable[str]) -> float:
        """Return before when no worker may be started."""
        return max(self._nodes[name].until for name in names)

    def forget(self, names: Iterable[str]) -> None:
        """Nodes are there no more."""
        for name in names:
            self._nodes.pop(name, None)

    def are_left_out(self, names: Iterable[str], now: float) -> bool:
        """Whether workers have died on one of them too often to start another now."""
        nodes = [self._nodes[name] for name in names]
        return any(node.rests and not node.refusals and node.until > now for node in nodes)

    def find_refusal(self) -> tuple[float, str] | None:
        """Return since when Slurm starts no worker somewhere, and why; None: it does everywhere."""
        nodes = self._nodes.values()
        refused = [(node.refused_at, node.why) for node in nodes if node.refusals]
        stalled = [(node.stalled_at, node.why) for node in nodes if node.stalled_at < math.inf]
        return min(refused + stalled, default=None)
