"""What `train` may call while it runs: `log`, `should_stop`, and the trial's own places.

In a trial's process one `Session` is active; it speaks with the worker (its parent) over a socket
pair. On the driver's own host reports take a second socket, straight to the driver: each process
that a report passes through costs it a wake-up, and those are most of its time. A process that the
trial has started gets a session at its first call, over a connection to the worker of its own
(`relay`). Outside a trial there is none: `log` then prints, so that `train({...})` can be tried by
hand.

`log` is a collective call in a trial of several ranks, like any in DDP: rank 0 reports, and every
rank that calls it waits for the decision on that iteration, so all leave together. Ranks other
than 0 may also never call it. What all ranks must do alike (leave, stop) is therefore decided by
the driver and carried by the decision, never by a signal that reaches the ranks at different times.

Only the standard library is imported here: every trial pays for what this module loads.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SlurmSweepsError, TrialInterrupted, TrialPruned, UsageError
from ..storage.layout import TrialLayout
from .channel import MALFORMED, Decoder, Record, encode, encode_bounded
from .journal import Journal, build_head
from .metrics import MAX_ITERATION, check_iteration, check_metrics, read_returned
from .processes import take_term
from .relay import TRIAL_VARIABLE, call, hear_run
from .standstill import answer_with_stack, end_watch
from .usage import Meter

if TYPE_CHECKING:
    import subprocess


class TrialContext(NamedTuple):
    """What a trial's process knows of its trial."""

    trial_id: str
    number: int
    attempt: int
    folder: str
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    started_in: str = ""  # the folder that the sweep was started in, if it was there
    logged: int = 0  # the iteration that it goes on from, if it does
    metric: str = "value"  # what a number is called that `train` returns
    has_logged: bool = False  # whether an earlier attempt has

    @property
    def directory(self) -> Path:
        """The trial's folder; a path costs pages, so it is made where it is wanted."""
        return Path(self.folder)

    @classmethod
    def of(cls, run: Record, rank: int, world_size: int, started_in: str) -> TrialContext:
        """Return what a `run` record says."""
        return cls(
            run["trial_id"],
            run["number"],
            run["attempt"],
            run["dir"],
            rank,
            world_size,
            run.get("seed", 0),
            started_in,
            run.get("iteration", 0),
            run.get("metric", "value"),
            bool(run.get("has_logged")),
        )


class Session:
    """The trial's end of the channel.

    Args:
        direct: A socket straight to the driver for reports, or None to report through the worker.
        is_child: Whether this is a process that the trial has started.

    Attributes:
        was_told_to_stop: Whether `train` has seen a request to stop, by `should_stop` or `log`.
        was_sent_term: Whether this process got a TERM.
        journal: Where it writes down what it reports; None for nowhere.
        meter: What the attempt uses.
    """

    def __init__(
        self,
        link: socket.socket,
        context: TrialContext,
        direct: socket.socket | None = None,
        is_child: bool = False,
    ) -> None:
        self.context = context
        self._attempt: Record = {"number": context.number, "attempt": context.attempt}
        self._is_child = is_child
        self._is_shared = is_child  # whether others report for this trial too
        self._link = link
        self._reports = link if direct is None else direct
        self._decoders = {link: Decoder(), self._reports: Decoder()}
        self._decisions: deque[Record] = deque()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._stop_asked = False
        self._verdict: type[Exception] | None = None
        self._awaits_end = False
        self.journal: Journal | None = None
        self.meter = Meter()
        self._told: str | None = None  # what it was told to do last, if not to go on
        self._end: Record | None = None
        self._is_cut_off = False  # from its driver: what happens then is no fault of its own
        self._has_gone_on = False
        self._logged = context.logged  # the highest iteration so far
        self.was_told_to_stop = False
        self.was_sent_term = False

    def log(self, metrics: dict[str, Any], iteration: int | None = None) -> None:
        """See `log` below."""
        values = check_metrics(metrics)
        step = None if iteration is None else check_iteration(iteration)
        end_watch()
        with self._lock:
            self._note_if_gone_on()
            self._leave_if_told()
            self._follow(self._report(self._describe_report(step, values)))

    def suggest(self, ask: dict[str, Any]) -> Any:
        """See `suggest` below."""
        end_watch()
        with self._lock:
            self._ask(encode_bounded({"kind": "suggest", **self._attempt, "ask": ask}))
            while not self._decisions:
                self._receive(self._reports)
            answer = self._decisions.popleft()["answer"]
            if "error" in answer:
                raise UsageError(answer["error"])
            if self.journal is not None:
                drawn = {**ask, "value": answer["value"]}
                self.journal.append(encode({"kind": "suggest", **self._attempt, "ask": drawn}))
                self._settle_journal()
        return answer["value"]

    def should_stop(self) -> bool:
        """See `should_stop` below."""
        if self.context.world_size == 1:
            with self._lock:
                self._hear(self._link)
        if self._stop_asked and not self.was_told_to_stop:
            self.was_told_to_stop = True
            if self._is_child:  # its trial may take no note of why it leaves
                self._decide("stop", "interrupted")
        return self._stop_asked

    def leave_if_told(self) -> None:
        """See `leave_if_told` below."""
        if self.was_sent_term or (self.context.rank == 0 and self.should_stop()):
            self._verdict = TrialInterrupted
        elif self.context.rank > 0:
            self._follow_others()
        self._leave_if_told()

    def _follow_others(self) -> None:
        """In a rank other than 0: do what the driver has told all of them, if it has."""
        with self._lock:
            if not self._awaits_end:
                self._awaits_end = True
                self._ask(encode(self._describe_report(MAX_ITERATION, {})))
            self._hear(self._reports)
            while self._decisions:
                self._follow(self._decisions.popleft())

    def ask_to_stop(self) -> None:
        """Take note of a TERM, or of the driver's request.

        The ranks of one trial get these at different times, so they wait for the driver, which
        got the TERM too, to say it to all of them with one decision.
        """
        self.was_sent_term = True
        if self.context.world_size == 1:
            self._stop_asked = True

    @property
    def is_here(self) -> bool:
        """Whether it is this process's, and not that of the one that has forked it."""
        return os.getpid() == self._pid

    def send_end(self, record: Record) -> None:
        """Tell the worker how the attempt ended; what a fork of `train` returns is not its end."""
        if self.is_here:
            self._end = record
            self._tell_worker(record)
            if self._is_child:
                self._write_end_down()

    def describe_final(self, returned: Any) -> Record:
        """Describe what `train` returned as the report that comes with its end; empty for none."""
        values = read_returned(returned, self.context.metric)
        if not values or self.context.rank > 0:
            return {}
        return {**self._count(), "metrics": values}

    def _count(self) -> Record:
        """Describe the iteration of a report for which none was said: the next one.

        Where others report too, the driver knows which that is.
        """
        if not self._is_shared:
            self._hear(self._link)
        counted: Record = {"iteration": min(self._logged + 1, MAX_ITERATION)}
        return {**counted, "counts": True} if self._is_shared else counted

    def hang_up(self, loaded: Record | None = None) -> None:
        """Tell the worker that nothing more comes: all that is left of this process is its exit."""
        if self.is_here:
            self._write_end_down()
            if loaded is not None:
                self._tell_worker(loaded)
            self._tell_worker({"kind": "used", **self.meter.read()})
            with contextlib.suppress(OSError):  # train may have closed it
                self._link.shutdown(socket.SHUT_WR)

    def end_and_stay(self, record: Record) -> bool:
        """Tell the worker how the attempt ended, and that this process can run the next trial.

        Returns:
            False if it can't, and nothing was said: a disk hangs.
        """
        self._end = record
        self._write_end_down()
        if self.journal is not None and not self.journal.is_settled:
            return False
        self._tell_worker({**record, "stays": True, **self.meter.read()})
        return True

    def _write_end_down(self) -> None:
        if self.journal is None or self._end is None or self._is_cut_off:
            return
        # Without a child's word that would be run again anyway.
        if self._end["how"] != "interrupted" or self._is_child:
            self.journal.append(encode(self._describe_end(self._end)))
            self._settle_journal()

    def rehearse(self) -> None:
        """Do what `log` does, short of sending it."""
        report = self._describe_report(check_iteration(0), check_metrics({"loss": 0.0}))
        with self._lock:
            Decoder().feed(encode(report))

    def _tell_worker(self, record: Record) -> None:
        """Say something that needs no answer; a worker that is gone is no error here."""
        with contextlib.suppress(OSError):
            self._link.sendall(encode(record))

    def _describe_report(self, iteration: int | None, metrics: dict[str, float]) -> Record:
        if self.context.rank > 0:  # rank 0 reports for all; uncounted, the next decision is meant
            return {"kind": "await", "iteration": iteration or 0}
        counted: Record = self._count() if iteration is None else {"iteration": iteration}
        self._logged = max(self._logged, counted["iteration"])
        return {"kind": "report", **self._attempt, **counted, "metrics": metrics}

    def _describe_end(self, end: Record) -> Record:
        return {
            **end,
            **self._attempt,
            "rank": self.context.rank,
            "world_size": self.context.world_size,
            "do": self._told or "go_on",
            "child": self._is_child,
        }

    def _report(self, report: Record) -> Record:
        """Report to the driver, and write it down while that thinks, even if it is gone.

        Where the driver says of which iteration it is, that is awaited first.
        """
        data, counts = encode_bounded(report), "counts" in report
        try:
            self._ask(data)
        finally:
            if not counts:
                self._write_down(data)
        while not self._decisions:
            self._receive(self._reports)
        decision = self._decisions.popleft()
        if counts:
            self._logged = max(self._logged, decision["iteration"])
            self._write_down(encode({**report, "iteration": decision["iteration"]}))
        self._settle_journal()
        return decision

    def _write_down(self, data: bytes) -> None:
        if self.journal is not None and self.context.rank == 0:
            self.journal.append(data)

    def _ask(self, data: bytes) -> None:
        try:
            self._reports.sendall(data)
        except OSError as error:
            raise self._lose_link(error) from error

    def _settle_journal(self) -> None:
        """See that all is written down; say it if that can't be done."""
        if self.journal is not None and (error := self.journal.settle()) is not None:
            text = (
                f"trials can't write their journals ({error}): if the driver is killed, reports of "
                "its last moment may be missing"
            )
            self._tell_worker({"kind": "notice", "text": text})

    def _follow(self, decision: Record) -> None:
        if self.journal is not None and "kept" in decision:
            self.journal.note(decision["put"], decision["kept"])
        if decision["do"] != "go_on":
            self._told = decision["do"]
        if decision["do"] in ("prune", "pause"):
            self._verdict = TrialPruned
        elif decision["do"] == "stop" or (self._stop_asked and self.context.world_size == 1):
            self._stop_asked = self.was_told_to_stop = True
            self._verdict = TrialInterrupted
        if self._verdict is not None:
            how = "pruned" if self._verdict is TrialPruned else "interrupted"
            self._decide(decision["do"], how)
        self._leave_if_told()

    def _decide(self, do: str, how: str) -> None:
        """The trial is to leave: the worker sees to it that it does.

        A child's word is for all of it, whatever `train` makes of the child's end.
        """
        self._tell_worker({"kind": "told", "do": do})
        if self._is_child:
            self._told = do
            self._end = {"kind": "ended", "how": how}
            self._write_end_down()

    def _note_if_gone_on(self) -> None:
        """Have the user told, once, that `train` has caught what was to end it."""
        if self._verdict is not None and self.context.rank == 0 and not self._has_gone_on:
            self._has_gone_on = True
            name = self._verdict.__name__
            text = (
                f"train goes on after ss.log has raised {name}, so its trials leave late, and may "
                f"count as completed: an except that catches all swallows it; before that, write "
                f"except ss.{name}: raise"
            )
            self._tell_worker({"kind": "notice", "text": text})

    def _leave_if_told(self) -> None:
        if self._verdict is TrialPruned:
            trial_id = self.context.trial_id
            raise TrialPruned(
                f"trial {trial_id} is not among the best, or infeasible; it ends here"
            )
        if self._verdict is TrialInterrupted:
            raise TrialInterrupted(f"trial {self.context.trial_id} was asked to stop")

    def _hear(self, source: socket.socket) -> None:
        """Take what has come, and wait for nothing."""
        try:
            while select.select([source], [], [], 0)[0]:
                self._receive(source)
        except OSError as error:
            raise self._lose_link(error) from error

    def _receive(self, source: socket.socket) -> None:
        try:
            data = source.recv(65536)
        except OSError as error:
            raise self._lose_link(error) from error
        if not data:
            raise self._lose_link("end of file")
        decoder = self._decoders[source]
        for record in decoder.feed(data):
            if record["kind"] == "stop":
                self.ask_to_stop()
            elif record["kind"] == "shared":
                self._is_shared = True
            elif record["kind"] == "decision" and self._is_mine(record):
                self._decisions.append(record)
        if decoder.malformed:  # an answer, perhaps, that would be waited for
            raise SlurmSweepsError(MALFORMED)

    def _is_mine(self, decision: Record) -> bool:
        """Whether a decision is no leftover that an earlier attempt did not live to read."""
        mine = (self.context.number, self.context.attempt)
        return (decision["number"], decision["attempt"]) == mine

    def _lose_link(self, why: object) -> SlurmSweepsError:
        self._is_cut_off = True
        return SlurmSweepsError(
            f"the connection from this trial to its worker is gone ({why}): the worker has ended, "
            "or train closed file descriptors that it did not open"
        )


_active: Session | None = None


def activate(session: Session) -> None:
    """Make `session` the one that the functions below speak to, and TERM a request to stop."""
    global _active
    _active = session
    take_term(_note_term)


def _note_term(*_: object) -> None:
    if _active is not None:
        _active.ask_to_stop()


def is_in_trial() -> bool:
    """Tell whether a trial runs in this process, or has started it."""
    return _active is not None or TRIAL_VARIABLE in os.environ


def is_in_child() -> bool:
    """Tell whether a trial has started this process, by other than a fork."""
    return _active is None and TRIAL_VARIABLE in os.environ


def fail(error: Exception) -> None:
    """In a child of a trial: have that fail of an error, whatever it makes of its child's end."""
    session = _find()
    if session is not None:
        session.send_end(
            {
                "kind": "ended",
                "how": "failed",
                "exit_code": 1,
                "error_type": type(error).__qualname__,
                "message": str(error),
                "traceback": f"{type(error).__qualname__}: {error}",
            }
        )


def _find() -> Session | None:
    """Return this process's session, which a child of a trial gets now; None outside a trial.

    Raises:
        SlurmSweepsError: The worker of the child's trial can't be reached.
    """
    global _active
    if _active is not None and _active.is_here:
        return _active
    told = os.environ.get(TRIAL_VARIABLE)
    if told is None and _active is None:
        return None
    known = json.loads(told or "{}")
    try:
        link = call(known.pop("address", ""))
        run = hear_run(link)
    except OSError as error:
        raise SlurmSweepsError(
            f"process {os.getpid()} was started by a trial, whose worker it can't reach ({error}): "
            f"it has ended, or the variable {TRIAL_VARIABLE} was taken out of the environment. "
            "Report from the trial's own process"
        ) from error
    if run is None:
        raise SlurmSweepsError(f"the trial that has started process {os.getpid()} has ended")
    context = TrialContext.of(run, **known)
    _active = Session(link, context, is_child=True)
    if "journal" in run:
        _active.journal = Journal(run["journal"], b"" if context.rank else build_head(run))
    answer_with_stack()
    return _active


def log(metrics: dict[str, Any], iteration: int | None = None) -> None:
    """Report metrics of the running trial, and leave if the trial isn't worth going on with.

    Returns when the decision on this report is there (a fraction of a millisecond). Processes that
    the trial has started can call it too. Outside a trial it prints the metrics and goes on.

    Args:
        metrics: `{name: value}`; any names, values are real numbers, or arrays and tensors of
            anybody's that hold one. NaN and infinities are stored and never count as good.
        iteration: Epoch, step or whatever counts the progress of `train`, from 0 or 1. None is one
            more than the highest so far in this attempt, 1 at first. Where an attempt begins with
            something in its `checkpoint_dir()`, it is taken to go on from there, and counts on
            from the iteration that was logged last; say it where it might have saved more.

    Raises:
        TrialPruned: The pruner stops this trial. Let it pass.
        TrialInterrupted: The driver was asked to stop. Let it pass; the trial is run again later.
        TypeError: A value is not a real number (bool and str are not).
        ValueError: The iteration is negative or not a whole number, or the metrics are more than
            can be sent (64 MiB).
    """
    session = _find()
    if session is not None:
        session.log(metrics, iteration)
        return
    values = check_metrics(metrics)
    shown = ", ".join(f"{name}={value:.6g}" for name, value in values.items())
    where = "" if iteration is None else f"iteration {check_iteration(iteration)}: "
    print(f"{where}{shown}", file=sys.stdout, flush=True)


def suggest(name: str, method: str, arguments: dict[str, Any]) -> Any:
    """Have the sampler draw a value of the running trial's configuration.

    Args:
        name: The parameter's. What it has got once it gets again, also in a further attempt.
        method, arguments: See `SuggestingSampler.suggest`.

    Raises:
        UsageError: No trial runs here, it has several ranks, or the arguments make no sense.
    """
    session = _find()
    if session is None or session.context.world_size > 1:
        raise UsageError(
            f"{name!r} can only be drawn in a trial of one task: give trials of several tasks a "
            "search space in cfg"
        )
    return session.suggest({"name": name, "method": method, "arguments": arguments})


def should_stop() -> bool:
    """Tell whether the driver has asked this trial to save its state and end.

    In a trial of several ranks it changes only inside `log`, at the same report on every rank
    that calls it. Outside a trial it is always False.
    """
    session = _find()
    return session is not None and session.should_stop()


def leave_if_told() -> None:
    """Leave if the trial is to: what `log` does, for who has nothing to report yet.

    Raises:
        TrialPruned, TrialInterrupted: As `log`.
    """
    if _active is not None:
        _active.leave_if_told()


def poll(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a program, None while it runs; what it used is the trial's."""
    return process.poll() if _active is None else _active.meter.poll(process)


def notify(text: str) -> None:
    """Have the sweep's user told something, once for all that begins with the same line."""
    if _active is not None:
        _active._tell_worker({"kind": "notice", "text": text})


def get_context() -> TrialContext:
    """Return which trial runs here, and where; the current folder outside a trial."""
    return TrialContext("by-hand", 0, 1, os.getcwd()) if _active is None else _active.context


def trial_id() -> str:
    """Return the id of the running trial (12 hex digits); UsageError outside a trial."""
    session = _find()
    if session is None:
        raise UsageError("trial_id() only makes sense inside a trial, and no trial runs here")
    return session.context.trial_id


def attempt() -> int:
    """Return 1 in a trial's first run, 2 and more in its retries; 1 outside a trial."""
    session = _find()
    return 1 if session is None else session.context.attempt


def trial_seed() -> int:
    """Return a seed for the running trial, from 0 to 2**32 - 1; 0 outside a trial.

    It is that of this trial in every attempt, so that a retry draws the same again, and another one
    in each trial. With `Experiment(..., seed=0)` trials have the same seeds whenever the sweep is
    run: the first four bytes, the highest first, of the SHA-256 of the text
    "<the experiment's seed>:<the trial's number>".
    """
    session = _find()
    return 0 if session is None else session.context.seed


def script_dir() -> Path:
    """Return the folder of the script: of what lies beside it, wherever a trial runs.

    Where there is no script, as in a notebook, the folder that the sweep was started in; outside a
    trial the current one.
    """
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is not None:
        return Path(os.path.abspath(file)).parent
    session = _find()
    return Path.cwd() if session is None else Path(session.context.started_in)


def world_size() -> int:
    """Return how many tasks the running trial has; 1 outside a trial."""
    session = _find()
    return 1 if session is None else session.context.world_size


def trial_dir() -> Path:
    """Return the running trial's folder, its working directory; the current one outside a trial."""
    session = _find()
    return Path.cwd() if session is None else session.context.directory


def checkpoint_dir() -> Path:
    """Return a folder for checkpoints that survives attempts of a trial; empty at first.

    Outside a trial it is `./checkpoints`. The folder exists when this returns. Write a checkpoint
    under another name and rename it, so that an attempt that is killed leaves the older one whole.
    """
    folder = TrialLayout(trial_dir()).checkpoints
    folder.mkdir(parents=True, exist_ok=True)
    return folder
