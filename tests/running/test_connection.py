"""The driver's end of the channel, against real processes that don't listen, or say nonsense."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.running import channel
from slurm_sweeps.running.channel import TAIL_BYTES, Connection, Record, encode, start_process

TIMEOUT_S = 60.0

Start = Callable[..., Connection]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python script as a worker, `encode` and `read` at hand; ended afterwards."""
    connections: list[Connection] = []

    def start_script(
        code: str, direct: dict[int, socket.socket] | None = None, **kwargs: Any
    ) -> Connection:
        preamble = "import os, sys, time\ndef say(text): os.write(1, text)\n"
        argv = [sys.executable, "-c", preamble + code]
        connection = Connection(
            start_process(argv, dict(os.environ), **kwargs), tmp_path / "slot.log", direct or {}
        )
        connections.append(connection)
        return connection

    yield start_script
    for connection in connections:
        if not connection.process.stdout.closed:  # type: ignore[union-attr] # it is a pipe
            connection.end()


def hear(
    connection: Connection, enough: Callable[[list[Record]], bool] = lambda _: False
) -> list[Record]:
    """Read all streams until they have ended, or what was heard is enough."""
    records: list[Record] = []
    selector = selectors.DefaultSelector()
    for fd in connection.streams:
        selector.register(fd, selectors.EVENT_READ)
    deadline = time.monotonic() + TIMEOUT_S
    while selector.get_map() and not enough(records):
        assert time.monotonic() < deadline
        for key, _ in selector.select(1.0):
            found = connection.read(key.fd)
            if found is None:
                selector.unregister(key.fd)
            else:
                records += found
    return records


def test_records_of_both_streams_are_found_and_the_rest_goes_to_the_log(
    start: Start, tmp_path: Path
) -> None:
    connection = start(
        f"say(b'banner\\n' + {encode({'kind': 'ready'})!r})\n"
        "say(b'\\x1e{cut\\n')\n"
        f"os.write(2, b'warning\\n' + {encode({'kind': 'notice', 'text': 'two'})!r})\n"
    )
    kinds = sorted(record["kind"] for record in hear(connection))
    assert kinds == ["notice", "ready"]
    assert connection.end(grace_s=TIMEOUT_S) == 0
    assert connection.malformed == 1
    log = (tmp_path / "slot.log").read_bytes()
    assert log == connection.tail
    assert sorted(log.replace(b"\x1e", b"").splitlines()) == [b"banner", b"warning", b"{cut"]


def test_only_the_end_of_the_noise_is_kept_in_memory(start: Start, tmp_path: Path) -> None:
    connection = start("os.write(2, b'x' * 1_000_000)\nos.write(2, b'the end')\n")
    hear(connection)
    assert len(connection.tail) == TAIL_BYTES
    assert connection.tail.endswith(b"xthe end")
    assert (tmp_path / "slot.log").stat().st_size == 1_000_007


def test_a_log_that_can_not_be_written_does_no_harm(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slot.log").mkdir()
    connection = start("say(b'noise')")
    assert hear(connection) == []
    assert connection.tail == b"noise"


def test_a_worker_that_does_not_listen_holds_nothing_up(start: Start, tmp_path: Path) -> None:
    # It waits for a sign, given when the driver has said more than the pipe holds.
    sign = tmp_path / "sign"
    connection = start(
        f"while not os.path.exists({str(sign)!r}): time.sleep(0.01)\n"
        "data = b''\n"
        "while not data.endswith(b'\\n') or data.count(b'\\n') < 50: data += os.read(0, 65536)\n"
        "say(b'%d\\n' % len(data))\n"
    )
    records = [{"kind": "notice", "text": "x" * 10_000} for _ in range(50)]
    for record in records:
        connection.send(record)
    assert connection.send_rest()
    sign.touch()
    deadline = time.monotonic() + TIMEOUT_S
    while connection.send_rest():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    hear(connection)
    assert int(connection.tail) == sum(len(encode(record)) for record in records)


def test_answers_go_the_way_that_the_report_came(start: Start) -> None:
    mine, its = socket.socketpair()
    with its:
        connection = start(
            f"import socket\ns = socket.socket(fileno={its.fileno()})\n"
            f"s.sendall({encode({'kind': 'ready'})!r})\n"
            "say(b'direct:' + s.recv(1000))\nsay(b'pipe:' + os.read(0, 1000))\n",
            direct={3: mine},
            pass_fds=(its.fileno(),),
        )
    hear(connection, enough=bool)
    connection.answer(mine.fileno(), {"kind": "notice", "text": "one"})
    connection.send({"kind": "notice", "text": "two"})
    assert [record["text"] for record in hear(connection)] == ["one", "two"]
    assert connection.tail == b"direct:pipe:"


def test_each_slot_has_a_socket_of_its_own(start: Start) -> None:
    pairs = {slot: socket.socketpair() for slot in (4, 7)}
    its = [pair[1].fileno() for pair in pairs.values()]
    connection = start(
        f"import socket\nsockets = [socket.socket(fileno=fd) for fd in {its}]\n"
        f"for s in sockets: s.sendall({encode({'kind': 'ready'})!r})\n"
        "for s in sockets: say(s.recv(1000).split(b'\"')[-2])\n",
        direct={slot: pair[0] for slot, pair in pairs.items()},
        pass_fds=its,
    )
    for _, end in pairs.values():
        end.close()
    ready = hear(connection, enough=lambda records: len(records) == 2)
    assert sorted(record["slot"] for record in ready) == [4, 7]
    for slot, (mine, _) in pairs.items():
        connection.answer(mine.fileno(), {"kind": "notice", "text": f"to-{slot};"})
    assert hear(connection) == []
    assert connection.tail == b"to-4;to-7;"


def test_what_is_said_to_a_worker_that_has_gone_is_lost_quietly(start: Start) -> None:
    connection = start("")
    connection.process.wait(TIMEOUT_S)
    connection.send({"kind": "stop"})
    assert not connection.send_rest()
    assert connection.end() == 0


def test_after_the_input_was_closed_nothing_is_written_anywhere(
    start: Start, tmp_path: Path
) -> None:
    connection = start("sys.stdin.read()")
    number = connection._stdin
    connection.close_input()
    # The next file that is opened gets the number that the pipe had.
    fd = os.open(tmp_path / "innocent", os.O_CREAT | os.O_WRONLY)
    os.dup2(fd, number)
    connection.send({"kind": "stop"})
    for opened in {fd, number}:
        os.close(opened)
    assert (tmp_path / "innocent").read_bytes() == b""
    assert connection.end(grace_s=TIMEOUT_S) == 0


def test_a_worker_that_does_not_leave_is_killed_with_its_group(start: Start) -> None:
    connection = start(
        "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\nsay(b'%d\\n' % child.pid)\ntime.sleep(600)\n"
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not connection.tail.endswith(b"\n"):
        assert time.monotonic() < deadline
        connection.read(connection.streams[0])
        time.sleep(0.001)
    assert connection.end() == -signal.SIGKILL
    child = int(connection.tail)
    wait_until(lambda: read_process(child) is None, TIMEOUT_S, lambda: str(read_process(child)))


def test_what_a_worker_that_has_ended_leaves_in_its_group_is_killed(start: Start) -> None:
    connection = start(
        "import subprocess\nnull = subprocess.DEVNULL\n"
        "child = subprocess.Popen(['sleep', '600'], stdin=null, stdout=null, stderr=null)\n"
        "say(b'%d\\n' % child.pid)\nos._exit(3)\n"
    )
    hear(connection)
    connection.wait(TIMEOUT_S)
    assert connection.has_exited()
    child = int(connection.tail)
    assert read_process(child) is not None
    assert connection.end() == 3
    wait_until(lambda: read_process(child) is None, TIMEOUT_S, lambda: str(read_process(child)))


def test_a_link_needs_all_three_streams(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["true"]) as process,
        pytest.raises(ValueError, match="a connection needs all three streams"),
    ):
        Connection(process, tmp_path / "log")


#: A tracer that doesn't look after its tracee: killed, that one can't be waited for by its parent,
#: just as one that hangs in the kernel.
TRACER = """
import ctypes, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.prctl(0x59616d61, -1, 0, 0, 0)  # PR_SET_PTRACER: any process may trace this one
worker = os.getpid()
tracer = os.fork()
if tracer == 0:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    is_traced = libc.ptrace(0x4206, worker, None, None) == 0  # PTRACE_SEIZE
    say(b"tracer %d %d\\n" % (os.getpid(), is_traced))
    time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


def test_a_process_that_does_not_end_when_killed_is_not_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "KILL_S", 0.2)
    connection = start(TRACER)
    deadline = time.monotonic() + TIMEOUT_S
    while not connection.tail.endswith(b"\n"):
        assert time.monotonic() < deadline
        connection.read(connection.streams[0])
        time.sleep(0.001)
    _, tracer, is_traced = connection.tail.split()
    if is_traced != b"1":
        os.kill(int(tracer), signal.SIGKILL)
        pytest.skip("processes can't be traced here")
    try:
        began = time.monotonic()
        assert connection.end() is None
        assert time.monotonic() - began < TIMEOUT_S / 2
    finally:
        os.kill(int(tracer), signal.SIGKILL)
    assert connection.process.wait(TIMEOUT_S) == -signal.SIGKILL


def test_a_selector_says_when_a_pipe_that_was_full_takes_the_rest(start: Start) -> None:
    connection = start(
        "sys.stdin.buffer.raw.read(1)\n"
        "data = b'?'\n"
        "while data.count(b'\\n') < 50: data += os.read(0, 65536)\n"
        "say(b'%d\\n' % len(data))\n"
    )
    noise: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        connection.attach(selector, lambda _log, data: noise.append(data))
        records = [{"kind": "notice", "text": "x" * 10_000} for _ in range(50)]
        for record in records:
            connection.send(record)
        assert len(selector.get_map()) == 3  # its two outputs, and the input that is full
        deadline = time.monotonic() + TIMEOUT_S
        while len(selector.get_map()) == 3 or not noise:
            assert time.monotonic() < deadline
            for key, events in selector.select(1.0):
                assert key.data is connection
                if events & selectors.EVENT_WRITE:
                    connection.send_rest()
                elif connection.read(key.fd) is None:
                    connection.detach(key.fd)
        assert int(noise[0]) == sum(len(encode(record)) for record in records)
        assert connection.end(grace_s=TIMEOUT_S) == 0
        assert not selector.get_map()
