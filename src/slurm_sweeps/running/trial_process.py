"""One attempt at a trial, in the process that is the trial's own.

The worker forks this process (or starts it as a fresh interpreter, where forking isn't safe) and
hands it a socket. `run_attempt` makes the process the trial's: a session of its own (so that all
it starts can be ended with it), its folder, its output files, its environment; calls `train`; and
says how that ended. Nothing here returns: the process ends with the attempt.

Processes for trials: forked off the worker, one ahead.

While a trial runs, the process of the next one is forked already and waits on its socket for what
to run. A fork, with the pages that a Python process copies in its first moments, takes 2 to 3 ms;
done ahead, it costs the slot nothing between two trials. It isn't done at once, for the trial that
begins copies pages too; but at the latest when that has said how it ended.

Where forking isn't safe (`find_fork_hazard`), each trial gets a fresh interpreter when it begins.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import ctypes
import functools
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ..errors import TrialInterrupted, TrialPruned, UsageTypeError
from .channel import Decoder, Record, encode
from .pickling import dumps, loads, name_culprit
from .processes import WARNINGS
from .session import (
    Session,
    TrialContext,
    activate,
)
from .standstill import answer_with_stack

Train = Callable[[dict[str, Any]], Any]

#: What a traceback or message may take of the database, in characters; the logs have all of it.
MAX_TRACEBACK_CHARS = 20_000
MAX_MESSAGE_CHARS = 2_000

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def load_libc() -> ctypes.CDLL | None:
    """Return the C library where it has prctl (Linux), else None."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)  # looked up once, not in each fork
    return libc


def die_with_parent(libc: ctypes.CDLL | None, parent_pid: int) -> None:
    """Let the kernel kill this process when its parent dies, however that dies (Linux only)."""
    if libc is None:
        return
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call
        os._exit(1)


def adopt_orphans(libc: ctypes.CDLL | None) -> None:
    """Make this process the parent of every descendant whose own parent ends (Linux only)."""
    if libc is not None:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Post:
    """Where a trial's process stands: its sockets, and its place among the trial's tasks."""

    link: socket.socket
    direct: socket.socket | None
    rank: int
    world_size: int


def rehearse(post: Post) -> None:
    """Walk most of the way to `train` and its first report, for nothing, while there is time.

    A fork copies each page that it writes to, and in Python reading writes: the first steps of a
    process take several times as long as the same steps would once more.
    """
    context = TrialContext("", 0, 1, Path(), post.rank, post.world_size)
    Session(post.link, context, post.direct).rehearse()
    with contextlib.suppress(OSError):  # the folder that the sweep was started in may be gone
        context.directory.mkdir(exist_ok=True)
        os.chdir(context.directory)
    take_environment({"env": {}})
    _redirect("stdout", os.devnull, 1)


def run_attempt(post: Post, run: Record, train: Train) -> NoReturn:
    """Turn this process into the trial's, run `train`, tell the worker, end the process.

    Args:
        post: Its sockets and rank.
        run: The driver's `run` record.
        train: The user's function.
    """
    code = 1
    try:
        context = TrialContext(
            run["trial_id"],
            run["number"],
            run["attempt"],
            Path(run["dir"]),
            post.rank,
            post.world_size,
        )
        session = Session(post.link, context, post.direct)
        _take_place(context, run)
        activate(session)
        code = _call(train, decode_cfg(run), session)
    except BaseException:  # noqa: BLE001 - the process border: nothing may escape a forked child
        traceback.print_exc()
    finally:
        os._exit(code)


def check_travels(template: dict[str, Any]) -> None:
    """Raise UsageTypeError if a cfg, or what a space in it may give, can't be pickled."""
    try:
        dumps(template)
    except Exception as error:  # objects may raise anything when pickled
        raise UsageTypeError(
            f"cfg can't be pickled: {type(error).__name__}: {error}. "
            f"{name_culprit(template, 'cfg')}Create what can't travel (locks, files, connections) "
            "inside train"
        ) from error


def encode_cfg(cfg: dict[str, Any]) -> Record:
    """Write a cfg for a `run` record: as JSON if it comes back the same, else pickled."""
    if is_plain(cfg):
        return {"cfg": cfg}
    return {"cfg_pickle": base64.b64encode(dumps(cfg)).decode()}


def decode_cfg(run: Record) -> dict[str, Any]:
    """Read the cfg of a `run` record."""
    if "cfg" in run:
        cfg: dict[str, Any] = run["cfg"]
    else:
        cfg = loads(base64.b64decode(run["cfg_pickle"]))
    return cfg


def is_plain(value: Any) -> bool:
    """Whether JSON gives a value back the same, in type too (a tuple would become a list)."""
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and is_plain(value[key]) for key in value)
    if kind is list:
        return all(map(is_plain, value))
    return value is None or kind in (str, float, int, bool)


def _take_place(context: TrialContext, run: Record) -> None:
    """Move into the trial's folder, with its environment and its output files."""
    context.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(context.directory)
    take_environment(run)
    suffix = f".{context.rank}" if context.rank else ""
    _redirect("stdout", f"stdout{suffix}.log", 1)
    _redirect("stderr", f"stderr{suffix}.log", 2)
    _reseed_numpy()


def take_environment(run: Record) -> None:
    """Set, or where the value is None unset, the variables that the driver named."""
    for name, value in run["env"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


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


def _reseed_numpy() -> None:
    """Give each trial random numbers of its own, as a fresh process would have.

    Python's `random` does so by itself after a fork; NumPy's global state would be a copy of the
    worker's, the same in every trial.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _call(train: Train, cfg: dict[str, Any], session: Session) -> int:
    """Run `train` and everything that a process does at its end; return the exit code."""
    end = _outcome_of(train, cfg, session)
    if end["how"] != "failed" and session.was_told_to_stop:
        # It saw the request, so a plain return is no completion.
        end = {"kind": "ended", "how": "interrupted"}
    session.send_end(end)
    if end["how"] == "failed":
        with contextlib.suppress(Exception):  # train may have closed it
            print(end["traceback"], file=sys.stderr)
    finish_process()
    session.hang_up()
    return int(end.get("exit_code", 0)) & 0xFF


def _outcome_of(train: Train, cfg: dict[str, Any], session: Session) -> Record:
    try:
        train(cfg)
    except TrialPruned:
        return {"kind": "ended", "how": "pruned"}
    except TrialInterrupted:
        return {"kind": "ended", "how": "interrupted"}
    except SystemExit as error:
        if error.code is None or error.code == 0:
            # Lightning leaves by such an exit when it gets a TERM, wherever it is.
            how = "interrupted" if session.was_sent_term else "completed"
            return {"kind": "ended", "how": how}
        return _describe_failure(error, _read_exit_code(error.code))
    except BaseException as error:  # noqa: BLE001 - the process border: train is the user's
        return _describe_failure(error, 1)
    return {"kind": "ended", "how": "completed"}


def _read_exit_code(code: object) -> int:
    """What `sys.exit` was given as a number that can be kept; a text counts as 1, as in Python."""
    return code if isinstance(code, int) and abs(code) < 2**31 else 1


def _describe_failure(error: BaseException, exit_code: int) -> Record:
    """Tell what was raised; our own frames are left out of the traceback."""
    frames: types.TracebackType | None = error.__traceback__
    if frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return {
        "kind": "ended",
        "how": "failed",
        "at": time.time(),
        "exit_code": exit_code,
        "error_type": type(error).__qualname__,
        "message": _describe_message(error)[:MAX_MESSAGE_CHARS],
        "traceback": text[-MAX_TRACEBACK_CHARS:],
    }


def _describe_message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "<its message can't be shown: __str__ failed>"


def finish_process() -> None:
    """Do what an interpreter does at its end, short of taking itself apart."""
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined] # waits for the threads of train
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


#: What starts a worker or a trial in a fresh interpreter: its import path first, then `main`.
BOOTSTRAP = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a['path']; "
    "from slurm_sweeps.running import worker; getattr(worker, a['main'])(a)"
)


def build_argv(main: str, **arguments: object) -> list[str]:
    """Return the command that runs `main` of the worker's module with this import path."""
    # "" is the current folder, which is another one in a trial; and some put Path objects there.
    path = [os.fspath(entry) or os.getcwd() for entry in sys.path]
    text = json.dumps({"main": main, "path": path, **arguments})
    return [sys.executable, "-c", BOOTSTRAP, text]


@dataclass(frozen=True, slots=True)
class Child:
    """A trial's process, as its worker holds it."""

    pid: int
    link: socket.socket


@dataclass(frozen=True, slots=True)
class Nest:
    """What a worker gives to the processes of its trials, and what it keeps from them.

    Args:
        direct: The socket over which trials report straight to the driver, if there is one.
        rank: The worker's rank in its step.
        world_size: Number of tasks in the step.
        own_fds: The worker's own file descriptors, which a fork must not keep.
        train_file: Where a fresh interpreter finds `train`.
        train: What a fork calls; None if every trial gets a fresh interpreter.
    """

    direct: socket.socket | None
    rank: int
    world_size: int
    own_fds: tuple[int, ...]
    train_file: str
    train: Train | None


class Spawner:
    """Makes the processes of a worker's trials.

    Args:
        nest: What they get.

    Attributes:
        spare: The process that waits for the next trial, if there is one.
        is_due: Whether it is to be forked yet: once for each trial, whatever becomes of it.
    """

    def __init__(self, nest: Nest) -> None:
        self.spare: Child | None = None
        self.is_due = nest.train is not None
        self._nest = nest
        self._libc = load_libc()
        for fd in (1, 2):
            open_stream(fd)  # once, ahead, instead of in every fork

    def prepare(self) -> None:
        """Fork the process of the next trial, unless that was done or forking isn't safe."""
        if self.is_due:
            self.is_due = False
            self.spare = self._spawn(None)

    def start(self, run: Record) -> Child:
        """Start a trial in the process that waits for it, or in a new one."""
        child, self.spare = self.spare, None
        self.is_due = self._nest.train is not None
        if child is None:
            return self._spawn(run)
        try:
            child.link.sendall(encode(run))
        except OSError:  # somebody has killed it meanwhile
            child.link.close()
            return self._spawn(run)
        return child

    @property
    def forks(self) -> bool:
        """Whether trials are forked here, and not fresh interpreters."""
        return self._nest.train is not None

    def stop_forking(self) -> None:
        """From now on, every trial gets a fresh interpreter."""
        self._nest = replace(self._nest, train=None)
        self.is_due = False
        if self.spare is not None:
            self.spare.link.close()  # by which it ends
            self.spare = None

    def note_end(self, pid: int) -> None:
        """Take note that a child has ended: perhaps the spare one."""
        if self.spare is not None and self.spare.pid == pid:
            self.spare.link.close()
            self.spare = None

    def _spawn(self, run: Record | None) -> Child:
        mine, its = socket.socketpair()
        worker_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            mine.close()
            self._become_trial(run, its, worker_pid)
        its.close()
        return Child(pid, mine)

    def _become_trial(self, run: Record | None, link: socket.socket, worker_pid: int) -> NoReturn:
        """In the child: drop what is the worker's, then run the attempt."""
        try:
            os.setsid()
            die_with_parent(self._libc, worker_pid)
            _reset_signals()
            nest = self._nest
            if nest.train is None:
                self._become_interpreter(run or {}, link)
            answer_with_stack()
            for fd in nest.own_fds:
                if fd > 2:
                    os.close(fd)
            post = Post(link, nest.direct, nest.rank, nest.world_size)
            if run is None:
                rehearse(post)
                run = _wait_for_run(link)
            run_attempt(post, run, nest.train)
        except BaseException:  # noqa: BLE001 - the process border: the slot's log gets all of it
            traceback.print_exc()
        finally:
            os._exit(1)

    def _become_interpreter(self, run: Record, link: socket.socket) -> NoReturn:
        """In the child: start anew, in the trial's environment, which imports may look at."""
        import tempfile  # most workers never need it

        take_environment(run)
        link.set_inheritable(True)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the new interpreter reads and closes it
        file.write(json.dumps(run).encode())  # too long for a command line, perhaps
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        os.set_inheritable(file.fileno(), True)
        argv = build_argv(
            "trial_main",
            run=file.fileno(),
            train=self._nest.train_file,
            link=link.fileno(),
            rank=self._nest.rank,
            world_size=self._nest.world_size,
        )
        os.execv(argv[0], argv)


def _reset_signals() -> None:
    """Undo the worker's handlers; HUP, USR1 and USR2 stay without effect.

    `sbatch --signal=USR1` without `B:` sends it to the tasks of all steps: it is the driver that
    decides what follows, and a trial should live to hear it. Ignored, not just unhandled: Lightning
    answers USR1 with a requeue of the whole job, but leaves alone a signal that is seen to already.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for number in WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def _wait_for_run(link: socket.socket) -> Record:
    """Wait for the worker to say what to run; end if there is nothing any more.

    What it says next, a request to stop perhaps, stays in the socket for the session.
    """
    decoder = Decoder()
    while True:
        data = link.recv(65536, socket.MSG_PEEK)
        if not data:
            os._exit(0)
        for record in decoder.feed(link.recv(data.find(b"\n") + 1 or len(data))):
            return record
