"""The driver's end of a channel: its process, its streams, and its log.

Mostly it leads to one worker; to several, where the slots of a node share a step (`zygote`).

Records come over the worker's standard output (and, from ranks other than 0, its standard error),
and for trials on the driver's own host over a socket of their own. What else comes is the slot's
noise and goes to its log. Nothing here waits: what a pipe doesn't take at once is kept and sent
when it can be.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from ..running.channel import Decoder, Record, encode

#: How much of what a worker wrote last is kept for an error message, in bytes.
TAIL_BYTES = 4_000


class Link:
    """One worker, or one node's, as the driver sees it.

    Args:
        process: The worker, or the srun that runs it; its three streams are pipes.
        log: The file that the slot's noise goes to.
        direct: The driver's end of the socket over which trials report, if there is one.

    Attributes:
        slots: The slots whose workers it leads to.
        has_begun: Whether any of them has said hello.
        has_lost_trials: Whether a trial may be left there that nobody speaks for.
        has_ended: Whether `end` was called.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: Path,
        direct: socket.socket | None = None,
    ) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a link needs all three streams of its process")
        self.process = process
        self.slots: set[int] = set()
        self.has_begun = False
        self.has_lost_trials = False
        self.has_ended = False
        self.tail = b""
        self._log = log
        self._direct = direct
        self._stdin = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        self._streams = [process.stdout.fileno(), process.stderr.fileno()]
        if direct is not None:
            direct.setblocking(False)
            self._streams.append(direct.fileno())
        for fd in (self._stdin, *self._streams):
            os.set_blocking(fd, False)
        self._decoders = {fd: Decoder() for fd in self._streams}
        self._unsent: dict[int, bytes] = {}

    @property
    def streams(self) -> list[int]:
        """The file descriptors to read from; the worker is gone when the first of them ends."""
        return self._streams

    @property
    def malformed(self) -> int:
        """How many records made no sense."""
        return sum(decoder.malformed for decoder in self._decoders.values())

    def read(self, fd: int) -> list[Record] | None:
        """Read what is there on one stream; None when the stream has ended."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        decoder = self._decoders[fd]
        records = decoder.feed(data)
        noise = decoder.take_noise()
        if noise:
            self._keep(noise)
        return records

    def answer(self, fd: int, record: Record) -> None:
        """Send a record the way that the one it answers came."""
        direct = self._direct is not None and fd == self._direct.fileno()
        self._write(fd if direct else self._stdin, encode(record))

    def send(self, record: Record) -> None:
        """Send a record to the worker."""
        self._write(self._stdin, encode(record))

    def send_rest(self) -> bool:
        """Try again to send what is left; return whether something still is."""
        for fd in list(self._unsent):
            self._write(fd, b"")
        return bool(self._unsent)

    def close_input(self) -> None:
        """Tell the worker that it can leave."""
        self._unsent.clear()
        self._stdin = -1  # the number may soon be another file's
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end by itself; for its output first, which tells it at once."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._stdout, 0)  # an end is told unasked
        poll.poll(timeout_s * 1000)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))

    def end(self, grace_s: float = 0.0) -> int:
        """Close everything and return the process's exit code; kill it if it doesn't end in time.

        Args:
            grace_s: How long to wait for it to end by itself.
        """
        self.close_input()
        self.has_ended = True
        try:
            code = self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        for fd in self._streams:
            while self.read(fd):
                pass
        for stream in (self.process.stdout, self.process.stderr, self._direct):
            if stream is not None:
                stream.close()
        return code

    def _write(self, fd: int, data: bytes) -> None:
        data = self._unsent.pop(fd, b"") + data
        try:
            while data:
                data = data[os.write(fd, data) :]
        except BlockingIOError:
            self._unsent[fd] = data
        except OSError:  # the worker is gone, which its output will tell
            return

    def _keep(self, noise: bytes) -> None:
        self.tail = (self.tail + noise)[-TAIL_BYTES:]
        with contextlib.suppress(OSError), self._log.open("ab") as log:
            log.write(noise)


def start_process(argv: list[str], env: dict[str, str], **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a worker (or its srun) with pipes, in a session of its own: a Ctrl-C is not for it."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
        bufsize=0,
        **kwargs,
    )
