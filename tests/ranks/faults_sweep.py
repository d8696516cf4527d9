"""Trials of four ranks over two nodes, one of which goes wrong in the way that is asked for."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from collective import Group

import slurm_sweeps as ss


def train(cfg: dict, fault: Callable[[Group], None]) -> None:
    """Run six epochs, unless something happens."""
    with Group() as group:
        for epoch in range(1, 7):
            group.all_reduce(1.0)
            if cfg["number"] == 0 and epoch == 3:
                fault(group)
            if fault is not only_rank_0_logs or group.rank == 0:
                ss.log({"loss": cfg["number"] * 10.0 + epoch}, epoch)


def kill_a_rank(group: Group) -> None:
    """Rank 2 is killed; the others sit where no TERM reaches them."""
    if group.rank == 2:
        Path("killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    sit()


def raise_in_a_rank(group: Group) -> None:
    """Rank 3 fails by itself; the others then miss it."""
    if group.rank == 3:
        raise ValueError("rank three has had enough")


def fall_silent(group: Group) -> None:
    """Rank 3 sits, and the others wait for it in a collective call."""
    if group.rank == 3:
        sit()


def only_rank_0_logs(group: Group) -> None:
    """Nothing goes wrong."""


def sit() -> None:
    """Wait for ever, with TERM blocked, as inside a call of a C library."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    while True:
        time.sleep(60)


def hang_when_pruned(cfg: dict) -> None:
    """Go on until pruned, in the worse of two trials; its rank 1 then stays all the same."""
    with Group() as group:
        for epoch in itertools.count(1):
            group.all_reduce(1.0)
            try:
                ss.log({"loss": -cfg["number"]}, epoch)
            except ss.TrialPruned:
                if group.rank == 1:
                    Path("stays").touch()
                    sit()
                raise
            if cfg["number"] == 1 and epoch == 6:
                return


def run_until_stopped(_cfg: dict) -> None:
    """Log without end; each rank writes down the iteration at which it had to leave."""
    with Group() as group:
        epoch = 0
        try:
            while True:
                epoch += 1
                group.all_reduce(1.0)
                if epoch == 20 and group.rank == 0:
                    Path("running").touch()
                ss.log({"loss": 1.0}, epoch)
        except ss.TrialInterrupted:
            Path(f"left.{group.rank}.json").write_text(json.dumps(epoch))
            raise


TRAINS = {
    fault.__name__: functools.partial(train, fault=fault)
    for fault in (kill_a_rank, raise_in_a_rank, fall_silent, only_rank_0_logs)
} | {train.__name__: train for train in (hang_when_pruned, run_until_stopped)}


def main(fault: str, trials_at_once: int, grace_s: float) -> None:
    """Run the sweep."""
    ss.Experiment(
        TRAINS[fault],
        {"number": ss.Grid([0, 1])},
        name="faults",
        asha=ss.ASHA("loss", "min", reduction_factor=2, max_t=10**9)
        if fault == "hang_when_pruned"
        else None,
        slurm_cfg=ss.SlurmCfg(nodes=2, ntasks=4),
    ).run(
        max_concurrent_trials=trials_at_once,
        grace_period_in_sec=grace_s,
        fail_fast=False,
        max_silence_sec=10.0 if fault == "fall_silent" else None,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
