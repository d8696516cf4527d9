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


@pytest.mark.usefixtures("mpi")
def test_a_program_that_uses_mpi(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Every rank runs it; the output of the first is read; all leave when it is pruned."""
    run_sweep(cluster, tmp_path, "mpi_program_sweep.py")
    trials = read_result(tmp_path, "mpi-program").trials
    assert {trial.status for trial in trials} == {"completed", "pruned"}
    for trial in trials:
        assert set(trial.metrics["size"].values()) == {4.0}
        assert {trial.metrics["total"][1]} == {10.0}
        if trial.status == "completed":
            assert max(trial.metrics["total"]) == 40
        else:
            assert max(trial.metrics["total"]) < 40
