"""Of what code a sweep ran, and where: what is written down beside its results.

That is the script, its git commit and what was changed since, Python and its packages, host, job
and command line; not the environment, which may hold secrets. It is found out in a thread while the
sweep runs, so that no trial begins later. Where there is no git, or it does not answer, what is
known without it is kept.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..running.background import Background
from ..running.script import is_installed
from ..running.session import script_dir
from ..storage.records import RunRecord
from ..storage.writer import Writer

#: How long each question to git may take, in seconds.
GIT_S = 10.0

#: The writer has taken so many records when the first trial has begun: the state, and that.
FIRST_PUT = 2

#: How often it is looked whether it has, in seconds.
LOOK_S = 0.05

#: How long a sweep that is over waits for what is not found out yet, in seconds.
LAST_S = 15.0

#: So much of a diff is kept, in bytes, and so many names of changed files.
MAX_DIFF, MAX_NAMES = 500_000, 100

#: What follows such a word on a command line is not written down.
_SECRET = re.compile(r"(?i)([\w.-]*(?:password|passwd|secret|token|api[_-]?key)\w*[=\s]+)(\S+)")

#: How the folder of an installed package's metadata is named (Python's "Recording installed
#: projects"): read so, it takes a millisecond for all of them.
_INSTALLED = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py[\d.]+)?\.(dist|egg)-info")


@contextmanager
def record_run(writer: Writer) -> Iterator[None]:
    """Find out, and write down, of what code this process runs, while a `with` block goes on.

    That begins when the first trial does, which nothing is to delay.
    """
    background, is_over = Background("slurm-sweeps-provenance"), threading.Event()
    started_at = time.time()

    def write() -> None:
        while writer.n_put < FIRST_PUT and not is_over.wait(LOOK_S):
            pass
        told, diff = describe_run(find_code())
        writer.put(RunRecord(started_at, told, diff))

    background.put(write)
    try:
        yield
    finally:
        is_over.set()
        background.close(LAST_S)


def find_code() -> Path:
    """Return the folder of the user's script; where there is none, that of this process."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    is_users = file is not None and not is_installed(os.path.abspath(file))
    return script_dir() if is_users else Path.cwd()


def describe_run(folder: Path) -> tuple[dict[str, Any], str]:
    """Describe the code in a folder, and this process; return that, JSON-able, and the diff."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    git, diff = read_git(folder)
    told = {
        "script": None if script is None else os.path.abspath(script),
        "command": _SECRET.sub(r"\1***", shlex.join(sys.orig_argv)),
        "folder": os.getcwd(),
        "git": git,
        "host": socket.gethostname(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "slurm_sweeps": __version__,
        "packages": list_packages(),
    }
    return told, diff


def list_packages() -> dict[str, str]:
    """List the installed packages that this process can import: name and version."""
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder or "."):
                match = _INSTALLED.fullmatch(name)
                if match:
                    found.setdefault(match["name"], match["version"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def read_git(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Read which commit a folder is at, and what was changed since.

    Returns:
        `root`, `commit`, `branch` (None where there is none), `dirty`, `changed` and `untracked`
        (names from the root, `MAX_NAMES` at the most), or None where git knows nothing of the
        folder; and the diff of what it tracks, cut at `MAX_DIFF` with a note.
    """
    root = ask_git(folder, "rev-parse", "--show-toplevel")
    if root is None:
        return None, ""
    status = ask_git(folder, "status", "--porcelain=v2", "--branch", "-z", "--no-renames") or ""
    lines = status.split("\0")
    told = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    # Of each changed file eight fields of one word, or ten where a merge is unfinished; its name.
    counts = {"1": 8, "u": 10}
    changed = [x.split(" ", counts[x[0]])[-1] for x in lines if x[:1] in counts]
    names = (told.get(f"branch.{name}", "(unknown)") for name in ("oid", "head"))
    commit, branch = (None if name.startswith("(") else name for name in names)
    git = {
        "root": root.strip(),
        "commit": commit,
        "branch": branch,
        "dirty": bool(changed),
        "changed": changed[:MAX_NAMES],
        "untracked": [line[2:] for line in lines if line.startswith("? ")][:MAX_NAMES],
    }
    words = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "HEAD")
    diff = (ask_git(folder, *words) or "") if changed and commit else ""
    if len(diff) > MAX_DIFF:
        diff = f"{diff[:MAX_DIFF]}\n… cut here: only {MAX_DIFF:,} characters are kept\n"
    return git, diff


def ask_git(folder: Path, *words: str, most: int = MAX_DIFF + 1) -> str | None:
    """Return what git says of a folder, at most so many bytes; None where it can't, or not soon."""
    argv = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            start_new_session=True,
        )
    except OSError:
        return None
    with process:
        timer = threading.Timer(GIT_S, process.kill)
        timer.start()
        said = process.stdout.read(most) if process.stdout else b""
        is_cut = len(said) == most
        if is_cut:
            process.kill()
        code = process.wait()
        timer.cancel()
    return said.decode("utf-8", "replace") if code == 0 or is_cut else None
