"""On a real Slurm: programs of all kinds are pruned live, and go on after a driver was killed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import program_sweeps

import slurm_sweeps as ss
from cluster_tools import SlurmCluster
from cluster_tools.requirement import require
from frameworks import require_package

#: Six sweeps at once, of which one imports torch, on a busy machine of two cores.
TIMEOUT_S = 400.0

#: The driver is killed when two programs run, and the sweep begun again. {0} is the command.
JOB = """
export PYTHONPATH={path}
{command} & driver=$!
for _ in $(seq 600); do
    [ $(ls slurm-sweeps/*/*/pids 2>/dev/null | wc -l) -ge {n_slots} ] && break
    kill -0 $driver || exit 9
    sleep 0.2
done
kill -9 $driver
wait
exec {command}
"""

FILES = {
    "fit.R": program_sweeps.FIT_R,
    "train.sh": program_sweeps.TRAIN_SH,
    "train.py": program_sweeps.TRAIN_PY,
    "mpi.py": program_sweeps.MPI_PY,
    "ranks.sh": program_sweeps.RANKS_SH,
    "input.in": "&run x={{ x }} steps=30 /\n",
    "solver.c": program_sweeps.SOLVER,
}


def submit(cluster: SlurmCluster, folder: Path, kind: str) -> int:
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    subprocess.run(["cc", "-o", "solver", "solver.c"], cwd=folder, check=True)
    script = Path(__file__).with_name("program_sweeps.py")
    text = JOB.format(
        command=shlex.join([sys.executable, str(script), kind]),
        path=shlex.quote(os.pathsep.join(sys.path[1:])),
        n_slots=1 if kind in program_sweeps.SHARES else 2,
    )
    shape = ("-N2", "--ntasks-per-node=2") if kind in program_sweeps.SHARES else ("-N1", "-n2")
    return cluster.sbatch(text, *shape, "-c1", "--mem-per-cpu=500M", "-t10", cwd=folder)


def test_programs_of_all_kinds(cluster: SlurmCluster, tmp_path: Path) -> None:
    for program in ("cc", "Rscript"):
        require(None if shutil.which(program) else "not on PATH", os.environ, program)
    for package in ("mpi4py", "torch"):
        require_package(package)
    jobs = {kind: submit(cluster, tmp_path / kind, kind) for kind in program_sweeps.RUNS}
    for kind, job_id in jobs.items():
        end = cluster.wait_job(job_id, TIMEOUT_S)
        output = cluster.job_output(job_id)
        assert end.exit_code == 0, output
        assert "processes are left: []" in output, output
        result = ss.Result(kind, tmp_path / kind / "slurm-sweeps")
        statuses = [trial.status for trial in result.trials]
        assert len(statuses) == 4, output
        assert set(statuses) == {"completed", "pruned"}, output + str(
            [(trial.trial_id, trial.error) for trial in result.trials]
        )
        assert "over from a driver that is gone" in output
        best = result.best_trial()
        assert best.cfg == {"x": 0.0}
        wanted = {"mpi": {10.0}, "ranks": {4.0}}.get(kind, set())
        for trial in result.trials:
            assert set(trial.metrics.get("total", {}).values()) == wanted
