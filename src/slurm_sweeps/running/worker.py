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
import math
import os
import select
import signal
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from resource import struct_rusage
from typing import TYPE_CHECKING, cast

from ..errors import TrainError
from ..storage.layout import TrialLayout, build_child_journal_path, build_rank_journal_path
from . import standstill
from .channel import ALIVE_EVERY_S, MALFORMED, Decoder, Record, append_to, encode, encode_parts
from .cpus import bind_to_cpus
from .deadlines import Clock
from .forking import find_fork_hazard, note_seeding, silence_fork_warnings
from .late_imports import LateImports
from .limits import EACH_STACK_S, LOOK_S, MOST_STACKS, TimeLimits
from .out_of_memory import count_oom_kills, tells_of_killed_child
from .processes import ChildWatch, adopt_orphans, freeze_memory, judge, kill_children, list_children
from .relay import TRIAL_VARIABLE, Caller, Relay
from .standstill import Standstill
from .train import load_train
from .trial_process import Child, Loaded, Spawner, Task
from .usage import StepMemory, describe_reaped

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
        begin_anew: Replaces this process by one that has loaded nothing, given why `train` can't be
            forked and what was heard so far. What was loaded would only be in the way: it holds
            ports, locks of files and memory that the trials' own interpreters need.
    """

    def __init__(
        self,
        channel_in: int,
        channel_out: int,
        loaded: Loaded | None = None,
        begin_anew: Callable[[str, bytes], object] | None = None,
    ) -> None:
        adopt_orphans()
        self._sender: Record = {}  # what tells it from others on the same channel
        self._in = channel_in
        self._out = channel_out
        self._loaded = loaded
        self._begin_anew = begin_anew
        self._decoder = Decoder()
        self._heard: list[Record] = []  # at once, last
        self._left_alone: set[int] = set()  # children that serve all trials, or can't be ended
        self._gone = False
        self._clock = Clock(time.monotonic)
        self._watch = ChildWatch()
        self._poll = select.poll()
        self._poll.register(self._in, select.POLLIN)
        self._poll.register(self._watch.fd, select.POLLIN)

    def _take_events(self, timeout_ms: float | None = None) -> bool:
        """Serve whoever has something to say; return whether anybody had in time."""
        events = self._poll.poll(timeout_ms)
        self._clock.note_turn(math.inf if timeout_ms is None else timeout_ms / 1000)
        for fd, _ in events:
            if fd == self._in:
                data = os.read(self._in, 65536)
                self._gone = self._gone or not data
                self.hear(data)
            elif fd == self._watch.fd:
                for pid, status, used in self._watch.reap():
                    self._left_alone.discard(pid)
                    self._note_exit(pid, os.waitstatus_to_exitcode(status), used)
            else:
                self._serve_child(fd)
        return bool(events)

    def hear(self, data: bytes) -> None:
        """Do what the driver says in the next bytes of the channel."""
        self._heard = self._decoder.feed(data)
        if self._decoder.malformed:  # what it was to do would be waited for
            print(MALFORMED, file=sys.stderr, flush=True)
            self._gone = True
            return
        self._follow(self._heard)

    def greet(self) -> None:
        """Say that it has begun."""
        self._say(build_hello())

    @abstractmethod
    def _follow(self, records: Iterable[Record]) -> None:
        """Do what the driver says."""

    @abstractmethod
    def _serve_child(self, fd: int) -> None:
        """Go on with what a registered file descriptor is ready for."""

    @abstractmethod
    def _note_exit(self, pid: int, exit_code: int, used: struct_rusage) -> None:
        """Take note that a child has ended: one of ours, or what one has left behind."""

    def _say(self, record: Record) -> None:
        """Write to the driver as who this is: a rank, or a slot's worker."""
        self._send({**record, **self._sender})

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
        file, digest, ahead = Path(init["train"]), init["digest"], not init.get("fresh")
        sys.path[:0] = [entry for entry in init.get("path", ()) if entry not in sys.path]
        sender = {"slot": init["slot"]} if "slot" in init else {}

        def notify(text: str) -> None:
            self._send(cast(Record, {"kind": "notice", "text": text, **sender}))

        train, random_state = note_seeding(lambda: load_train(file, digest, ahead, notify))
        handlers = self._watch.listen()  # loading may have replaced what that needs
        hazard = find_fork_hazard()
        if hazard and ahead and self._begin_anew is not None:
            self._begin_anew(hazard, b"".join(map(encode, self._heard)) + self._decoder.rest)
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
    own: Caller  # its own process; its children call at the worker's relay
    clock: Clock
    askers: deque[Caller] = field(default_factory=deque)  # whose reports await the driver's word
    is_shared: bool = False  # whether a child has called
    child_left: bool = False  # whether a child was told to leave, which train may not notice
    child_failed: Record | None = None  # what a child gave as the end of all of it
    said: Record | None = None  # how it ended, by its own account
    is_told_of: bool = False  # whether the driver knows how it ended; its exit may still be due
    limits: TimeLimits | None = None  # of a first rank's, until one is reached
    used: Record = field(default_factory=Record)  # of its share
    overrun: Record | None = None  # how it fails if it was beyond one of them
    to_show: list[int] = field(default_factory=list)  # whose stacks are to be written yet
    told: str | None = None  # "prune", "pause" or "stop": what it was told to do
    ending: str | None = None  # "asked", "TERM" or "KILL": how far ending it has gone
    deadline: float | None = None  # when to go further
    watch: Standstill | None = None  # of a fork
    begins_anew: bool = False  # whether it hangs, and is ended to start in a fresh interpreter

    def set_deadline(self, ending: str, wait_s: float) -> None:
        """Set when to go further than `ending`; asking again doesn't put off what follows it."""
        if self.ending in (None, "asked") or ending != "asked":
            self.ending = ending
            self.deadline = self.clock() + wait_s

    def signal(self, number: signal.Signals) -> None:
        """Signal the trial's process; KILL goes to all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _find_start(run: Record) -> int:
    """Find the iteration that an attempt goes on from: if it has a checkpoint, the last logged."""
    logged = run.get("iteration", 0)
    with contextlib.suppress(OSError):  # there is none
        if logged and os.listdir(TrialLayout(Path(run["dir"])).checkpoints):
            return logged
    return 0


def _describe_to_child(run: Record, rank: int, child: int) -> Record:
    """Tell a process that the trial has started what runs, and where its own journal is."""
    its: Record = {**run, "env": {}}
    if "journal" in run:
        path = build_rank_journal_path(Path(run["journal"]), rank)
        its["journal"] = str(build_child_journal_path(path, child))
    return its


def _has_lost_child(said: Record | None) -> bool:
    """Whether a trial says that it failed since a process of it was killed."""
    if said is None or said["how"] != "failed":
        return False
    return tells_of_killed_child(f"{said['error_type']}: {said['message']}")


def _read(link: socket.socket) -> bytes | None:
    """Read what is there: nothing at the end, None if there is nothing yet."""
    try:
        return link.recv(65536)
    except BlockingIOError:
        return None
    except OSError:
        return b""


#: What of the `init` record limits a trial's time.
LIMITS = ("max_trial_s", "max_silence_s")

#: How long a trial has the CPU for itself before the process of the next is forked, in s.
FORK_DELAY_S = 0.002

#: A trial's process that can't be started, as there are too many, is tried again so often; after
#: the second number of seconds the worker gives up.
FORK_AGAIN_S, FORK_S = 1.0, 600.0


class Worker(Parent):
    """See the module's docstring.

    Args:
        channel_in, channel_out, loaded, begin_anew: As for `Parent`.
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
        begin_anew: Callable[[str, bytes], object] | None = None,
    ) -> None:
        super().__init__(channel_in, channel_out, loaded, begin_anew)
        self._task = task
        sender = {"rank": task.rank or None, "slot": slot}
        self._sender = cast(Record, {key: n for key, n in sender.items() if n is not None})
        self._waiting: deque[Record] = deque()  # what the driver said and is to be done yet
        self._init: Record = {}
        self._spawner: Spawner | None = None
        self._imports: LateImports | None = None
        self._place: StepPlace | None = None
        self._memory: StepMemory | None = None
        self._trial: RunningTrial | None = None
        self._fork_at = 0.0  # when to try again to start a trial
        self._no_fork_since: float | None = None
        self._oom_kills = 0
        self._alive_at = math.inf  # when to say next that it is there
        self._told_children = ""  # how they reach this worker
        self._gpus: Record = {}
        self._relay = Relay()
        for fd in self._relay.fds:
            self._poll.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Work until the driver closes the channel; nothing stays behind then."""
        while not self._gone:
            if not self._take_events(self._choose_timeout_ms()):
                self._prepare_next()
            if self._trial is not None:
                self._go_further(self._trial)
                self._look_for_standstill(self._trial)
                self._look_at_limits(self._trial)
            if self._no_fork_since is not None:
                self._follow()
            self._say_alive()
        if self._trial is not None:
            self._trial.signal(signal.SIGKILL)
        kill_children()

    def _say_alive(self) -> None:
        """Tell now and then that this worker is there."""
        now = self._clock()
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_EVERY_S
            self._say({"kind": "alive"})

    # --- what the driver says -----------------------------------------------------------------

    def _follow(self, records: Iterable[Record] = ()) -> None:
        """Do what the driver said, in order.

        A `run` waits until the trial before has exited, and a process can be started.
        """
        self._waiting.extend(records)
        while self._waiting:
            kind, trial = self._waiting[0]["kind"], self._trial
            if kind == "run" and trial is not None and trial.is_told_of:
                return
            if kind == "run" and self._no_fork_since is not None and self._drop_stopped():
                continue
            if kind == "run" and self._clock() < self._fork_at:
                return
            record = self._waiting.popleft()
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
            elif kind == "overrun":
                self._end_overrun(trial, record)

    def _get_ready(self, init: Record) -> None:
        """Load `train`, once, and say if that fails or if it can't be forked."""
        self._init = init
        if "max_silence_s" in init:
            self._task = self._task._replace(direct=None)  # what this worker must hear of
        os.environ.update(init.get("env") or {})  # imports find what trials will
        if "bound_to" in init:
            bind_to_cpus(*init["bound_to"])
        if "share" in init:
            from .step_place import StepPlace  # only a job step needs it

            self._place = StepPlace(init["share"])
            self._place.bind()
            if "slot" not in self._sender:  # the step is its alone
                self._memory = StepMemory()
        try:
            self._loaded = loaded = self._loaded or self._load(init)
        except BaseException as error:  # noqa: BLE001 - user code runs here; the driver gets all of it
            self._say({"kind": "broken", "traceback": describe_broken(error)})
            return
        if loaded.hazard:
            text = f"{loaded.hazard}: every trial gets a fresh interpreter instead of a fork"
            self._say({"kind": "notice", "text": text})
        if loaded.train is not None and not (init.get("fresh") or init.get("own_imports")):
            self._imports = LateImports()
        self._told_children = self._relay.describe(self._task.rank, self._task.world_size)
        self._gpus = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        own_fds = (self._in, self._out, self._watch.fd, self._watch.writer)
        train_file = (init["train"], init["digest"])
        self._spawner = Spawner(self._task, loaded, train_file, own_fds, self._relay, self._imports)
        if self._place is not None:  # elsewhere, a pipe tells the end of its process
            self._alive_at = 0.0
            self._say_alive()  # from now on it is missed
        self._say({"kind": "ready", **self._describe_place()})
        self._spawner.prepare()
        self._oom_kills = count_oom_kills()  # while the driver looks for a trial

    def _describe_place(self) -> Record:
        """Tell what the next trial here will find: GPUs, and in a step an address and a port."""
        if self._task.rank > 0:
            return {}
        if self._place is None:
            return self._gpus
        return {**self._place.describe_next(), **self._gpus}

    def _start_trial(self, run: Record) -> None:
        if self._spawner is None or self._trial is not None:
            return  # `broken` was said; or a driver that lost count, which it will find out
        if self._imports is not None and self._imports.is_due and self._spawner.forks:
            self._import_late(self._imports, self._spawner)
        env = {**(self._init.get("env") or {}), **run.get("env", {})}
        if self._place is not None:
            env |= self._place.build_environment(run["port"], run["address"])
        env[TRIAL_VARIABLE] = self._told_children
        told, run = run, {**run, "env": env, "iteration": _find_start(run)}
        try:
            child = self._spawner.start(run)
        except OSError as error:
            self._wait_to_fork(told, error)
            return
        self._no_fork_since = None
        child.link.setblocking(False)
        is_new = self._spawner.forks and not child.has_run
        watch = Standstill(self._clock()) if is_new else None
        self._trial = RunningTrial(run, child.pid, Caller(child.link), self._clock, watch=watch)
        if self._task.rank == 0 and not self._init.keys().isdisjoint(LIMITS):
            self._trial.limits = TimeLimits(self._init, self._clock())
        self._poll.register(child.link, select.POLLIN)
        self._say({"kind": "started", "number": run["number"], "pid": child.pid})

    def _import_late(self, imports: LateImports, spawner: Spawner) -> None:
        """Import what trials load late, once, and see whether this can be forked then."""
        try:
            text = imports.load()
        except OSError:  # no process to try it in
            return
        spawner.note_imports(self._watch.listen())
        if hazard := find_fork_hazard():  # which the fork that tried did not have
            spawner.stop_forking()
            text = f"{hazard}: every trial gets a fresh interpreter instead of a fork"
        freeze_memory()
        self._say({"kind": "notice", "text": text})

    def _wait_to_fork(self, run: Record, error: OSError) -> None:
        """There are too many processes: leave a trial until others have ended, perhaps."""
        now = self._clock()
        self._no_fork_since = self._no_fork_since or now
        if now - self._no_fork_since > FORK_S:
            raise error
        self._waiting.appendleft(run)
        self._fork_at = now + FORK_AGAIN_S
        text = (
            f"no process can be started for a trial ({error.strerror}; see `ulimit -u`): its slot "
            "waits, and the sweep goes on with fewer"
        )
        self._say({"kind": "notice", "text": text})

    def _drop_stopped(self) -> bool:
        """Say that a trial that waits for its process is interrupted, if it is told to stop."""
        number = self._waiting[0]["number"]
        stops = [(record["kind"], record.get("number")) for record in self._waiting]
        if ("stop", number) not in stops:
            return False
        self._waiting.popleft()
        self._no_fork_since = None
        ended: Record = {"kind": "ended", "how": "interrupted", "number": number}
        self._say({**ended, **self._describe_place()})
        return True

    def _pass_decision(self, trial: RunningTrial, decision: Record) -> None:
        if self._task.rank == 0:
            is_due = trial.askers and decision["attempt"] == trial.run["attempt"]
            (trial.askers.popleft() if is_due else trial.own).tell(decision)
            if trial.limits is not None and not trial.askers:
                trial.limits.note_answer(self._clock())
            return
        trial.watch = None  # the trial has reported; this rank may never do so
        for caller in (trial.own, *self._relay.callers.values()):
            caller.decisions.append(decision)
            caller.answer()
        self._note_told(trial, decision["do"])

    def _note_told(self, trial: RunningTrial, do: str) -> None:
        """Remember that a trial was told to leave, and from when on it is made to."""
        if do == "go_on" or trial.told in ("prune", "pause"):
            return
        trial.told = do
        trial.set_deadline("asked", self._init["prune_grace_s"])

    def _ask_to_stop(self, trial: RunningTrial, stop: Record) -> None:
        trial.told = trial.told or "stop"
        for caller in (trial.own, *self._relay.callers.values()):
            caller.tell(stop)
        trial.set_deadline("asked", stop["grace_s"])

    # --- what the trial says ------------------------------------------------------------------

    def _serve_child(self, fd: int) -> None:
        """Pass on what the trial says, or a child of it, until there is nothing more for now."""
        trial = self._trial
        if fd in self._relay.callers:
            self._serve_caller(fd)
        elif trial is not None and fd == trial.own.link.fileno():
            self._serve_trial(trial)
        elif fd in self._relay.fds:
            self._take_call()
        # else it has ended in this very turn

    def _take_call(self) -> None:
        """Let a child of the trial have its say, and know what its trial knows."""
        caller, trial = self._relay.accept(), self._trial
        if caller is None:
            return
        self._poll.register(caller.link, select.POLLIN)
        if trial is None:
            self._hang_up(caller.link.fileno())
            return
        if not trial.is_shared:
            trial.is_shared = True
            trial.own.tell({"kind": "shared"})
        caller.tell(_describe_to_child(trial.run, self._task.rank, caller.child))
        caller.decisions.extend(trial.own.decisions)
        if trial.told == "stop":
            caller.tell({"kind": "stop", "number": trial.run["number"], "grace_s": 0.0})

    def _serve_caller(self, fd: int) -> None:
        caller = self._relay.callers[fd]
        data = _read(caller.link)
        if data is not None and (not data or self._trial is None):
            self._hang_up(fd)
        elif data and self._trial is not None:
            self._take_records(self._trial, caller, data)

    def _hear_callers(self) -> None:
        """Take in what children have said before their trial ended: its own link may come first."""
        for fd in list(self._relay.callers):
            self._serve_caller(fd)

    def _hang_up(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._relay.hang_up(fd)

    def _serve_trial(self, trial: RunningTrial) -> None:
        data = _read(trial.own.link)
        if data is None:
            return
        if not data:
            self._poll.unregister(trial.own.link)
            self._end_early(trial)
            return
        before = trial.said
        self._take_records(trial, trial.own, data)
        if trial.said is not None and trial.said is not before:
            if trial.said.pop("stays", False) and self._keep_process(trial):
                return
            self._note_leaving()
            if trial.ending is None:
                trial.set_deadline("asked", self._init["exit_grace_s"])

    def _take_records(self, trial: RunningTrial, caller: Caller, data: bytes) -> None:
        for record in caller.decoder.feed(data):
            kind, is_child = record["kind"], caller is not trial.own
            if kind in ("report", "suggest"):
                trial.askers.append(caller)
                self._say(record)
                if trial.limits is not None:
                    trial.limits.note_report()
            elif kind == "notice":
                self._say(record)
            elif kind == "await":
                caller.awaits = record["iteration"]
                caller.answer()
            elif kind == "told":
                trial.child_left = trial.child_left or is_child
                if not is_child or trial.told != record["do"]:  # it has the time that it was given
                    self._note_told(trial, record["do"])
            elif kind == "ended" and is_child:
                trial.child_failed = record
            elif kind == "ended":
                trial.said = record
            elif kind == "loaded" and not is_child and self._imports is not None:
                self._imports.hear(record)
            elif kind == "used" and not is_child:
                del record["kind"]  # what is left goes into another
                trial.used = {**record, **trial.used}
            if is_child:
                trial.watch = None  # it is alive

    # --- how a trial ends ---------------------------------------------------------------------

    def _choose_timeout_ms(self) -> float | None:
        now, due, trial = self._clock(), self._alive_at, self._trial
        if self._no_fork_since is not None:
            due = min(due, self._fork_at)
        if trial is not None and trial.deadline is not None:
            due = min(due, trial.deadline)
        if trial is not None and trial.watch is not None:
            due = min(due, now + standstill.LOOK_EVERY_S)
        if trial is not None and trial.limits is not None:
            due = min(due, now + LOOK_S, trial.limits.due)
        if self._spawner is not None and self._spawner.is_due:
            due = min(due, now + FORK_DELAY_S)
        return None if due == math.inf else max(0.0, (due - now) * 1000 + 1)

    def _note_leaving(self) -> None:
        if self._spawner is not None:
            self._spawner.note_leaving()
            self._spawner.prepare()

    def _prepare_next(self) -> None:
        """Fork the process of the next trial, if that is to be done."""
        if self._spawner is not None:
            self._spawner.prepare()

    def _go_further(self, trial: RunningTrial) -> None:
        """End a trial whose time to leave by itself is over: TERM, then KILL."""
        if trial.deadline is None or self._clock() < trial.deadline:
            return
        if trial.to_show:
            standstill.ask_for_stack(trial.to_show.pop(0))
            trial.deadline = self._clock() + (EACH_STACK_S if trial.to_show else 10 * EACH_STACK_S)
        elif trial.ending == "asked":
            trial.set_deadline("TERM", self._init["term_grace_s"])
            trial.signal(signal.SIGTERM)
        else:
            trial.set_deadline("KILL", 1.0)
            trial.signal(signal.SIGKILL)

    def _look_for_standstill(self, trial: RunningTrial) -> None:
        """Have a fork that hangs before its first report say where, and start anew without one."""
        if trial.watch is None or trial.ending:
            return
        verdict = trial.watch.look(trial.pid, self._clock())
        if verdict is None:
            return
        standstill.ask_for_stack(trial.pid)
        what = standstill.NOTICES[verdict].format(trial=trial.run["trial_id"])
        self._say({"kind": "notice", "text": f"{what}. Its stderr.log shows where"})
        if verdict == "blocked":
            trial.begins_anew = True
            trial.set_deadline("TERM", 1.0)  # time to write where it is; then KILL

    def _look_at_limits(self, trial: RunningTrial) -> None:
        """Tell the driver, once, of a trial that is beyond one of its limits."""
        if trial.limits is None or trial.ending:
            return
        overrun = trial.limits.judge(self._clock())
        if overrun is not None:
            trial.limits = None
            self._say({"kind": "overrun", "number": trial.run["number"], **overrun})

    def _end_overrun(self, trial: RunningTrial, overrun: Record) -> None:
        """End a trial as the driver says, when its processes have shown where they are."""
        trial.to_show = standstill.find_who_answers(trial.pid)[:MOST_STACKS]
        log = TrialLayout(Path(trial.run["dir"])).stderr(self._task.rank)
        what = f"its {log.name} has the stacks of its threads"
        if not trial.to_show:
            what = "no Python that could show its stacks runs in it"
        trial.overrun = {
            "how": "failed",
            "error_type": overrun["error_type"],
            "message": f"{overrun['message']}; {what}",
        }
        append_to(log, f"slurm_sweeps: {overrun['message']}; it is ended\n".encode())
        trial.set_deadline("asked", 0.0)

    def _note_exit(self, pid: int, exit_code: int, used: struct_rusage) -> None:
        if self._spawner is not None:
            self._spawner.note_end(pid)
        if self._trial is not None and pid == self._trial.pid:
            self._trial.used = {**self._trial.used, **describe_reaped(used)}
            self._end_trial(self._trial, exit_code)

    def _end_trial(self, trial: RunningTrial, exit_code: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(trial.pid, signal.SIGKILL)
        self._end_leftovers()
        with contextlib.suppress(OSError):
            while data := trial.own.link.recv(65536):  # what it said before it ended
                self._take_records(trial, trial.own, data)
        self._hear_callers()
        with contextlib.suppress(KeyError):
            self._poll.unregister(trial.own.link)
        trial.own.link.close()
        self._forget_trial()
        hangs = trial.begins_anew and trial.said is None and trial.told is None
        if hangs and self._spawner is not None:
            self._spawner.stop_forking()
            self._start_trial(trial.run)
        elif not trial.is_told_of:
            before, oom = self._oom_kills, False
            if exit_code == -signal.SIGKILL or _has_lost_child(trial.said):
                self._oom_kills = count_oom_kills()
                oom = self._oom_kills > before
            self._tell_end(trial, self._judge(trial, exit_code, oom))
        self._follow()

    def _keep_process(self, trial: RunningTrial) -> bool:
        """Tell the end of a completed trial whose process stays, and have that run the next one.

        Returns:
            False if it must end: it was told to leave, or to be made to, in the last moment.
        """
        self._hear_callers()
        is_told = trial.told or trial.ending or trial.begins_anew or trial.child_failed
        if self._spawner is None or is_told or self._init.get("fresh"):
            with contextlib.suppress(OSError):
                trial.own.link.shutdown(socket.SHUT_WR)
            return False
        self._poll.unregister(trial.own.link)
        self._spawner.keep(Child(trial.pid, trial.own.link))
        self._end_leftovers()
        self._forget_trial()
        self._tell_end(trial, self._judge(trial, 0, False))
        self._follow()
        return True

    def _forget_trial(self) -> None:
        for fd in list(self._relay.callers):
            self._hang_up(fd)
        self._trial = None

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
        self._hear_callers()
        said = trial.said
        if said is None or said["how"] not in ("completed", "pruned"):
            return
        if trial.told != "pause" and not self._init.get("fresh"):
            trial.is_told_of = True
            self._tell_end(trial, self._judge(trial, 0, False))

    def _judge(self, trial: RunningTrial, exit_code: int, oom: bool) -> Record:
        """Decide how an attempt ended; what a child has said, or was told, is for all of it."""
        has_done_well = trial.said is not None and trial.said["how"] in ("completed", "pruned")
        if trial.overrun is not None and not has_done_well and trial.told in (None, "stop"):
            return trial.overrun
        if trial.child_left and trial.told == "stop":
            return {"how": "interrupted"}
        return judge(trial.child_failed or trial.said, trial.told, exit_code, oom)

    def _tell_end(self, trial: RunningTrial, end: Record) -> None:
        end = {**end, **trial.used}
        peak_mb = None if self._memory is None else self._memory.read_rise()
        if peak_mb is not None:
            end |= {"memory_mb": peak_mb, "is_alone": True}
        if self._task.world_size > 1:  # the driver looks which rank was the first
            end = {"at": time.time(), **end}
        number = trial.run["number"]
        self._say({**end, "kind": "ended", "number": number, **self._describe_place()})
