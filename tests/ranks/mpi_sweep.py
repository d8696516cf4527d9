"""Trials that reduce by MPI; each of them is a job step that MPI starts up in."""

from __future__ import annotations

import slurm_sweeps as ss


def train(cfg: dict) -> None:
    """Reduce; every rank logs."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    for epoch in range(1, 4):
        total = world.allreduce(world.rank + 1)
        ss.log({"total": total, "size": world.size, "x": cfg["x"]}, epoch)


if __name__ == "__main__":
    ss.Experiment(
        train,
        {"x": ss.Uniform(0, 1)},
        name="mpi",
        slurm_cfg=ss.SlurmCfg(nodes=2, ntasks=4, fresh_step=True, args="--mpi=pmi2"),
    ).run(n_trials=4)
