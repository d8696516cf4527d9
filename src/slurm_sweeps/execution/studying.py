"""Fitting a sampler's model in a thread of its own, so that no report waits for it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..sweep import Sweep


class Studies:
    """One study at a time, of a sweep whose sampler has any; else nothing, and no thread.

    Args:
        sweep: Says when there is something to study, and takes what was found.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._executor = ThreadPoolExecutor(1, "study") if sweep.study_apart() else None
        self._running: Future[Any] | None = None

    def advance(self) -> None:
        """Take in what a study has found, and begin the next one if there is reason to."""
        if self._executor is None:
            return
        if self._running is not None and self._running.done():
            self._sweep.learn(self._running.result())
            self._running = None
        if self._running is None:
            study = self._sweep.plan_study()
            self._running = None if study is None else self._executor.submit(study)

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
