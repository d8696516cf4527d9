"""One attempt at a trial, in the process that is the trial's own, and how that is made.

It is a fork of the trial's worker. While one trial runs, the process of the next is forked already
and waits on its socket for what to run: a fork, with the pages that a Python process copies in its
first moments, takes 2 to 3 ms; done ahead, it costs the slot nothing between two trials. It isn't
done at once, for the trial that begins copies pages too; but at the latest when that has said how
it ended. Where forking isn't safe, each trial gets a fresh interpreter when it begins.

`run_attempts` makes the process the trial's: a session of its own (so that all it starts can be
ended with it), its folder, its output files, its environment; calls `train`; and says how that
ended. Nothing here returns: the process ends with the attempt. Only one whose `train` says that it
`leaves_nothing` in its process, as a program does, which runs in another, waits for the next trial
when one is completed.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # as in `processes`
import contextlib
import errno
import functools
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MappingProxyType, TracebackType
from typing import Any, NamedTuple, NoReturn, TextIO

from ..errors import OUT_OF_MEMORY, SAID_LAST, TrialInterrupted, TrialPruned, UsageTypeError
from ..storage.layout import CFG_NAME, build_log_name, build_rank_journal_path
from .channel import Record, encode
from .forking import disown, has_ends
from .journal import Journal, build_head
from .late_imports import LateImports
from .processes import RUN, WARNINGS, build_argv, die_with_parent, finish_process
from .relay import TRIAL_VARIABLE, Relay, find_folder, hear_run
from .session import Session, TrialContext, activate, script_dir
from .standstill import answer_with_stack, begin_watch
from .train import Train, decode_cfg, read_train
from .usage import is_out_of_memory

#: Where our own code is.
OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: What a traceback or message may take of the database, in characters; the logs have all of it.
MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 2_000

#: What an error says, by its number or in words, where a disk is full or a quota is used up.
FULL_DISK = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)}


class Task(NamedTuple):
    """Which task of its slot's trials a worker runs."""

    rank: int = 0
    world_size: int = 1
    direct: socket.socket | None = None  # to report straight to the driver, if it is on this host


class Loaded(NamedTuple):
    """What loading `train` has come to in this process, or in the one that it is a fork of."""

    train: Train | None = None  # what a fork calls; None if every trial gets a fresh interpreter
    hazard: str | None = None  # why that is so
    handlers: Mapping[signal.Signals, Any] = MappingProxyType({})  # set by loading
    random_state: Any = None  # that of `random`, if loading has seeded it


def rehearse(task: Task, link: socket.socket) -> None:
    """Walk most of the way to `train` and its first report, for nothing, while there is time.

    A fork copies each page that it writes to, and in Python reading writes: the first steps of a
    process take several times as long as the same steps would once more.
    """
    context = TrialContext("", 0, 1, ".", task.rank, task.world_size)
    Session(link, context, task.direct).rehearse()
    with contextlib.suppress(OSError):  # the folder that the sweep was started in may be gone
        os.chdir(context.folder)
    take_environment({})
    _redirect("stdout", os.devnull, 1)


def run_attempts(
    task: Task, link: socket.socket, train: Train, imports: LateImports | None = None
) -> NoReturn:
    """Turn this process into the trial's, run `train`, tell the worker, end the process."""
    code, started_in = None, find_folder()
    try:
        while code is None:
            code = _run_attempt(task, link, train, started_in, imports)
    except BaseException:  # noqa: BLE001 - the process border: nothing may escape a forked child
        traceback.print_exc()
    finally:
        os._exit(1 if code is None else code)


def _run_attempt(
    task: Task, link: socket.socket, train: Train, started_in: str, imports: LateImports | None
) -> int | None:
    """Run an attempt; return the code to exit with, None to wait for another trial."""
    run = hear_run(link)
    if run is None:
        os._exit(0)
    context = TrialContext.of(run, task.rank, task.world_size, started_in)
    session = Session(link, context, task.direct)
    try:
        names = run["env"] if getattr(train, "leaves_nothing", False) else ()
        before = {name: os.environ.get(name) for name in names}
        _take_place(context, run)
    except OSError as error:  # no trial will find a place
        problem = f"can't write into {context.folder}: {error}"
        session.send_end({"kind": "ended", "how": "interrupted", "problem": problem})
        raise
    activate(session)
    cfg = decode_cfg(run["cfg"])  # what that says or raises is the trial's
    session.journal = _open_journal(run, task.rank)

    def describe_imports() -> Record | None:
        return None if imports is None else imports.describe(run["env"])

    code = _call(train, cfg, session, describe_imports)
    take_environment(before)
    return code


def _open_journal(run: Record, rank: int) -> Journal | None:
    if "journal" not in run:
        return None
    path = run["journal"]
    journal = _find_journal(str(build_rank_journal_path(Path(path), rank)) if rank else path)
    journal.begin(b"" if rank else build_head(run))
    return journal


@functools.cache
def _find_journal(path: str) -> Journal:
    return Journal(path, b"")


def _take_place(context: TrialContext, run: Record) -> None:
    """Move into the trial's folder, with its environment and its output files."""
    try:  # by `Path` it would cost twenty pages
        os.mkdir(context.folder)
    except OSError:  # it is there, or more than one is to be made
        os.makedirs(context.folder, exist_ok=True)
    os.chdir(context.folder)
    take_environment(run["env"])
    if context.rank == 0 and "cfg_yml" in run:
        with open(CFG_NAME, "wb") as file:
            file.write(run["cfg_yml"].encode())
    _redirect("stdout", build_log_name("stdout", context.rank), 1)
    _redirect("stderr", build_log_name("stderr", context.rank), 2)


def take_environment(variables: Mapping[str, str | None]) -> None:
    """Set variables, or where the value is None unset them."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


#: The streams that a fork replaces, kept: to take one apart costs it twenty pages.
_replaced: list[Any] = []


def _redirect(stream: str, file: str, target: int) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, target)
    os.close(fd)
    text = open_stream(target)
    setattr(sys, stream, text)
    setattr(sys, f"__{stream}__", text)


@functools.cache
def open_stream(fd: int) -> TextIO:
    """Return the text stream that a trial's prints take to a file descriptor, wherever it leads."""
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _call(
    train: Train,
    cfg: dict[str, Any],
    session: Session,
    describe_imports: Callable[[], Record | None],
) -> int | None:
    """Run `train` and everything that a process does at its end; return the exit code.

    Returns:
        None if the process stays, which `train` must have said and a completed trial allows.
    """
    end = _outcome_of(train, cfg, session)
    if end["how"] != "failed" and session.was_told_to_stop:
        # It saw the request, so a plain return is no completion.
        end = {"kind": "ended", "how": "interrupted"}
    may_stay = getattr(train, "leaves_nothing", False) and not session.was_sent_term
    if may_stay and end["how"] == "completed" and session.end_and_stay(end):
        return None
    session.send_end(end)
    if "traceback" in end:
        with contextlib.suppress(Exception):  # train may have closed it
            print(end["traceback"].partition(SAID_LAST)[0], file=sys.stderr)
    finish_process()
    session.hang_up(describe_imports() if end["how"] in ("completed", "pruned") else None)
    return (end.get("exit_code") or 0) & 0xFF


def _outcome_of(train: Train, cfg: dict[str, Any], session: Session) -> Record:
    try:
        returned = train(cfg)
        _refuse_unrun(returned)
        final = session.describe_final(returned)
    except TrialPruned:
        return {"kind": "ended", "how": "pruned"}
    except TrialInterrupted:
        return {"kind": "ended", "how": "interrupted"}
    except SystemExit as error:
        if error.code is None or error.code == 0:
            # Lightning leaves by such an exit when it gets a TERM, wherever it is.
            how = "interrupted" if session.was_sent_term else "completed"
            return {"kind": "ended", "how": how}
        end = _describe_failure(error, _read_exit_code(error.code))
        return _judge_failure(end, error, session.context)
    except BaseException as error:  # noqa: BLE001 - the process border: train is the user's
        end = _describe_failure(
            error, _read_exit_code(getattr(error, "exit_code", 1)), _advise(error, session.context)
        )
        return _judge_failure(end, error, session.context)
    return {"kind": "ended", "how": "completed", **final}


def _refuse_unrun(returned: object) -> None:
    """Raise if what `train` has returned is its body, of which nothing has run yet."""
    if isinstance(returned, (GeneratorType, CoroutineType, AsyncGeneratorType)):
        raise UsageTypeError(
            f"train has returned a {type(returned).__name__}, and nothing of it has run: what it "
            "calls is a generator or async function. Run it there, with asyncio.run for instance"
        )


def _judge_failure(end: Record, error: BaseException, context: TrialContext) -> Record:
    """Say it if a trial died of a full disk: it did not fail, and the next would die of it too."""
    cause = _find_full_disk(error)
    if cause is None and not _has_room(context.folder):  # `torch.save` says nothing of it
        cause = error
    if cause is None:
        return end
    said = f"{type(cause).__qualname__}: {_describe_message(cause)[:MAX_MESSAGE_CHARS]}"
    where = f"trial {context.trial_id} on {socket.gethostname()}, in {context.folder}"
    problem = f"a disk is full, or a quota used up: {where}, died of {said}"
    return {**end, "how": "interrupted", "problem": problem}


def _find_full_disk(error: BaseException) -> BaseException | None:
    """Find the error that tells of a full disk among those that led to this one.

    One that was carried here from a process of the trial's may have kept but its words.
    """
    for each in _iterate_causes(error):
        is_full = isinstance(each, OSError) and each.errno in FULL_DISK
        if is_full or any(words in _describe_message(each) for words in FULL_DISK.values()):
            return each
    return None


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        causes = (each.__cause__, each.__context__, *getattr(each, "exceptions", ()))
        waiting += [cause for cause in causes if isinstance(cause, BaseException)]


def _has_room(folder: str) -> bool:
    """Whether there is room on a disk, as far as that is known: some file systems don't tell."""
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        return not disk.f_blocks or (disk.f_bavail if os.geteuid() else disk.f_bfree) > 0
    return True


def _read_exit_code(code: object) -> int:
    """What `sys.exit` was given as a number that can be kept; a text counts as 1, as in Python."""
    return code if isinstance(code, int) and abs(code) < 2**31 else 1


def _advise(error: BaseException, context: TrialContext) -> str:
    """Say what is other in a trial than by hand, where that is why something was raised."""
    file = getattr(error, "filename", None)
    if isinstance(error, FileNotFoundError) and isinstance(file, str):
        beside = os.path.join(script_dir(), file)
        for found in (beside, os.path.join(context.started_in, file)):
            if not os.path.isabs(file) and os.path.exists(found):
                write = f"ss.script_dir() / {file!r}" if found == beside else repr(found)
                return f". A trial runs in a folder of its own: write {write}"
    is_end_of_input = isinstance(error, EOFError) and "reading a line" in str(error)
    if is_end_of_input or type(error).__name__ == "BdbQuit":  # of pdb, without its input
        return ". A trial has no terminal to read from: call train(cfg) by hand to debug it"
    return ""


def _describe_failure(error: BaseException, exit_code: int, advice: str = "") -> Record:
    """Tell what was raised; our own frames are left out of the traceback."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(OWN_FOLDER):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    if advice:
        text = f"{text.rstrip()}{advice}\n"
    kind, message = type(error).__qualname__, _describe_message(error) + advice
    causes = _iterate_causes(error)
    if any(is_out_of_memory(each, _describe_message(each)) for each in causes):
        kind, message = OUT_OF_MEMORY, f"{kind}: {message}"
    return {
        "kind": "ended",
        "how": "failed",
        "at": time.time(),
        "exit_code": exit_code,
        "error_type": kind,
        "message": message[:MAX_MESSAGE_CHARS].removeprefix(". "),
        "traceback": text[-MAX_TRACEBACK_CHARS:],
    }


def _describe_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "<its message can't be shown: __str__ failed>"


class Child(NamedTuple):
    """A trial's process, as its worker holds it."""

    pid: int
    link: socket.socket
    has_run: bool = False  # whether it has completed a trial before


class Spawner:
    """Makes the processes of a worker's trials.

    Args:
        train_file: Where a fresh interpreter finds `train`, and its digest.
        own_fds: The worker's own file descriptors, which a fork must not keep.
        relay: Where children of its trials call, which has some more.
        imports: What they import late, if that is of interest.

    Attributes:
        spare: The process that waits for the next trial, if there is one.
        is_due: Whether it is to be forked yet: once for each trial, whatever becomes of it. Where
            the trial's own process may stay, only when it is known that it does not.
    """

    def __init__(
        self,
        task: Task,
        loaded: Loaded,
        train_file: tuple[str, str],
        own_fds: tuple[int, ...],
        relay: Relay,
        imports: LateImports | None = None,
    ) -> None:
        self.spare: Child | None = None
        self.is_due = loaded.train is not None
        self._may_stay = getattr(loaded.train, "leaves_nothing", False)
        self._task = task
        self._loaded = loaded
        self._train_file = train_file
        self._own_fds = own_fds
        self._relay = relay
        self._imports = imports
        self._has_ends = has_ends()
        hasattr(sys.modules[__name__.partition(".")[0]], "log")  # found once, ahead
        _replaced.extend((sys.stdout, sys.stderr))
        for fd in (1, 2):
            open_stream(fd)  # once, ahead, instead of in every fork
        answer_with_stack()  # likewise: forks inherit it
        if self.forks:
            begin_watch()

    @property
    def forks(self) -> bool:
        """Whether trials are forked here, and not fresh interpreters."""
        return self._loaded.train is not None

    def prepare(self) -> None:
        """Fork the process of the next trial, unless that was done or forking isn't safe."""
        if self.is_due:
            self.is_due = False
            with contextlib.suppress(OSError):  # out of processes, perhaps not for long
                self.spare = self._spawn(None)

    def start(self, run: Record) -> Child:
        """Start a trial in the process that waits for it, or in a new one."""
        child, self.spare = self.spare, None
        self.is_due = self.forks and not self._may_stay
        if child is not None and not _send(child.link, run):  # somebody has killed it meanwhile
            child.link.close()
            child = None
        if child is None:
            child = self._spawn(run)
            _send(child.link, run)
        return child

    def keep(self, child: Child) -> None:
        """Have a trial's process, which stays, run the next one."""
        child.link.setblocking(True)
        self.spare = child._replace(has_run=True)

    def note_leaving(self) -> None:
        """Take note that a trial's process, which might have stayed, does not."""
        self.is_due = self.is_due or (self.forks and self._may_stay)

    def stop_forking(self) -> None:
        """From now on, every trial gets a fresh interpreter."""
        self._loaded = self._loaded._replace(train=None)
        self.is_due = False
        self.drop_spare()

    def note_imports(self, handlers: Mapping[signal.Signals, Any]) -> None:
        """From now on, fork what this process has imported meanwhile, and the handlers that set."""
        self._loaded = self._loaded._replace(handlers={**self._loaded.handlers, **handlers})
        self._has_ends = has_ends()
        self.drop_spare()

    def drop_spare(self) -> None:
        """Let the process that waits for a trial go."""
        if self.spare is not None:
            self.note_end(self.spare.pid)  # that its link is closed ends it

    def note_end(self, pid: int) -> None:
        """Take note that a child has ended: perhaps the spare one."""
        if self.spare is not None and self.spare.pid == pid:
            self.spare.link.close()
            self.spare = None

    def _spawn(self, run: Record | None) -> Child:
        mine, its = socket.socketpair()
        worker_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            mine.close()
            its.close()
            raise
        if pid == 0:
            mine.close()
            self._become_trial(run, its, worker_pid)
        its.close()
        return Child(pid, mine)

    def _become_trial(self, run: Record | None, link: socket.socket, worker_pid: int) -> NoReturn:
        """In the child: drop what is the worker's, then run the attempt."""
        try:
            os.setsid()
            die_with_parent(worker_pid)
            _reset_signals(self._loaded.handlers)
            if self._loaded.train is None:
                take_environment(run["env"] if run else {})  # which imports may look at
                os.environ.pop(TRIAL_VARIABLE, None)  # what is imported first isn't its child
                self._become_interpreter(link)
            disown(self._loaded.random_state, self._has_ends)
            for fd in (*self._own_fds, *self._relay.fds):
                if fd > 2:
                    os.close(fd)
            if run is None:
                rehearse(self._task, link)
            run_attempts(self._task, link, self._loaded.train, self._imports)
        except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
            traceback.print_exc()
        finally:
            os._exit(1)

    def _become_interpreter(self, link: socket.socket) -> NoReturn:
        """In the child: start anew."""
        link.set_inheritable(True)
        task = [self._task.rank, self._task.world_size]
        arguments = [link.fileno(), self._train_file, task, sys.argv]
        argv = build_argv(RUN.format("trial_process"), json.dumps(arguments))
        os.execv(argv[0], argv)


def main() -> NoReturn:
    """Run one attempt in a fresh interpreter."""
    fd, (train_file, digest), task, sys.argv[:] = json.loads(sys.argv[1])
    link = socket.socket(fileno=fd)
    link.set_inheritable(False)
    answer_with_stack()
    run_attempts(Task(*task), link, read_train(Path(train_file), digest))


def _send(link: socket.socket, run: Record) -> bool:
    """Tell a process what to run; return whether it is there."""
    try:
        link.sendall(encode(run))
    except OSError:
        return False
    return True


def _reset_signals(handlers: Mapping[signal.Signals, Any]) -> None:
    """Undo the worker's handlers; HUP, USR1 and USR2 stay without effect.

    Args:
        handlers: Those that loading has set, which hold in a trial.

    `sbatch --signal=USR1` without `B:` sends it to the tasks of all steps: it is the driver that
    decides what follows, and a trial should live to hear it. Ignored, not just unhandled: Lightning
    answers USR1 with a requeue of the whole job, but leaves alone a signal that is seen to already.
    """
    signal.set_wakeup_fd(-1)
    _signal.signal(signal.SIGCHLD, handlers.get(signal.SIGCHLD, _signal.SIG_DFL))
    interrupt = handlers.get(signal.SIGINT, signal.default_int_handler)  # as by hand: watchdogs
    _signal.signal(signal.SIGINT, interrupt)  # call `_thread.interrupt_main()`
    for number in WARNINGS:
        _signal.signal(number, _signal.SIG_IGN)
