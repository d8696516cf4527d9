"""Processes for trials: forked off the worker, one ahead.

While a trial runs, the process of the next one is forked already and waits on its socket for what
to run. A fork, with the pages that a Python process copies in its first moments, takes 2 to 3 ms;
done ahead, it costs the slot nothing between two trials. It isn't done at once, for the trial that
begins copies pages too; but at the latest when that has said how it ended.

Where forking isn't safe (`find_fork_hazard`), each trial gets a fresh interpreter when it begins.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import NoReturn

from ..running import trial_process as attempt
from ..running.channel import Decoder, Record, encode
from .worker_signals import WARNINGS

#: What starts a worker or a trial in a fresh interpreter: its import path first, then `main`.
BOOTSTRAP = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a['path']; "
    "from slurm_sweeps.running import worker; getattr(worker, a['main'])(a)"
)


def build_argv(main: str, **arguments: object) -> list[str]:
    """Return the command that runs `main` of the worker's module with this import path."""
    # "" is the current folder, which is another one in a trial; and some put Path objects there.
    path = [os.fspath(entry) or os.getcwd() for entry in sys.path]
    text = json.dumps({"main": main, "path": path, **arguments})
    return [sys.executable, "-c", BOOTSTRAP, text]


@dataclass(frozen=True, slots=True)
class Child:
    """A trial's process, as its worker holds it."""

    pid: int
    link: socket.socket


@dataclass(frozen=True, slots=True)
class Nest:
    """What a worker gives to the processes of its trials, and what it keeps from them.

    Args:
        direct: The socket over which trials report straight to the driver, if there is one.
        rank: The worker's rank in its step.
        world_size: Number of tasks in the step.
        own_fds: The worker's own file descriptors, which a fork must not keep.
        train_file: Where a fresh interpreter finds `train`.
        train: What a fork calls; None if every trial gets a fresh interpreter.
    """

    direct: socket.socket | None
    rank: int
    world_size: int
    own_fds: tuple[int, ...]
    train_file: str
    train: attempt.Train | None


class Spawner:
    """Makes the processes of a worker's trials.

    Args:
        nest: What they get.

    Attributes:
        spare: The process that waits for the next trial, if there is one.
        is_due: Whether it is to be forked yet: once for each trial, whatever becomes of it.
    """

    def __init__(self, nest: Nest) -> None:
        self.spare: Child | None = None
        self.is_due = nest.train is not None
        self._nest = nest
        self._libc = attempt.load_libc()
        for fd in (1, 2):
            attempt.open_stream(fd)  # once, ahead, instead of in every fork

    def prepare(self) -> None:
        """Fork the process of the next trial, unless that was done or forking isn't safe."""
        if self.is_due:
            self.is_due = False
            self.spare = self._spawn(None)

    def start(self, run: Record) -> Child:
        """Start a trial in the process that waits for it, or in a new one."""
        child, self.spare = self.spare, None
        self.is_due = self._nest.train is not None
        if child is None:
            return self._spawn(run)
        try:
            child.link.sendall(encode(run))
        except OSError:  # somebody has killed it meanwhile
            child.link.close()
            return self._spawn(run)
        return child

    def note_end(self, pid: int) -> None:
        """Take note that a child has ended: perhaps the spare one."""
        if self.spare is not None and self.spare.pid == pid:
            self.spare.link.close()
            self.spare = None

    def _spawn(self, run: Record | None) -> Child:
        mine, its = socket.socketpair()
        worker_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._become_trial(run, its, worker_pid)
        its.close()
        return Child(pid, mine)

    def _become_trial(self, run: Record | None, link: socket.socket, worker_pid: int) -> NoReturn:
        """In the child: drop what is the worker's, then run the attempt."""
        try:
            os.setsid()
            attempt.die_with_parent(self._libc, worker_pid)
            _reset_signals()
            nest = self._nest
            if nest.train is None:
                self._become_interpreter(run or {}, link)
            for fd in nest.own_fds:
                if fd > 2:
                    os.close(fd)
            post = attempt.Post(link, nest.direct, nest.rank, nest.world_size)
            if run is None:
                attempt.rehearse(post)
                run = _wait_for_run(link)
            attempt.run_attempt(post, run, nest.train)
        except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
            traceback.print_exc()
        finally:
            os._exit(1)

    def _become_interpreter(self, run: Record, link: socket.socket) -> NoReturn:
        """In the child: start anew, in the trial's environment, which imports may look at."""
        import tempfile  # most workers never need it

        attempt.take_environment(run)
        link.set_inheritable(True)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the new interpreter reads and closes it
        file.write(json.dumps(run).encode())  # too long for a command line, perhaps
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.set_inheritable(file.fileno(), True)
        argv = build_argv(
            "trial_main",
            run=file.fileno(),
            train=self._nest.train_file,
            link=link.fileno(),
            rank=self._nest.rank,
            world_size=self._nest.world_size,
        )
        os.execv(argv[0], argv)


def _reset_signals() -> None:
    """Undo the worker's handlers; HUP, USR1 and USR2 stay without effect.

    `sbatch --signal=USR1` without `B:` sends it to the tasks of all steps: it is the driver that
    decides what follows, and a trial should live to hear it. Ignored, not just unhandled: Lightning
    answers USR1 with a requeue of the whole job, but leaves alone a signal that is seen to already.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def _wait_for_run(link: socket.socket) -> Record:
    """Wait for the worker to say what to run; end if there is nothing any more.

    What it says next, a request to stop perhaps, stays in the socket for the session.
    """
    decoder = Decoder()
    while True:
        data = link.recv(65536, socket.MSG_PEEK)
        if not data:
            os._exit(0)
        for record in decoder.feed(link.recv(data.find(b"\n") + 1 or len(data))):
            return record
