"""What short jobs are good for: a sweep in jobs of a minute, each with two slots and trials of 5 s.

Starts a Slurm of its own (as root, with Debian's packages), hands in a job every few seconds, all
of which join one sweep without end, and prints a line of JSON: how long after a job's start its
first trial was at its first line, how long no trial reported when a driver's job had come to its
end and the next one took over, and which share of the slots' time, from Slurm's start of a job to
its end, went into trials that completed. All nodes are this one machine: starting Python is what
takes most of the time here.

    PYTHONPATH=tests python benchmarks/lent_jobs.py [--jobs 20] [--hyperqueue PYTHON]

PYTHON is one that has the package hyperqueue. That has no `hq`, and so neither its automatic
allocation nor workers that join the server of another process: only a server with workers of its
own. So each job has its own server, with as many tasks as it can take, which spares HyperQueue the
way between jobs and a server. Its figure is to be read as the most that it could reach.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cluster_tools import SlurmCluster

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
            report(step)
        print(time.time(), file=file)
"""

OURS = f"""{WORK}
import slurm_sweeps as ss

def train(cfg):
    work(lambda step: ss.log({{"loss": cfg["x"]}}, step))

if __name__ == "__main__":
    space = {{"x": ss.Uniform(0, 1)}}
    ss.Experiment(train, space, "short", metric="loss", mode="min", join=True).run(100_000)
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


def run(cluster: SlurmCluster, folder: Path, argv: str, jobs: int, every_s: float) -> list[int]:
    """Hand in a job every few seconds; wait until all have come to their end."""
    (folder / "marks").mkdir()
    marks = folder / "marks"
    script = f"date +%s.%N > {marks}/$SLURM_JOB_ID\nexport MARKS={marks}\nexec {argv}"
    ids = []
    for _ in range(jobs):
        ids.append(cluster.sbatch(script, *JOB, cwd=folder))
        time.sleep(every_s)
    for job in ids:
        cluster.wait_job(job, timeout_s=300)
    return ids


def measure(cluster: SlurmCluster, folder: Path, ids: list[int]) -> dict[str, object]:
    """Read from the marks of trials, and Slurm's word on jobs, what these came to."""
    lent_s = done_s = 0.0
    firsts = []
    for job in ids:
        began, ended = float((folder / "marks" / str(job)).read_text()), _read_end(cluster, job)
        lent_s += SLOTS * (ended - began)
        marks = [mark.read_text().split() for mark in (folder / "marks").glob(f"{job}.*")]
        firsts += [min(float(mark[0]) for mark in marks) - began] if marks else []
        done_s += sum(float(mark[1]) - float(mark[0]) for mark in marks if len(mark) == 2)
    return {
        "jobs": len(ids),
        "first_line_s": round(statistics.median(firsts), 2),
        "share": round(done_s / lent_s, 3),
    }


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
    """Run ours, then theirs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two jobs")
    parser.add_argument("--hyperqueue", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    source = Path(__file__).resolve().parents[1] / "src"
    with SlurmCluster(label="lent_jobs") as cluster, tempfile.TemporaryDirectory() as made:
        ours, theirs = Path(made, "ours"), Path(made, "theirs")
        for folder, name, text in (
            (ours, "sweep.py", OURS),
            (theirs, "serve.py", THEIRS),
            (theirs, "task.py", TASK),
        ):
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        argv = f"env PYTHONPATH={source} {sys.executable} sweep.py"
        ids = run(cluster, ours, argv, options.jobs, options.every)
        gaps = [round(gap, 1) for gap in find_gaps(ours / "slurm-sweeps" / "slurm-sweeps.db")]
        print(json.dumps({"way": "ours", **measure(cluster, ours, ids), "gaps_s": gaps}))
        if options.hyperqueue:
            ids = run(cluster, theirs, f"{options.hyperqueue} serve.py", 3, options.every)
            print(json.dumps({"way": "hyperqueue", **measure(cluster, theirs, ids)}))


if __name__ == "__main__":
    main()
