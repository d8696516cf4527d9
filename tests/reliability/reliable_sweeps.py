"""Sweeps as a user runs them, to be disturbed in all ways; and what must hold of them afterwards.

`SWEEP` is one script for all: its values depend on the cfg and the iteration alone, so that what is
in the database can be checked to the last number, however often the sweep was disturbed.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slurm_sweeps as ss
from cluster_tools.processes import end_processes, leftover_processes, wait_until
from slurm_sweeps.errors import ExperimentNotFoundError
from slurm_sweeps.storage import rows
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.faults import EmptyDatabaseError
from slurm_sweeps.storage.records import AttemptRecord, TrialRecord
from slurm_sweeps.trial import Status
from sweep_scripts import IS_CHAOS as IS_CHAOS

#: How long a test waits for what must come; nothing is measured by it.
WAIT_S = 120.0

#: The name of every sweep here.
NAME = "sweep"

SWEEP = """
import os, sys, time
import slurm_sweeps as ss

N, T = int(os.environ["N_TRIALS"]), int(os.environ.get("ITERATIONS", "4"))
PAUSE_S = float(os.environ.get("PAUSE_S", "0.02"))
if os.environ.get("SLURM_RESTART_COUNT"):  # the wait is over
    PAUSE_S = float(os.environ.get("PAUSE_AGAIN_S", PAUSE_S))

def train(cfg):
    for iteration in range(1, T + 1):
        time.sleep(PAUSE_S)
        ss.log({"loss": cfg["x"] / iteration, "t": iteration}, iteration)

if __name__ == "__main__":
    ss.Experiment(
        train, {"x": ss.Uniform(0, 1)}, name="sweep", local_dir="out", seed=7,
        **({"overwrite": True} if os.environ.get("OVERWRITE") else {"restore": "auto"}),
        asha=ss.ASHA("loss", "min", max_t=T) if os.environ.get("ASHA") else None,
        slurm_cfg=ss.SlurmCfg(requeue=bool(os.environ.get("REQUEUE"))),
    ).run(
        N, max_concurrent_trials=int(os.environ.get("SLOTS", "2")), summary_interval_in_sec=1,
        grace_period_in_sec=float(os.environ.get("GRACE_S", "20")),
    )
    print("done", flush=True)
"""


#: The same for the functions of `reliable_trains`.
TRAIN = """
import os
import reliable_trains
import slurm_sweeps as ss

if __name__ == "__main__":
    train = getattr(reliable_trains, os.environ["TRAIN"])
    space = eval(os.environ.get("SPACE", "{'x': ss.Uniform(0, 1)}"))
    ss.Experiment(train, space, "sweep", "out", restore="auto").run(
        int(os.environ.get("N_TRIALS", "2")),
        int(os.environ.get("SLOTS", "2")),
        summary_interval_in_sec=1,
        grace_period_in_sec=float(os.environ.get("GRACE_S", "60")),
    )
    # Not ru_maxrss: what started this script bequeaths its own peak through exec.
    with open("/proc/self/status") as status:
        print("peak_kb", next(line.split()[1] for line in status if line.startswith("VmHWM")))
    print("done")
"""


class Script:
    """A user's script in a folder; all processes that come of it carry a mark of their own.

    Args:
        folder: Where it is written and run; `out` in it is the sweep's local_dir.
        source: Its text.
        settings: What it reads from its environment.
    """

    def __init__(self, folder: Path, source: str = SWEEP, **settings: object) -> None:
        self.folder = folder
        self.mark = f"slurm-sweeps-test-{uuid.uuid4().hex}"
        self.env = {**os.environ, "SWEEP_TEST_MARK": self.mark, "COLUMNS": "160"}
        paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self.env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.env |= {name: str(value) for name, value in settings.items()}
        self.path = folder / "sweep.py"
        self.output = folder / "output.txt"
        self.database = folder / "out" / "slurm-sweeps.db"
        folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(textwrap.dedent(source), encoding="utf-8")

    @contextlib.contextmanager
    def start(self, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
        """Start it in a session of its own; it is killed when the block is left."""
        env = {**self.env, **{name: str(value) for name, value in settings.items()}}
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-u", str(self.path)],
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, code: int = 0, **settings: object) -> str:
        """Run it to its end, which must have this exit code; return all that was printed."""
        with self.start(**settings) as process:
            assert process.wait(WAIT_S) == code, self.printed()
        return self.printed()

    def printed(self) -> str:
        """What all runs have printed so far."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait_for_print(self, text: str) -> None:
        """Wait until it has printed this."""
        wait_until(lambda: text in self.printed(), WAIT_S, lambda: f"{text!r}:\n{self.printed()}")

    def wait_for_files(self, pattern: str, count: int = 1) -> list[Path]:
        """Wait until so many files match; return them."""
        wait_until(
            lambda: len(list(self.folder.glob(pattern))) >= count,
            WAIT_S,
            lambda: f"{len(list(self.folder.glob(pattern)))} {pattern}:\n{self.printed()}",
        )
        return sorted(self.folder.glob(pattern))

    def wait_until_gone(self) -> None:
        """Wait until no process of it is left, whatever it was."""
        wait_until(
            lambda: not leftover_processes(self.mark),
            WAIT_S,
            lambda: f"still there: {leftover_processes(self.mark)}",
        )

    def find_workers(self) -> list[int]:
        """The pids of its hosts and workers, as far as they run trials, by age."""
        found = self._list_python()
        return [pid for pid in found if pid in found.values()]

    def find_trials(self) -> list[int]:
        """The pids of its trials (forked off a worker, so with its command line), by age."""
        found = self._list_python()
        return [pid for pid in found if pid not in found.values()]

    def _list_python(self) -> dict[int, int | None]:
        """Workers and trials with their parents; srun has the worker's command in its own."""
        found = [
            p for p in leftover_processes(self.mark) if "running.host import main" in p.command
        ]
        found = [p for p in found if "srun" not in p.command.split()[0]]
        found.sort(key=lambda process: process.start_ticks)
        return {process.pid: read_parent(process.pid) for process in found}

    def kill_all(self) -> None:
        """End whatever is left of it."""
        end_processes(leftover_processes(self.mark), grace_s=0.0)


class Runs:
    """Sweeps in this very process, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "slurm-sweeps.db"

    def run(
        self,
        train: Callable[[dict[str, Any]], None],
        n_trials: int,
        slots: int = 2,
        space: dict[str, Any] | None = None,
        asha: ss.ASHA | None = None,
        local_cfg: ss.LocalCfg | None = None,
        **kwargs: Any,
    ) -> ss.Result:
        space = space or {"x": ss.Uniform(0, 1)}
        experiment = ss.Experiment(
            train, space, NAME, self.folder, asha, restore="auto", seed=1, local_cfg=local_cfg
        )
        return experiment.run(n_trials, slots, summary_interval_in_sec=60, **kwargs)

    def statuses(self) -> list[Status]:
        return [trial.status for trial in read_trials(self.database)]


def read_parent(pid: int) -> int | None:
    """The pid of a process's parent; None if the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def read_trials(database: Path) -> list[TrialRecord]:
    """All trials of the sweep, by number; none where there is no such sweep (yet)."""
    if not database.exists():
        return []
    try:
        with Database.open(database, read_only=True, timeout_s=30) as opened:
            return rows.read_trials(opened, opened.experiment(NAME).id)
    except (EmptyDatabaseError, ExperimentNotFoundError):
        return []


def read_attempts(database: Path) -> list[AttemptRecord]:
    """All attempts of all trials."""
    with Database.open(database, read_only=True, timeout_s=30) as opened:
        return rows.read_attempts(opened, opened.experiment(NAME).id)


def read_curves(database: Path, metric: str = "loss") -> dict[int, dict[int, float]]:
    """`{number: {iteration: value}}` of one metric."""
    with Database.open(database, read_only=True, timeout_s=30) as opened:
        key = opened.experiment(NAME).id
        return {
            trial.number: rows.read_metrics_of_trial(opened, key, trial.number).get(metric, {})
            for trial in rows.read_trials(opened, key)
        }


def count_status(database: Path, status: Status) -> int:
    return sum(trial.status is status for trial in read_trials(database))


def assert_sound(database: Path) -> None:
    """SQLite finds nothing wrong with the file."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def assert_derived(database: Path) -> None:
    """What was decided and drawn follows from the reports and the seed, if there is a sweep."""
    if read_trials(database):
        verdict = ss.Result(NAME, database.parent).verify()
        assert verdict, str(verdict)


def assert_complete(database: Path, n_trials: int, iterations: int) -> None:
    """Each trial of `SWEEP` has one final record, and not one of its metrics is missing."""
    import json

    assert_sound(database)
    trials = read_trials(database)
    assert [trial.number for trial in trials] == list(range(n_trials))
    assert len({trial.trial_id for trial in trials}) == n_trials
    curves = read_curves(database)
    for trial in trials:
        assert trial.status is Status.COMPLETED, trial
        assert trial.end_time is not None
        x = json.loads(trial.cfg_json)["x"]
        expected = {iteration: x / iteration for iteration in range(1, iterations + 1)}
        assert curves[trial.number] == expected, trial
