"""Following a running sweep: a process of its own for each tracker, so that no trial waits for it.

The driver starts it, and closes its standard input in the end: then, or when the driver has died,
it sends what is left, and ends. What the user should know comes over its standard output, a line
each; what libraries print is in a log beside the sweep.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..errors import StorageError
from ..running.processes import build_argv
from ..storage.layout import Layout
from . import MLflow, Optuna, TensorBoard, WandB
from .feed import Feed, check_tracker

KINDS: dict[str, Callable[..., Any]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "optuna": Optuna,
}

#: Seconds between two looks at the store, and the most after failures.
PAUSE_S, MOST_PAUSE_S = 5.0, 300.0

#: How long the last round may take, in seconds: for a sweep that is over, and for one that was
#: stopped, whose job may be about to end; what is left then goes on by itself for so long.
LAST_S, HURRY_S, ALONE_S = 120.0, 5.0, 120


class Follower:
    """Sends a running sweep to a tracker while entered.

    Raises:
        UsageError: What it needs is not installed.
    """

    def __init__(self, tracker: Any, layout: Layout, notify: Callable[[str], object]) -> None:
        check_tracker(tracker)
        self._kind = type(tracker).__name__
        self._fields = dataclasses.asdict(tracker)
        self._layout = layout
        self._tell = notify
        self._patience_s = LAST_S

    def __enter__(self) -> Follower:
        code = "from slurm_sweeps.track.follow import main; main()"
        self._layout.track.mkdir(parents=True, exist_ok=True)
        with (self._layout.track / f"{self._kind.lower()}.log").open("ab") as log:
            self._process = subprocess.Popen(
                build_argv(code),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        told = {
            "kind": self._kind.lower(),
            "fields": self._fields,  # not in the command, which everybody can read
            "local_dir": str(self._layout.local_dir.absolute()),
            "name": self._layout.name,
        }
        with contextlib.suppress(BrokenPipeError):
            self._send(json.dumps(told))
        threading.Thread(target=self._hear, name="slurm-sweeps-track", daemon=True).start()
        return self

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def _hear(self) -> None:
        assert self._process.stdout is not None  # it is a pipe
        with self._process.stdout as said:
            for line in said:
                self._tell(f"track {self._kind}: {line.decode('utf-8', 'replace').rstrip()}")

    def finish(self, in_a_hurry: bool) -> None:
        """Have it send what is left: the sweep is over, or was stopped and its job may end."""
        self._patience_s = HURRY_S if in_a_hurry else LAST_S
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None  # it is a pipe
            self._process.stdin.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self.finish(in_a_hurry=kind is not None and not issubclass(kind, Exception))
        try:
            self._process.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            if self._patience_s == HURRY_S:
                self._process.returncode = 0  # left to itself, and not waited for
                return
            self._process.kill()
            self._process.wait()
            self._tell(
                f"track {self._kind}: given up after {LAST_S:.0f} s; to send the rest, say "
                f"slurm-sweeps export {self._layout.name} --to {self._kind.lower()}"
            )


def main() -> None:
    """Follow a sweep, as standard input says."""
    os.nice(10)  # trials come first
    with open(0, "rb", buffering=0, closefd=False) as channel:
        told = json.loads(channel.readline())
    layout = Layout(told["local_dir"], told["name"])
    tracker = KINDS[told["kind"]](**told["fields"])
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes into the log
    is_over = threading.Event()
    threading.Thread(target=_await_end, args=(is_over,), daemon=True).start()
    sys.exit(follow(layout, tracker, is_over, lambda text: print(text, file=out, flush=True)))


def _await_end(is_over: threading.Event) -> None:
    while os.read(0, 1024):  # by itself: nobody else is held up by a lock of sys.stdin's
        pass
    signal.setitimer(signal.ITIMER_REAL, ALONE_S)  # whatever hangs then: by default it ends this
    is_over.set()


def follow(
    layout: Layout, tracker: Any, is_over: threading.Event, tell: Callable[[str], object]
) -> int:
    """Send what is new again and again until it is over, and then once more.

    What fails is said when it begins to, and tried again with growing pauses; it is never a
    reason to stop. Returns 0 if the last round did well.
    """
    feed, failures, is_last = None, 0, False
    while not is_last:
        is_last = is_over.is_set()
        began = time.monotonic()
        try:
            if feed is None:
                feed = Feed(layout, tracker, tracker.open())
                began = time.monotonic()
            feed.send_news(last=is_last)
        except StorageError:  # locked for the moment
            pause_s = PAUSE_S
        except Exception as error:  # noqa: BLE001 - libraries and networks have errors of all kinds
            traceback.print_exc()
            failures, feed = failures + 1, None  # what was sent is read again
            if failures == 1 or is_last:
                tell(_describe_failure(layout, tracker, error, is_last))
            pause_s = min(MOST_PAUSE_S, PAUSE_S * 2**failures)
        else:
            failures, pause_s = 0, PAUSE_S
        if not is_last:
            is_over.wait(max(pause_s, 10 * (time.monotonic() - began)))
    return int(failures > 0)


def _describe_failure(layout: Layout, tracker: Any, error: Exception, is_last: bool) -> str:
    kind = type(tracker).__name__.lower()
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if not is_last:
        return f"{what}; it is tried again, and the sweep goes on"
    return (
        f"{what}; not all was sent. To send the rest, say slurm-sweeps export {layout.name} "
        f"--to {kind}; {layout.track / kind}.log has all of it"
    )


def send_once(layout: Layout, tracker: Any) -> int:
    """Send what is new of a sweep; return of how many trials there was news.

    Raises:
        UsageError: What the tracker needs is not installed.
        Exception: Whatever the tracker raises.
    """
    check_tracker(tracker)
    return Feed(layout, tracker, tracker.open()).send_news(last=True)


def build_tracker(kind: str, target: str | None) -> Any:
    """Make a tracker of a word and where to send to; None is its default."""
    return KINDS[kind]() if target is None else KINDS[kind](target)
