"""The driver: one event loop between the workers, the sweep and the writer.

Everything that happens arrives here as a record from a worker, a signal, or a moment in time; the
`Sweep` says what follows; the driver carries it out and hands what must be kept to the writer. It
never waits for the disk, nor for any single worker. Every wait has an end: a trial that was told to
leave is made to by its worker, and a worker that doesn't answer is killed here.

Fitting a sampler's model in a thread of its own, so that no report waits for it.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from ..errors import StorageError, SweepFailedError, TrainError
from ..rules.protocol import Decision
from ..storage.layout import Layout
from ..storage.records import Record as StoredRecord
from ..storage.records import ReportRecord, Request
from ..sweep import Ended, Sweep, TrialState
from ..trial import Status, TrialError
from .channel import Connection, Record
from .deadlines import (
    Patience,
    StopPlan,
    compute_end_margin,
    plan_stop,
)
from .launchers import Launcher
from .slots import (
    Crew,
    LiveSlot,
    Loss,
    build_trial_record,
    judge_ends,
    parse_end,
)
from .stop_signals import StopSignals
from .train import write_cfg
from .trial_process import encode_cfg

#: What a sweep was stopped by when someone asked for it from outside.
STOP_REQUEST = "stop request"

#: Said of a worker that nobody has told to go.
ENDED = "ended by itself"

#: What a sweep was stopped by that ended as its user wanted.
TIME_BUDGET = "time budget"
TARGET = "target"

#: How often time is looked at when nothing happens, in seconds.
TICK_S = 0.25

#: The other ranks' time to follow the first one that crashed, in seconds.
RANK_GRACE_S = 2.0

#: How long trials have to leave when the sweep fails, in seconds.
FAILURE_GRACE_S = 5.0

#: What a worker may say of a trial's end.
HOWS = frozenset({"completed", "pruned", "failed", "lost", "interrupted"})


class Writer(Protocol):
    """What the driver needs of the one that writes to the database."""

    def put(self, record: StoredRecord) -> None:
        """Take a record without waiting for the disk."""
        ...

    def check(self) -> None:
        """Raise StorageError if writing has failed for good."""
        ...


class TimeLimit(Protocol):
    """What the driver needs to know of the job it runs in."""

    def get_time_left(self, now: float) -> float | None:
        """Seconds until the job ends, at this `time.monotonic()`; None if unknown or never."""
        ...

    @property
    def kill_wait_s(self) -> float | None:
        """Seconds between the TERM that ends a job and the KILL; None where no Slurm does that."""
        ...


@dataclass(frozen=True, slots=True)
class NoTimeLimit:
    """Outside of Slurm."""

    kill_wait_s: float | None = None

    def get_time_left(self, now: float) -> float | None:
        """Nothing ends this process."""
        return None


class Driver:
    """See the module's docstring.

    Args:
        sweep: Decides.
        launcher: Starts workers.
        writer: Keeps.
        layout: Where files go.
        notify: Tells the user something, once, in a line or a few.
        patience: How long to wait for what.
        limit: When the job ends.
        requests: What others ask of the driver, as it comes in.
        budget_s: How long the sweep may take, in seconds; None for as long as it does.

    Attributes:
        stopped_by: The signal, or the words "time limit", that ended the sweep before it was done.
    """

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        writer: Writer,
        layout: Layout,
        notify: Callable[[str], None],
        patience: Patience,
        limit: TimeLimit | None = None,
        requests: SimpleQueue[Request] | None = None,
        budget_s: float | None = None,
    ) -> None:
        self._sweep = sweep
        self._launcher = launcher
        self._writer = writer
        self._layout = layout
        self._notify = notify
        self._patience = patience
        self._limit = limit or NoTimeLimit()
        self._requests: SimpleQueue[Request] = requests or SimpleQueue()
        self._folder = Path(os.path.abspath(layout.folder))
        self._selector = selectors.DefaultSelector()
        self._crew = Crew(launcher, self._build_init(), self._selector, self._notify_once)
        self._ends_at = float("inf") if budget_s is None else time.monotonic() + budget_s
        self._studies = Studies(sweep)
        self._said: set[str] = set()
        self._broken_on: set[str] = set()  # nodes on which train could not be loaded
        self._end_margin_s: float | None = None
        self._stopping = False
        self._kill_at = float("inf")
        self.stopped_by: str | None = None

    def run(self, signals: StopSignals) -> None:
        """Run the sweep until it is done, or until this process is told to stop.

        Args:
            signals: Entered: what tells it to stop, from before it began too.

        Raises:
            SweepFailedError: Going on makes no sense, or no slot is left.
            TrainError: `train` can't be loaded in a worker.
            LaunchError: No worker could be started.
            StorageError: Writing has failed for good.
        """
        self._selector.register(signals.fd, selectors.EVENT_READ, None)
        try:
            while not self._is_done():
                self._tick(signals)
                wait_s = 0.01 if self._crew.has_unsent() else TICK_S
                for key, _ in self._selector.select(wait_s):
                    if key.data is not None:
                        self._hear(key.data, key.fd)
        finally:
            self._studies.close()
            self._crew.dismiss()
            self._selector.close()
            self._tell_malformed()
        if self._sweep.fatal:
            raise SweepFailedError(self._sweep.fatal)

    def _tell_malformed(self) -> None:
        """Say if something besides the workers has written into the channel."""
        if self._crew.malformed:
            self._notify(
                f"{self._crew.malformed} records from workers were cut short or made no sense, and "
                f"were left aside; they are in {self._layout.slots}"
            )

    def _is_done(self) -> bool:
        if self._sweep.is_done:
            return True
        if self._crew.is_out and not self._stopping:
            raise SweepFailedError(
                "no slot is left: on every node, workers kept ending before any of their trials "
                f"did. See the logs in {self._layout.slots}; restore=True goes on from here"
            )
        return False

    def _tick(self, signals: StopSignals) -> None:
        """Do what is due by now."""
        now = time.monotonic()
        for number in signals.take():
            self._follow_signal(number, now)
        while not self._requests.empty():
            self._follow_request(self._requests.get(), now)
        self._writer.check()
        self._follow_time_limit(now)
        self._follow_wishes(now)
        if self._sweep.fatal and not self._stopping:
            self._stop(StopPlan(FAILURE_GRACE_S, FAILURE_GRACE_S + self._patience.answer_s), now)
        if not self._stopping:
            self._studies.advance()
            self._crew.start(self._count_wanted(), now)
            self._crew.look_for_stalls(now)
            if self._sweep.count_startable(1):  # a report can let a paused trial go on
                self._fill_idle()
        for slot in self._crew.slots:
            overdue = slot.deadline is not None and now > slot.deadline
            if slot.link is not None and (overdue or now > self._kill_at):
                self._lose([slot], "did not answer in time and was killed")

    def _count_wanted(self) -> int:
        """How many workers there is work for."""
        return len(self._sweep.running) + self._sweep.count_startable(len(self._crew.slots))

    # --- told to stop -------------------------------------------------------------------------

    def _follow_signal(self, number: signal.Signals, now: float) -> None:
        if self._stopping and number == signal.SIGINT:
            self._stop(StopPlan(0.0, 1.0), now)
        elif not self._stopping:
            left_s = self._limit.get_time_left(now)
            if number == signal.SIGTERM and self._limit.kill_wait_s is not None:
                left_s = min(left_s or self._limit.kill_wait_s, self._limit.kill_wait_s)
            self._leave_early(number.name, left_s, now)

    def _follow_request(self, request: Request, now: float) -> None:
        """Do what someone asked through the database; marks to retry are for a restored sweep."""
        if request.kind == "stop" and not self._stopping:
            self._leave_early(STOP_REQUEST, self._limit.get_time_left(now), now)
        elif request.kind == "prune":
            self._prune(request.argument)

    def _prune(self, trial_id: str | None) -> None:
        """Let one trial go: at its next report, else its worker ends it after the grace."""
        for slot in self._crew.slots:
            trial = slot.trial
            if trial is not None and trial.trial_id == trial_id:
                self._sweep.prune(trial.number)
                self._notify(f"trial {trial_id} is pruned as someone asked")
                self._ask_to_leave(slot, self._patience.prune_grace_s)

    def _follow_time_limit(self, now: float) -> None:
        left_s = self._limit.get_time_left(now)
        if left_s is None or self._stopping:
            return
        if self._end_margin_s is None:
            self._end_margin_s = compute_end_margin(self._patience, left_s)
        if left_s < self._end_margin_s:
            self._leave_early("time limit", left_s, now)

    def _follow_wishes(self, now: float) -> None:
        """Stop when the user's time is up, or the target reached."""
        if self._stopping:
            return
        if self._sweep.reached is not None:
            self._notify(f"trial {self._sweep.reached} has reached the target")
            self._leave_early(TARGET, self._limit.get_time_left(now), now)
        elif now >= self._ends_at:
            self._leave_early(TIME_BUDGET, self._limit.get_time_left(now), now)

    def _leave_early(self, reason: str, left_s: float | None, now: float) -> None:
        plan = plan_stop(self._patience, left_s)
        self.stopped_by = reason
        hint = " (Ctrl-C again ends them at once)" if reason == "SIGINT" else ""
        self._notify(
            f"{reason}: starting nothing new; {len(self._sweep.running)} running trials have "
            f"{plan.grace_s:.0f} s to reach their next report{hint}"
        )
        self._stop(plan, now)

    def _stop(self, plan: StopPlan, now: float) -> None:
        """Start nothing new, ask all trials to leave, and see that they do."""
        self._sweep.stop()
        self._stopping = True
        self._kill_at = now + plan.kill_s
        for slot in self._crew.slots:
            self._ask_to_leave(slot, plan.grace_s)

    # --- what workers say ---------------------------------------------------------------------

    def _build_init(self) -> Record:
        return {
            "kind": "init",
            "train": str(self._folder / self._layout.train.name),
            "fresh": self._launcher.fresh_workers,
            "prune_grace_s": self._patience.prune_grace_s,
            "exit_grace_s": self._patience.exit_grace_s,
            "term_grace_s": self._patience.term_grace_s,
        }

    def _hear(self, link: Connection, fd: int) -> None:
        if link.has_ended:
            return
        records = link.read(fd)
        if records is None:
            self._selector.unregister(fd)
            if fd == link.streams[0]:
                self._lose([self._crew.slots[index] for index in sorted(link.slots)], ENDED)
            return
        for record in records:
            slot = self._crew.find_slot(link, record)
            if slot is not None:
                self._take(slot, link, fd, record)

    def _take(self, slot: LiveSlot, link: Connection, fd: int, record: Record) -> None:
        kind = record["kind"]
        if record.get("rank", 0) not in range(self._launcher.world_size):
            return  # nobody's: an edited record
        if kind == "report":
            self._take_report(slot, link, fd, record)
        elif kind == "ended":
            self._take_end(slot, record)
        elif kind == "started":
            if record.get("rank", 0) == 0:
                slot.trial_pid = record["pid"]
        elif kind == "hello":
            self._crew.note_hello(slot, record)
        elif kind == "ready":
            if self._crew.note_ready(slot, record):
                self._fill(slot)
        elif kind == "notice":
            self._notify_once(record["text"])
        elif kind == "broken":
            self._take_broken(slot, record["traceback"])
        elif kind == "gone":
            self._lose([slot], ENDED)

    def _take_broken(self, slot: LiveSlot, traceback: str) -> None:
        """A worker can't load `train`: an error, or its node's fault if others can."""
        problem = f"train can't be loaded in a worker on {slot.host}:\n{traceback}"
        self._broken_on.update(slot.nodes)
        tried = {node for each in self._crew.slots if each.link for node in each.nodes}
        if not self._crew.any_ready and tried <= self._broken_on:
            raise TrainError(problem)
        self._notify_once(problem)
        self._lose([slot], "could not load train")

    def _take_report(self, slot: LiveSlot, link: Connection, fd: int, record: Record) -> None:
        number, attempt, iteration = record["number"], record["attempt"], record["iteration"]
        trial = slot.trial
        if trial is None or (trial.number, trial.attempt) != (number, attempt):
            return
        metrics, now = record["metrics"], time.time()
        decision = self._sweep.report(number, iteration, metrics, now)
        answer = {
            "kind": "decision",
            "slot": slot.index,
            "number": number,
            "attempt": attempt,
            "iteration": iteration,
            "do": decision.value,
        }
        link.answer(fd, answer)
        self._writer.put(ReportRecord(number, attempt, iteration, metrics, now))
        while self._sweep.notices:
            self._notify_once(self._sweep.notices.popleft())
        if decision is not Decision.GO_ON and slot.deadline is None:
            self._expect_end(slot, self._patience.prune_grace_s)

    def _take_end(self, slot: LiveSlot, record: Record) -> None:
        trial = slot.trial
        if trial is None or trial.number != record.get("number") or record["how"] not in HOWS:
            return
        slot.ends[record.get("rank", 0)] = record
        if len(slot.ends) < self._launcher.world_size:
            if len(slot.ends) == 1:
                crashed = record["how"] in ("failed", "lost")
                self._ask_to_leave(slot, RANK_GRACE_S if crashed else self._patience.prune_grace_s)
            return
        self._end_trial(slot, parse_end(judge_ends(slot.ends)))
        slot.note_place(slot.ends[0])
        if self._crew.note_success(slot):
            self._fill(slot)

    def _lose(self, slots: Sequence[LiveSlot], why: str) -> None:
        """Workers are gone: so are their trials, and perhaps their nodes.

        All are given up before any trial is run again: one lost with its whole node would else be
        given to its neighbours there, one after the other, and be lost with each of them.
        """
        lost = [(slot, loss) for slot in slots if (loss := self._crew.lose(slot, why))]
        for slot, loss in lost:
            if not self._stopping:
                self._tell_loss(slot, loss)
            if slot.trial is not None:
                message = f"the worker {why} (exit code {loss.exit_code})"
                error = TrialError("WorkerLost", message, loss.said)
                self._end_trial(slot, Ended(Status.LOST, error))
            self._crew.leave_nodes_out(slot)

    def _tell_loss(self, slot: LiveSlot, loss: Loss) -> None:
        where = slot.host or ", ".join(slot.nodes)
        last = f": {loss.said.splitlines()[-1]}" if loss.said else ""
        self._notify_once(
            f"the worker of slot {slot.index} on {where} {loss.why} (exit code "
            f"{loss.exit_code}){last}"
        )

    # --- trials -------------------------------------------------------------------------------

    def _fill(self, slot: LiveSlot) -> None:
        """Give a ready slot its next trial."""
        trial = self._sweep.assign(slot.index, time.time())
        if trial is None or slot.link is None:
            return
        now = time.time()  # a sampler may have thought for a while
        trial.pace.begin(trial.attempt, now)
        slot.begin(trial, now, slot.gpus)
        folder = self._folder / trial.trial_id
        slot.send(
            {
                "kind": "run",
                "trial_id": trial.trial_id,
                "number": trial.number,
                "attempt": trial.attempt,
                "dir": str(folder),
                "env": {},
                "port": slot.port,
                "address": slot.address,
                **encode_cfg(trial.cfg),
            }
        )
        self._writer.put(build_trial_record(slot, trial, Status.RUNNING))
        self._write_cfg(trial, folder)  # last: the trial has its cfg and doesn't wait for the disk

    def _write_cfg(self, trial: TrialState, folder: Path) -> None:
        try:
            write_cfg(trial.cfg, folder)
        except OSError as error:
            raise StorageError(
                f"can't write into {folder}: {error}. Make room or mend the permissions; "
                "restore=True goes on from here"
            ) from error

    def _end_trial(self, slot: LiveSlot, ended: Ended) -> None:
        """Tell the sweep, and keep, how the trial of a slot ended; it may be run again."""
        trial = slot.trial
        if trial is None:
            return
        record = build_trial_record(slot, trial, ended.status)
        slot.trial = slot.trial_pid = slot.deadline = None
        outcome = self._sweep.end(trial.number, ended)
        self._writer.put(
            dataclasses.replace(
                record,
                status=outcome.status,
                lost_count=trial.lost_count,
                end_time=max(time.time(), record.start_time or 0.0),  # a clock may be set back
                error=ended.error,
                exit_code=ended.exit_code,
                signal=ended.signal,
            )
        )
        if outcome.status is Status.PAUSED:
            self._fill_idle(slot)
        if outcome.runs_again:
            again = build_trial_record(slot, trial, Status.SCHEDULED)
            self._writer.put(
                dataclasses.replace(again, slot=None, host=None, gpus=None, start_time=None)
            )
            self._fill_idle(slot)

    def _fill_idle(self, but: LiveSlot | None = None) -> None:
        """Give work to the slots that found none before something changed."""
        for idle in list(self._crew.idle):
            if idle is not but:
                self._fill(idle)

    def _ask_to_leave(self, slot: LiveSlot, grace_s: float) -> None:
        if slot.link is None or slot.trial is None:
            return
        slot.send({"kind": "stop", "number": slot.trial.number, "grace_s": grace_s})
        self._expect_end(slot, grace_s)

    def _expect_end(self, slot: LiveSlot, grace_s: float) -> None:
        """Set when to stop waiting for a trial that its worker is to end."""
        patience = self._patience
        slot.deadline = time.monotonic() + grace_s + patience.term_grace_s + patience.answer_s

    def _notify_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._notify(text)


class Studies:
    """One study at a time, of a sweep whose sampler has any; else nothing, and no thread.

    Args:
        sweep: Says when there is something to study, and takes what was found.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._executor = ThreadPoolExecutor(1, "study") if sweep.study_apart() else None
        self._running: Future[Any] | None = None

    def advance(self) -> None:
        """Take in what a study has found, and begin the next one if there is reason to."""
        if self._executor is None:
            return
        if self._running is not None and self._running.done():
            self._sweep.learn(self._running.result())
            self._running = None
        if self._running is None:
            study = self._sweep.plan_study()
            self._running = None if study is None else self._executor.submit(study)

    def close(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
