"""The attempt at a trial that a worker runs now, as the worker holds it.

How a worker lives through the signals that Slurm sends to all tasks of a job that ends.

The driver got them too and says what to do. Python writes the number of every signal that has a
handler to a pipe that the worker polls, so that the end of a child wakes it.

The worker: one per slot, the parent of the trials that run there, one after another.

It is started with its standard input and output as the channel to the driver, loads `train` once,
and forks a process for each trial. It passes reports and decisions on, ends a trial that doesn't
leave by itself, and tells how each attempt ended. When its input ends, the driver is gone: it kills
the trial and leaves, so no trial is orphaned.

In a step of several tasks every rank has its own worker. All of them hear the driver (srun copies
its input to all tasks); rank 0 answers on its standard output, which srun brings back alone; the
others answer in parts over their standard error.

A trial and whatever it started is ended with it: it has a process group of its own, and the worker
adopts what escaped that group.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .channel import (
    Decoder,
    Record,
    encode,
    encode_parts,
)
from .fork_hazard import find_fork_hazard
from .processes import (
    count_oom_kills,
    freeze_memory,
    judge,
    kill_children,
    listen_to_signals,
    reap,
)
from .train import (
    load_train,
    read_train,
)
from .trial_process import (
    Nest,
    Post,
    Spawner,
    adopt_orphans,
    finish_process,
    load_libc,
    run_attempt,
)

if TYPE_CHECKING:
    from .step_place import StepPlace


@dataclass(slots=True)
class RunningTrial:
    """Its process, its socket, and how far ending it has gone."""

    run: Record
    pid: int
    link: socket.socket
    decoder: Decoder
    said: Record | None = None  # how it ended, by its own account
    is_told_of: bool = False  # whether the driver knows how it ended; its exit may still be due
    told: str | None = None  # "prune", "pause" or "stop": what it was told to do
    ending: str | None = None  # "asked", "TERM" or "KILL": how far ending it has gone
    deadline: float | None = None  # when to go further
    awaits: int | None = None  # in ranks other than 0: the iteration whose decision is asked for
    decisions: deque[Record] = field(default_factory=lambda: deque(maxlen=10_000))

    def tell(self, record: Record) -> None:
        """Say something to the trial, which may have ended, or closed the socket."""
        with contextlib.suppress(OSError):  # its end is seen elsewhere
            self.link.setblocking(True)
            self.link.sendall(encode(record))
            self.link.setblocking(False)

    def set_deadline(self, ending: str, wait_s: float) -> None:
        """Set when to go further than `ending`; asking again doesn't put off what follows it."""
        if self.ending in (None, "asked") or ending != "asked":
            self.ending = ending
            self.deadline = time.monotonic() + wait_s

    def signal(self, number: signal.Signals) -> None:
        """Signal the trial's process; KILL goes to all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


#: How long a trial has the CPU for itself before the process of the next is forked, in ms.
FORK_DELAY_MS = 3.0


class Worker:
    """See the module's docstring.

    Args:
        channel_in: File descriptor to read the driver's records from.
        channel_out: File descriptor to write records to.
        rank: This task's rank in its step.
        world_size: Number of tasks in the step.
        direct: The socket over which trials report straight to the driver, if it is on this host.
        slot: Its slot's number, if the workers of other slots write to `channel_out` too.
    """

    def __init__(
        self,
        channel_in: int,
        channel_out: int,
        rank: int = 0,
        world_size: int = 1,
        direct: socket.socket | None = None,
        slot: int | None = None,
    ) -> None:
        self._in = channel_in
        self._out = channel_out
        self._rank = rank
        self._world_size = world_size
        self._direct = direct
        self._slot = slot
        self._decoder = Decoder()
        self._heard: deque[Record] = deque()  # what the driver said and is to be done yet
        self._init: Record = {}
        self._spawner: Spawner | None = None
        self._place: StepPlace | None = None
        self._trial: RunningTrial | None = None
        self._oom_kills = 0
        self._poll = select.poll()
        self._wake = self._wake_writer = -1
        self._gone = False

    def serve(self) -> None:
        """Work until the driver closes the channel."""
        adopt_orphans(load_libc())
        self._wake, self._wake_writer = listen_to_signals()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._say_hello()
        while not self._gone:
            events = self._poll.poll(self._poll_timeout_ms())
            if not events:
                self._prepare_next()
            for fd, _ in events:
                if fd == self._in:
                    self._hear_driver()
                elif fd == self._wake:
                    self._reap()
                elif self._trial is not None and fd == self._trial.link.fileno():
                    self._hear_trial(self._trial)
            self._go_further()
        self._abandon()

    def _say_hello(self) -> None:
        self._send(
            {
                "kind": "hello",
                "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
                "pid": os.getpid(),
                "step": os.environ.get("SLURM_STEP_ID"),
                "python": sys.version.split()[0],
            }
        )

    def _send(self, record: Record) -> None:
        if self._rank > 0:
            self._write(encode_parts({**record, "rank": self._rank}, self._rank))
        elif self._slot is None:
            self._write(encode(record))
        else:
            record = {**record, "slot": self._slot}
            data = encode(record)
            # Up to PIPE_BUF a write is not torn by those of other workers: so it goes line by line.
            if len(data) > select.PIPE_BUF:
                data = encode_parts(record, self._slot)
            for line in data.splitlines(keepends=True):
                self._write(line)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:  # the driver is gone
            self._gone = True

    # --- what the driver says -----------------------------------------------------------------

    def _hear_driver(self) -> None:
        data = os.read(self._in, 65536)
        if not data:
            self._gone = True
            return
        self._heard.extend(self._decoder.feed(data))
        self._follow_driver()

    def _follow_driver(self) -> None:
        """Do what the driver said, in order; a `run` waits until the trial before has exited."""
        while self._heard:
            kind = self._heard[0]["kind"]
            if kind == "run" and self._trial is not None and self._trial.is_told_of:
                return
            record = self._heard.popleft()
            if kind == "decision":
                self._pass_decision(record)
            elif kind == "run":
                self._start_trial(record)
            elif kind == "stop":
                self._ask_to_stop(record)
            elif kind == "init":
                self._load_train(record)

    def _load_train(self, init: Record) -> None:
        """Load `train`, once, and say if that fails or if it can't be forked."""
        self._init = init
        if init.get("step") is not None:
            from .step_place import StepPlace  # only a job step needs it

            self._place = StepPlace(init["step"])
            self._place.bind()
        try:
            train = load_train(Path(init["train"]), ahead=not init.get("fresh"))
        except BaseException:  # noqa: BLE001 - user code runs here; the driver gets all of it
            self._send({"kind": "broken", "traceback": traceback.format_exc()})
            return
        hazard = find_fork_hazard()
        if hazard:
            text = f"{hazard}: every trial gets a fresh interpreter instead of a fork"
            self._send({"kind": "notice", "text": text})
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        freeze_memory()
        own_fds = (self._in, self._out, self._wake, self._wake_writer)
        nest = Nest(
            self._direct,
            self._rank,
            self._world_size,
            own_fds,
            init["train"],
            None if hazard else train,
        )
        self._oom_kills = count_oom_kills()
        self._spawner = Spawner(nest)
        self._send({"kind": "ready", **self._describe_place()})
        self._spawner.prepare()

    def _describe_place(self) -> Record:
        """Tell what the next trial here will find in its step: address, port and GPUs."""
        if self._place is None:
            gpus = self._init.get("env", {}).get("CUDA_VISIBLE_DEVICES")
            return {} if gpus is None else {"gpus": gpus}
        if self._rank > 0:
            return {}
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
        port = self._place.find_free_port()
        return {"address": self._place.address, "port": port, "gpus": gpus}

    def _start_trial(self, run: Record) -> None:
        if self._spawner is None or self._trial is not None:
            return  # `broken` was said; or a driver that lost count, which it will find out
        run["env"] = run.get("env", {}) | self._init.get("env", {})
        if self._place is not None:
            run["env"] |= self._place.build_environment(run["port"], run["address"])
        child = self._spawner.start(run)
        child.link.setblocking(False)
        self._trial = RunningTrial(run, child.pid, child.link, Decoder())
        self._poll.register(child.link, select.POLLIN)
        self._send({"kind": "started", "number": run["number"], "pid": child.pid})

    def _pass_decision(self, decision: Record) -> None:
        trial = self._trial
        if trial is None or decision["number"] != trial.run["number"]:
            return
        if self._rank == 0:
            trial.tell(decision)
            return
        trial.decisions.append(decision)
        self._answer(trial)
        self._note_told(trial, decision["do"])

    def _note_told(self, trial: RunningTrial, do: str) -> None:
        """Remember that a trial was told to leave, and from when on it is made to."""
        if do == "go_on" or trial.told in ("prune", "pause"):
            return
        trial.told = do
        trial.set_deadline("asked", self._init["prune_grace_s"])

    def _answer(self, trial: RunningTrial) -> None:
        """In ranks other than 0: give the trial the decision that it waits for, once it is there.

        Such a rank asks when its own `log` is called, which it may never do.
        """
        while trial.awaits is not None and trial.decisions:
            decision = trial.decisions.popleft()
            if decision["iteration"] >= trial.awaits or decision["do"] != "go_on":
                trial.awaits = None
                trial.tell(decision)

    def _ask_to_stop(self, stop: Record) -> None:
        trial = self._trial
        if trial is None or stop["number"] != trial.run["number"]:
            return
        trial.told = trial.told or "stop"
        trial.tell({"kind": "stop"})
        trial.set_deadline("asked", stop["grace_s"])

    # --- what the trial says ------------------------------------------------------------------

    def _hear_trial(self, trial: RunningTrial) -> None:
        """Pass on what the trial says, until there is nothing more for now."""
        try:
            data = trial.link.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._poll.unregister(trial.link)
            self._end_early(trial)
            return
        self._take_records(trial, data)
        if trial.said is not None:
            self._prepare_next()
            if trial.ending is None:
                trial.set_deadline("asked", self._init["exit_grace_s"])

    def _take_records(self, trial: RunningTrial, data: bytes) -> None:
        for record in trial.decoder.feed(data):
            kind = record["kind"]
            if kind == "report":
                self._send(record)
            elif kind == "await":
                trial.awaits = record["iteration"]
                self._answer(trial)
            elif kind == "told":
                self._note_told(trial, record["do"])
            elif kind == "ended":
                trial.said = record

    # --- how a trial ends ---------------------------------------------------------------------

    def _poll_timeout_ms(self) -> float | None:
        wait_ms = None
        if self._trial is not None and self._trial.deadline is not None:
            wait_ms = max(0.0, (self._trial.deadline - time.monotonic()) * 1000 + 1)
        if self._spawner is not None and self._spawner.is_due:
            wait_ms = min(wait_ms or FORK_DELAY_MS, FORK_DELAY_MS)
        return wait_ms

    def _prepare_next(self) -> None:
        """Fork the process of the next trial, if that is to be done."""
        if self._spawner is not None:
            self._spawner.prepare()

    def _go_further(self) -> None:
        """End a trial whose time to leave by itself is over: TERM, then KILL."""
        trial = self._trial
        if trial is None or trial.deadline is None or time.monotonic() < trial.deadline:
            return
        if trial.ending == "asked":
            trial.set_deadline("TERM", self._init["term_grace_s"])
            trial.signal(signal.SIGTERM)
        else:
            trial.set_deadline("KILL", 1.0)
            trial.signal(signal.SIGKILL)

    def _reap(self) -> None:
        """Take note of children that have ended: the trial, or what it left behind."""
        for pid, status in reap(self._wake):
            if self._spawner is not None:
                self._spawner.note_end(pid)
            if self._trial is not None and pid == self._trial.pid:
                self._end_trial(self._trial, os.waitstatus_to_exitcode(status))

    def _end_trial(self, trial: RunningTrial, exit_code: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(trial.pid, signal.SIGKILL)
        spare = self._spawner.spare if self._spawner is not None else None
        kill_children(set() if spare is None else {spare.pid})
        self._drain(trial)
        self._trial = None
        if not trial.is_told_of:
            oom = exit_code == -signal.SIGKILL and self._was_out_of_memory()
            self._tell_end(trial, judge(trial.said, trial.told, exit_code, oom))
        self._follow_driver()

    def _end_early(self, trial: RunningTrial) -> None:
        """Tell the end of a trial that has nothing left to do but to exit.

        The kernel takes its time for that; meanwhile the driver finds the next trial. One that may
        be started again, perhaps in another slot, must have gone before that is known.
        """
        said = trial.said
        if said is None or said["how"] not in ("completed", "pruned"):
            return
        if trial.told != "pause" and not self._init.get("fresh"):
            trial.is_told_of = True
            self._tell_end(trial, judge(said, trial.told, 0, False))

    def _tell_end(self, trial: RunningTrial, end: Record) -> None:
        if self._world_size > 1:  # the driver looks which rank was the first
            end = {"at": time.time(), **end}
        number = trial.run["number"]
        self._send({**end, "kind": "ended", "number": number, **self._describe_place()})

    def _was_out_of_memory(self) -> bool:
        """Whether the kernel's out-of-memory killer has struck since this was last asked."""
        before, self._oom_kills = self._oom_kills, count_oom_kills()
        return self._oom_kills > before

    def _drain(self, trial: RunningTrial) -> None:
        """Read what the trial said before it ended, then close its socket."""
        with contextlib.suppress(OSError):
            while data := trial.link.recv(65536):
                self._take_records(trial, data)
        with contextlib.suppress(KeyError):
            self._poll.unregister(trial.link)
        trial.link.close()

    def _abandon(self) -> None:
        """The driver is gone: nothing may stay behind."""
        if self._trial is not None:
            self._trial.signal(signal.SIGKILL)
        kill_children()


def take_channel(output: int) -> tuple[int, int]:
    """Keep standard input and one of the outputs as the channel; nobody else may use them so."""
    channel_in, channel_out = os.dup(0), os.dup(output)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)  # prints of imported code go where standard error goes: to the slot's log
    return channel_in, channel_out


def main(arguments: Record) -> None:
    """Run a worker on this process's standard streams."""
    world_size = int(arguments["world_size"])
    rank = int(os.environ.get("SLURM_PROCID", "0")) if world_size > 1 else 0
    direct = arguments.get("direct")
    channel_in, channel_out = take_channel(2 if rank else 1)
    socket_to_driver = None if direct is None else socket.socket(fileno=direct)
    slot = arguments.get("slot")
    Worker(channel_in, channel_out, rank, world_size, socket_to_driver, slot).serve()
    finish_process()
    os._exit(0)  # the driver waits: an interpreter takes its time to take itself apart


def zygote_main(arguments: Record) -> None:
    """Run the zygote of a node's slots on this process's standard streams."""
    from . import host as zygote

    zygote.main()


def trial_main(arguments: Record) -> None:
    """Run one attempt in a fresh interpreter."""
    link = socket.socket(fileno=arguments["link"])
    link.set_inheritable(False)
    with open(arguments["run"], "rb") as file:
        run = json.load(file)
    train = read_train(Path(arguments["train"]))
    post = Post(link, None, arguments["rank"], arguments["world_size"])
    run_attempt(post, run, train)
