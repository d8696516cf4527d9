"""How a worker lives through the signals that Slurm sends to all tasks of a job that ends.

The driver got them too and says what to do. Python writes the number of every signal that has a
handler to a pipe that the worker polls, so that the end of a child wakes it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

#: The signals by which Slurm's `--signal` warns of the end of a job: the driver's business.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def listen_to_signals() -> tuple[int, int]:
    """Live through all of them; return both ends of the pipe, the one to read from first."""
    wake, writer = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, *WARNINGS):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return wake, writer


def reap(wake: int) -> Iterator[tuple[int, int]]:
    """Empty the pipe; yield the process id and the wait status of each child that has ended."""
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 4096):
            pass
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended
