"""The rows of Ray Tune's own table of scalability that fit one machine, and one long sweep.

    python benchmarks/scale_rows.py many [--trials 10000]                   # of 1 s, 16 at once
    python benchmarks/scale_rows.py reports [--trials 256] [--seconds 100]  # 10 reports a second
    python benchmarks/scale_rows.py many --peer    # Ray Tune itself, the newest; reports likewise
    python benchmarks/scale_rows.py long [--trials 100000] [--reports 100] [--slots 4]

The rows of trials that sleep print the wall-clock time beside the least that is possible, and how
much is in the store, as JSON. Ray's table says 715 s for the first (least: 625), 113 s for the
second (least: 100).

The long one has trials that only report, in processes of their own as all trials, and prints a
line for each tenth: trials and reports a second, the driver's memory and its own CPU time, the size
of the database. At about half of it and in the end each view is taken once, as people do, with its
CPU and wall-clock time; then the sweep is restored for one more trial.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from environments import RAY_TUNE, make_environment

import slurm_sweeps as ss
from slurm_sweeps.errors import StorageError
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.storage.rows import read_trials

SLOTS = 16
PER_SECOND = 10
NAME = "long"
#: What people look at while a sweep runs, and afterwards.
VIEWS = (
    *(["list"], ["show", NAME], ["watch", NAME], ["best", NAME]),
    ["report", NAME, "-o", os.devnull],
)


def main() -> None:
    """Run one of the rows."""
    options = parse_options()
    if options.drive:
        drive(options)
        return
    if options.peer:
        script = str(Path(__file__).with_name("peers") / "ray_tune.py")
        counts = ["--n", str(options.trials), "--rows", str(options.seconds * PER_SECOND)]
        subprocess.run([make_environment(RAY_TUNE), script, options.row, *counts], check=True)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.row == "long":
            measure_long(folder, options)
        elif options.row == "many":
            least = options.trials / SLOTS
            measure(folder, sleep_once, options.trials, SLOTS, least)
        else:
            row = make_reporting(options.seconds)
            measure(folder, row, options.trials, options.trials, options.seconds)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("row", choices=("many", "reports", "long"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seconds", type=int, default=100, help="that a reporting trial takes")
    parser.add_argument("--reports", type=int, default=100, help="of each trial of the long sweep")
    parser.add_argument("--slots", type=int, default=4, help="of the long sweep")
    parser.add_argument("--peer", action="store_true", help="have Ray Tune do it, many or reports")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; default: /tmp")
    options = parser.parse_args()
    default = {"many": 10_000, "reports": 256, "long": 100_000}
    options.trials = options.trials or default[options.row]
    return options


def sleep_once(cfg: dict[str, Any]) -> None:
    """Take a second."""
    time.sleep(1)
    ss.log({"loss": cfg["x"]}, 1)


def make_reporting(seconds: int) -> Callable[[dict[str, Any]], None]:
    """Return a trial that reports ten times a second for so long."""

    def report(cfg: dict[str, Any]) -> None:
        begun = time.monotonic()
        for iteration in range(1, seconds * PER_SECOND + 1):
            time.sleep(max(0.0, begun + iteration / PER_SECOND - time.monotonic()))
            ss.log({"loss": cfg["x"] + iteration}, iteration)

    return report


def measure(
    folder: str, train: Callable[[dict[str, Any]], None], trials: int, slots: int, least_s: float
) -> None:
    """Run a sweep; print how long it took."""
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir=folder)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        result = experiment.run(trials, max_concurrent_trials=slots)
    elapsed_s = time.perf_counter() - started
    begun = [trial.start_time.timestamp() for trial in result.trials if trial.start_time]
    ended = [trial.end_time.timestamp() for trial in result.trials if trial.end_time]
    said = {
        "trials": len(result.trials),
        "completed": sum(trial.status == "completed" for trial in result.trials),
        "values": len(result.metrics_dataframe()),
        "elapsed_s": round(elapsed_s, 1),
        "first_to_last_s": round(max(ended) - min(begun), 1),
        "least_s": least_s,
    }
    print(json.dumps(said), flush=True)


# --- the long sweep


def drive(options: argparse.Namespace) -> None:
    """Run the long sweep, or go on with it, in this process."""

    def train(cfg: dict[str, Any]) -> None:
        for iteration in range(1, options.reports + 1):
            ss.log({"loss": cfg["x"] + 1 / iteration}, iteration)

    experiment = ss.Experiment(
        train,
        {"x": ss.Uniform(0, 1)},
        name=NAME,
        metric="loss",
        mode="min",
        restore="auto",
        local_dir=options.folder,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        experiment.run(options.trials, max_concurrent_trials=options.slots)


def start_driver(folder: str, options: argparse.Namespace, trials: int) -> subprocess.Popen[bytes]:
    """Start a process that drives the sweep to so many trials."""
    numbers = {"trials": trials, "reports": options.reports, "slots": options.slots}
    argv = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, __file__, "long", "--drive", "--folder", folder, *argv]
    )


def measure_long(folder: str, options: argparse.Namespace) -> None:
    """Run the long sweep, look at it, restore it."""
    driver = start_driver(folder, options, options.trials)
    database, before, began = Layout(folder, NAME).database, 0, time.perf_counter()
    memory_mb, cpu_s, cpu_before_s = 0.0, 0.0, 0.0
    for tenth in range(1, 11):
        while driver.poll() is None and count_begun(database) < options.trials * tenth // 10:
            with contextlib.suppress(OSError):  # it has ended
                memory_mb, cpu_s = read_usage(driver.pid)
            time.sleep(0.2)
        begun, took_s = count_begun(database), time.perf_counter() - began
        said = {
            "trials": begun,
            "elapsed_s": round(took_s, 1),
            "trials/s": round((begun - before) / took_s, 1),
            "reports/s": round((begun - before) * options.reports / took_s),
            "driver_mb": memory_mb,
            "driver_cpu_ms/trial": round((cpu_s - cpu_before_s) / max(begun - before, 1) * 1e3, 2),
            "database_mb": round(database.stat().st_size / 1e6, 1),
        }
        print(json.dumps(said), flush=True)
        if tenth == 5:
            look_at_all(folder, f"with {begun} trials")
        before, began = count_begun(database), time.perf_counter()
        with contextlib.suppress(OSError):
            _, cpu_before_s = read_usage(driver.pid)
    if driver.wait():
        raise SystemExit(f"the driver has ended with {driver.returncode}")
    look_at_all(folder, "in the end")
    restored = start_driver(folder, options, options.trials + 1)
    show("restored, and one more trial run", restored, time.perf_counter())


def count_begun(database: Path) -> int:
    """How many trials have begun, as far as it is stored."""
    with (
        contextlib.suppress(StorageError),
        Database.open(database, read_only=True) as store,
    ):
        experiment = store.experiment(NAME)
        newest = read_trials(store, experiment.id, newest_first=True, limit=1)
        return newest[0].number + 1 if newest else 0
    return 0


def read_usage(pid: int) -> tuple[float, float]:
    """Return the resident memory of a process in MB, and the CPU seconds that it has taken."""
    folder = Path("/proc") / str(pid)
    pages = int((folder / "statm").read_text().split()[1])
    ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    used_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1), used_s


def look_at_all(folder: str, when: str) -> None:
    """Take each view once, in a process of its own; a live one until its first picture is there."""
    for view in VIEWS:
        began = time.perf_counter()
        argv = [sys.executable, "-m", "slurm_sweeps", *view, "--local-dir", folder]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        if view[0] == "watch":
            process.terminate()  # a job in the background may be deaf to SIGINT
        process.stdout.read()
        show(f"{view[0]}, {when}", process, began)


def show(figure: str, process: subprocess.Popen[bytes], began: float) -> None:
    """Wait for a process; print what it took as a line of JSON."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, -signal.SIGTERM):  # a live view that is over, or was ended
        raise SystemExit(f"{process.args} has ended with {process.returncode}")
    wall_s, cpu_s = time.perf_counter() - began, used.ru_utime + used.ru_stime
    said = {"figure": figure, "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)}
    print(json.dumps({**said, "max_mb": round(used.ru_maxrss * 1024 / 1e6)}), flush=True)


if __name__ == "__main__":
    main()
