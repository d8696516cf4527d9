"""On a real Slurm: MPI inside of trials, one job step each."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_jobs import read_result, run_sweep

from cluster_tools import SlurmCluster
from frameworks import require_package


@pytest.fixture
def mpi() -> None:
    require_package("mpi4py")


@pytest.mark.usefixtures("mpi")
def test_mpi_by_pmi2(cluster: SlurmCluster, tmp_path: Path) -> None:
    output = run_sweep(cluster, tmp_path, "mpi_sweep.py")
    trials = read_result(tmp_path, "mpi").trials
    assert [trial.status for trial in trials] == ["completed"] * 4, output + "".join(
        f"{trial.trial_id}: {trial.error}\n" for trial in trials
    )
    for trial in trials:
        assert set(trial.metrics["size"].values()) == {4.0}
        assert set(trial.metrics["total"].values()) == {10.0}
