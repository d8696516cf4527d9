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


@pytest.mark.usefixtures("lightning")
def test_usr1_does_not_requeue_the_job_but_without_protection_it_would(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """One trial after the other; that the second one has it queued again shows what was ignored."""
    job_id = start_sweep(cluster, tmp_path, "requeue_sweep.py", job=("-n1", "-t5", "--requeue"))

    def wait_and_signal(n_begun: int) -> None:
        begun = "slurm-sweeps/requeue/*/training"
        wait_until(
            lambda: len(list(tmp_path.glob(begun))) == n_begun,
            TIMEOUT_S,
            lambda: cluster.job_output(job_id),
        )
        assert cluster.job(job_id)["Restarts"] == "0"
        cluster.cancel(job_id, "--signal=USR1")

    wait_and_signal(1)
    wait_and_signal(2)
    protected, _ = read_result(tmp_path, "requeue").trials
    assert (protected.status, len(protected.metrics["val_loss"])) == ("completed", 2)
    wait_until(
        lambda: cluster.job(job_id)["Restarts"] == "1",
        TIMEOUT_S,
        lambda: cluster.job_output(job_id),
    )
