"""What short jobs are good for: a sweep in jobs of a minute, each with two slots and trials of 5 s.

Starts a Slurm of its own (as root, with Debian's packages), has a job begin every few seconds, all
of which work on one sweep without end, and prints a line of JSON for each way: how long after a
job's start its first trial was at its first line, how long no trial reported when a driver's job
had come to its end and the next one took over, and what became of the slots' time, from Slurm's
start of a job to its end: which share went into trials that completed, into others, and was lost
before a slot's first trial, between two, and after its last. All nodes are this one machine:
starting Python is what takes most of the time here.

    PYTHONPATH=tests python benchmarks/lent_jobs.py [--jobs 20] [--ways array] [--hyperqueue PYTHON]

Ways: `array`, jobs that run the same script, of which one drives; `outside`, a driver outside of
them that submits them all; `hyperqueue`, with PYTHON, one that has the package hyperqueue. That has
no `hq`, and so neither its automatic allocation nor workers that join the server of another
process: only a server with workers of its own. So each job has its own server, with as many tasks
as it can take, which spares HyperQueue the way between jobs and a server. Its figure is to be read
as the most that it could reach. Its tasks run until Slurm kills them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cluster_tools import SlurmCluster
from cluster_tools.jobs import FINAL_STATES

JOB = ("-N1", "-n2", "-c1", "--mem=1G", "-t1", "--requeue")
SLOTS = 2
TRIAL_S, REPORTS = 5.0, 10

#: What trials and tasks do: say when and where they begin, take their time, say that they are done.
WORK = f"""
import os, sys, time

def work(report):
    name = f"{{os.environ['SLURM_JOB_ID']}}.{{time.time_ns()}}"
    began = time.time()
    with open(os.path.join(os.environ["MARKS"], name), "w") as file:
        print(began, file=file, flush=True)
        for step in range({REPORTS}):
            time.sleep({TRIAL_S / REPORTS})
            os.utime(file.name)
            report(step)
        print(time.time(), file=file)
"""

OURS = f"""{WORK}
import slurm_sweeps as ss

def train(cfg):
    work(lambda step: ss.log({{"loss": cfg["x"]}}, step))

if __name__ == "__main__":
    space, options = {{"x": ss.Uniform(0, 1)}}, {{"join": True}}
    if len(sys.argv) > 1:  # a driver outside of its jobs
        note = "[ -e $MARKS/$SLURM_JOB_ID ] || date +%s.%N > $MARKS/$SLURM_JOB_ID"
        jobs = ss.Jobs(int(sys.argv[1]), "{" ".join(JOB)}", [note])
        options = {{"slurm_cfg": ss.SlurmCfg(jobs=jobs)}}
    ss.Experiment(train, space, "short", metric="loss", mode="min", **options).run(100_000)
"""

TASK = f"""{WORK}
work(print)
"""

THEIRS = f"""
import os, sys
from hyperqueue.cluster import LocalCluster, WorkerConfig
from hyperqueue import Job

with LocalCluster(worker_config=WorkerConfig(cores={SLOTS})) as cluster:
    client, job = cluster.client(), Job()
    for _ in range(100):
        job.program([sys.executable, "task.py"], env=dict(os.environ))
    client.wait_for_jobs([client.submit(job)])
"""

#: In the place of sbatch: a queue that lets one job in after the other, as where others wait, too.
QUEUE = """#!/bin/sh
exec 9>>"$MARKS/.queue"; flock 9
now=$(date +%s); next=$(( $(tail -n 1 "$MARKS/.queue" || true) + {every_s} ))
[ $next -gt $now ] || next=$now; echo $next >&9
exec {sbatch} --begin=now+$((next - now)) "$@"
"""


def run(cluster: SlurmCluster, folder: Path, argv: str, jobs: int, every_s: float) -> list[int]:
    """Hand in a job every few seconds; wait until all have come to their end."""
    marks = folder / "marks"
    marks.mkdir()
    script = f"date +%s.%N > {marks}/$SLURM_JOB_ID\nexport MARKS={marks}\nexec {argv}"
    ids = []
    for _ in range(jobs):
        ids.append(cluster.sbatch(script, *JOB, cwd=folder))
        time.sleep(every_s)
    for job in ids:
        cluster.wait_job(job, timeout_s=300)
    return ids


def run_outside(
    cluster: SlurmCluster, folder: Path, argv: str, jobs: int, every_s: float
) -> list[int]:
    """Let a driver submit its jobs, until so many are over; return those."""
    marks, path = folder / "marks", cluster.env["PATH"]
    marks.mkdir()
    submit = folder / "bin" / "sbatch"
    submit.parent.mkdir()
    submit.write_text(
        QUEUE.format(every_s=round(every_s), sbatch=shutil.which("sbatch", path=path))
    )
    submit.chmod(0o755)
    env = {**cluster.env, "MARKS": str(marks), "PATH": f"{submit.parent}:{path}"}
    command = [*argv.split(), str(round(60 / every_s))]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL) as driver:
        ids: list[int] = []
        while len(ids) < jobs:
            time.sleep(1.0)
            begun = sorted(int(mark.name) for mark in marks.iterdir() if mark.name.isdigit())
            ids = [job for job in begun if cluster.job(job)["JobState"] in FINAL_STATES]
        driver.send_signal(signal.SIGINT)
    return ids


def measure(cluster: SlurmCluster, folder: Path, ids: list[int]) -> dict[str, object]:
    """Read from the marks of trials, and Slurm's word on jobs, what these came to."""
    firsts: list[float] = []
    spent: Counter[str] = Counter()
    for job in ids:
        began, ended = float((folder / "marks" / str(job)).read_text()), _read_end(cluster, job)
        whole_s = SLOTS * (ended - began)
        trials = [_read_mark(mark) for mark in (folder / "marks").glob(f"{job}.*")]
        starts = sorted(start for start, _, _ in trials)
        ends = sorted(end for _, end, _ in trials)
        firsts += [start - began for start in starts[:1]]
        # A slot that has run nothing has lost all of its time before its first trial.
        before_s = sum(start - began for start in starts[:SLOTS])
        before_s += max(0, SLOTS - len(trials)) * (ended - began)
        parts = {
            "in complete trials": sum(end - start for start, end, done in trials if done),
            "in others": sum(end - start for start, end, done in trials if not done),
            "before the first": before_s,
            "after the last": sum(ended - end for end in ends[-SLOTS:]),
        }
        spent.update({**parts, "between two": whole_s - sum(parts.values()), "whole": whole_s})
    whole_s = spent.pop("whole")
    return {
        "jobs": len(ids),
        "slot_s_per_job": round(whole_s / len(ids), 1),
        "first_line_s": round(statistics.median(firsts), 2),
        "shares": {what: round(seconds / whole_s, 3) for what, seconds in spent.items()},
    }


def _read_mark(mark: Path) -> tuple[float, float, bool]:
    """Return when a trial began, when it was last seen, and whether it came to its end."""
    times = [float(line) for line in mark.read_text().split()]
    return (times[0], times[1], True) if len(times) > 1 else (times[0], mark.stat().st_mtime, False)


def _read_end(cluster: SlurmCluster, job: int) -> float:
    return time.mktime(time.strptime(cluster.job(job)["EndTime"], "%Y-%m-%dT%H:%M:%S"))


def find_gaps(database: Path) -> Iterator[float]:
    """Give the seconds without any report between two drivers."""
    with sqlite3.connect(database) as connection:
        times = [at for (at,) in connection.execute("SELECT logged_at FROM metrics ORDER BY 1")]
    # Each slot reports twice a second, and not only one at a time: what is longer is a change.
    gaps = (later - before for before, later in itertools.pairwise(times))
    return (gap for gap in gaps if gap > 2 * TRIAL_S / REPORTS)


def main() -> None:
    """Run each way, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two jobs")
    parser.add_argument("--ways", nargs="+", default=["array"], choices=["array", "outside"])
    parser.add_argument("--hyperqueue", type=Path, metavar="PYTHON")
    parser.add_argument("--source", type=Path, default=Path(__file__).resolve().parents[1] / "src")
    options = parser.parse_args()
    ways = options.ways + ["hyperqueue"] * (options.hyperqueue is not None)
    with SlurmCluster(label="lent_jobs") as cluster, tempfile.TemporaryDirectory() as made:
        for way in ways:
            folder = Path(made, way)
            folder.mkdir()
            for name, text in (("sweep.py", OURS), ("serve.py", THEIRS), ("task.py", TASK)):
                (folder / name).write_text(text)
            argv = f"env PYTHONPATH={options.source} {sys.executable} sweep.py"
            if way == "outside":
                ids = run_outside(cluster, folder, argv, options.jobs, options.every)
            else:
                argv = argv if way == "array" else f"{options.hyperqueue} serve.py"
                ids = run(cluster, folder, argv, options.jobs, options.every)
            found = {"way": way, **measure(cluster, folder, ids)}
            if way != "hyperqueue":
                database = folder / "slurm-sweeps" / "slurm-sweeps.db"
                found["gaps_s"] = [round(gap, 1) for gap in find_gaps(database)]
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
