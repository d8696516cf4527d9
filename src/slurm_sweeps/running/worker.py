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
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from resource import struct_rusage
from typing import TYPE_CHECKING, cast

from ..storage.layout import TrialLayout
from . import standstill
from .channel import ALIVE_EVERY_S, Record
from .ends import RunningTrial, TimeLimits
from .forking import find_fork_hazard
from .late_imports import LateImports
from .parent import Parent, describe_broken
from .processes import bind_to_cpus, freeze_memory, kill_children
from .relay import TRIAL_VARIABLE, Caller, Relay, describe_to_child
from .standstill import Standstill
from .trial_process import Child, Spawner, Task
from .usage import StepMemory, count_oom_kills, describe_reaped

if TYPE_CHECKING:
    from .step_place import StepPlace
    from .trial_process import Loaded

#: What of the `init` record limits a trial's time.
LIMITS = ("max_trial_s", "max_silence_s")

#: How long a trial has the CPU for itself before the process of the next is forked, in s.
FORK_DELAY_S = 0.002

#: A trial's process that can't be started, as there are too many, is tried again so often; after
#: the second number of seconds the worker gives up.
FORK_AGAIN_S, FORK_S = 1.0, 600.0

#: How long a process waits for a trial before it makes room for those of other slots, in s.
REST_S = 5.0


def _find_start(run: Record) -> int:
    """Find the iteration that an attempt goes on from: if it has a checkpoint, the last logged."""
    logged = run.get("iteration", 0)
    with contextlib.suppress(OSError):  # there is none
        if logged and os.listdir(TrialLayout(Path(run["dir"])).checkpoints):
            return logged
    return 0


class Worker(Parent):
    """See the module's docstring.

    Args:
        channel_in, channel_out, loaded, begin_anew: As for `Parent`.
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
        self._rest_at = math.inf  # when the process that waits for a trial is let go
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
            is_quiet = not self._take_events(self._choose_timeout_ms())
            if is_quiet and self._spawner is not None:
                self._spawner.prepare()
                if self._clock() >= self._rest_at:
                    self._rest_at = math.inf
                    self._spawner.drop_spare()
            if self._trial is not None:
                self._trial.go_further()
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
                trial.end_overrun(record, self._task.rank)

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
        self._rest_at = self._clock() + REST_S
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
        self._no_fork_since, self._rest_at = None, math.inf
        child.link.setblocking(False)
        is_new = self._spawner.forks and not child.has_run
        watch = Standstill(self._clock()) if is_new else None
        self._trial = RunningTrial(
            self._init, run, child.pid, Caller(child.link), self._clock, watch=watch
        )
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
        trial.note_told(decision["do"])

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
        caller.tell(describe_to_child(trial.run, self._task.rank, caller.child))
        caller.decisions.extend(trial.own.decisions)
        if trial.told == "stop":
            caller.tell({"kind": "stop", "number": trial.run["number"], "grace_s": 0.0})

    def _serve_caller(self, fd: int) -> None:
        caller = self._relay.callers[fd]
        data = caller.read()
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
        data = trial.own.read()
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
                    trial.note_told(record["do"])
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
        at = min(self._alive_at, self._rest_at)
        at = at if self._no_fork_since is None else min(at, self._fork_at)
        wait_s = max(0.0, at - self._clock())
        if self._trial is not None:
            wait_s = min(wait_s, self._trial.choose_wait_s())
        if self._spawner is not None and self._spawner.is_due:
            wait_s = min(wait_s, FORK_DELAY_S)
        return None if wait_s == math.inf else wait_s * 1000 + 1

    def _note_leaving(self) -> None:
        if self._spawner is not None:
            self._spawner.note_leaving()
            self._spawner.prepare()

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
            if exit_code == -signal.SIGKILL or trial.has_lost_child:
                self._oom_kills = count_oom_kills()
                oom = self._oom_kills > before
            self._tell_end(trial, trial.judge(exit_code, oom))
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
        self._tell_end(trial, trial.judge(0, False))
        self._follow()
        return True

    def _forget_trial(self) -> None:
        for fd in list(self._relay.callers):
            self._hang_up(fd)
        self._trial, self._rest_at = None, self._clock() + REST_S

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
        if trial.has_done_well and trial.told != "pause" and not self._init.get("fresh"):
            trial.is_told_of = True
            self._tell_end(trial, trial.judge(0, False))

    def _tell_end(self, trial: RunningTrial, end: Record) -> None:
        end = {**end, **trial.used}
        peak_mb = None if self._memory is None else self._memory.read_rise()
        if peak_mb is not None:
            end |= {"memory_mb": peak_mb, "is_alone": True}
        if self._task.world_size > 1:  # the driver looks which rank was the first
            end = {"at": time.time(), **end}
        number = trial.run["number"]
        self._say({**end, "kind": "ended", "number": number, **self._describe_place()})
