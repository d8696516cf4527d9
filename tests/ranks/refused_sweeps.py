"""Sweeps that can't be: each says why before anything starts."""

from __future__ import annotations

import slurm_sweeps as ss

CASES = [
    {"nodes": 3, "ntasks": 3},
    {"nodes": 2, "ntasks": 3},
    {"nodes": 2, "ntasks": 512},
    {"ntasks": 1, "gpus": 5},
    {"args": "--no-such-option=1"},
]


def train(_cfg: dict) -> None:
    """Never called."""
    raise SystemExit("a trial has started")


if __name__ == "__main__":
    for number, case in enumerate(CASES):
        try:
            ss.Experiment(train, {}, name=f"case-{number}", slurm_cfg=ss.SlurmCfg(**case)).run()
        except ss.SlurmSweepsError as error:
            print(f"case {number}: {type(error).__name__}: {error}", flush=True)
