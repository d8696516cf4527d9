"""A sweep of a program for MPI, four ranks on two nodes."""

from __future__ import annotations

import sys

import slurm_sweeps as ss

if __name__ == "__main__":
    ss.Experiment(
        ss.Program(
            [sys.executable, "mpi_program.py", "{x}"],
            metrics=r"epoch (?P<iteration>\d+): total=(?P<total>\S+) size=(?P<size>\S+) "
            r"loss=(?P<loss>\S+)",
        ),
        {"x": ss.Uniform(0, 1)},
        name="mpi-program",
        asha=ss.ASHA("loss", "min", min_t=2, max_t=40, reduction_factor=2),
        seed=0,
        slurm_cfg=ss.SlurmCfg(nodes=2, ntasks=4, fresh_step=True, args="--mpi=pmi2"),
    ).run(n_trials=4)
