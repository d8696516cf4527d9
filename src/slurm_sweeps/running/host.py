"""The host: what is started to run trials, for one slot or for several.

Everywhere it is the same command, with its standard input and output as the channel to the driver:
a child process for the slots of this machine, a job step for a slot's share of an allocation, for a
rank, for one trial, or for all slots of a node.

One that serves one slot is that slot's worker. One that serves several loads `train` once and has a
worker for each of them, a fork of its own. Its input carries the records for all, each with its
slot's number; it passes them on to that slot's worker. Workers write to its output by themselves,
with their number. `init` opens a slot, `kill` ends its worker, `gone` tells that one has ended.
When the input ends, so does everything below.

Where what `train` imports makes forking unsafe, each worker is a fresh interpreter instead.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from resource import struct_rusage
from typing import Any, NoReturn

from .channel import Record, encode
from .deadlines import LAST_S
from .forking import has_looked_for_gpus
from .parent import Parent, build_hello, describe_broken
from .processes import (
    RUN,
    build_argv,
    die_with_parent,
    finish_process,
    kill_children,
    wake_without_parent,
)
from .trial_process import Loaded, Task
from .worker import Worker

#: Why slots that see some of a node's GPUs each import by themselves; told once.
SAW_ALL_GPUS = (
    "importing what train needs has looked for GPUs, and a trial sees only some of its node's: "
    "every slot imports by itself"
)


def build_host_argv(
    slots: int = 1, world_size: int = 1, direct: Mapping[int, int] | None = None, **worker: Any
) -> list[str]:
    """Return the command that starts a host.

    Args:
        slots: How many slots it serves.
        world_size: Number of tasks in its step.
        direct: File descriptors of the sockets over which trials report, by slot.
        worker: What only the host of several slots says to a fresh interpreter of its own: the
            `slot` whose worker that is, and the `hazard` for which it exists. To one that begins
            anew also what was `heard`.
    """
    script = os.path.abspath(sys.argv[0])  # a trial is in another folder
    sys_argv = [script, *sys.argv[1:]] if os.path.isfile(script) else sys.argv
    arguments = {"slots": slots, "world_size": world_size, "direct": direct or {}, **worker}
    return build_argv(RUN.format("host"), json.dumps({**arguments, "argv": sys_argv}))


def main() -> NoReturn:
    """Run a host on this process's standard streams."""
    wake_without_parent()
    if "inline" in os.environ.get("MPLBACKEND", ""):  # as a kernel shows its cells; we write files
        for name in ("MPLBACKEND", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR"):
            os.environ.pop(name, None)
    env, path = dict(os.environ), list(sys.path)  # before imports change them
    arguments = json.loads(sys.argv[1])
    sys.argv[:] = arguments["argv"]
    world_size, slot = arguments["world_size"], arguments.get("slot")
    rank = int(os.environ.get("SLURM_PROCID", "0")) if world_size > 1 else 0
    channel_in, channel_out = take_channel(2 if rank else 1)
    direct = {int(k): socket.socket(fileno=fd) for k, fd in arguments["direct"].items()}
    for its in direct.values():
        its.set_inheritable(False)
    hazard = arguments.get("hazard")
    loaded = Loaded(hazard=hazard) if hazard else None
    heard = arguments.get("heard")

    def begin_anew(hazard: str, heard: bytes) -> None:
        fds = {k: its.fileno() for k, its in direct.items()}
        said = {"slot": slot, "hazard": hazard, "heard": heard.decode("latin-1")}
        sys.path[:] = path
        os.dup2(channel_in, 0)
        os.dup2(channel_out, 2 if rank else 1)
        replace_process(build_host_argv(arguments["slots"], world_size, fds, **said), env, fds)

    code = 1
    try:
        parent: Host | Worker
        if arguments["slots"] > 1:
            parent = Host(channel_in, channel_out, direct, loaded, begin_anew)
        else:
            task = Task(rank, world_size, next(iter(direct.values()), None))
            parent = Worker(channel_in, channel_out, task, slot, loaded, begin_anew)
        if heard is None:
            parent.greet()
        parent.hear((heard or "").encode("latin-1"))
        parent.serve()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LAST_S)
        finish_process()
        code = 0
    except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
        traceback.print_exc()
    os._exit(code)  # the driver waits: an interpreter takes its time to take itself apart


def replace_process(argv: list[str], env: dict[str, str], fds: Mapping[int, int]) -> None:
    """Become another program, with the standard streams and some files of this one.

    What was loaded gets its end, as far as that comes within `LAST_S` seconds; the processes that
    it has started are killed.
    """

    def execute(*_: object) -> None:
        os.execve(argv[0], argv, env)

    kill_children()
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            os.set_inheritable(int(name), int(name) in (0, 1, 2, *fds.values()))
    signal.signal(signal.SIGALRM, execute)
    signal.alarm(LAST_S)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    signal.alarm(0)
    execute()


def take_channel(output: int) -> tuple[int, int]:
    """Keep standard input and one of the outputs as the channel; nobody else may use them so."""
    channel_in, channel_out = os.dup(0), os.dup(output)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # prints of imported code go where standard error goes: to the slot's log
    return channel_in, channel_out


@dataclass(eq=False, repr=False)
class _Child:
    """A slot's worker, as the host holds it."""

    pid: int
    pipe: int  # its input, which never blocks
    unsent: bytes = b""  # what the pipe did not take yet


class Host(Parent):
    """One of several slots: see the module's docstring.

    Args:
        channel_in, channel_out, loaded, begin_anew: As for `Parent`; all workers write there.
        direct: The sockets over which trials report straight to the driver, by slot. They stay open
            here, for workers that are started again.
    """

    def __init__(
        self,
        channel_in: int,
        channel_out: int,
        direct: Mapping[int, socket.socket],
        loaded: Loaded | None = None,
        begin_anew: Callable[[str, bytes], object] | None = None,
    ) -> None:
        super().__init__(channel_in, channel_out, loaded, begin_anew)
        self._direct = direct
        self._children: dict[int, _Child] = {}
        self._env = dict(os.environ)  # before imports change it

    def serve(self) -> None:
        """Work until the driver closes the channel."""
        while not self._gone:
            self._take_events()
        kill_children()

    def _follow(self, records: Iterable[Record]) -> None:
        """Pass each record on to its slot's worker."""
        for record in records:
            slot = record.get("slot")
            if slot is None or self._gone:
                continue
            if record["kind"] == "init" and slot not in self._children:
                self._open(slot, record)
            child = self._children.get(slot)
            if child is None:
                continue
            if record["kind"] == "kill":
                self._forget(slot, child)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            else:
                self._write(child, encode(record))

    def _write(self, child: _Child, data: bytes) -> None:
        """Write to a worker, as far as that doesn't block; the rest when it reads on."""
        child.unsent += data
        try:
            while child.unsent:
                child.unsent = child.unsent[os.write(child.pipe, child.unsent) :]
        except BlockingIOError:
            self._poll.register(child.pipe, select.POLLOUT)
            return
        except OSError:  # it has ended, which is told when it is reaped
            child.unsent = b""
        with contextlib.suppress(KeyError):
            self._poll.unregister(child.pipe)

    def _serve_child(self, fd: int) -> None:
        for child in self._children.values():
            if child.pipe == fd:
                self._write(child, b"")

    # --- workers ------------------------------------------------------------------------------

    def _open(self, slot: int, init: Record) -> None:
        """Start the worker of a slot; load `train` before the first."""
        try:
            self._loaded = loaded = self._loaded or self._load_for_all(slot, init)
        except BaseException as error:  # noqa: BLE001 - user code runs here; the driver gets all of it
            self._send({**build_hello(), "slot": slot})
            self._send({"kind": "broken", "traceback": describe_broken(error), "slot": slot})
            self._gone = True  # another try is for another process, which has not half of it loaded
            return
        try:
            self._children[slot] = self._start(slot, loaded)
        except OSError:  # out of processes or files: the others go on
            traceback.print_exc()
            self._send({"kind": "gone", "exit_code": 1, "slot": slot})

    def _load_for_all(self, slot: int, init: Record) -> Loaded:
        os.environ.update(init.get("env") or {})  # the same for all of its slots
        loaded, share = self._load(init), init.get("share")
        if share is None or loaded.train is None:
            return loaded
        from .step_place import find_address, sees_more_gpus

        if sees_more_gpus(share) and has_looked_for_gpus():
            self._send({"kind": "notice", "text": SAW_ALL_GPUS, "slot": slot})
            return Loaded()
        find_address()  # a hundred forks that ask at once wait for a name server
        return loaded

    def _start(self, slot: int, loaded: Loaded) -> _Child:
        theirs, mine = os.pipe()
        try:
            if loaded.train is None:
                pid = self._spawn(slot, theirs, loaded.hazard)
            else:
                own_pid, pid = os.getpid(), os.fork()
                if pid == 0:
                    os.close(mine)
                    self._become_worker(slot, theirs, own_pid, loaded)
        except OSError:
            os.close(mine)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(mine, False)
        return _Child(pid, mine)

    def _spawn(self, slot: int, theirs: int, hazard: str | None) -> int:
        """Start a worker as a fresh interpreter; return its process id."""
        direct = {k: its.fileno() for k, its in self._direct.items() if k == slot}
        argv = build_host_argv(direct=direct, slot=slot, hazard=hazard)
        moves = [(os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_DUP2, self._out, 1)]
        for fd in direct.values():
            os.set_inheritable(fd, True)
        try:
            return os.posix_spawn(argv[0], argv, self._env, file_actions=moves)
        finally:
            for fd in direct.values():
                os.set_inheritable(fd, False)

    def _become_worker(self, slot: int, theirs: int, parent_pid: int, loaded: Loaded) -> NoReturn:
        """In the child: drop what is the host's and what is other slots', then work."""
        code = 1
        try:
            die_with_parent(parent_pid)
            siblings = [child.pipe for child in self._children.values()]
            for fd in (self._in, self._watch.fd, self._watch.writer, *siblings):
                os.close(fd)
            for other, direct in self._direct.items():
                if other != slot:
                    direct.close()
            worker = Worker(theirs, self._out, Task(direct=self._direct.get(slot)), slot, loaded)
            worker.greet()
            worker.serve()
            code = 0
        except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
            traceback.print_exc()
        finally:
            os._exit(code)

    def _forget(self, slot: int, child: _Child) -> None:
        del self._children[slot]
        with contextlib.suppress(KeyError):
            self._poll.unregister(child.pipe)
        os.close(child.pipe)

    def _note_exit(self, pid: int, exit_code: int, used: struct_rusage) -> None:  # noqa: ARG002 - the workers' matter
        """Tell of a worker that has ended, and kill what it has left behind."""
        for slot, child in list(self._children.items()):
            if child.pid == pid:
                self._forget(slot, child)
                self._send({"kind": "gone", "exit_code": exit_code, "slot": slot})
        # Not waited for: one may hang in the kernel, and the other slots go on.
        workers = {child.pid for child in self._children.values()}
        kill_children(workers | self._left_alone, wait_s=0.0)
