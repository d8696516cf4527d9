"""Program: a command that is run for each trial, in the place of a function `train`.

It is called as `train` is, in the trial's own process. There it starts the program, passes on what
that reports as `log` would, and ends it when the trial is to leave; all else (slots, the trial's
folder, logs, checkpoints, retries) is as for a function.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..checks import check_flag, set_fields
from ..errors import (
    BEGIN_ANEW,
    SAID_LAST,
    ProgramError,
    TrialInterrupted,
    TrialPruned,
    UsageError,
    UsageTypeError,
)
from ..running.ends import name_signal
from ..running.session import (
    attempt,
    checkpoint_dir,
    get_context,
    is_in_trial,
    leave_if_told,
    log,
    notify,
    poll,
    script_dir,
)
from ..running.standstill import keep_stack
from ..storage.layout import TrialLayout
from .command import (
    check_names,
    fill,
    fill_shell,
    fill_words,
    find_missing,
    find_program,
    flatten,
    format_value,
    list_names,
    read_templates,
    render,
    split_command,
)
from .output import MOST_MISSED, File, GrowingFile, build_reports, check_metrics

#: How often a program's output is looked at, in seconds.
LOOK_S = 0.1

#: How long a program has to end by itself after an error of ours, in seconds.
GRACE_S = 10.0

#: A program that was ended by TERM may have got it from Slurm, before this process did: how long
#: to wait for word that the trial is to leave, in seconds.
TERM_S = 2.0

#: What is told of a program's output, its first or last lines: of these so many, and so long.
LAST_LINES, LAST_BYTES, LINE_CHARS = 10, 4_000, 200

#: A line that tells why a program has failed: an interpreter's, a library's or a logger's; and so
#: many characters of it.
_ERROR, MAX_CAUSE = re.compile(r"(?!\s).*(error|exception|fatal)", re.IGNORECASE), 300


@dataclass(frozen=True)
class Program:
    r"""A command to run for each trial, in the place of a function `train`.

        train = ss.Program("python train.py --lr {lr}", metrics=r"loss=(?P<loss>\S+)")

    It runs in the trial's folder; what it prints is in the trial's logs. A trial is completed when
    the program ends with exit code 0, and has failed when it ends otherwise. One that is to be
    stopped is sent TERM with all of its process group, then KILL.

    Args:
        command: A list of words, or a string that is split as a shell does. Values are put in for
            names in braces: those of the cfg, dotted (`{net.width}`, or `{lr:.3e}` in a format of
            Python's), `{trial_id}`, `{trial_dir}`, `{checkpoint_dir}`, `{attempt}`, and for the
            word `{args}` all of the cfg as options (`--lr 0.1 --net.width 64`). They are put in
            after splitting, so a value is never more than one argument. `{{` and `}}` are braces.
        metrics: Where its metrics are read from while it runs: a regular expression with a named
            group for each metric, looked for in each line that it prints
            (`r"epoch (?P<iteration>\d+).* loss=(?P<loss>\S+)"`); "jsonl" for lines that are JSON
            objects; or a `File`. Without an `iteration` (0 or more) reports are counted from 1.
            None where it tells none, or tells them itself.
        result: The same for a program that has one value in the end: what is found last is reported
            when it has ended with 0.
        files: Files to write into the trial's folder first, `{"input.nml": "input.nml.in"}`: jinja2
            templates (`slurm-sweeps[program]`) of the cfg's names and those above. `cfg.json` with
            all of the cfg is always there.
        cwd: The folder to run in, if not the trial's; names in braces as in the command.
        env: Environment variables to set; names in braces as in the command.
        shell: Give the command to `/bin/sh`, with each value quoted.
        pty: Run it on a terminal of its own, for programs that tell nothing before their end
            without one; standard error goes into `stdout.log` then.
        line_buffered: Have a program whose metrics are read from what it prints print each line at
            once, as on a terminal, where that can be had by `PYTHONUNBUFFERED` and `stdbuf`
            (programs of C's library, unless linked statically).
        launch: How the tasks of a trial start it in an allocation. None: each task of the slot's
            job step runs the command, for one trial after the other. "srun": one srun for each
            trial starts it in all tasks, as programs for MPI need it; also
            `SlurmCfg(fresh_step=True)`.
        folder: What the paths of templates start from, and that of the program, or of the script
            that it runs (`python train.py`), if it is a file there. None is the folder of the
            script that makes this object. All other relative paths are the program's own.

    Raises:
        UsageError: The command is empty or can't be split, a name in braces is none, a pattern has
            no group, or a template can't be read. (`ValueError`)
        UsageTypeError: An argument is of a wrong type. (`TypeError`)
    """

    #: All of it is in the program's own process: the trial's can run the next trial.
    leaves_nothing: ClassVar[bool] = True

    command: str | Sequence[str]
    metrics: str | re.Pattern[str] | File | None = None
    result: str | re.Pattern[str] | File | None = None
    files: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    shell: bool = False
    pty: bool = False
    line_buffered: bool = True
    launch: str | None = None
    folder: str | os.PathLike[str] | None = None
    _words: tuple[str, ...] = field(init=False, repr=False, default=())
    _templates: Mapping[str, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("shell", "pty", "line_buffered"):
            check_flag("Program", name, getattr(self, name))
        if self.launch not in (None, "srun"):
            raise UsageError(f'Program: launch must be "srun" or None, got {self.launch!r}')
        words = split_command(self.command, self.shell)
        folder = script_dir() if self.folder is None else Path(self.folder).absolute()
        if not self.shell:
            words = find_program(words, folder)
        set_fields(
            self,
            metrics=check_metrics("metrics", self.metrics),
            result=check_metrics("result", self.result),
            env=_check_texts("env", self.env),
            folder=folder,
            _words=words,
            _templates=read_templates(self.files, folder),
        )
        for text in (self.cwd or "", *self.env.values()):
            list_names(text)

    def check(self, known: set[str]) -> str | None:
        """Check the names that are used against those of the cfg; return a notice or None.

        Raises:
            UsageError: A name is used that no trial will have.
        """
        places = {"command": self._words, "cwd": (self.cwd or "",), "env": self.env.values()}
        used = set()
        for argument, texts in places.items():
            names = [name for text in texts for name in list_names(text)]
            check_names(argument, names, known)
            used |= {*names}
        if "args" in used or self._templates:
            return None
        unused = sorted(
            name
            for name in known
            if name and not any(name == each or name.startswith(f"{each}.") for each in used)
        )
        if not unused:
            return None
        return (
            f"the command does not use {', '.join(unused)}: the program finds them in cfg.json in "
            "its trial's folder"
        )

    def check_goals(self, goals: Sequence[str]) -> str | None:
        """Return a notice if no group is what trials are judged by; a program can log it itself."""
        wanted = [each for each in (self.metrics, self.result) if each is not None]
        groups = [name for each in wanted for name in getattr(each, "groupindex", ())]
        missing = [name for name in goals if name not in groups]
        if not (wanted and missing and all(isinstance(each, re.Pattern) for each in wanted)):
            return None
        return (
            f"metrics and result have the groups {', '.join(groups)}, and none for "
            f"{', '.join(missing)}, which trials are judged by: does the program log that itself?"
        )

    def find_missing(self) -> str | None:
        """Say that the program or its script is not on this host; None if it is, or can't be told.

        A relative path is judged where the trials run: in folders that are new.
        """
        cwd, path = self.cwd or "", self.env.get("PATH")
        if self.shell or list_names(f"{cwd}{path or ''}") or (cwd and not Path(cwd).is_absolute()):
            return None
        word = find_missing(self._words, Path(cwd) if cwd else None, self._templates, path)
        if word is None:
            return None
        where = f"neither in {self.folder} nor in {cwd or 'the new folder that each trial runs in'}"
        if Path(word).is_absolute():
            where = "on this host"
        elif "/" not in word and word == self._words[0]:
            where = f"neither on PATH nor in {self.folder}"
        return f"command: there is no {word!r} {where}"

    def __call__(self, cfg: dict[str, Any]) -> dict[str, float]:
        """Run the program with a trial's cfg, as `train` is called.

        By hand, outside a trial, it runs in the current folder, and what it prints is shown, and
        what is read of that.

        Returns:
            What it has for its `result`; empty where none was asked for.

        Raises:
            ProgramError: It can't be started, did not end with 0, or never told a metric.
            TrialPruned, TrialInterrupted: As `log`.
        """
        keep_stack()
        place = get_context()
        values = {
            **flatten(cfg),
            "trial_id": place.trial_id,
            "trial_dir": place.directory,
            "checkpoint_dir": checkpoint_dir(),
            "attempt": attempt(),
        }
        files = TrialLayout(place.directory)
        if place.rank == 0:
            self._write_files(cfg, values, place.directory)
        folder = place.directory / fill(self.cwd or "", values)
        stdout, stderr = files.stdout(place.rank), files.stderr(place.rank)
        logs = {path: _measure(path) for path in (stdout, stderr)}
        mine = logs if place.rank == 0 else {}
        live = build_reports(self.metrics if mine else None, mine, folder)
        final = build_reports(self.result if mine else None, mine, folder)
        shown = [] if is_in_trial() else [GrowingFile(path, at) for path, at in logs.items()]
        with self._start(cfg, values, folder, stdout, stderr) as (process, terminal):
            for is_over in _watch(process):
                if is_over and terminal is not None:
                    terminal.drain()
                for line in (line for file in shown for line in file.read_lines(is_over)):
                    print(line)
                n_missed = len(live.missed)
                for metrics, iteration in live.read(is_over):
                    log(metrics, iteration)
                if n_missed < len(live.missed) == MOST_MISSED:
                    self._tell_unread(live.missed)
                if not is_over:
                    leave_if_told()
        _hear_why(process.returncode)
        self._judge(process.returncode, folder, logs)
        found = [metrics for metrics, _ in final.read(is_over=True)]
        if mine and self.metrics and not (live.count or place.has_logged):
            self._tell_unread(_list_first(logs))
        wanted = self.metrics or self.result
        if mine and wanted and not (live.count or found or place.has_logged):
            raise ProgramError(
                f"{_describe_source(wanted)}, so the program has told no metric. Mend "
                f"{'metrics' if self.metrics else 'result'}, and if it has written checkpoints, "
                f"{BEGIN_ANEW} ({self._name} ended with 0){_describe_last(logs)}"
            )
        return found[-1] if found else {}

    @property
    def _name(self) -> str:
        return repr(self.command if isinstance(self.command, str) else " ".join(self.command))

    # --- before it runs -----------------------------------------------------------------------

    def _write_files(self, cfg: dict[str, Any], values: dict[str, Any], folder: Path) -> None:
        text = json.dumps(cfg, indent=2, default=str, ensure_ascii=False)
        (folder / "cfg.json").write_text(text + "\n", encoding="utf-8")
        names = {**cfg, **{name: v for name, v in values.items() if name not in cfg}, "cfg": cfg}
        for name, template in self._templates.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(render(name, template, names), encoding="utf-8")

    def _build_argv(self, cfg: dict[str, Any], values: dict[str, Any]) -> list[str]:
        if self.shell:
            argv = ["/bin/sh", "-c", fill_shell(self._words[0], cfg, values)]
        else:
            argv = fill_words(self._words, cfg, values)
        is_read = self.metrics is not None and not isinstance(self.metrics, File)
        stdbuf = shutil.which("stdbuf") if is_read and self.line_buffered and not self.pty else None
        if stdbuf and shutil.which(argv[0]):
            return [stdbuf, "-oL", "-eL", *argv]
        return argv

    @contextlib.contextmanager
    def _start(
        self, cfg: dict[str, Any], values: dict[str, Any], folder: Path, stdout: Path, stderr: Path
    ) -> Iterator[tuple[subprocess.Popen[bytes], _Terminal | None]]:
        """Start the program; one that has not ended by itself is ended behind."""
        env = dict(os.environ)
        if self.line_buffered:
            env.setdefault("PYTHONUNBUFFERED", "1")
        env |= {name: fill(text, values) for name, text in self.env.items()}
        with contextlib.ExitStack() as stack:
            out, err = (stack.enter_context(_open_log(path)) for path in (stdout, stderr))
            terminal = _Terminal(out) if self.pty else None
            to = out if terminal is None else stack.enter_context(terminal.open_its())
            try:
                process = subprocess.Popen(
                    self._build_argv(cfg, values),
                    cwd=folder if self.cwd else None,  # else this process's
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=to,
                    stderr=to if self.pty else err,
                    start_new_session=True,
                    close_fds=False,  # ours are not inherited; Slurm's for MPI (PMI_FD) must be
                )
            except OSError as error:
                raise ProgramError(self._explain_start(error, folder)) from None
        try:
            yield process, terminal
        except (TrialPruned, TrialInterrupted):
            _end(process)  # the trial's worker sees to what ignores it
            raise
        except BaseException:
            _end(process, GRACE_S)
            raise

    def _explain_start(self, error: OSError, folder: Path) -> str:
        hint = ""
        if isinstance(error, FileNotFoundError) and not folder.is_dir():
            hint = f": there is no folder {folder} to run it in"
        elif isinstance(error, FileNotFoundError):
            hint = f": it is not on PATH, and not in {self.folder}. It runs in {folder}"
        return f"{error.strerror}: can't start {self._name}{hint}"

    # --- what it says, and how it ends --------------------------------------------------------

    def _tell_unread(self, lines: Iterable[str]) -> None:
        """Tell the user, once in a sweep, that nothing is read of what a program prints."""
        text = f"metrics has found nothing yet: {_describe_source(self.metrics)}. It printed:"
        notify("\n  ".join([text, *(line[:LINE_CHARS] for line in lines)]))

    def _judge(self, code: int, folder: Path, logs: Mapping[Path, int]) -> None:
        if code == 0:
            return
        how = f"ended with exit code {code}" if code > 0 else f"was killed by {name_signal(-code)}"
        how += " (memory ran short, perhaps)" if code == -signal.SIGKILL else ""
        text, last = f"{self._name} {how}{self._hint_at_paths(folder)}", _describe_last(logs)
        if last:  # the cause first: where there is room for a line alone, its end is cut
            text = f"{_find_cause(last)} ({text}){last}"
        raise ProgramError(text, code if code > 0 else 128 - code)

    def _hint_at_paths(self, folder: Path) -> str:
        """Say which relative path of the command lies beside the script, and not where it ran."""
        for word in self._words[1:]:
            path = Path(word.split("=", 1)[-1])
            if not path.name or list_names(word) or (folder / path).exists():
                continue
            beside = Path(self.folder or "", path)
            if beside.exists():
                return (
                    f"; it ran in the trial's folder, where there is no {str(path)!r}: write "
                    f"{str(beside)!r} for the one beside the script"
                )
        return ""


def _check_texts(name: str, texts: Any) -> dict[str, str]:
    if not isinstance(texts, Mapping) or not all(isinstance(key, str) for key in texts):
        raise UsageTypeError(f"Program: {name} must be a dict of strings, got {texts!r}")
    return {key: format_value(value) for key, value in texts.items()}


def _measure(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


class _Terminal:
    """A pseudo-terminal; what is written to it goes into a log, by a thread."""

    def __init__(self, log: int) -> None:
        self._ours, self._its = os.openpty()
        self._log = os.dup(log)
        self._copier = threading.Thread(target=self._copy, daemon=True)
        self._copier.start()

    @contextlib.contextmanager
    def open_its(self) -> Iterator[int]:
        """Give the program's end, which is the program's alone afterwards."""
        try:
            yield self._its
        finally:
            os.close(self._its)

    def drain(self) -> None:
        """When the program has ended: wait until all is in the log, if it has left no daemon."""
        self._copier.join(1.0)

    def _copy(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while data := os.read(self._ours, 65536):
                while data:
                    data = data[os.write(self._log, data) :]
        os.close(self._ours)
        os.close(self._log)


def _watch(process: subprocess.Popen[bytes]) -> Iterator[bool]:
    """Come back every `LOOK_S`, and as soon as a process has ended; say whether it has."""
    with contextlib.ExitStack() as stack:
        watch = select.poll()
        with contextlib.suppress(OSError, AttributeError):  # an old kernel: by the clock then
            fd = os.pidfd_open(process.pid)
            stack.callback(os.close, fd)
            watch.register(fd, select.POLLIN)
        while poll(process) is None:
            yield False
            watch.poll(LOOK_S * 1000)
    yield True


def _end(process: subprocess.Popen[bytes], within_s: float | None = None) -> None:
    """Send TERM to a program and its group, and wait; what takes longer than a time is killed."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _describe_source(wanted: str | re.Pattern[str] | File | None) -> str:
    if isinstance(wanted, File):
        return f"{wanted.path} holds none"
    if isinstance(wanted, re.Pattern):
        return f"no line that it printed matches '{wanted.pattern}' with a number as a metric"
    return "no line that it printed is a JSON object with a number"


def _hear_why(code: int) -> None:
    """Leave if a program has not ended well since its trial is to leave: that is no failure.

    Slurm sends TERM to all processes of a step, in no order.
    """
    if code == 0:
        return
    was_sent_term = code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    deadline = time.monotonic() + (TERM_S if was_sent_term else 0.0)
    leave_if_told()
    while time.monotonic() < deadline:
        time.sleep(0.02)
        leave_if_told()


def _find_cause(last: str) -> str:
    """Find the last line that speaks of an error and isn't indented, else the last of words."""
    said = last.removeprefix(SAID_LAST).splitlines()
    words = [line for line in said if re.search(r"\w", line)] or said
    errors = [line for line in words if _ERROR.match(line)]
    return (errors or words)[-1].strip()[:MAX_CAUSE]


def _describe_last(logs: Mapping[Path, int]) -> str:
    """Tell the last lines of standard error, or else of standard output, since it was started."""
    for path, start in reversed([*logs.items()]):
        try:
            with path.open("rb") as file:
                file.seek(max(start, _measure(path) - LAST_BYTES))
                text = file.read().decode("utf-8", "replace").strip()
        except OSError:
            continue
        if text:
            return SAID_LAST + "\n".join(text.splitlines()[-LAST_LINES:])
    return ""


def _list_first(logs: Mapping[Path, int]) -> list[str]:
    """List the first lines of standard output and error since it was started."""
    files = [GrowingFile(path, start).read_lines(is_over=True) for path, start in logs.items()]
    return [*itertools.islice(itertools.chain(*files), LAST_LINES)] or ["nothing"]
