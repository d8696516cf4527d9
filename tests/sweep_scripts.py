"""Users' scripts as real processes, and nothing of them left afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.processes import leftover_processes, wait_until

TIMEOUT_S = 120.0

#: More rounds than `make test` has time for: `make chaos`.
IS_CHAOS = os.environ.get("SLURM_SWEEPS_CHAOS", "") not in ("", "0")


def choose(cases: Iterable[Any], usual: Container[Any]) -> list[Any]:
    """Make a test's parameters of its cases; those that are not usual are for `make chaos`."""
    return [
        case
        if case in usual
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=pytest.mark.chaos)
        for case in cases
    ]


class Scripts:
    """Runs scripts in a folder; all processes that come of them carry a mark of their own.

    Args:
        folder: Where scripts are written and run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"slurm-sweeps-test-{uuid.uuid4().hex}"
        self.env = dict(os.environ, SWEEP_TEST_MARK=self.mark, COLUMNS="160")

    def run(
        self, source: str, *arguments: str, code: int | None = 0, timeout_s: float = TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; its exit code must be `code` unless that is None."""
        done = subprocess.run(
            [sys.executable, str(self.write(source)), *arguments],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    @contextlib.contextmanager
    def start(self, source: str) -> Iterator[subprocess.Popen[str]]:
        """Start a script; it is killed when the block is left, if it still runs."""
        process = subprocess.Popen(
            [sys.executable, str(self.write(source))],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def write(self, source: str, name: str = "sweep.py") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    def wait_for_file(self, pattern: str, count: int = 1) -> list[Path]:
        """Wait until so many files match; return them."""
        wait_until(
            lambda: len(list(self.folder.glob(pattern))) >= count,
            TIMEOUT_S,
            lambda: f"{list(self.folder.glob(pattern))} instead of {count} files {pattern}",
        )
        return sorted(self.folder.glob(pattern))

    def wait_until_gone(self, timeout_s: float) -> None:
        """Wait until no process of any script is left."""
        wait_until(
            lambda: not leftover_processes(self.mark),
            timeout_s,
            lambda: f"still there: {leftover_processes(self.mark)}",
        )


def kill(process: subprocess.Popen[str]) -> None:
    """End a driver the hard way, it alone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(TIMEOUT_S)
