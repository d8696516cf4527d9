"""What the driver's loop must not wait for: disks, terminals, and a sampler that learns.

Each has a thread of its own, so that a trial's report is answered while a disk hangs or a terminal
is held up. The threads are daemons: a script that has to end does not wait for one that hangs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..sweep import Sweep

#: So many jobs may wait for one thread; then what it works on is taken to hang.
MAX_WAITING = 10_000


class Background:
    """Does one job after the other in a thread of its own, which starts with the first one.

    Args:
        name: The thread's.
        max_waiting: How many jobs may wait.
    """

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._error: Exception | None = None

    def put(self, job: Callable[[], object]) -> bool:
        """Have a job done after those before it; False if too many wait, and it is left out."""
        with self._changed:
            if len(self._jobs) >= self._max_waiting:
                return False
            self._jobs.append(job)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return True

    def check(self) -> None:
        """Raise what the first job that failed has raised; those after it are done all the same."""
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float) -> bool:
        """Let the thread end when all is done; return whether it has, after so many seconds."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the thread's border: `check` raises it
                self._error = self._error or error

    def _take(self) -> Callable[[], object] | None:
        """Wait for the next job; None when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._is_closing)
            return self._jobs.popleft() if self._jobs else None


class BackgroundFit:
    """Fits a sampler's model, one fit at a time; nothing where the sampler does not learn.

    Args:
        sweep: Says when there is something to compute, and takes what was found.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._is_wanted = sweep.study_apart()
        self._thread: threading.Thread | None = None
        self._result: Any = None
        self._error: Exception | None = None

    def advance(self) -> str | None:
        """Take in what a fit has found, and begin the next one if there is reason to.

        Returns:
            What `Sweep.study_failed` says, if the sampler could not learn; it is not asked again.
        """
        if not self._is_wanted or (self._thread is not None and self._thread.is_alive()):
            return None
        try:
            self._take_in()
            study = self._sweep.plan_study()
        except Exception as error:  # noqa: BLE001 - a sampler may be the user's, and raise anything
            self._is_wanted = False
            return self._sweep.study_failed(error)
        if study is not None:
            self._thread = threading.Thread(
                target=self._compute, args=(study,), name="slurm-sweeps-fit", daemon=True
            )
            self._thread.start()
        return None

    def _take_in(self) -> None:
        if self._thread is None:
            return
        self._thread = None
        if self._error is not None:
            raise self._error
        self._sweep.learn(self._result)

    def _compute(self, study: Callable[[], Any]) -> None:
        try:
            self._result = study()
        except Exception as error:  # noqa: BLE001 - the border of the thread
            self._error = error
