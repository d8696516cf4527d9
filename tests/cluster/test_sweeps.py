"""The README's sbatch script on a real Slurm: as many trials at once as the job has room for."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from cluster_tools import SlurmCluster, leftover_processes, wait_until

TIMEOUT_S = 90

#: Every trial says that it is there and what it sees, then waits for the word to go on.
SWEEP = """
import json, os, sys, time
import slurm_sweeps as ss

def train(cfg):
    here, release = {folder!r} + "/here", {folder!r} + "/release"
    names = ["SLURM_STEP_ID", "SLURM_STEP_NODELIST", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS"]
    seen = {{name: os.environ.get(name) for name in names}}
    with open(f"{{here}}/.{{ss.trial_id()}}", "w") as file:
        json.dump(seen, file)
    os.rename(f"{{here}}/.{{ss.trial_id()}}", f"{{here}}/{{ss.trial_id()}}")
    deadline = time.monotonic() + 60
    while not os.path.exists(release) and time.monotonic() < deadline:
        time.sleep(0.05)
    ss.log({{"loss": cfg["x"]}}, 1)

if __name__ == "__main__":
    cfg = ss.SlurmCfg({cfg})
    sweep = ss.Experiment(
        train, {{"x": ss.Uniform(0, 1)}}, asha=ss.ASHA("loss", "min"), slurm_cfg=cfg
    )
    result = sweep.run(n_trials=int(sys.argv[1]))
    print("best", result.best_trial().metrics["loss"][1])
"""


def start_job(
    cluster: SlurmCluster, folder: Path, args: str, n_trials: int, mark: str = "", cfg: str = ""
) -> int:
    """Submit the sweep; all processes of the job have `SWEEP_MARK=<mark>` in their environment."""
    (folder / "here").mkdir()
    (folder / "sweep.py").write_text(SWEEP.format(folder=str(folder), cfg=cfg))
    script = f"export SWEEP_MARK={mark}\nexec {sys.executable} sweep.py {n_trials}"
    return cluster.sbatch(script, "-t2", *args.split(), cwd=folder)


def wait_for_trials(cluster: SlurmCluster, folder: Path, job_id: int, count: int) -> list[Path]:
    def find() -> list[Path]:
        return [file for file in (folder / "here").iterdir() if not file.name.startswith(".")]

    def describe() -> str:
        return f"{len(find())} of {count} trials run; {cluster.job_output(job_id)}"

    wait_until(lambda: len(find()) >= count, TIMEOUT_S, describe)
    return find()


@pytest.mark.parametrize(
    ("args", "slots", "cpus", "mem", "gpus"),
    [
        ("-N2 --ntasks-per-node=18 -c4 --mem-per-cpu=1GB", 36, "4", "4G", False),
        ("-N2 --ntasks-per-node=18 -c4 --mem=72G", 36, "4", "4G", False),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1GB --gres=gpu:4", 8, "4", "4G", True),
    ],
)
def test_the_script_of_the_readme(
    cluster: SlurmCluster, tmp_path: Path, args: str, slots: int, cpus: str, mem: str, gpus: bool
) -> None:
    job_id = start_job(cluster, tmp_path, args, n_trials=slots)
    trials = wait_for_trials(cluster, tmp_path, job_id, slots)
    steps = [step for step in cluster.steps(job_id) if ".batch" not in step["StepId"]]
    assert len(steps) == slots
    for step in steps:
        tres = dict(pair.split("=", 1) for pair in step["TRES"].split(","))
        assert (step["CPUs"], tres["mem"]) == (cpus, mem)
    if gpus:
        seen = [trial.read_text() for trial in trials]
        assert len(set(seen)) == slots
        owned = {(text.split("NODELIST")[1].split(",")[0], text.split("CUDA")[1]) for text in seen}
        assert len(owned) == slots
    (tmp_path / "release").touch()
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code == 0, cluster.job_output(job_id)
    assert "best" in cluster.job_output(job_id)


def test_no_trial_outlives_a_killed_driver_on_any_node(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    args = "-N4 --ntasks-per-node=2 -c2 --mem-per-cpu=1G"
    job_id = start_job(cluster, tmp_path, args, n_trials=8, mark=mark)
    wait_for_trials(cluster, tmp_path, job_id, 8)
    driver = next(p for p in leftover_processes(mark) if p.command.endswith("sweep.py 8"))
    os.kill(driver.pid, signal.SIGKILL)
    # Five seconds is the promise; what is still there by then is told.
    wait_until(lambda: not leftover_processes(mark), 5, lambda: str(leftover_processes(mark)))
