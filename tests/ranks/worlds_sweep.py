"""Trials of several ranks that reduce, write down the world they found, and are pruned by ASHA."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from collective import Group

import slurm_sweeps as ss

SHOWN = ("SLURM", "MASTER", "RANK", "WORLD", "LOCAL")
EPOCHS = 8


def train(cfg: dict) -> dict:
    """Reduce the same sum in each epoch; every rank logs, none counts, and all return the last."""
    seen = {name: value for name, value in os.environ.items() if name.startswith(SHOWN)}
    with Group() as group:
        Path(f"world.{group.rank}.json").write_text(json.dumps(seen))
        for epoch in range(1, EPOCHS + 1):
            total = group.all_reduce(cfg["x"])
            ss.log({"loss": total / epoch, "size": group.size})
        return {"last": total}


def main(nodes: int, ntasks: int, trials: int, fresh_step: bool) -> None:
    """Run the sweep."""
    ss.Experiment(
        train,
        {"x": ss.Grid([float(x) for x in range(1, trials + 1)])},  # the last is surely pruned
        name="worlds",
        asha=ss.ASHA("loss", "min", reduction_factor=2, max_t=EPOCHS),
        slurm_cfg=ss.SlurmCfg(nodes=nodes, ntasks=ntasks, fresh_step=fresh_step),
        overwrite=True,
    ).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "fresh")
