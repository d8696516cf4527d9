"""Sweeps of programs of all kinds, as a batch job runs them: `program_sweeps.py KIND`.

Each program notes its process ids in its trial's folder, and those of what it has started; what of
them is there when the sweep has ended is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import slurm_sweeps as ss

#: A program in C that reads an input file, computes, and prints into a buffer, as C's library does
#: when its output is no terminal.
SOLVER = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) {
    double x; int steps;
    FILE *in = fopen("input.nml", "r"), *pids = fopen("pids", "a");
    if (!in || fscanf(in, " &run x=%lf steps=%d /", &x, &steps) != 2) {
        fprintf(stderr, "bad input.nml\n");
        return 4;
    }
    fprintf(pids, "%d\n", getpid());
    fclose(pids);
    for (int i = 1; i <= steps; i++) {
        usleep(50000);
        printf("step %d residual = %g\n", i, x + 1.0 / i);
    }
    return 0;
}
"""

FIT_R = """
x <- as.numeric(commandArgs(trailingOnly = TRUE)[1])
cat(Sys.getpid(), "\\n", file = "pids", append = TRUE)
for (epoch in 1:30) {
  Sys.sleep(0.05)
  cat(sprintf("epoch %d loss=%g\\n", epoch, x + 1 / epoch))
}
"""

#: Reports by itself, and has children: one of its own process group, one of another.
TRAIN_SH = """
echo $$ >> pids
sleep 300 & echo $! >> pids
setsid sleep 300 < /dev/null > /dev/null 2>&1 & echo $! >> pids
for epoch in 1 2 3 4 5; do
    "$LOG" log loss=$1 --iteration $epoch || exit 0
done
"""

#: As people have it: argparse, a checkpoint that it goes on from, and prints.
TRAIN_PY = """
import argparse, os, pathlib, time
import torch

parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float, required=True)
parser.add_argument("--out", type=pathlib.Path, required=True)
args = parser.parse_args()
with open("pids", "a") as file:
    print(os.getpid(), file=file)
saved, first = args.out / "model.pt", 1
weight = torch.nn.Parameter(torch.tensor(2.0 + args.x))
if saved.exists():
    state = torch.load(saved)
    first, weight.data = state["epoch"] + 1, state["weight"]
optimizer = torch.optim.SGD([weight], lr=0.1)
for epoch in range(first, 31):
    time.sleep(0.05)
    loss = (weight - args.x) ** 2 + args.x
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    torch.save({"epoch": epoch, "weight": weight.data}, args.out / "new.pt")
    os.replace(args.out / "new.pt", saved)
    print(f"epoch {epoch} loss={loss.item()}")
"""

#: Knows nothing of sweeps: it reduces, and its first rank prints.
MPI_PY = """
import os, sys, time
from mpi4py import MPI

world = MPI.COMM_WORLD
with open("pids", "a") as file:
    print(os.getpid(), file=file)
for epoch in range(1, 31):
    time.sleep(0.05)
    total = world.allreduce(world.rank + 1)
    if world.rank == 0:
        print(f"epoch {epoch} total={total} loss={float(sys.argv[1]) + 1 / epoch}")
"""

#: Every rank runs it, and has a child.
RANKS_SH = """
echo $$ >> pids
sleep 300 & echo $! >> pids
for epoch in $(seq 30); do
    sleep 0.05
    [ $RANK = 0 ] && echo "epoch $epoch total=$WORLD_SIZE loss=$1"
done
exit 0
"""

EPOCHS = r"epoch (?P<iteration>\d+) (total=(?P<total>\S+) )?loss=(?P<loss>\S+)"

PYTHON = sys.executable
RUNS: dict[str, dict[str, Any]] = {
    "c": {
        "command": "./solver",
        "metrics": r"step (?P<iteration>\d+) residual = (?P<loss>\S+)",
        "files": {"input.nml": "input.in"},
    },
    "r": {"command": "Rscript fit.R {x}", "metrics": EPOCHS},
    "bash": {
        "command": "bash train.sh {x}",
        "env": {"LOG": str(Path(PYTHON).with_name("slurm-sweeps"))},
    },
    "torch": {
        "command": [PYTHON, "train.py", "--x", "{x}", "--out", "{checkpoint_dir}"],
        "metrics": EPOCHS,
    },
    "mpi": {"command": [PYTHON, "mpi.py", "{x}"], "metrics": EPOCHS, "launch": "srun"},
    "ranks": {"command": "bash ranks.sh {x}", "metrics": EPOCHS},
}
SHARES = {
    "mpi": ss.SlurmCfg(nodes=2, ntasks=4, args="--mpi=pmi2"),
    "ranks": ss.SlurmCfg(nodes=2, ntasks=4),
}


if __name__ == "__main__":
    kind = sys.argv[1]
    ss.Experiment(
        ss.Program(**RUNS[kind], folder=Path.cwd()),
        {"x": ss.Grid([0.0, 1.0, 2.0, 3.0])},
        name=kind,
        asha=ss.ASHA("loss", "min", min_t=1, max_t=30, reduction_factor=2),
        slurm_cfg=SHARES.get(kind),
        restore="auto",
        seed=0,
    ).run(None, grace_period_in_sec=1)
    pids = [
        pid
        for file in Path("slurm-sweeps", kind).glob("*/pids")
        for pid in file.read_text().split()
    ]
    print(f"of {len(pids)} processes are left:", [p for p in pids if Path("/proc", p).exists()])
