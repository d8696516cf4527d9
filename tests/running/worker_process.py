"""A real worker over real pipes, and the few words that a driver would say to it."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster_tools.processes import wait_until
from slurm_sweeps.running.channel import Decoder, Record, encode, start_process
from slurm_sweeps.running.host import build_host_argv
from slurm_sweeps.running.train import encode_cfg, pickle_train, write_train

TIMEOUT_S = 60.0


class WorkerProcess:
    """A worker as its driver sees it.

    Args:
        folder: Where `train` and the trials' folders go.
        train: What it runs.
        world_size: How many tasks its trials have; which of them it runs, `SLURM_PROCID` says.
        graces: Seconds of patience, as in the `init` record.
    """

    def __init__(
        self,
        folder: Path,
        train: Callable[[dict[str, Any]], Any],
        world_size: int = 1,
        **graces: float,
    ):
        self.folder = folder
        file = folder / "train.pkl"
        digest = write_train(pickle_train(train), file)
        self.process = start_process(build_host_argv(world_size=world_size), dict(os.environ))
        self.stdout = b""
        self.stderr = b""
        self._speaks = self.process.stdout if world_size == 1 else self.process.stderr
        self._decoder = Decoder()
        self._waiting: list[Record] = []
        self._selector = selectors.DefaultSelector()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            self._selector.register(stream, selectors.EVENT_READ)
        patience = {"prune_grace_s": 30.0, "exit_grace_s": 30.0, "term_grace_s": 5.0} | graces
        self.send({"kind": "init", "train": str(file), "digest": digest, **patience})

    def send(self, record: Record) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(encode(record))

    def run(self, cfg: dict[str, Any] | None = None, number: int = 0, **more: Any) -> Record:
        """Start a trial; return what the worker says of its start."""
        directory = str(self.folder / f"trial-{number}")
        record = {"trial_id": f"trial-{number}", "number": number, "attempt": 1, "dir": directory}
        told = {"env": {}, "cfg": encode_cfg(cfg or {}), "cfg_yml": "", **more}
        self.send({"kind": "run", **record, **told})
        return self.wait_for("started")

    def decide(self, do: str, iteration: int, number: int = 0) -> None:
        decision = {"number": number, "attempt": 1, "iteration": iteration, "do": do}
        self.send({"kind": "decision", **decision})

    def wait_for(self, kind: str) -> Record:
        """Return the next record, which must be of this kind."""
        record = self.wait_for_any(repr(kind))
        assert record["kind"] == kind, f"{record} instead of {kind!r}"
        return record

    def wait_for_any(self, what: str = "record") -> Record:
        """Return the next record."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self._waiting:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no {what} came; standard error: {self.stderr.decode()}")
        return self._waiting.pop(0)

    def wait_for_end(self) -> int:
        """Wait until the worker has ended; return its exit code."""
        while self._selector.get_map():
            if not self._read(TIMEOUT_S):
                raise AssertionError("the worker does not end")
        return self.process.wait(TIMEOUT_S)

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _read(self, timeout_s: float) -> bool:
        ready = self._selector.select(max(0.0, timeout_s))
        for key, _ in ready:
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._speaks:
                self._waiting += self._decoder.feed(data)
                self.stdout += self._decoder.take_noise()
            else:
                self.stderr += data
        return bool(ready)


@contextlib.contextmanager
def start_worker(
    folder: Path, train: Callable[[dict[str, Any]], Any], world_size: int = 1, **graces: float
) -> Iterator[WorkerProcess]:
    """Start a worker that is ready for trials; it and all it started are gone afterwards."""
    worker = WorkerProcess(folder, train, world_size, **graces)
    try:
        worker.wait_for("hello")
        yield worker
    finally:
        worker.close_input()
        try:
            worker.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(worker.process.pid, signal.SIGKILL)
            raise
        finally:
            for stream in (worker.process.stdout, worker.process.stderr):
                assert stream is not None
                stream.close()


def read_when_there(file: Path) -> str:
    """Wait until a file holds a whole line; return its text."""
    wait_until(
        lambda: file.exists() and file.read_text().endswith("\n"),
        TIMEOUT_S,
        lambda: f"{file} was not written",
    )
    return file.read_text().strip()
