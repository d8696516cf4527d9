"""What goes on beside the driver's loop: disks, terminals, a sampler that learns; and signals.

What the loop must not wait for has a thread of its own, so that a trial's report is answered while
a disk hangs or a terminal is held up. The threads are daemons: a script that has to end does not
wait for one that hangs. Signals come at any moment, and are kept until the loop asks for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a job that only lends its nodes waits for signals, and loads no sampler
    from ..sweep import Sweep

#: So many jobs may wait for one thread; then what it works on is taken to hang.
MAX_WAITING = 10_000

#: A thread with nothing to do for so long, in s, makes room for a trial's process (`ulimit -u`).
#: The terminal's has a job more often, and stays: it might find no room again.
REST_S = 1.0

#: Ctrl-C; the end of a job, `scancel` or preemption; `sbatch --signal=B:USR1@300`; a terminal that
#: was closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Background:
    """Does one job after the other in a thread of its own, which rests when there is none.

    Where the system starts no thread for now, jobs wait until it does.
    """

    def __init__(self, name: str, max_waiting: int = MAX_WAITING) -> None:
        self._name = name
        self._max_waiting = max_waiting
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()  # of `_thread`, which may only go while no job comes
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._is_at_work = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not self._is_at_work and self._jobs.empty()

    def put(self, job: Callable[[], object]) -> bool:
        """Have a job done after those before it; False if too many wait, and it is left out."""
        if self._jobs.qsize() >= self._max_waiting:
            return False
        self._jobs.put(job)
        self._see_to_thread()
        return True

    def _see_to_thread(self) -> None:
        with self._lock, contextlib.suppress(RuntimeError):  # of `ulimit -u`, for a while
            if self._thread is None and not self._jobs.empty():
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def check(self) -> None:
        """Raise what the first job that failed has raised; those after it are done all the same."""
        self._see_to_thread()
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float) -> bool:
        """Let the thread end when all is done; return whether it has. What comes later has another.

        Args:
            timeout_s: How long to wait while nothing gets done.
        """
        self._see_to_thread()
        with self._lock:
            thread, waiting = self._thread, -1
            if thread is None:
                return self._jobs.empty()
            self._jobs.put(None)
        while thread.is_alive() and self._jobs.qsize() != waiting:
            waiting = self._jobs.qsize()
            thread.join(timeout_s)
        if thread.is_alive():
            return False
        self._thread = None
        return True

    def _work(self) -> None:
        while (job := self._take()) is not None:
            self._is_at_work = True
            try:
                job()
            except Exception as error:  # noqa: BLE001 - the thread's border: `check` raises it
                self._error = self._error or error
            self._is_at_work = False

    def _take(self) -> Callable[[], object] | None:
        while True:
            with contextlib.suppress(Empty):
                return self._jobs.get(timeout=REST_S)
            with self._lock:
                if self._jobs.empty():
                    self._thread = None
                    return None


class Rounds:
    """Does one job again and again in a thread of its own while entered, and once more in the end.

    Args:
        job: What is done; an error of its own is for it to handle.
        pause_s: Seconds between two rounds, and ten times what the last one took at the least.
        last_s: How long the last round may take, in seconds; then it is left to itself.
    """

    def __init__(self, name: str, job: Callable[[], object], pause_s: float, last_s: float) -> None:
        self._job = job
        self._pause_s = pause_s
        self._last_s = last_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Rounds:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(self._last_s)

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_over.is_set()
            began = time.monotonic()
            self._job()
            if not is_last:
                self._is_over.wait(max(self._pause_s, 10 * (time.monotonic() - began)))


class BackgroundFit:
    """Fits a sampler's model, one fit at a time; nothing where the sampler does not learn.

    Attributes:
        fd: Becomes readable when a fit has ended: a slot may wait for it.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._sampler = sweep.student
        self._is_on = False
        self._background = Background("slurm-sweeps-fit")
        self._found: SimpleQueue[Any] = SimpleQueue()
        self.fd, self._writer = os.pipe()
        os.set_blocking(self.fd, False)
        if self._sampler is not None:
            self._sampler.studies_apart = True

    def advance(self) -> tuple[bool, str | None]:
        """Take in what a fit has found, and begin the next one if there is reason to.

        Returns:
            Whether the sampler may have more to propose now, and what `Sweep.study_failed` says, if
            it could not learn; then it is not asked again.
        """
        if self._sampler is None:
            return False, None
        was_on = self._is_on
        try:
            self._background.check()
            if was_on and self._found.empty():
                return False, None
            if was_on:
                self._sampler.learn(self._found.get())
            study = self._sampler.plan_study()
        except Exception as error:  # noqa: BLE001 - a sampler may be the user's, and raise anything
            self._sampler = None
            return True, self._sweep.study_failed(error)
        self._is_on = study is not None
        if study is not None:
            self._background.put(partial(self._make, study))
        return was_on, None

    def _make(self, study: Callable[[], Any]) -> None:
        try:
            self._found.put(study())
        finally:
            os.write(self._writer, b".")

    def hush(self) -> None:
        """Let `fd` be readable no more until the next fit has ended."""
        if self._is_on:
            with contextlib.suppress(BlockingIOError):
                os.read(self.fd, 1)

    def close(self) -> None:
        """Begin no other fit; one that goes on is nobody's any more."""
        if self._background.close(0.0):  # else it still is to write
            os.close(self.fd)
            os.close(self._writer)


class StopSignals:
    """While entered, stop signals are collected instead of ending the process.

    Python only lets the main thread set handlers; elsewhere nothing is collected. A second Ctrl-C
    before anybody has asked for the first one raises KeyboardInterrupt: what runs takes too long.

    Attributes:
        fd: Becomes readable when a signal came, or somebody calls `wake`.
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
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # nohup: the sweep is to outlive its terminal
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._before:
            signal.set_wakeup_fd(self._fd_before)
        os.close(self.fd)
        os.close(self._writer)

    def wake(self) -> None:
        """Make `fd` readable though no signal came; from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

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
