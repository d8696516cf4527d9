"""The driver's end of the channel, against real processes that don't listen, or say nonsense."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.running.channel import TAIL_BYTES, Connection, Record, encode, start_process

TIMEOUT_S = 60.0

Start = Callable[..., Connection]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Python script as a worker, `encode` and `read` at hand; ended afterwards."""
    links: list[Connection] = []

    def start_script(
        code: str, direct: Mapping[int, socket.socket] = {}, **kwargs: Any
    ) -> Connection:
        preamble = "import os, sys, time\ndef say(text): os.write(1, text)\n"
        argv = [sys.executable, "-c", preamble + code]
        link = Connection(
            start_process(argv, dict(os.environ), **kwargs), tmp_path / "slot.log", direct
        )
        links.append(link)
        return link

    yield start_script
    for link in links:
        if not link.process.stdout.closed:  # type: ignore[union-attr] # it is a pipe
            link.end()


def hear(
    link: Connection, enough: Callable[[list[Record]], bool] = lambda _: False
) -> list[Record]:
    """Read all streams until they have ended, or what was heard is enough."""
    records: list[Record] = []
    selector = selectors.DefaultSelector()
    for fd in link.streams:
        selector.register(fd, selectors.EVENT_READ)
    deadline = time.monotonic() + TIMEOUT_S
    while selector.get_map() and not enough(records):
        assert time.monotonic() < deadline
        for key, _ in selector.select(1.0):
            found = link.read(key.fd)
            if found is None:
                selector.unregister(key.fd)
            else:
                records += found
    return records


def test_records_of_both_streams_are_found_and_the_rest_goes_to_the_log(
    start: Start, tmp_path: Path
) -> None:
    link = start(
        f"say(b'banner\\n' + {encode({'kind': 'ready'})!r})\n"
        "say(b'\\x1e{cut\\n')\n"
        f"os.write(2, b'warning\\n' + {encode({'kind': 'notice', 'text': 'two'})!r})\n"
    )
    kinds = sorted(record["kind"] for record in hear(link))
    assert kinds == ["notice", "ready"]
    assert link.end(grace_s=TIMEOUT_S) == 0
    assert link.malformed == 1
    log = (tmp_path / "slot.log").read_bytes()
    assert log == link.tail
    assert sorted(log.replace(b"\x1e", b"").splitlines()) == [b"banner", b"warning", b"{cut"]


def test_only_the_end_of_the_noise_is_kept_in_memory(start: Start, tmp_path: Path) -> None:
    link = start("os.write(2, b'x' * 1_000_000)\nos.write(2, b'the end')\n")
    hear(link)
    assert len(link.tail) == TAIL_BYTES
    assert link.tail.endswith(b"xthe end")
    assert (tmp_path / "slot.log").stat().st_size == 1_000_007


def test_a_log_that_can_not_be_written_does_no_harm(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slot.log").mkdir()
    link = start("say(b'noise')")
    assert hear(link) == []
    assert link.tail == b"noise"


def test_a_worker_that_does_not_listen_holds_nothing_up(start: Start) -> None:
    # It waits for a sign, given when the driver has long said more than the pipe holds.
    link = start(
        "sys.stdin.buffer.raw.read(1)\n"
        "data = b'?'\n"
        "while not data.endswith(b'\\n') or data.count(b'\\n') < 50: data += os.read(0, 65536)\n"
        "say(b'%d\\n' % len(data))\n"
    )
    records = [{"kind": "notice", "text": "x" * 10_000} for _ in range(50)]
    for record in records:
        link.send(record)
    assert link.send_rest()
    deadline = time.monotonic() + TIMEOUT_S
    while link.send_rest():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    hear(link)
    assert int(link.tail) == sum(len(encode(record)) for record in records)


def test_answers_go_the_way_that_the_report_came(start: Start) -> None:
    mine, its = socket.socketpair()
    with its:
        link = start(
            f"import socket\ns = socket.socket(fileno={its.fileno()})\n"
            f"s.sendall({encode({'kind': 'ready'})!r})\n"
            "say(b'direct:' + s.recv(1000))\nsay(b'pipe:' + os.read(0, 1000))\n",
            direct={3: mine},
            pass_fds=(its.fileno(),),
        )
    assert [record["slot"] for record in hear(link, enough=bool)] == [3]
    link.answer(mine.fileno(), {"kind": "notice", "text": "one"})
    link.send({"kind": "notice", "text": "two"})
    assert [record["text"] for record in hear(link)] == ["one", "two"]
    assert link.tail == b"direct:pipe:"


def test_what_is_said_to_a_worker_that_has_gone_is_lost_quietly(start: Start) -> None:
    link = start("")
    link.process.wait(TIMEOUT_S)
    link.send({"kind": "stop"})
    assert not link.send_rest()
    assert link.end() == 0


def test_after_the_input_was_closed_nothing_is_written_anywhere(
    start: Start, tmp_path: Path
) -> None:
    link = start("sys.stdin.read()")
    number = link._stdin
    link.close_input()
    # The next file that is opened gets the number that the pipe had.
    fd = os.open(tmp_path / "innocent", os.O_CREAT | os.O_WRONLY)
    os.dup2(fd, number)
    link.send({"kind": "stop"})
    for opened in {fd, number}:
        os.close(opened)
    assert (tmp_path / "innocent").read_bytes() == b""
    assert link.end(grace_s=TIMEOUT_S) == 0


def test_a_worker_that_does_not_leave_is_killed_with_its_group(start: Start) -> None:
    link = start(
        "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\nsay(b'%d\\n' % child.pid)\ntime.sleep(600)\n"
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not link.tail.endswith(b"\n"):
        assert time.monotonic() < deadline
        link.read(link.streams[0])
        time.sleep(0.001)
    assert link.end() == -signal.SIGKILL
    child = int(link.tail)
    wait_until(lambda: read_process(child) is None, TIMEOUT_S, lambda: str(read_process(child)))


def test_a_link_needs_all_three_streams(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["true"]) as process,
        pytest.raises(ValueError, match="a link needs all three streams"),
    ):
        Connection(process, tmp_path / "log")
