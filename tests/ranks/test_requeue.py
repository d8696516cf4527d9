"""On a real Slurm: no trial of Lightning's has the whole job queued again.

`sbatch --signal=USR1@60` (without `B:`) sends USR1 to the tasks of all steps, and Lightning answers
with `scontrol requeue` of the job, unless somebody else has seen to the signal.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_jobs import TIMEOUT_S, read_result, start_sweep

from cluster_tools import SlurmCluster, wait_until
from frameworks import require_package


@pytest.fixture
def lightning() -> None:
    require_package("lightning")


def start_and_signal(cluster: SlurmCluster, folder: Path, protection: str) -> int:
    """Send USR1 to all steps while the trial trains; return the job's id."""
    job = ("-n1", "-t5", "--requeue")
    job_id = start_sweep(cluster, folder, "requeue_sweep.py", protection, job=job)
    trial = "slurm-sweeps/requeue/*/training"
    wait_until(lambda: list(folder.glob(trial)), TIMEOUT_S, lambda: cluster.job_output(job_id))
    cluster.cancel(job_id, "--signal=USR1")
    (training,) = folder.glob(trial)
    training.with_name("sent").touch()
    return job_id


@pytest.mark.usefixtures("lightning")
def test_usr1_does_not_requeue_the_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = start_and_signal(cluster, tmp_path, "protected")
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code == 0, cluster.job_output(job_id)
    assert cluster.job(job_id)["Restarts"] == "0"
    (trial,) = read_result(tmp_path, "requeue").trials
    assert (trial.status, len(trial.metrics["val_loss"])) == ("completed", 2)


@pytest.mark.usefixtures("lightning")
def test_without_protection_it_would(cluster: SlurmCluster, tmp_path: Path) -> None:
    """The signal does reach the trial: the test above would fail if it was not ignored there."""
    job_id = start_and_signal(cluster, tmp_path, "unprotected")
    wait_until(
        lambda: cluster.job(job_id)["Restarts"] == "1",
        TIMEOUT_S,
        lambda: cluster.job_output(job_id),
    )
