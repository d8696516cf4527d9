"""On a real Slurm: the distributed examples, as they are, and Accelerate."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from rank_jobs import TIMEOUT_S, read_ranks, read_result, run_sweep

from cluster_tools import SlurmCluster, wait_until
from frameworks import require_package
from slurm_sweeps import Result

# One slot: importing torch takes each rank many seconds where the machine has few cores.
ONE_SLOT = ("-N2", "--ntasks-per-node=2", "-t5")
ONE_EACH = ("-N2", "--ntasks-per-node=1", "-t5")
ONE_NODE = ("-N1", "-n2", "-t5")
#: All may be pruned: of a few trials each can be the second best at some rung.
ENDED = {"completed", "pruned"}
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def frameworks() -> None:
    for name in ("torch", "lightning", "transformers", "accelerate"):
        require_package(name)


def count(result: Result) -> dict[str, int]:
    statuses = [str(trial.status) for trial in result.trials]
    return {status: statuses.count(status) for status in set(statuses)}


def start_lightning_example(cluster: SlurmCluster, folder: Path) -> int:
    """Submit the example's own script, with less to do."""
    shutil.copy(EXAMPLES / "lightning_ddp.py", folder)
    script = (EXAMPLES / "lightning_ddp.slurm").read_text()
    assert '"$@"' in script
    smaller = script.replace('"$@"', "--trials 2 --epochs 8")
    job = (
        "-N1",
        "--ntasks-per-node=2",
        "--mem-per-cpu=500M",
        f"--export=ALL,PYTHON={sys.executable}",
    )
    return cluster.sbatch(smaller, *job, cwd=folder)


@pytest.mark.usefixtures("frameworks")
def test_lightning_goes_on_after_an_interruption(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = start_lightning_example(cluster, tmp_path)
    checkpoints = "slurm-sweeps/lightning-ddp/*/checkpoints/last.ckpt"
    wait_until(
        lambda: list(tmp_path.glob(checkpoints)), TIMEOUT_S, lambda: cluster.job_output(job_id)
    )
    cluster.cancel(job_id, "--batch", "--signal=USR1")
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code == 75, cluster.job_output(job_id)
    assert count(read_result(tmp_path, "lightning-ddp"))["interrupted"] > 0

    job_id = start_lightning_example(cluster, tmp_path)
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code == 0, cluster.job_output(job_id)
    result = read_result(tmp_path, "lightning-ddp")
    assert len(result.trials) == 2
    assert set(count(result)) <= ENDED
    logs = [log.read_text() for log in tmp_path.glob("slurm-sweeps/lightning-ddp/*/stderr.log")]
    assert any("Restored all states from the checkpoint" in log for log in logs)
    assert all("GLOBAL_RANK: 0, MEMBER: 1/2" in log for log in logs)


@pytest.mark.usefixtures("frameworks")
def test_plain_torch(cluster: SlurmCluster, tmp_path: Path) -> None:
    arguments = ("--nodes", "2", "--tasks", "2", "--trials", "2")
    run_sweep(cluster, tmp_path, EXAMPLES / "pytorch_ddp.py", *arguments, job=ONE_EACH)
    result = read_result(tmp_path, "pytorch-ddp")
    assert len(result.trials) == 2
    assert set(count(result)) <= ENDED
    assert all(set(trial.metrics["world_size"].values()) == {2.0} for trial in result.trials)


@pytest.mark.usefixtures("frameworks")
def test_accelerate(cluster: SlurmCluster, tmp_path: Path) -> None:
    run_sweep(cluster, tmp_path, "accelerate_sweep.py", job=ONE_SLOT)
    assert count(read_result(tmp_path, "accelerate")) == {"completed": 2}
    worlds = read_ranks(tmp_path, "world.*.json")
    assert len(worlds) == 2
    for ranks in worlds.values():
        assert [rank["rank"] for rank in ranks] == [0, 1, 2, 3]
        assert [rank["local_rank"] for rank in ranks] == [0, 1, 0, 1]
        assert {rank["world_size"] for rank in ranks} == {4}
        assert len({rank["weight"] for rank in ranks}) == 1  # they have learned together
    trials = read_result(tmp_path, "accelerate").trials
    assert {batches for t in trials for batches in t.metrics["batches"].values()} == {2.0}


@pytest.mark.usefixtures("frameworks")
def test_transformers(cluster: SlurmCluster, tmp_path: Path) -> None:
    run_sweep(
        cluster, tmp_path, EXAMPLES / "transformers_trainer.py", "--trials", "2", job=ONE_NODE
    )
    result = read_result(tmp_path, "transformers")
    assert len(result.trials) == 2
    assert set(count(result)) <= ENDED
    assert list(tmp_path.glob("slurm-sweeps/transformers/*/checkpoints/checkpoint-*"))
