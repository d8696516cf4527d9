"""Fixtures of the tests that need a GPU of NVIDIA: `make test-gpu`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from cluster_tools import ClusterSpec, SlurmCluster, SlurmInstall


@pytest.fixture(scope="session")
def gpu_count() -> int:
    """The GPUs of this machine. Who asks for these tests has some: without, they fail."""
    if shutil.which("nvidia-smi") is None:
        pytest.fail("these tests need a GPU of NVIDIA, and nvidia-smi is not here")
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    assert count > 0, listed.stdout + listed.stderr
    return count


@pytest.fixture(scope="session")
def gpu_cluster(
    gpu_count: int,
    needs_slurm: None,  # noqa: ARG001 # skips
    install: SlurmInstall,
) -> Iterator[SlurmCluster]:
    """A Slurm of two nodes that both have this machine's GPUs, the real ones."""
    spec = ClusterSpec(nodes=2, cpus=8, memory_mb=50_000, gpus=gpu_count, gpu_type="real")
    with SlurmCluster(spec, install=install, owner=os.getpid(), label="GPU tests") as running:
        yield running
