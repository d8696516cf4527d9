"""Running the sweeps of this folder as batch jobs, and reading what came of them."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from cluster_tools import SlurmCluster
from slurm_sweeps import Result

HERE = Path(__file__).parent
#: Importing torch in four ranks may take a minute and more on a busy machine of two cores.
TIMEOUT_S = 400.0
#: Two trials of two ranks on each of two nodes fit.
TWO_NODES = ("-N2", "--ntasks-per-node=4", "-c1", "--mem-per-cpu=500M", "-t5")


def start_sweep(cluster: SlurmCluster, folder: Path, script: str | Path, *args: str, job=TWO_NODES):
    """Submit a sweep script; return the job's id."""
    command = shlex.join([sys.executable, str(HERE / script), *args])
    text = f"export PYTHONPATH={shlex.quote(os.pathsep.join(sys.path[1:]))}\nexec {command}"
    return cluster.sbatch(text, *job, cwd=folder)


def run_sweep(
    cluster: SlurmCluster,
    folder: Path,
    script: str | Path,
    *args: str,
    job: tuple[str, ...] = TWO_NODES,
    code: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Run a sweep script to its end as a batch job; return what it printed."""
    job_id = start_sweep(cluster, folder, script, *args, job=job)
    end = cluster.wait_job(job_id, timeout_s)
    output = cluster.job_output(job_id)
    assert end.exit_code == code, "\n".join([output, *read_errors(folder)])
    return output


def read_errors(folder: Path) -> list[str]:
    """Read the ends of what trials have written to standard error, with the files' names."""
    paths = sorted(folder.glob("slurm-sweeps/*/*/stderr*.log"))
    return [f"{path}:\n{text[-2000:]}" for path in paths if (text := path.read_text())]


def read_result(folder: Path, name: str) -> Result:
    """Read a sweep that was run in a folder."""
    return Result(name, folder / "slurm-sweeps")


def read_ranks(folder: Path, pattern: str) -> dict[str, list[Any]]:
    """Read a file of each rank (`world.*.json`), in the order of ranks, by trial."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob(f"slurm-sweeps/*/*/{pattern}")):
        found.setdefault(path.parent.name, []).append(json.loads(path.read_text()))
    return found
