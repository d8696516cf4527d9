"""The records that driver and worker exchange, and how they are found in a noisy stream.

A record is one JSON object between the byte 0x1E and a newline (JSON text sequences, RFC 7464).
JSON escapes both bytes inside strings, so a record can't contain its own marks. Everything between
records is noise (a site's banner, a library's print): it is kept for the log and harms nothing.
A record that is cut short or isn't an object with a `kind` is counted and treated as noise too.

The streams of a job step reach srun line by line, and lines of different tasks are only kept whole
up to about 1,000 bytes. What several tasks may say at the same time therefore goes out in parts
(`encode_parts`) that the `Decoder` puts together again.

Driver to worker: `init`, `run`, `decision`, `stop`. Worker to driver: `hello`, `ready`, `broken`,
`started`, `report`, `ended`, `notice`. Where the slots of a node share a step, all that goes to or
comes from one has its number as `slot`; then there also are `kill` and `gone`. Between a worker and
its trial: `report`, `await`, `told`, `ended` one way, `decision`, `stop` the other.

The driver's end of a channel: its process, its streams, and its log.

Mostly it leads to one worker; to several, where the slots of a node share a step (`zygote`).

Records come over the worker's standard output (and, from ranks other than 0, its standard error),
and for trials on the driver's own host over a socket of their own. What else comes is the slot's
noise and goes to its log. Nothing here waits: what a pipe doesn't take at once is kept and sent
when it can be.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

Record = dict[str, Any]

RECORD_SEPARATOR = 0x1E
_SEPARATOR = b"\x1e"

#: A record longer than this is taken for noise that happened to hold a separator.
MAX_RECORD_BYTES = 64 * 2**20

#: Payload of one part, in characters. Quotes and backslashes in it are escaped once more, so it may
#: double; with its frame it still stays below what Slurm keeps in one piece.
PART_CHARS = 450

#: What a record of each kind must hold at least; more may come with it.
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "init": {"train": str},
    "run": {"trial_id": str, "number": int, "attempt": int, "dir": str, "env": dict},
    "decision": {"number": int, "attempt": int, "iteration": int, "do": str},
    "stop": {},
    "hello": {"host": str, "pid": int},
    "ready": {},
    "broken": {"traceback": str},
    "notice": {"text": str},
    "started": {"number": int, "pid": int},
    "report": {"number": int, "attempt": int, "iteration": int, "metrics": dict},
    "await": {"iteration": int},
    "told": {"do": str},
    "ended": {"how": str},
    "kill": {"slot": int},
    "gone": {"slot": int},
    "part": {"from": int, "text": str},
}

#: What else a record may hold (or hold as None), if it is of this type.
OPTIONAL_FIELDS: dict[str, type | tuple[type, ...]] = {
    "exit_code": int,
    "signal": int,
    "port": int,
    "slot": int,
    "at": (int, float),
    "gpus": str,
    "step": (str, dict),
}

_encode_json = json.JSONEncoder(separators=(",", ":")).encode


def is_well_formed(record: Any) -> bool:
    """Whether a decoded value is a record of a known kind that holds what its kind must."""
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    fields = FIELDS.get(record["kind"])
    if fields is None or not all(_fits(record.get(key), fields[key]) for key in fields):
        return False
    if record["kind"] == "report":
        return all(
            type(value) is float and is_storable(name) for name, value in record["metrics"].items()
        )
    optional = OPTIONAL_FIELDS.keys() & record.keys()
    return all(_fits_optional(record[key], OPTIONAL_FIELDS[key]) for key in optional)


def _fits_optional(value: Any, wanted: type | tuple[type, ...]) -> bool:
    if value is None:
        return True
    if isinstance(value, int) and (type(value) is bool or abs(value) >= 2**63):
        return False
    return isinstance(value, wanted)


def _fits(value: Any, wanted: type | tuple[type, ...]) -> bool:
    if wanted is int:  # the database holds 64 bits, and True is no number here
        return type(value) is int and 0 <= value < 2**63
    return isinstance(value, wanted)


def is_storable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair.

    JSON carries such halves; Python makes them of file names that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode(record: Record) -> bytes:
    """Write a record as the bytes that a `Decoder` finds again."""
    return b"\x1e" + _encode_json(record).encode() + b"\n"


def encode_parts(record: Record, sender: int) -> bytes:
    """Write a record as lines short enough to survive beside the lines of other tasks.

    Args:
        record: The record.
        sender: The rank that speaks; parts of different senders may arrive interleaved.
    """
    text = _encode_json(record)
    pieces = [text[i : i + PART_CHARS] for i in range(0, len(text), PART_CHARS)]
    last = len(pieces) - 1
    return b"".join(
        encode({"kind": "part", "from": sender, "at": i, "last": i == last, "text": piece})
        for i, piece in enumerate(pieces)
    )


class Decoder:
    """Finds records in a stream of bytes, however the stream is cut.

    Attributes:
        malformed: How many records were cut short or made no sense.
    """

    def __init__(self) -> None:
        self.malformed = 0
        self._buffer = b""
        self._noise: list[bytes] = []
        self._parts: dict[int, list[str]] = {}

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes of the stream; return the records that are complete now, in order."""
        buffer = self._buffer + data if self._buffer else data
        records: list[Record] = []
        start = 0
        while True:
            begin = buffer.find(_SEPARATOR, start)
            if begin < 0:
                self._add_noise(buffer[start:])
                self._buffer = b""
                return records
            if begin > start:
                self._add_noise(buffer[start:begin])
            end = buffer.find(b"\n", begin)
            if end < 0:
                self._buffer = self._keep_incomplete(buffer, begin)
                return records
            restart = buffer.rfind(_SEPARATOR, begin + 1, end)
            if restart >= 0:  # a record began inside another: the outer one was cut short
                self._reject(buffer[begin:restart])
                begin = restart
            self._parse(buffer[begin : end + 1], records)
            start = end + 1

    def take_noise(self) -> bytes:
        """Return what was found between records since the last call."""
        noise = b"".join(self._noise)
        self._noise.clear()
        return noise

    def _keep_incomplete(self, buffer: bytes, begin: int) -> bytes:
        restart = buffer.rfind(_SEPARATOR, begin + 1)
        if restart >= 0:
            self._reject(buffer[begin:restart])
            begin = restart
        if len(buffer) - begin > MAX_RECORD_BYTES:
            self._reject(buffer[begin:])
            return b""
        return buffer[begin:]

    def _parse(self, line: bytes, records: list[Record]) -> None:
        try:
            record = json.loads(line[1:])
        except (ValueError, RecursionError):  # bad JSON or UTF-8, or brackets without end
            record = None
        if not is_well_formed(record):
            self._reject(line)
        elif record["kind"] == "part":
            self._join_part(record, records)
        else:
            records.append(record)

    def _join_part(self, part: Record, records: list[Record]) -> None:
        sender = part["from"]
        if part.get("at") == 0:  # what there is was cut short with its sender
            self._parts.pop(sender, None)
        self._parts.setdefault(sender, []).append(part["text"])
        if part.get("last"):
            whole = "".join(self._parts.pop(sender))
            line = b"\x1e" + whole.encode("utf-8", "surrogatepass") + b"\n"
            self._parse(line, records)

    def _reject(self, data: bytes) -> None:
        self.malformed += 1
        self._add_noise(data)

    def _add_noise(self, data: bytes) -> None:
        if data:
            self._noise.append(data)


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
