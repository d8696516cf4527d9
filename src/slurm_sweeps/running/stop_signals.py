"""The signals by which a driver is told to stop, kept until somebody asks for them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

#: Ctrl-C; the end of a job, `scancel` or preemption; `sbatch --signal=B:USR1@300`.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """While entered, stop signals are collected instead of ending the process.

    Python only lets the main thread set handlers; elsewhere nothing is collected. A second Ctrl-C
    before anybody has asked for the first one raises KeyboardInterrupt: what runs takes too long.

    Attributes:
        fd: Becomes readable when a signal came.
    """

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._writer, False)
        self._before: dict[signal.Signals, Any] = {}
        self._fd_before = -1
        self._came: list[signal.Signals] = []

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
        os.close(self.fd)
        os.close(self._writer)

    def take(self) -> list[signal.Signals]:
        """Return the signals that came since the last call, oldest first."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
        came, self._came = self._came, []
        return came

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's
        if number == signal.SIGINT in self._came:
            raise KeyboardInterrupt
        self._came.append(signal.Signals(number))
