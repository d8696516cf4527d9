"""The driver: one event loop between the workers, the sweep and the writer.

Everything that happens arrives here as a record from a worker, a signal, or a moment in time; the
`Sweep` says what follows; the driver carries it out and hands what must be kept to the writer. It
never waits for a disk (`background` does) or a terminal, nor for any single worker. Every wait has
an end: a trial that was told to leave is made to by its worker, and a worker that doesn't answer is
killed here. A turn of the loop costs the same however many slots there are.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

from ..errors import StorageError, SweepFailedError, TrainError, UsageError
from ..rules.protocol import Decision
from ..slurm.client import JobClock
from ..storage.layout import Layout
from ..storage.records import STOP_REQUEST, ReportRecord, Request
from ..storage.writer import Writer
from ..sweep import Sweep
from ..sweep_types import Answer, Ended, TrialState
from ..trial import Status, make_storable
from .attempts import (
    HOWS,
    build_run,
    build_trial_record,
    complete_record,
    judge_ends,
    parse_end,
)
from .background import Background, BackgroundFit, StopSignals
from .channel import Connection, Record, append_to
from .deadlines import STACKS_S, Clock, Patience, StopPlan, compute_end_margin, plan_stop
from .launchers import Launcher
from .lent import Lending, Lent
from .slots import Loss, Slots, SlotState
from .train import check_there
from .usage import Gauge, sum_usage

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

#: What waits for a disk at the end has so long, in seconds.
DISK_S = 30.0

#: So many pieces of noise, of 64 kB at the most, wait for the disk.
MAX_NOISE = 1_000

#: How often it is looked whether the experiment's folder is there, in seconds.
FOLDER_S = 5.0

#: After a gap of so many seconds (the driver was suspended, say), less than another one waits
#: before it takes an experiment over, the lease is renewed before anything else is done.
LEASE_GAP_S = 30.0

#: What Slurm says of the job is believed for so long before a silent worker is ended, in seconds.
TRUST_S = 5.0


class Driver:
    """See the module's docstring.

    Args:
        digest: Of the pickled `train`.
        notify: Tells the user something, in a line or a few; does not wait for a terminal.
        limit: When the job ends; None outside of Slurm.
        budget_s: How long the sweep may take, in seconds; None for as long as it does.
        path: What workers have on their import path before all else.

    Attributes:
        stopped_by: What ended the sweep before it was done: a signal, "time limit", or one of the
            words above.
    """

    def __init__(
        self,
        sweep: Sweep,
        launcher: Launcher,
        writer: Writer,
        layout: Layout,
        digest: str,
        notify: Callable[[str], None],
        patience: Patience,
        limit: JobClock | None = None,
        requests: SimpleQueue[Request] | None = None,
        budget_s: float | None = None,
        path: Sequence[str] = (),
        lending: Lending | None = None,
    ) -> None:
        self._sweep = sweep
        self._writer = writer
        self._layout = layout
        self._digest = digest
        self._path = path
        self._tell = notify
        self._patience = patience
        self._limit = limit
        self._requests: SimpleQueue[Request] = requests or SimpleQueue()
        self._absolute = Layout(os.path.abspath(layout.local_dir), layout.name)
        self._selector = selectors.DefaultSelector()
        self._folder_watch = Background("slurm-sweeps-folder")
        self._logs = Background("slurm-sweeps-logs", MAX_NOISE)
        self._fit = BackgroundFit(sweep)
        self._clock = Clock(time.monotonic)
        self._slots = Slots(
            self._build_init(), self._selector, self._notify, self._keep_noise, self._clock
        )
        self._slots.lend(launcher)
        lending = lending or Lending()
        self._most = math.inf if lending.most is None else lending.most
        self._lent = Lent(
            lending,
            self._slots,
            sweep,
            layout,
            writer.put,
            self._notify,
            self._ask_to_leave,
            self._take_loss,
            patience,
        )
        self._ends_at = math.inf if budget_s is None else self._clock() + budget_s
        self._said: set[str] = set()
        self._broken_on: set[str] = set()  # nodes on which train could not be loaded
        self._end_margin_s: float | None = None
        self._stopping = False
        self._gauge = Gauge()
        self._completed = self._silent = 0  # trials; those of them that logged nothing
        self._kill_at = math.inf
        self._silent_since: float | None = None  # when the silence of a worker was too long
        self._problem: str | None = None  # why no trial can do its work
        self._looked_at = self._clock()
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
        self._selector.register(self._fit.fd, selectors.EVENT_READ, None)
        try:
            self._lent.begin()
            self._follow_signals(signals)
            while not self._is_done():
                self._tick()
                ready = self._selector.select(TICK_S)
                self._follow_signals(signals)  # Slurm sends TERM to trials too, whose ends follow
                for key, events in ready:
                    if key.data is not None:
                        self._attend(key.data, key.fd, events)
        finally:
            self._lent.stop()
            self._slots.dismiss()
            self._lent.close()
            self._selector.close()
            self._tell_malformed()
            self._tell_silent()
            if unused := self._gauge.describe():
                self._notify(unused)
            self._folder_watch.close(0.0)
            self._logs.close(DISK_S)
            self._fit.close()
        if self._problem is not None:
            hint = "Make room or mend the permissions; restore=True goes on from here"
            raise StorageError(f"{self._problem}. {hint}")
        if self._sweep.fatal:
            raise SweepFailedError(self._sweep.fatal)

    def _tell_malformed(self) -> None:
        """Say if something besides the workers has written into the channel."""
        if self._slots.malformed:
            self._notify(
                f"{self._slots.malformed} records from workers were cut short or made no sense, "
                f"and were left aside; they are in {self._layout.slots}"
            )

    def _tell_silent(self) -> None:
        """Say if trials have done well and left nothing to compare them by."""
        if self._silent:
            self._notify(
                f"{self._silent} of {self._completed} completed trials logged nothing, so nothing "
                "of them can be compared: report with ss.log({'loss': …}, iteration); what train "
                "returns is not kept"
            )

    def _is_done(self) -> bool:
        if self._sweep.is_done:
            return True
        if self._slots.is_out and not self._stopping:
            raise SweepFailedError(
                "no slot is left: on every node, workers kept ending before any of their trials "
                f"did. See the logs in {self._layout.slots}; restore=True goes on from here"
            )
        return False

    def _tick(self) -> None:
        """Do what is due by now."""
        self._note_gap()
        now = self._clock()
        while not self._requests.empty():
            self._follow_request(self._requests.get())
        self._writer.check()
        self._watch_folder(now)
        self._fit.hush()
        if not self._stopping:
            self._watch_time(now)
        if not self._stopping:
            if self._lent.tick():
                self._fill_idle()
            self._advance_fit()
            self._start_workers(now)
            self._give_up_silent(now)
        dead = self._slots.look(now)
        if dead:
            self._lose(dead, ENDED)
        if now > self._kill_at:
            self._slots.let_leave()  # killed, they would leave behind what trials have started
            overdue = self._slots.with_worker
        else:
            overdue = self._spare_suspended(self._slots.pop_overdue(now))
        if overdue:
            self._lose(overdue, "did not answer in time and was killed")

    def _spare_suspended(self, overdue: list[SlotState]) -> list[SlotState]:
        """Return the slots that are to be ended; the others' job may be suspended."""
        since = time.monotonic() - TRUST_S
        spared = {s: self._runs(s, since) for s in overdue if self._slots.is_quiet(s)}
        spared = {slot: runs for slot, runs in spared.items() if not runs}
        for slot, runs in spared.items():  # until Slurm has answered, or the time they have again
            self._slots.expect_end(slot, self._clock() + TICK_S)
            if runs is False:
                self._expect_end(slot, self._patience.prune_grace_s)
        return [slot for slot in overdue if slot not in spared]

    def _runs(self, slot: SlotState, since: float) -> bool | None:
        """Whether a slot's job runs, see `JobClock.runs`."""
        if slot.launcher.is_lent:
            return self._lent.runs(slot, since)
        return self._limit is None or self._limit.runs(since)

    def _note_gap(self) -> None:
        """After a gap in this loop, hold the lease anew, and believe no time left from before.

        Another driver may have taken it. Trials that were waiting for an answer would else write on
        into their folders, which are the other driver's by then.
        """
        gap_s = self._clock.note_turn()
        if gap_s and self._limit is not None:
            self._limit.forget()
        if gap_s > LEASE_GAP_S:
            self._writer.renew()
            self._clock.note_turn()

    def _watch_folder(self, now: float) -> None:
        """See that the experiment's folder is there."""
        self._folder_watch.check()
        if self._folder_watch.is_idle and now - self._looked_at > FOLDER_S:
            self._looked_at = now
            self._folder_watch.put(partial(check_there, self._absolute.train))

    def _advance_fit(self) -> None:
        """Let the sampler learn beside; if it can't, it draws at random or the sweep ends."""
        has_advanced, problem = self._fit.advance()
        if problem is not None and self._sweep.fatal is None:
            self._notify(problem)
        self._fail_if_fatal()
        if has_advanced:
            self._fill_idle()

    def _start_workers(self, now: float) -> None:
        """See that there are as many workers as there is work for."""
        if self._slots.may_start(now):
            startable = self._sweep.count_startable(len(self._slots))
            wanted = len(self._sweep.running) + startable + self._lent.n_in_vain
            self._slots.start(min(wanted, self._most), now)

    def _give_up_silent(self, now: float) -> None:
        """Give up workers that are silent too long, unless their job is suspended."""
        silent = self._slots.find_silent(now)
        if not silent:
            return
        since = self._silent_since = self._silent_since or time.monotonic()
        runs = {slot: self._runs(slot, since) for slot in silent}
        if None in runs.values():
            return
        self._silent_since = None
        held = [s for s in self._slots.with_worker if self._runs(s, since) is False]
        self._slots.excuse_silence(held, now)
        self._take_loss(self._slots.give_up(slot for slot in silent if runs[slot]))

    def _fail_if_fatal(self) -> None:
        """Let all trials leave when going on makes no sense; `run` says why."""
        if self._sweep.fatal is not None and not self._stopping:
            self._fail()

    def _fail(self) -> None:
        self._stop(StopPlan(FAILURE_GRACE_S, FAILURE_GRACE_S + self._patience.answer_s))

    # --- told to stop -------------------------------------------------------------------------

    def _follow_signals(self, signals: StopSignals) -> None:
        came = signals.take()
        if came:
            self._note_gap()
        for number in came:
            self._follow_signal(number)

    def _follow_signal(self, number: signal.Signals) -> None:
        if not self._stopping:
            is_slurms = number == signal.SIGTERM
            kill_wait_s = self._limit.kill_wait_s if self._limit and is_slurms else None
            self._leave_early(number.name, kill_wait_s or math.inf)
        elif number == signal.SIGINT:
            self._stop(StopPlan(0.0, 1.0))

    def _follow_request(self, request: Request) -> None:
        """Do what someone asked through the database; marks to retry are for a restored sweep."""
        if request.kind == "stop" and not self._stopping:
            self._leave_early(STOP_REQUEST)
        elif request.kind == "prune":
            self._prune(request.argument)
        elif request.kind == "add":
            self._add(request.argument or "")
        elif request.kind in ("lend", "leave") and not self._stopping:
            self._lent.follow(request.kind, request.argument)

    def _add(self, part: str) -> None:
        """Put a trial next to start, and keep that at once, for a driver that comes after."""
        try:
            trial = self._sweep.add(json.loads(part))
        except (UsageError, ValueError) as error:
            self._notify(f"what someone asked to add is left out ({part}): {error}", again=True)
            return
        self._writer.put(build_trial_record(trial, trial.status))
        self._notify(f"trial {trial.trial_id} is added as someone asked", again=True)
        self._fill_idle()

    def _prune(self, trial_id: str | None) -> None:
        """Let one trial go: at its next report, else its worker ends it after the grace."""
        for slot in self._slots.busy:
            if slot.trial is not None and slot.trial.trial_id == trial_id:
                self._sweep.prune(slot.trial.number)
                self._notify(f"trial {trial_id} is pruned as someone asked", again=True)
                self._ask_to_leave(slot, self._patience.prune_grace_s)

    def _get_time_left(self) -> float:
        return math.inf if self._limit is None else self._limit.get_time_left()

    def _watch_time(self, now: float) -> None:
        """Stop when the job is about to end, or the user's time is up."""
        left_s = self._get_time_left()
        if self._end_margin_s is None and left_s < math.inf:
            self._end_margin_s = compute_end_margin(self._patience, left_s)
            self._lent.note_own_end(left_s)
        if left_s < (self._end_margin_s or 0.0):
            self._leave_early("time limit")
        elif now >= self._ends_at:
            self._leave_early(TIME_BUDGET)

    def _leave_early(self, reason: str, within_s: float = math.inf) -> None:
        """Stop, before the job ends or within so many seconds."""
        plan = plan_stop(self._patience, min(within_s, self._get_time_left()))
        self.stopped_by = reason
        hint = " (Ctrl-C again ends them at once)" if reason == "SIGINT" else ""
        self._notify(
            f"{reason}: starting nothing new; {plan.describe(len(self._sweep.running))}{hint}",
            again=True,
        )
        self._stop(plan)

    def _stop(self, plan: StopPlan) -> None:
        """Start nothing new, ask all trials to leave, and see that they do."""
        self._sweep.stop()
        self._lent.stop()
        self._stopping = True
        self._kill_at = self._clock() + plan.kill_s
        for slot in self._slots.busy:
            self._ask_to_leave(slot, plan.grace_s)

    # --- what workers say ---------------------------------------------------------------------

    def _build_init(self) -> dict[str, Any]:
        init = {
            "train": str(self._absolute.train),
            "digest": self._digest,
            "path": list(self._path),
            "prune_grace_s": self._patience.prune_grace_s,
            "exit_grace_s": self._patience.exit_grace_s,
            "term_grace_s": self._patience.term_grace_s,
            "max_trial_s": self._patience.max_trial_s,
            "max_silence_s": self._patience.max_silence_s,
        }
        return {name: value for name, value in init.items() if value is not None}

    def _attend(self, connection: Connection, fd: int, events: int) -> None:
        """Send what a pipe takes again, and hear what is there to read."""
        if connection.has_ended:
            return
        if events & selectors.EVENT_WRITE:
            connection.send_rest()
        if events & selectors.EVENT_READ:
            self._hear(connection, fd)

    def _hear(self, connection: Connection, fd: int) -> None:
        records = connection.read(fd)
        self._note_gap()
        if records is None:
            connection.detach(fd)
            if fd == connection.streams[0]:
                self._lose(self._slots.list_served(connection), ENDED)
            return
        for record in records:
            slot = self._slots.find(connection, record)
            if slot is not None and record.get("rank", 0) < slot.launcher.world_size:
                self._follow(slot, connection, fd, record)

    def _follow(self, slot: SlotState, connection: Connection, fd: int, record: Record) -> None:
        match record["kind"]:
            case "report":
                self._take_report(slot, connection, fd, record)
            case "suggest":
                self._take_ask(slot, connection, fd, record)
            case "ended":
                self._take_end(slot, record)
            case "started" if record.get("rank", 0) == 0:
                slot.trial_pid = record["pid"]
            case "hello":
                self._slots.note_hello(slot, record)
            case "ready" if self._slots.note_ready(slot, record):
                self._fill(slot)
            case "alive":
                self._slots.note_alive(slot, record)
            case "notice":
                self._notify(record["text"])
            case "broken":
                self._take_broken(slot, record)
            case "overrun":
                self._take_overrun(slot, record)
            case "gone":
                self._lose([slot], ENDED, record.get("exit_code"))

    def _take_broken(self, slot: SlotState, record: Record) -> None:
        """A worker can't load `train`: an error, or its node's fault if others can."""
        problem = f"train can't be loaded in a worker on {slot.host}:\n{record['traceback']}"
        self._broken_on.update(slot.place.nodes)
        tried = {node for each in self._slots.with_worker for node in each.place.nodes}
        if not self._slots.any_ready and tried <= self._broken_on:
            raise TrainError(problem)
        self._notify(problem)
        self._lose([slot], "could not load train")

    def _take_report(
        self, slot: SlotState, connection: Connection, fd: int, record: Record
    ) -> None:
        number, attempt, trial = record["number"], record["attempt"], slot.trial
        if trial is None or (trial.number, trial.attempt) != (number, attempt):
            return
        iteration = slot.count(record)
        metrics, now = record["metrics"], time.time()
        answer = self._sweep.report(number, iteration, metrics, now)
        decided = {
            "kind": "decision",
            "slot": slot.place.number,
            "number": number,
            "attempt": attempt,
            "iteration": iteration,
            "do": answer.decision.value,
        }
        if slot.kept != self._writer.n_committed:
            slot.kept = self._writer.n_committed
            decided |= {"put": self._writer.n_put + 1, "kept": slot.kept}  # it is put below
        connection.answer(fd, decided)
        self._writer.put(ReportRecord(number, attempt, iteration, metrics, now))
        if answer.decision is not Decision.GO_ON and slot.deadline is None:
            self._expect_end(slot, self._patience.prune_grace_s)
        self._follow_answer(trial, answer)

    def _take_ask(self, slot: SlotState, connection: Connection, fd: int, record: Record) -> None:
        """Draw a value for a trial whose configuration is made as it runs."""
        asked, trial = (record["number"], record["attempt"]), slot.trial
        if trial is None or (trial.number, trial.attempt) != asked:
            return
        try:
            answer = {"value": self._sweep.suggest(trial.number, record["ask"])}
        except Exception as error:  # noqa: BLE001 - a library's word on what a trial has asked
            answer = {"error": f"{record['ask'].get('name')!r} can't be drawn: {error}"}
        decided = {"kind": "decision", "slot": slot.place.number, "iteration": 0, "do": "go_on"}
        decided |= {"number": trial.number, "attempt": trial.attempt, "answer": answer}
        connection.answer(fd, decided)
        self._writer.put(build_trial_record(trial, Status.RUNNING, slot))

    def _follow_answer(self, trial: TrialState, answer: Answer) -> None:
        """Do what follows from a report for others than the trial."""
        for text in answer.notices:
            self._notify(text)
        if answer.reached and not self._stopping:
            self._notify(f"trial {trial.trial_id} has reached the target")
            self._leave_early(TARGET)
        elif answer.promotable:
            self._fill_idle()

    def _take_end(self, slot: SlotState, record: Record) -> None:
        trial = slot.trial
        if trial is None or trial.number != record.get("number") or record["how"] not in HOWS:
            return
        slot.ends[record.get("rank", 0)] = record
        if "problem" in record and self._problem is None:
            self._problem = make_storable(record["problem"])
            self._fail()
        if len(slot.ends) < slot.launcher.world_size:
            if len(slot.ends) == 1:
                crashed = record["how"] in ("failed", "lost")
                self._ask_to_leave(slot, RANK_GRACE_S if crashed else self._patience.prune_grace_s)
            return
        end, answer = judge_ends(slot.ends), None
        if "metrics" in end:
            iteration, metrics, now = slot.count(end), end["metrics"], time.time()
            answer = self._sweep.report(trial.number, iteration, metrics, now, is_last=True)
            self._writer.put(ReportRecord(trial.number, trial.attempt, iteration, metrics, now))
        ended = parse_end(end)
        if self._lent.explains(slot, ended):
            self._sweep.interrupt(trial.number)
        self._end_trial(slot, ended, sum_usage(slot.ends.values()))
        if answer is not None:
            self._follow_answer(trial, answer)
        slot.note_place(slot.ends[0])
        if self._slots.note_success(slot):
            self._fill(slot)

    def _take_overrun(self, slot: SlotState, record: Record) -> None:
        """A trial is beyond its limits: have all of its ranks end it alike."""
        if slot.trial is not None and slot.trial.number == record["number"]:
            told = ("kind", "number", "error_type", "message")
            slot.send({name: record[name] for name in told})  # type: ignore[literal-required]
            self._expect_end(slot, STACKS_S)

    def _lose(self, slots: Iterable[SlotState], why: str, code: int | None = None) -> None:
        """Workers are gone: so are their trials, and perhaps their nodes.

        All are given up before any trial is run again: one lost with its whole node would else be
        given to its neighbours there, one after the other, and be lost with each of them.
        """
        known = [slot for slot in slots if self._stopping or not self._lent.doubts(slot)]
        self._take_loss(self._slots.lose(known, why, code))

    def _take_loss(self, loss: Loss) -> None:
        if not self._stopping:
            for text in loss.notices:
                self._notify(text)
        for slot, ended in loss.ends:
            if ended.status is Status.INTERRUPTED and slot.trial is not None:
                self._sweep.interrupt(slot.trial.number)
            self._end_trial(slot, ended)

    # --- trials -------------------------------------------------------------------------------

    def _fill(self, slot: SlotState) -> None:
        """Give a ready slot its next trial."""
        if not self._lent.takes_trials(slot):
            return
        left_s = self._lent.get_time_left(slot)
        trial = self._sweep.assign(time.time(), time.time, left_s)
        if trial is None:
            self._lent.note_vain()
            return
        self._slots.begin(slot, trial)
        self._lent.note_begun(slot)
        slot.send(build_run(slot, trial, self._sweep.cfg, self._absolute))
        self._writer.put(build_trial_record(trial, Status.RUNNING, slot))

    def _keep_noise(self, log: Path, noise: bytes) -> None:
        if not self._logs.put(partial(append_to, log, noise)):
            self._notify(f"the disk of {log} hangs: some of what workers print is not kept")

    def _end_trial(
        self, slot: SlotState, ended: Ended, used: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Tell the sweep, and keep, how the trial of a slot ended; it may be run again."""
        trial = slot.trial
        if trial is None:
            return
        begun, now = build_trial_record(trial, ended.status, slot), time.time()
        slot.trial = slot.trial_pid = slot.deadline = None
        is_silent = trial.last_iteration is None
        outcome = self._sweep.end(trial.number, ended, now)
        if outcome.status is Status.COMPLETED:
            self._completed += 1
            self._silent += is_silent
            runtime_s, lent = now - (begun.start_time or 0.0), slot.launcher
            self._gauge.note(used, runtime_s, lent.cpus_of_trial, lent.mem_mb_of_trial)
        self._writer.put(complete_record(begun, trial, outcome.status, ended, used, now))
        self._fail_if_fatal()
        for text in outcome.notices:
            self._notify(text)
        if outcome.runs_again:
            self._writer.put(build_trial_record(trial, Status.SCHEDULED))
        if outcome.runs_again or outcome.status is Status.PAUSED:
            self._fill_idle()

    def _fill_idle(self) -> None:
        """Give work to the slots that found none before something changed."""
        for slot in self._slots.idle:
            if not self._sweep.count_startable(1):
                return
            self._fill(slot)

    def _ask_to_leave(self, slot: SlotState, grace_s: float) -> None:
        if slot.trial is None:
            return
        slot.send({"kind": "stop", "number": slot.trial.number, "grace_s": grace_s})
        self._expect_end(slot, grace_s)

    def _expect_end(self, slot: SlotState, grace_s: float) -> None:
        """Set when to stop waiting for a trial that its worker is to end."""
        patience = self._patience
        wait_s = grace_s + patience.term_grace_s + patience.answer_s
        self._slots.expect_end(slot, self._clock() + wait_s)

    def _notify(self, text: str, again: bool = False) -> None:
        """Tell the user something; what began as this was told before only if it is meant anew."""
        first = text.partition("\n")[0]
        if again or first not in self._said:
            self._said.add(first)
            self._tell(text)
