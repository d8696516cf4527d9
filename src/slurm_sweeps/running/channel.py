"""The channel between driver and workers: its records, and the driver's end of it.

A record is one JSON object between the byte 0x1E and a newline (JSON text sequences, RFC 7464).
JSON escapes both bytes inside strings, so a record can't contain its own marks. Everything between
records is noise (a site's banner, a library's print): it is kept for the log and harms nothing.
A record that is cut short, or is none that `KINDS` knows, is counted and treated as noise too.

The streams of a job step reach srun line by line, and lines of different tasks are only kept whole
up to about 1,000 bytes. What several tasks may say at the same time therefore goes out in parts
(`encode_parts`) that the `Decoder` puts together again.

A `Connection` leads to one worker, or to those of several slots that share a process. Records come
over its standard output (and, from ranks other than 0, its standard error), and those of trials on
the driver's own host over a socket for each slot. Nothing here waits for a disk or for a process
that doesn't read: what a pipe doesn't take at once is sent when it can be.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints

from ..errors import UsageError

if TYPE_CHECKING:
    import subprocess

_SEPARATOR = b"\x1e"

#: No record is longer: a decoder takes it for noise that happened to hold a separator.
MAX_RECORD_BYTES = 64 * 2**20

#: What a worker may add to a record as it passes it on: the trial's environment.
ADDED_BYTES = 2**20

#: Payload of one part, in characters. Quotes and backslashes in it are escaped once more, so it may
#: double; with its frame it still stays below what Slurm keeps in one piece.
PART_CHARS = 450


class Record(TypedDict, total=False):
    """What a record may hold; `KINDS` says what it must. A field means the same in all of them."""

    kind: str
    slot: int  # the number that the slot's launcher knows it by
    rank: int
    number: int  # the trial's, of which this is an attempt
    attempt: int
    trial_id: str
    dir: str
    seed: int  # the trial's
    train: str
    digest: str  # of what is in that file
    path: list[str]  # what comes first on the import path
    step: str | None  # the job step's id
    share: dict[str, Any]  # what of it is the slot's
    bound_to: list[int]  # the position of the slot's first CPU, their number, that of all
    env: dict[str, Any]  # variables of the slot's trials; those that are None are taken out
    fresh: bool  # whether each trial gets a worker of its own
    max_trial_s: float  # these two, where there are any: see `limits`
    max_silence_s: float
    prune_grace_s: float  # these four: until a trial, told to leave, is made to
    exit_grace_s: float
    term_grace_s: float
    grace_s: float
    host: str
    pid: int
    gpus: str | None  # these three: what the next trial there will find
    port: int  # the last two in a job step only
    address: str
    cfg: dict[str, Any] | str  # as `encode_cfg` writes it
    stored: dict[str, Any]  # where that is pickled: as the database has it
    cfg_yml: str  # for people to read, in the trial's folder
    iteration: int  # in a run: of the trial's latest report before
    counts: bool  # whether a report's is one more than all before it, if that is higher
    metrics: dict[str, float]  # at an attempt's end: what `train` returned
    metric: str  # what a number is called that `train` returns
    do: str
    put: int  # these two: see `journal`
    kept: int
    journal: str  # the slot's
    repetition: int  # these two: of the trial, and its ranks
    world_size: int
    text: str
    child: bool  # whether a process says it that the trial has started
    ask: dict[str, Any]  # the arguments of `SuggestingSampler.suggest`; in a journal, its value too
    answer: dict[str, Any]  # the `value`, or an `error`
    how: str  # from here on: how an attempt ended
    exit_code: int | None
    signal: int | None
    at: float | None  # or when it began, or was reported
    error_type: str
    message: str
    traceback: str
    problem: str  # why no other attempt would fare better
    memory_mb: float  # these four: what an attempt used, see `usage`
    cpu_s: float
    gpu_memory_mb: float
    is_alone: bool
    modules: list[str]  # that a trial has loaded beyond its worker
    own_imports: bool  # whether that is of no interest: each trial imports by itself
    stays: bool  # whether the trial's process waits for the next trial
    sender: int  # these two: see `encode_parts`
    part: int
    last: bool


#: What a record of each kind must hold.
KINDS = {
    # Driver to worker.
    "init": {"train", "digest", "prune_grace_s", "exit_grace_s", "term_grace_s"},  # load it
    "run": {"trial_id", "number", "attempt", "dir", "cfg"},  # an attempt at a trial
    "decision": {"number", "attempt", "iteration", "do"},  # on a report or ask; goes to the trial
    "stop": {"number", "grace_s"},  # the trial, at its next report or after the grace; passed on
    "overrun": {"number", "error_type", "message"},  # of its limits by a trial: end it; see below
    "kill": set(),  # the worker of a slot, where several share a process
    # Worker to driver.
    "hello": {"host", "pid"},  # it has begun
    "ready": set(),  # it has loaded `train`
    "broken": {"traceback"},  # it can't load it
    "alive": set(),  # it is there, from `ready` on
    "notice": {"text"},  # for the user; a trial may have one too
    "started": {"number", "pid"},  # the trial's process
    "report": {"number", "attempt", "iteration", "metrics"},  # what was logged; awaits the decision
    "suggest": {"number", "attempt", "ask"},  # a value that the trial draws; awaits a decision
    # Also "overrun", by the first rank: all of them are to end it.
    "ended": {"how"},  # an attempt, by the trial's own account or its worker's
    "gone": set(),  # the worker of a slot, where several share a process
    "part": {"sender", "part", "last", "text"},  # a piece of a record
    # Trial to worker.
    "await": {"iteration"},  # a rank other than 0 waits for the decision on it
    "used": {"memory_mb", "cpu_s"},  # the last word of one whose process ends
    "loaded": {"modules", "env"},  # what of libraries it has imported late: see `late_imports`
    "told": {"do"},  # the trial has read a decision to leave
    # Worker to trial.
    "shared": set(),  # a process that the trial has started calls too
}


def _is_count(value: Any) -> bool:  # the database holds 64 bits, and True is no number here
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _are_metrics(value: Any) -> bool:
    return type(value) is dict and all(
        type(number) is float and is_storable(name) for name, number in value.items()
    )


_CHECKS_BY_TYPE: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: type(value) is str,
    bool: lambda value: type(value) is bool,
    int: _is_count,
    float: _is_number,
    list[str]: lambda value: type(value) is list and all(type(each) is str for each in value),
    dict[str, Any]: lambda value: type(value) is dict,
    dict[str, float]: _are_metrics,
    list[int]: lambda value: type(value) is list and all(map(_is_count, value)),
    int | None: lambda value: value is None or (type(value) is int and abs(value) < 2**63),
    float | None: lambda value: value is None or _is_number(value),
    str | None: lambda value: value is None or type(value) is str,
    dict[str, Any] | str: lambda value: type(value) in (dict, str),
}
_HINTS = get_type_hints(Record)
_CHECKS = {name: _CHECKS_BY_TYPE[its] for name, its in _HINTS.items()}
#: What needs no look beyond its type, which is most: a call less in each trial, for each of them.
_PLAIN = {name: its for name, its in _HINTS.items() if its in (str, bool, float)}

_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_decode_json = json.JSONDecoder().raw_decode


def is_well_formed(record: Any) -> bool:
    """Whether a decoded value is a record of a known kind that holds what its kind must."""
    if type(record) is not dict:
        return False
    kind = record.get("kind")
    required = KINDS.get(kind) if type(kind) is str else None
    if required is None or not required <= record.keys():
        return False
    for name, value in record.items():
        if type(value) is not _PLAIN.get(name) and name in _CHECKS and not _CHECKS[name](value):
            return False
    return True


def is_storable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair.

    JSON carries such halves; Python makes them of file names that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode(record: Mapping[str, Any]) -> bytes:
    """Write a record as the bytes that a `Decoder` finds again."""
    return _SEPARATOR + _encode_json(record).encode() + b"\n"


def encode_bounded(record: Mapping[str, Any]) -> bytes:
    """Write what holds a user's own data, of which nobody knows how much it is.

    Raises:
        UsageError: It is more than a decoder takes.
    """
    data = encode(record)
    if len(data) > MAX_RECORD_BYTES:
        what, remedy = "what log was given", "log fewer metrics at once"
        if record["kind"] == "run":
            what = f"the cfg of trial {record['trial_id']}" if record["trial_id"] else "a cfg"
            remedy = "keep large data in a file, and give its path in cfg"
        raise UsageError(
            f"{what} takes {len(data) / 2**20:.1f} MiB on its way, and {MAX_RECORD_BYTES >> 20} "
            f"MiB is the most that can be sent; {remedy}"
        )
    return data


def encode_parts(record: Mapping[str, Any], sender: int) -> bytes:
    """Write a record as lines short enough to survive beside the lines of other tasks.

    Those of different senders (ranks, or slots) may arrive interleaved.
    """
    text = _encode_json(record)
    pieces = [text[i : i + PART_CHARS] for i in range(0, len(text), PART_CHARS)]
    last = len(pieces) - 1
    return b"".join(
        encode({"kind": "part", "sender": sender, "part": i, "last": i == last, "text": piece})
        for i, piece in enumerate(pieces)
    )


#: Said where the driver speaks another language: it goes on with the version that it has loaded.
MALFORMED = (
    "what the driver says makes no sense to slurm_sweeps here, which may have been upgraded while "
    "the sweep runs: stop it, and go on with restore=True"
)


class Decoder:
    """Finds records in a stream of bytes, however the stream is cut."""

    def __init__(self) -> None:
        self.malformed = 0  # records that were cut short or made no sense
        self._buffer = bytearray()
        self._noise: list[bytes] = []
        self._parts: dict[int, list[str]] = {}

    def feed(self, data: bytes) -> list[Record]:
        """Take the next bytes of the stream; return the records that are complete now, in order."""
        is_rest = bool(self._buffer) and b"\n" not in data and _SEPARATOR not in data
        limit = MAX_RECORD_BYTES + ADDED_BYTES
        if is_rest and len(self._buffer) + len(data) < limit:  # of a long one: join it once
            self._buffer += data
            return []
        before, *pieces = (bytes(self._buffer) + data).split(_SEPARATOR)
        self._add_noise(before)
        self._buffer = bytearray()
        records: list[Record] = []
        for i, piece in enumerate(pieces, start=1):
            end = piece.find(b"\n") + 1
            if end:
                self._parse(piece[:end], records)
                self._add_noise(piece[end:])
            elif i < len(pieces) or len(piece) >= limit:  # cut short, or none
                self._reject(piece)
            else:
                self._buffer = bytearray(_SEPARATOR + piece)
        return records

    @property
    def rest(self) -> bytes:
        """What has come of a record that is not complete yet."""
        return bytes(self._buffer)

    def take_noise(self) -> bytes:
        """Return what was found between records since the last call."""
        noise = b"".join(self._noise)
        self._noise.clear()
        return noise

    def _parse(self, text: bytes, records: list[Record]) -> None:
        try:
            plain = text.decode("utf-8", "surrogatepass")
            record, end = _decode_json(plain)
            record = None if plain[end:].strip() else record
        except (ValueError, RecursionError):  # bad JSON or UTF-8, or brackets without end
            record = None
        if not is_well_formed(record):
            self._reject(text)
        elif record["kind"] == "part":
            self._join_part(record, records)
        else:
            records.append(record)

    def _join_part(self, part: Record, records: list[Record]) -> None:
        sender = part["sender"]
        if part["part"] == 0:  # what there is was cut short with its sender
            self._parts.pop(sender, None)
        self._parts.setdefault(sender, []).append(part["text"])
        if part["last"]:
            whole = "".join(self._parts.pop(sender))
            self._parse(whole.encode("utf-8", "surrogatepass") + b"\n", records)

    def _reject(self, text: bytes) -> None:
        self.malformed += 1
        self._add_noise(_SEPARATOR + text)

    def _add_noise(self, data: bytes) -> None:
        if data:
            self._noise.append(data)


#: A worker in a job step says so often that it is there, in seconds: its link may end unheard.
ALIVE_EVERY_S = 5.0

#: How much of what a worker wrote last is kept for an error message, in bytes.
TAIL_BYTES = 4_000


#: A process that was killed has this long to end before it is left to itself, in seconds.
KILL_S = 2.0


def append_to(file: Path, data: bytes) -> None:
    """Append to a log; one that can't be written does no harm."""
    with contextlib.suppress(OSError), file.open("ab") as log:
        log.write(data)


class Connection:
    """A worker, or those of several slots that share a process, as the driver sees them.

    Args:
        process: The worker, or the srun that runs it; its three streams are pipes.
        log: The file that its noise goes to.
        direct: By a slot's number: the driver's end of the socket over which that slot's trials
            report, where they run on the driver's own host.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        log: Path,
        direct: Mapping[int, socket.socket] = MappingProxyType({}),
    ) -> None:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("a connection needs all three streams of its process")
        self.process = process
        self.begun_at: float | None = None  # when anybody there first said hello
        self.has_lost_trials = False  # one may be left there that nobody speaks for
        self.has_ended = False  # `end` was called
        self.tail = b""  # of its noise
        self._log = log
        self._keep: Callable[[Path, bytes], object] = append_to
        self._selector: selectors.BaseSelector | None = None
        self._files: list[Any] = [process.stdout, process.stderr, *direct.values()]
        self._stdin = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        # What to read from; the process is gone when the first of them ends.
        self.streams = [file.fileno() for file in self._files]
        self._slots = {its.fileno(): slot for slot, its in direct.items()}
        for fd in (self._stdin, *self.streams):
            os.set_blocking(fd, False)
        self._decoders = {fd: Decoder() for fd in self.streams}
        self._unsent: dict[int, bytes] = {}

    @property
    def malformed(self) -> int:
        """How many records made no sense."""
        return sum(decoder.malformed for decoder in self._decoders.values())

    @property
    def said(self) -> str:
        """What it wrote last besides records."""
        return self.tail.decode(errors="replace").strip()

    def attach(
        self, selector: selectors.BaseSelector, keep: Callable[[Path, bytes], object]
    ) -> None:
        """Have a selector watch all streams, with this object as their data.

        From now on noise, with the log's path, is for `keep`, which does not wait for the disk.
        """
        self._selector, self._keep = selector, keep
        for fd in self.streams:
            selector.register(fd, selectors.EVENT_READ, self)

    def detach(self, fd: int) -> None:
        """Watch a stream no more."""
        if self._selector is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)

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
            self.tail = (self.tail + noise)[-TAIL_BYTES:]
            self._keep(self._log, noise)
        if fd in self._slots:
            for record in records:
                record["slot"] = self._slots[fd]
        return records

    def answer(self, fd: int, record: Mapping[str, Any]) -> None:
        """Send a record the way that the one it answers came."""
        self._write(fd if fd in self._slots else self._stdin, encode(record))

    def send(self, record: Mapping[str, Any]) -> None:
        """Send a record to the process.

        Raises:
            UsageError: It is too long.
        """
        self._write(self._stdin, encode_bounded(record))

    def send_rest(self) -> bool:
        """Try again to send what is left; return whether something still is."""
        for fd in list(self._unsent):
            self._write(fd, b"")
        return bool(self._unsent)

    def close_input(self) -> None:
        """Tell the process that it can leave."""
        self._unsent.pop(self._stdin, None)
        if self._stdin >= 0:
            self.detach(self._stdin)
        self._stdin = -1  # the number may soon be another file's
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()

    def has_exited(self) -> bool:
        """Whether the process has ended; it is not reaped: its group is nobody else's until then.

        Where that can't be asked (macOS, before Python 3.13), it is reaped.
        """
        if self.process.returncode is None and hasattr(os, "waitid"):
            how = os.WEXITED | os.WNOHANG | os.WNOWAIT
            with contextlib.suppress(ChildProcessError):  # somebody else has reaped it
                return os.waitid(os.P_PID, self.process.pid, how) is not None
        return self.process.poll() is not None

    def wait(self, timeout_s: float) -> None:
        """Wait for the process to end by itself; its output first, whose end is told at once."""
        deadline, pause_s = time.monotonic() + timeout_s, 0.0005
        if not self.has_ended:
            poll = select.poll()
            poll.register(self._stdout, 0)  # an end is told unasked
            poll.poll(timeout_s * 1000)
        while not self.has_exited() and time.monotonic() < deadline:
            time.sleep(pause_s)
            pause_s = min(0.05, 2 * pause_s)

    def end(self, grace_s: float = 0.0) -> int | None:
        """Close everything and return the process's exit code; kill it if it doesn't end in time.

        What it leaves in its group is killed in any case. The code is None if it has not even ended
        `KILL_S` after it was killed, as one that hangs in the kernel (on a disk, say): nobody waits
        for it any more.
        """
        self.close_input()
        self.has_ended = True
        self.wait(grace_s)
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.wait(KILL_S)
        code = self.process.poll()
        for fd in self.streams:
            while self.read(fd):
                pass
            self.detach(fd)
        for file in self._files:
            file.close()
        return code

    def _write(self, fd: int, data: bytes) -> None:
        before = self._unsent.pop(fd, b"")
        data = before + data
        try:
            while data:
                data = data[os.write(fd, data) :]
        except BlockingIOError:
            self._unsent[fd] = data
        except OSError:  # the process is gone, which its output will tell
            data = b""
        if bool(data) != bool(before):
            self._watch_for_room(fd, bool(data))

    def _watch_for_room(self, fd: int, is_wanted: bool) -> None:
        """Have the selector say when a pipe that was full takes more, or no more."""
        if self._selector is None:
            return
        if fd in self._slots:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if is_wanted else 0)
            with contextlib.suppress(KeyError):
                self._selector.modify(fd, events, self)
        elif is_wanted:
            self._selector.register(fd, selectors.EVENT_WRITE, self)
        else:
            self.detach(fd)


def start_process(argv: list[str], env: dict[str, str], **kwargs: Any) -> subprocess.Popen[bytes]:
    """Start a worker (or its srun) with pipes, in a session of its own: a Ctrl-C is not for it."""
    import subprocess

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
