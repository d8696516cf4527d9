"""The cluster's daemons: started in the foreground, watched, recorded, and ended by pid.

Each runs in a session of its own: a Ctrl-C in the terminal must not end them before the tests have
finished with them. Who was started stands in the cluster's `cluster.json`, so that a cluster whose
starter crashed can still be ended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster_tools.config import Layout
from cluster_tools.processes import (
    ProcessInfo,
    end_processes,
    job_processes,
    read_process,
    wait_until,
)

FOLDER_PREFIX = "slurm-sweeps-cluster-"


class ClusterError(Exception):
    """The test cluster did not do what it was asked."""


def make_base(parent: Path) -> Path:
    """Make a new folder for a cluster that munged's and Slurm's other users may enter."""
    base = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    base.chmod(0o755)
    return base


def read_tail(path: Path, lines: int = 12) -> str:
    """Read the last lines of a log for a message; that there is none is said, not raised."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:])


class Daemons:
    """The running daemons of one cluster.

    Args:
        layout: The cluster's files.
        slurm_conf: The value of SLURM_CONF in its jobs.
        owner: The pid after whose end the cluster is an orphan; None if it shall outlive its
            starter.
        label: What the cluster is for, written to its record.
    """

    def __init__(self, layout: Layout, slurm_conf: str, owner: int | None, label: str) -> None:
        self._layout = layout
        self._slurm_conf = slurm_conf
        self._owner = None if owner is None else read_process(owner)
        self._label = label
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, ProcessInfo] = {}

    @property
    def pids(self) -> dict[str, int]:
        """The pids of those that should be running, by name."""
        return {name: self._started[name].pid for name in self._children}

    @property
    def started(self) -> list[ProcessInfo]:
        """All that were started, alive or not, the latest of each name."""
        return list(self._started.values())

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a daemon that stays in the foreground; its streams go to `<name>.out.log`."""
        with self._layout.log(f"{name}.out").open("ab") as out:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._layout.base,
                env=env,
                start_new_session=True,
            )
        self._children[name] = child
        self._started[name] = read_process(child.pid) or ProcessInfo(child.pid, -1)
        self._write_record()

    def kill(self, name: str, signum: int = signal.SIGKILL, timeout_s: float = 20.0) -> None:
        """Signal a daemon and wait until it is gone.

        Raises:
            ClusterError: It runs on after `timeout_s` seconds.
        """
        child = self._children.pop(name)
        child.send_signal(signum)
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._children[name] = child
            message = f"{name} survived signal {int(signum)} by {timeout_s:g} s\n{self.tail(name)}"
            raise ClusterError(message) from None

    def wait(self, check: Callable[[], object], timeout_s: float, what: str) -> None:
        """Wait for `check`.

        Raises:
            ClusterError: It is not true in time, or a daemon ended by itself; with the logs' tails.
        """

        def is_ready() -> bool:
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise ClusterError(f"{name} ended with {child.returncode}\n{self.tail(name)}")
            return bool(check())

        try:
            wait_until(is_ready, timeout_s, lambda: what)
        except TimeoutError as error:
            tails = "\n".join(f"--- {name}\n{self.tail(name)}" for name in self._children)
            raise ClusterError(f"{error}\n{tails}") from None

    def tail(self, name: str) -> str:
        """Return the last lines of a daemon's log, or of its streams if it never opened its log."""
        log = self._layout.log(name)
        return read_tail(log if log.exists() else self._layout.log(f"{name}.out"))

    def stop(self) -> None:
        """End them all, and whatever else belongs to the cluster, and remove its folder."""
        end_cluster(self._layout.base)
        for child in self._children.values():
            child.wait()
        self._children.clear()

    def _write_record(self) -> None:
        record = {
            "label": self._label,
            "slurm_conf": self._slurm_conf,
            "owner": self._owner and dataclasses.asdict(self._owner),
            "daemons": {name: dataclasses.asdict(p) for name, p in self._started.items()},
        }
        fresh = self._layout.record.with_suffix(".new")
        fresh.write_text(json.dumps(record, indent=1))
        fresh.replace(self._layout.record)


def read_record(base: Path) -> dict[str, Any]:
    """Read what a cluster's starter wrote down; empty where nothing (whole) stands."""
    try:
        record = json.loads(Layout(base).record.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def recorded_daemons(base: Path) -> list[ProcessInfo]:
    """Return the daemons that were started for this cluster, alive or not."""
    return [ProcessInfo(**fields) for fields in read_record(base).get("daemons", {}).values()]


def is_whole(base: Path) -> bool:
    """Whether all daemons of this cluster are alive."""
    return all(daemon.is_alive() for daemon in recorded_daemons(base))


def is_orphan(base: Path) -> bool:
    """Whether the starter of this cluster has ended and should have taken it along."""
    owner = read_record(base).get("owner")
    return owner is not None and not ProcessInfo(**owner).is_alive()


def end_cluster(base: Path) -> None:
    """End every process of the cluster in this folder, then remove the folder.

    The daemons go first, by the pids of the record: nothing new must be started. Then what is left
    of the jobs, by KILL and until nothing is found: a task may fork while the others are killed.
    """
    slurm_conf = read_record(base).get("slurm_conf", "")
    end_processes(recorded_daemons(base))
    while left := job_processes(slurm_conf, base):
        end_processes(left, grace_s=0.0)
    shutil.rmtree(base, ignore_errors=True)


def list_clusters(parent: Path | None = None) -> list[Path]:
    """List the folders of this user's clusters on this machine."""
    parent = parent or Path(tempfile.gettempdir())
    found = sorted(parent.glob(f"{FOLDER_PREFIX}*"))
    return [base for base in found if base.is_dir() and base.stat().st_uid == os.geteuid()]


def stop_orphans() -> list[Path]:
    """End the clusters whose starter is gone; return their folders."""
    orphans = [base for base in list_clusters() if is_orphan(base)]
    for base in orphans:
        end_cluster(base)
    return orphans
