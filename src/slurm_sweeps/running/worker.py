"""The worker: one per slot, the parent of the trials that run there, one after another.

It runs trials as the driver says, in forks of its own. It passes reports and decisions on, ends a
trial that doesn't leave by itself, and tells how each attempt ended. When its input ends, the
driver is gone: it kills the trial and leaves, so no trial is orphaned.

In a step of several tasks every rank has its own worker. All of them hear the driver (srun copies
its input to all tasks); rank 0 answers on its standard output, which srun brings back alone; the
others answer in parts over their standard error.

A trial and whatever it started is ended with it: it has a process group of its own, and the worker
adopts what escaped that group.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import TrainError
from . import standstill
from .channel import Decoder, Record, encode, encode_parts
from .forking import find_fork_hazard, note_seeding, silence_fork_warnings
from .processes import (
    ChildWatch,
    adopt_orphans,
    count_oom_kills,
    freeze_memory,
    judge,
    kill_children,
    list_children,
)
from .standstill import Standstill
from .train import load_train
from .trial_process import Loaded, Spawner, Task

if TYPE_CHECKING:
    from .step_place import StepPlace


def describe_broken(error: BaseException) -> str:
    """Tell the driver why `train` can't be loaded: our own errors say it all in a sentence."""
    return str(error) if isinstance(error, TrainError) else traceback.format_exc()


class Parent(ABC):
    """Hears the driver on one side and its own children on the other: what all hosts do.

    Args:
        channel_in: File descriptor to read the driver's records from.
        channel_out: File descriptor to write records to.
        loaded: `train`, if it was loaded already, or if it is known that it can't be forked.
    """

    def __init__(self, channel_in: int, channel_out: int, loaded: Loaded | None = None) -> None:
        adopt_orphans()
        self._in = channel_in
        self._out = channel_out
        self._loaded = loaded
        self._decoder = Decoder()
        self._left_alone: set[int] = set()  # children that serve all trials, or can't be ended
        self._gone = False
        self._watch = ChildWatch()
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._watch.fd, select.POLLIN)

    def _take_events(self, timeout_ms: float | None = None) -> bool:
        """Serve whoever has something to say; return whether anybody had in time."""
        events = self._poll.poll(timeout_ms)
        for fd, _ in events:
            if fd == self._in:
                data = os.read(self._in, 65536)
                self._gone = self._gone or not data
                self._follow(self._decoder.feed(data))
            elif fd == self._watch.fd:
                for pid, status in self._watch.reap():
                    self._left_alone.discard(pid)
                    self._note_exit(pid, os.waitstatus_to_exitcode(status))
            else:
                self._serve_child(fd)
        return bool(events)

    @abstractmethod
    def _follow(self, records: Iterable[Record]) -> None:
        """Do what the driver says."""

    @abstractmethod
    def _serve_child(self, fd: int) -> None:
        """Go on with what a registered file descriptor is ready for."""

    @abstractmethod
    def _note_exit(self, pid: int, exit_code: int) -> None:
        """Take note that a child has ended: one of ours, or what one has left behind."""

    def _send(self, record: Record) -> None:
        """Write to the driver, so that a record stays whole beside what others write there.

        That of a rank other than 0 carries its `rank`; that of a slot whose neighbours' workers
        write to the same pipe, `slot`.
        """
        data = encode(record)
        # Up to PIPE_BUF a write is not torn by those of other workers: so it goes line by line.
        if "rank" in record:
            data = encode_parts(record, record["rank"])
        elif "slot" in record and len(data) > select.PIPE_BUF:
            data = encode_parts(record, record["slot"])
        try:
            for line in data.splitlines(keepends=True):
                while line:
                    line = line[os.write(self._out, line) :]
        except OSError:  # the driver is gone
            self._gone = True

    def _load(self, init: Record) -> Loaded:
        """Load `train` in this process, and see whether that can be forked then.

        Raises:
            Exception: Whatever loading raises.
        """
        file, ahead = Path(init["train"]), not init.get("fresh")
        train, random_state = note_seeding(lambda: load_train(file, ahead))
        handlers = self._watch.listen()  # loading may have replaced what that needs
        hazard = find_fork_hazard()
        silence_fork_warnings()
        freeze_memory()
        self._left_alone = set(list_children())
        return Loaded(None if hazard else train, hazard, handlers, random_state)


def build_hello() -> Record:
    """Tell the driver where this process is."""
    return {
        "kind": "hello",
        "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "pid": os.getpid(),
        "step": os.environ.get("SLURM_STEP_ID"),
    }


@dataclass(eq=False, repr=False)
class RunningTrial:
    """Its process, its socket, and how far ending it has gone."""

    run: Record
    pid: int
    link: socket.socket
    decoder: Decoder = field(default_factory=Decoder)
    said: Record | None = None  # how it ended, by its own account
    is_told_of: bool = False  # whether the driver knows how it ended; its exit may still be due
    told: str | None = None  # "prune", "pause" or "stop": what it was told to do
    ending: str | None = None  # "asked", "TERM" or "KILL": how far ending it has gone
    deadline: float | None = None  # when to go further
    awaits: int | None = None  # in ranks other than 0: the iteration whose decision is asked for
    decisions: deque[Record] = field(default_factory=lambda: deque(maxlen=10_000))
    watch: Standstill | None = None  # of a fork
    begins_anew: bool = False  # whether it hangs, and is ended to start in a fresh interpreter

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


class Worker(Parent):
    """See the module's docstring.

    Args:
        channel_in, channel_out, loaded: As for `Parent`.
        task: Which task of its slot's trials it runs.
        slot: Its slot's number, if the workers of other slots write to `channel_out` too.
    """

    def __init__(
        self,
        channel_in: int,
        channel_out: int,
        task: Task,
        slot: int | None = None,
        loaded: Loaded | None = None,
    ) -> None:
        super().__init__(channel_in, channel_out, loaded)
        self._task = task
        sender = {"rank": task.rank or None, "slot": slot}
        self._sender = cast(Record, {key: n for key, n in sender.items() if n is not None})
        self._heard: deque[Record] = deque()  # what the driver said and is to be done yet
        self._init: Record = {}
        self._spawner: Spawner | None = None
        self._place: StepPlace | None = None
        self._trial: RunningTrial | None = None
        self._oom_kills = 0
        self._say(build_hello())

    def serve(self) -> None:
        """Work until the driver closes the channel; nothing stays behind then."""
        while not self._gone:
            if not self._take_events(self._choose_timeout_ms()):
                self._prepare_next()
            if self._trial is not None:
                self._go_further(self._trial)
                self._look_for_standstill(self._trial)
        if self._trial is not None:
            self._trial.signal(signal.SIGKILL)
        kill_children()

    def _say(self, record: Record) -> None:
        self._send({**record, **self._sender})

    # --- what the driver says -----------------------------------------------------------------

    def _follow(self, records: Iterable[Record] = ()) -> None:
        """Do what the driver said, in order; a `run` waits until the trial before has exited."""
        self._heard.extend(records)
        while self._heard:
            kind, trial = self._heard[0]["kind"], self._trial
            if kind == "run" and trial is not None and trial.is_told_of:
                return
            record = self._heard.popleft()
            if kind == "run":
                self._start_trial(record)
            elif kind == "init":
                self._get_ready(record)
            elif trial is None or record.get("number") != trial.run["number"]:
                continue  # that has ended meanwhile
            elif kind == "decision":
                self._pass_decision(trial, record)
            elif kind == "stop":
                self._ask_to_stop(trial, record)

    def _get_ready(self, init: Record) -> None:
        """Load `train`, once, and say if that fails or if it can't be forked."""
        self._init = init
        os.environ.update(init.get("env") or {})  # imports find what trials will
        if "share" in init:
            from .step_place import StepPlace  # only a job step needs it

            self._place = StepPlace(init["share"])
            self._place.bind()
        try:
            self._loaded = loaded = self._loaded or self._load(init)
        except BaseException as error:  # noqa: BLE001 - user code runs here; the driver gets all of it
            self._say({"kind": "broken", "traceback": describe_broken(error)})
            return
        if loaded.hazard:
            text = f"{loaded.hazard}: every trial gets a fresh interpreter instead of a fork"
            self._say({"kind": "notice", "text": text})
        own_fds = (self._in, self._out, self._watch.fd, self._watch.writer)
        self._spawner = Spawner(self._task, loaded, init["train"], own_fds)
        self._say({"kind": "ready", **self._describe_place()})
        self._spawner.prepare()
        self._oom_kills = count_oom_kills()  # while the driver looks for a trial

    def _describe_place(self) -> Record:
        """Tell what the next trial here will find: GPUs, and in a step an address and a port."""
        if self._task.rank > 0:
            return {}
        gpus: Record = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        if self._place is None:
            return gpus
        return {**self._place.describe_next(), **gpus}

    def _start_trial(self, run: Record) -> None:
        if self._spawner is None or self._trial is not None:
            return  # `broken` was said; or a driver that lost count, which it will find out
        env = {**(self._init.get("env") or {}), **run.get("env", {})}
        if self._place is not None:
            env |= self._place.build_environment(run["port"], run["address"])
        run["env"] = env
        child = self._spawner.start(run)
        child.link.setblocking(False)
        watch = Standstill(time.monotonic()) if self._spawner.forks else None
        self._trial = RunningTrial(run, child.pid, child.link, watch=watch)
        self._poll.register(child.link, select.POLLIN)
        self._say({"kind": "started", "number": run["number"], "pid": child.pid})

    def _pass_decision(self, trial: RunningTrial, decision: Record) -> None:
        if self._task.rank == 0:
            trial.tell(decision)
            return
        trial.watch = None  # the trial has reported; this rank may never do so
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

    def _ask_to_stop(self, trial: RunningTrial, stop: Record) -> None:
        trial.told = trial.told or "stop"
        trial.tell(stop)
        trial.set_deadline("asked", stop["grace_s"])

    # --- what the trial says ------------------------------------------------------------------

    def _serve_child(self, fd: int) -> None:
        """Pass on what the trial says, until there is nothing more for now."""
        trial = self._trial
        if trial is None or fd != trial.link.fileno():  # it has ended in this very turn
            return
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
            if kind in ("report", "notice"):
                self._say(record)
            elif kind == "await":
                trial.awaits = record["iteration"]
                self._answer(trial)
            elif kind == "told":
                self._note_told(trial, record["do"])
            elif kind == "ended":
                trial.said = record

    # --- how a trial ends ---------------------------------------------------------------------

    def _choose_timeout_ms(self) -> float | None:
        waits_ms = []
        if self._trial is not None and self._trial.deadline is not None:
            waits_ms.append(max(0.0, (self._trial.deadline - time.monotonic()) * 1000 + 1))
        if self._trial is not None and self._trial.watch is not None:
            waits_ms.append(standstill.LOOK_EVERY_S * 1000)
        if self._spawner is not None and self._spawner.is_due:
            waits_ms.append(FORK_DELAY_MS)
        return min(waits_ms, default=None)

    def _prepare_next(self) -> None:
        """Fork the process of the next trial, if that is to be done."""
        if self._spawner is not None:
            self._spawner.prepare()

    def _go_further(self, trial: RunningTrial) -> None:
        """End a trial whose time to leave by itself is over: TERM, then KILL."""
        if trial.deadline is None or time.monotonic() < trial.deadline:
            return
        if trial.ending == "asked":
            trial.set_deadline("TERM", self._init["term_grace_s"])
            trial.signal(signal.SIGTERM)
        else:
            trial.set_deadline("KILL", 1.0)
            trial.signal(signal.SIGKILL)

    def _look_for_standstill(self, trial: RunningTrial) -> None:
        """Have a fork that hangs before its first report say where, and start anew without one."""
        if trial.watch is None or trial.ending:
            return
        verdict = trial.watch.look(trial.pid, time.monotonic())
        if verdict is None:
            return
        standstill.ask_for_stack(trial.pid)
        what = standstill.NOTICES[verdict].format(trial=trial.run["trial_id"])
        self._say({"kind": "notice", "text": f"{what}. Its stderr.log shows where"})
        if verdict == "blocked":
            trial.begins_anew = True
            trial.set_deadline("TERM", 1.0)  # time to write where it is; then KILL

    def _note_exit(self, pid: int, exit_code: int) -> None:
        if self._spawner is not None:
            self._spawner.note_end(pid)
        if self._trial is not None and pid == self._trial.pid:
            self._end_trial(self._trial, exit_code)

    def _end_trial(self, trial: RunningTrial, exit_code: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(trial.pid, signal.SIGKILL)
        self._end_leftovers()
        with contextlib.suppress(OSError):
            while data := trial.link.recv(65536):  # what it said before it ended
                self._take_records(trial, data)
        with contextlib.suppress(KeyError):
            self._poll.unregister(trial.link)
        trial.link.close()
        self._trial = None
        hangs = trial.begins_anew and trial.said is None and trial.told is None
        if hangs and self._spawner is not None:
            self._spawner.stop_forking()
            self._start_trial(trial.run)
        elif not trial.is_told_of:
            before, oom = self._oom_kills, False
            if exit_code == -signal.SIGKILL:
                self._oom_kills = count_oom_kills()
                oom = self._oom_kills > before
            self._tell_end(trial, judge(trial.said, trial.told, exit_code, oom))
        self._follow()

    def _end_leftovers(self) -> None:
        spare = self._spawner.spare if self._spawner is not None else None
        spared = self._left_alone | ({spare.pid} if spare else set())
        if stuck := kill_children(spared):
            self._left_alone |= stuck
            text = f"what a trial has started hangs in the kernel and is left behind: {stuck}"
            self._say({"kind": "notice", "text": text})

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
        if self._task.world_size > 1:  # the driver looks which rank was the first
            end = {"at": time.time(), **end}
        number = trial.run["number"]
        self._say({**end, "kind": "ended", "number": number, **self._describe_place()})
