"""One for all slots of a node: imports what `train` needs once, and forks the slots' workers.

It is a job step of one task, with the sum of its slots' shares. Its input carries the records for
all of its slots, each with the slot's number; it passes them on to that slot's worker, a fork of
its own. Workers write to its output by themselves, with their number. `init` opens a slot, `kill`
ends its worker, `gone` tells that one has ended. When the input ends, so does everything below.

Where what `train` imports makes forking unsafe, each worker is a fresh interpreter instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..slurm.step import choose_gpus
from .channel import Decoder, Record, encode
from .fork_hazard import find_fork_hazard, has_looked_for_gpus
from .processes import (
    freeze_memory,
    kill_children,
    listen_to_signals,
    reap,
    signal_children,
)
from .step_place import find_own_address
from .train import (
    load_train,
)
from .trial_process import (
    adopt_orphans,
    build_argv,
    die_with_parent,
    load_libc,
)
from .worker import Worker, take_channel

#: Why slots that see some of a node's GPUs each import by themselves; told once.
SAW_ALL_GPUS = (
    "importing what train needs has looked for GPUs, and a trial sees only some of its node's: "
    "every slot imports by itself"
)


@dataclass(slots=True)
class _Child:
    """A slot's worker, as the zygote holds it.

    Args:
        pid: Its process id.
        pipe: Its input, which never blocks.
        unsent: What the pipe did not take yet.
        process: Held where it is a fresh interpreter: let go, Python would reap it by itself.
    """

    pid: int
    pipe: int
    unsent: bytes = b""
    process: subprocess.Popen[bytes] | None = None


class Zygote:
    """See the module's docstring.

    Args:
        channel_in: File descriptor to read the driver's records from.
        channel_out: File descriptor that all workers write to.
    """

    def __init__(self, channel_in: int, channel_out: int) -> None:
        self._in = channel_in
        self._out = channel_out
        self._decoder = Decoder()
        self._libc = load_libc()
        self._wakes = (-1, -1)
        self._poll = select.poll()
        self._children: dict[int, _Child] = {}
        self._may_fork: bool | None = None
        self._env = dict(os.environ)  # before imports change it

    def serve(self) -> None:
        """Work until the driver closes the channel."""
        adopt_orphans(self._libc)
        self._wakes = listen_to_signals()
        wake = self._wakes[0]
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(wake, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == wake:
                    self._reap()
                elif fd != self._in:
                    self._send_rest(fd)
                elif data := os.read(self._in, 65536):
                    for record in self._decoder.feed(data):
                        self._follow(record)
                else:
                    kill_children()
                    return

    def _follow(self, record: Record) -> None:
        slot = record.get("slot")
        if not isinstance(slot, int):
            return
        if record["kind"] == "init" and slot not in self._children:
            self._try_to_open(slot, record)
        child = self._children.get(slot)
        if child is None:
            return
        if record["kind"] == "kill":
            self._forget(slot, child)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
            return
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

    def _send_rest(self, pipe: int) -> None:
        for child in self._children.values():
            if child.pipe == pipe:
                self._write(child, b"")

    def _try_to_open(self, slot: int, init: Record) -> None:
        try:
            self._open(slot, init)
        except OSError:  # out of processes or files: the others go on
            traceback.print_exc()
            self._tell_gone(slot, 1)

    def _open(self, slot: int, init: Record) -> None:
        """Start the worker of a slot; the first time, find out what all of them need."""
        step = init.get("step")
        if self._may_fork is None:
            self._may_fork = _load_ahead(Path(init["train"]))
            if self._may_fork and step is not None:
                if _sees_more_gpus(step) and has_looked_for_gpus():
                    self._may_fork = False
                    self._write_out({"kind": "notice", "slot": slot, "text": SAW_ALL_GPUS})
                else:
                    find_own_address()  # a hundred forks that ask at once wait for a name server
        theirs, mine = os.pipe()
        try:
            child = self._start(slot, theirs, mine)
        except OSError:
            os.close(mine)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(mine, False)
        self._children[slot] = child

    def _start(self, slot: int, theirs: int, mine: int) -> _Child:
        if not self._may_fork:
            argv = build_argv("main", world_size=1, slot=slot)
            process = subprocess.Popen(argv, stdin=theirs, stdout=self._out, env=self._env)
            return _Child(process.pid, mine, process=process)
        own_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(mine)
            self._become_worker(slot, theirs, own_pid)
        return _Child(pid, mine)

    def _become_worker(self, slot: int, channel_in: int, parent_pid: int) -> NoReturn:
        """In the child: drop what is the zygote's, then work."""
        code = 1
        try:
            die_with_parent(self._libc, parent_pid)
            signal.set_wakeup_fd(-1)
            siblings = [child.pipe for child in self._children.values()]
            for fd in (self._in, *self._wakes, *siblings):
                os.close(fd)
            Worker(channel_in, self._out, slot=slot).serve()
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
        if child.process is not None:
            child.process.returncode = 0  # it is reaped here, not by its object

    def _reap(self) -> None:
        """Tell of workers that have ended, and kill what they have left behind."""
        for pid, status in reap(self._wakes[0]):
            slots = {child.pid: slot for slot, child in self._children.items()}
            if pid in slots:
                self._forget(slots[pid], self._children[slots[pid]])
                self._tell_gone(slots[pid], os.waitstatus_to_exitcode(status))
            # Not waited for: one may hang in the kernel, and the other slots go on.
            signal_children(spare={child.pid for child in self._children.values()})

    def _tell_gone(self, slot: int, exit_code: int) -> None:
        self._write_out({"kind": "gone", "slot": slot, "exit_code": exit_code})

    def _write_out(self, record: Record) -> None:
        with contextlib.suppress(OSError):  # the driver is gone, which the input tells
            os.write(self._out, encode(record))


def _sees_more_gpus(step: Record) -> bool:
    """Whether this process, which imports for all slots, sees other GPUs than a slot will."""
    chosen = choose_gpus(os.environ, step["visible_gpus"])
    return any(os.environ.get(name) != gpus for name, gpus in chosen.items())


def _load_ahead(train: Path) -> bool:
    """Import what `train` needs; say whether this process can be forked then.

    What goes wrong here goes wrong again in each worker, which tells it.
    """
    try:
        load_train(train, ahead=True)
    except BaseException:  # noqa: BLE001 - user code runs here
        return False
    freeze_memory()
    return find_fork_hazard() is None


def main() -> NoReturn:
    """Run a zygote on this process's standard streams."""
    try:
        Zygote(*take_channel(1)).serve()
    except BaseException:  # noqa: BLE001 - the process border
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
