"""What a trial costs on Slurm: 36 slots on the test cluster of four nodes, trivial trials.

Starts a Slurm of its own (as root, with Debian's packages), submits one job for each way of running
trials, and prints a line of JSON for each. All nodes are this one machine: the figures compare ways
of starting, they don't tell what a cluster of real nodes does.

    PYTHONPATH=tests python benchmarks/slurm_throughput.py [--original-python PYTHON]
    PYTHONPATH=tests python benchmarks/slurm_throughput.py --busy [--needs torch]

PYTHON is one that has slurm-sweeps 0.1.3; without it, that is left out. With `--busy` there are 36
trials that wait for each other: how long after the job's first line are all slots busy? `--needs`
is a module that `train` needs, which may take its time to import.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from cluster_tools import SlurmCluster

SBATCH = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=18 --cpus-per-task=4 --mem-per-cpu=1G
export BENCH_T0=$(date +%s.%N)
export PATH={bin}:$PATH PYTHONPATH={path}
exec {python} {script} {n} {kind}
"""

OURS = """
import json, os, sys, time
import slurm_sweeps as ss
import NEEDED as needed

BEGAN = float(os.environ["BENCH_T0"])

def train(cfg):
    needed.__name__
    with open(cfg["mark"], "a") as file:
        file.write(f"{time.time()!r}\\n")
    while BUSY and len(open(cfg["mark"]).readlines()) < 36:
        time.sleep(0.2)
    ss.log({"loss": cfg["x"]}, 1)

if __name__ == "__main__":
    n, kind = int(sys.argv[1]), sys.argv[2]
    mark = os.path.abspath("mark")
    cfg = {"x": ss.Uniform(0, 1), "mark": mark}
    slurm_cfg = ss.SlurmCfg(fresh_step=kind == "fresh", share_imports=kind == "shared")
    experiment = ss.Experiment(train, cfg, local_dir="sweeps", slurm_cfg=slurm_cfg)
    started = time.time()
    result = experiment.run(n)
    ended = time.time()
    done = sum(trial.status == "completed" for trial in result.trials)
    begun = sorted(map(float, open(mark).read().split()))
    print(json.dumps({"done": done, "elapsed_s": ended - started, "first_s": begun[0] - BEGAN,
                      "36th_s": begun[35] - BEGAN, "last_s": begun[-1] - BEGAN}))
"""

ORIGINAL = """
import json, os, sys, time
import slurm_sweeps as ss

BEGAN = float(os.environ["BENCH_T0"])

def train(cfg):
    with open(cfg["mark"], "a") as file:
        file.write(f"{time.time()!r}\\n")
    ss.log({"loss": cfg["x"]}, 1)

if __name__ == "__main__":
    n = int(sys.argv[1])
    mark = os.path.abspath("mark")
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1), "mark": mark}, local_dir="sweeps")
    started = time.time()
    rows = experiment.run(n)
    ended = time.time()
    begun = sorted(map(float, open(mark).read().split()))
    print(json.dumps({"done": len(rows), "elapsed_s": ended - started, "first_s": begun[0] - BEGAN,
                      "36th_s": begun[35] - BEGAN, "last_s": begun[-1] - BEGAN}))
"""


def main() -> None:
    """Run one job after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", type=int, default=2000, help="trials; 0 leaves it out")
    parser.add_argument("--shared", type=int, default=2000, help="trials with share_imports")
    parser.add_argument("--busy", action="store_true", help="until 36 trials run at once")
    parser.add_argument("--needs", default="json", metavar="MODULE", help="imported by train")
    parser.add_argument("--fresh", type=int, default=72)
    parser.add_argument("--original", type=int, default=72)
    parser.add_argument("--original-python", type=Path, default=None)
    options = parser.parse_args()
    source = str(Path(__file__).resolve().parents[1] / "src")
    with SlurmCluster(label="slurm_throughput") as cluster:
        ours = OURS.replace("NEEDED", options.needs).replace("BUSY", str(options.busy))
        for kind in ("warm", "shared", "fresh"):
            if n := getattr(options, kind):
                run(cluster, kind, 36 if options.busy else n, ours, Path(sys.executable), source)
        if options.original and options.original_python and not options.busy:
            run(cluster, "original", options.original, ORIGINAL, options.original_python, "")


def run(cluster: SlurmCluster, kind: str, n: int, text: str, python: Path, path: str) -> None:
    """Submit one job, wait for its end, print what it measured."""
    with tempfile.TemporaryDirectory(prefix="bench-slurm-") as folder:
        script = Path(folder) / "sweep.py"
        script.write_text(text)
        batch = SBATCH.format(
            bin=python.parent, path=path, python=python, script=script, n=n, kind=kind
        )
        job = cluster.sbatch(batch, cwd=Path(folder))
        end = cluster.wait_job(job, timeout_s=600)
        lines = cluster.job_output(job).splitlines()
        if end.state != "COMPLETED":
            print(json.dumps({"way": kind, "failed": end.state, "said": lines[-5:]}), flush=True)
            return
        said = json.loads(lines[-1])
        rate = said["done"] / said["elapsed_s"]
        print(json.dumps({"way": kind, "trials/s": round(rate, 2), **said}), flush=True)


if __name__ == "__main__":
    main()
