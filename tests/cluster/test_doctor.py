"""`slurm-sweeps doctor` inside a real job: the shares it tells are those that trials get."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from cluster_tools import SlurmCluster

TIMEOUT_S = 90


def test_doctor_tells_the_share_of_a_trial(cluster: SlurmCluster, tmp_path: Path) -> None:
    local_dir = str(tmp_path / "sweeps")
    argv = [sys.executable, "-m", "slurm_sweeps", "doctor", "--json", "--local-dir", local_dir]
    job = "-N2 --ntasks-per-node=2 -c4 --mem-per-cpu=500M --gres=gpu:2 -t2"
    job_id = cluster.sbatch(shlex.join(argv), *job.split(), cwd=tmp_path)
    end = cluster.wait_job(job_id, TIMEOUT_S)
    assert end.exit_code == 0, cluster.job_output(job_id)
    text = cluster.job_output(job_id)
    findings = json.loads(text[text.index("[") :])
    told = {finding["topic"]: finding["text"] for finding in reversed(findings)}
    assert told["Slurm"].startswith("slurm")
    assert told["allocation"].endswith(": 4 trials at once")
    assert told["entering jobs"].startswith("srun --jobid is allowed here")
    assert told["shared folder"] == f"{tmp_path} is the same on all nodes of the job"
    assert told["submitting jobs"].startswith("sbatch takes jobs from here")
    assert told["share of a trial"] == "4 CPUs; 2000 MB and 1 GPU on each node"
    line = told["srun line of the first slot"]
    for option in ("--exact", "-N1", "-n1", "-c4", "--mem=2000M", "--gres=gpu:1"):
        assert option in shlex.split(line), line


def test_doctor_notes_a_share_that_is_seldom_meant(cluster: SlurmCluster, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "slurm_sweeps", "doctor"]
    job_id = cluster.sbatch(shlex.join(argv), "-n1", "-c8", "--mem=50M", "-t2", cwd=tmp_path)
    cluster.wait_job(job_id, TIMEOUT_S)
    text = cluster.job_output(job_id)
    assert "note  share of a trial: 1 trial at once, with 8 CPUs: for more at once ask for" in text
    assert "note  share of a trial: 50 MB is little memory" in text
    (line,) = [line for line in text.splitlines() if "srun line of the first slot" in line]
    assert len(line) < 300
    assert " … (--json has all of it)" in line
