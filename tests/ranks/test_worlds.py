"""On a real Slurm: trials of several ranks find the right world, again and again."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from rank_jobs import read_ranks, read_result, run_sweep
from worlds_sweep import EPOCHS

from cluster_tools import SlurmCluster
from slurm_sweeps import Result, Trial

#: `make chaos` asks for more.
ROUNDS = int(os.environ.get("SLURM_SWEEPS_ROUNDS", "2"))


def assert_right_world(world: list[dict[str, str]], nodes: int, ntasks: int) -> None:
    """Each rank found its own place, and all of them the same trial."""
    per_node = ntasks // nodes
    assert [env["RANK"] for env in world] == [str(rank) for rank in range(ntasks)]
    assert [env["SLURM_PROCID"] for env in world] == [env["RANK"] for env in world]
    assert [int(env["LOCAL_RANK"]) for env in world] == [i % per_node for i in range(ntasks)]
    assert len({env["SLURMD_NODENAME"] for env in world}) == nodes
    same = {
        "WORLD_SIZE": ntasks,
        "LOCAL_WORLD_SIZE": per_node,
        "SLURM_NTASKS": ntasks,
        "SLURM_NPROCS": ntasks,
        "SLURM_NTASKS_PER_NODE": per_node,
        "SLURM_NNODES": nodes,
        "SLURM_JOB_NUM_NODES": nodes,
    }
    for name, value in same.items():
        assert {env[name] for env in world} == {str(value)}, name
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_NODELIST", "SLURM_STEP_ID"):
        assert len({env[name] for env in world}) == 1, name


def were_alive_together(a: Trial, b: Trial) -> bool:
    assert a.start_time
    assert b.start_time
    assert a.end_time
    assert b.end_time
    return a.start_time < b.end_time and b.start_time < a.end_time


def assert_own_ports(result: Result, worlds: dict[str, list[dict[str, str]]]) -> int:
    """No two trials that were alive together had the same port; count those pairs."""
    pairs = 0
    for a, b in itertools.combinations(result.trials, 2):
        if were_alive_together(a, b):
            pairs += 1
            assert worlds[a.trial_id][0]["MASTER_PORT"] != worlds[b.trial_id][0]["MASTER_PORT"]
    return pairs


@pytest.mark.parametrize("step", ["warm", "fresh"])
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_trials_of_four_ranks_over_two_nodes(
    cluster: SlurmCluster,
    tmp_path: Path,
    step: str,
    round_: int,  # noqa: ARG001 # once more
) -> None:
    run_sweep(cluster, tmp_path, "worlds_sweep.py", "2", "4", "8", step)
    result = read_result(tmp_path, "worlds")
    statuses = [str(trial.status) for trial in result.trials]
    assert len(statuses) == 8
    assert set(statuses) == {"completed", "pruned"}
    worlds = read_ranks(tmp_path, "world.*.json")
    assert len(worlds) == 8
    for world in worlds.values():
        assert_right_world(world, nodes=2, ntasks=4)
    pairs = assert_own_ports(result, worlds)
    # Steps that start one by one on a busy machine may miss each other; warm ones do not.
    assert pairs > 0 or step == "fresh"
    steps = {world[0]["SLURM_STEP_ID"] for world in worlds.values()}
    assert len(steps) == (8 if step == "fresh" else 2)
    assert all(set(trial.metrics["size"].values()) == {4.0} for trial in result.trials)
    # Rank 0 speaks for all, in the end too.
    for trial in result.trials:
        last = {EPOCHS + 1: 4 * trial.cfg["x"]} if str(trial.status) == "completed" else None
        assert trial.metrics.get("last") == last


def test_two_ranks_on_one_node(cluster: SlurmCluster, tmp_path: Path) -> None:
    run_sweep(cluster, tmp_path, "worlds_sweep.py", "1", "2", "4", "warm")
    for world in read_ranks(tmp_path, "world.*.json").values():
        assert_right_world(world, nodes=1, ntasks=2)


def test_a_job_named_interactive_is_no_interactive_one_to_its_trials(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Lightning takes a SLURM_JOB_NAME of "interactive" for a shell, and starts ranks itself."""
    job = ("-J", "interactive", "-N1", "-n2", "-t5")
    run_sweep(cluster, tmp_path, "worlds_sweep.py", "1", "2", "1", "warm", job=job)
    (world,) = read_ranks(tmp_path, "world.*.json").values()
    assert {env["SLURM_JOB_NAME"] for env in world} == {"slot-0"}
