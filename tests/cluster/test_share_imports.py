"""On a real Slurm: one job step for each node, its slots forked off one that has imported."""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest

from cluster_tools import SlurmCluster, leftover_processes, wait_until
from cluster_tools.processes import read_process
from slurm_sweeps import Result, Trial

TIMEOUT_S = 120

#: Each import of the module leaves a file. Every trial says what it sees and waits for the word.
MODULE = """
import os, uuid
open(os.path.join({folder!r}, "imports", uuid.uuid4().hex), "w").close()
"""
SWEEP = """
import json, os, sys, time
import slurm_sweeps as ss
import counted

def train(cfg):
    names = ["SLURMD_NODENAME", "SLURM_STEP_ID", "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_PER_TASK",
             "SLURM_MEM_PER_NODE", "OMP_NUM_THREADS"]
    seen = {{name: os.environ.get(name) for name in names}}
    here = os.path.join({folder!r}, "here", f"{{ss.trial_id()}}.{{ss.attempt()}}")
    with open(here + ".new", "w") as file:
        pids = {{"pid": os.getpid(), "worker": os.getppid()}}
        json.dump({{**seen, **pids, "trial": ss.trial_id()}}, file)
    os.rename(here + ".new", here)
    release, deadline = os.path.join({folder!r}, "release"), time.monotonic() + 100
    but = release + "-all-but-" + ss.trial_id()
    while time.monotonic() < deadline:
        if any(os.path.join({folder!r}, name) != but for name in os.listdir({folder!r})
               if name.startswith("release")):
            break
        time.sleep(0.05)
    counted.__name__
    ss.log({{"loss": cfg["x"], "text" * 2000: 1.0}}, 1)

if __name__ == "__main__":
    cfg = ss.SlurmCfg(share_imports=True)
    sweep = ss.Experiment(train, {{"x": ss.Uniform(0, 1)}}, "shared", slurm_cfg=cfg)
    sweep.run(n_trials=int(sys.argv[1]))
"""
JOB = "-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gres=gpu:4"


class SharedSweep:
    """The sweep as a batch job of eight slots on two nodes, with eight trials that have begun."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        for name in ("here", "imports"):
            (folder / name).mkdir()
        (folder / "counted.py").write_text(MODULE.format(folder=str(folder)))
        (folder / "sweep.py").write_text(SWEEP.format(folder=str(folder)))
        self.cluster, self.folder, self.mark = cluster, folder, uuid.uuid4().hex
        script = f"export SWEEP_MARK={self.mark}\nexec {sys.executable} sweep.py 8"
        self.job_id = cluster.sbatch(script, "-t4", *JOB.split(), cwd=folder)
        self.seen = self.wait_for_trials(8)

    def wait_for_trials(self, count: int) -> list[dict[str, str | int]]:
        """Wait until so many attempts have begun; return what they see."""

        def find() -> list[Path]:
            return [file for file in (self.folder / "here").iterdir() if file.suffix != ".new"]

        wait_until(
            lambda: len(find()) >= count,
            TIMEOUT_S,
            lambda: f"{len(find())} of {count} run; {self.cluster.job_output(self.job_id)}",
        )
        return [json.loads(file.read_text()) for file in find()]

    def finish(self) -> list[Trial]:
        """Let all trials go on to their end; return them."""
        (self.folder / "release").touch()
        end = self.cluster.wait_job(self.job_id, TIMEOUT_S)
        assert end.exit_code == 0, self.cluster.job_output(self.job_id)
        return Result("shared", self.folder / "slurm-sweeps").trials


@pytest.fixture
def sweep(cluster: SlurmCluster, tmp_path: Path) -> SharedSweep:
    return SharedSweep(cluster, tmp_path)


def find_parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_imports_once_and_every_trial_has_its_share(sweep: SharedSweep) -> None:
    assert len(list((sweep.folder / "imports").iterdir())) == 3  # the driver, and one on each node
    owned = {(seen["SLURMD_NODENAME"], seen["CUDA_VISIBLE_DEVICES"]) for seen in sweep.seen}
    assert owned == {(node, str(gpu)) for node in ("n1", "n2") for gpu in range(4)}
    shares = {(s["SLURM_CPUS_PER_TASK"], s["OMP_NUM_THREADS"]) for s in sweep.seen}
    assert shares == {("4", "4")}
    assert {seen["SLURM_MEM_PER_NODE"] for seen in sweep.seen} == {"4096"}
    assert len({find_parent(int(seen["worker"])) for seen in sweep.seen}) == 2
    steps = [step for step in sweep.cluster.steps(sweep.job_id) if ".batch" not in step["StepId"]]
    assert len(steps) == 2
    for step in steps:
        tres = dict(pair.split("=", 1) for pair in step["TRES"].split(","))
        assert (step["CPUs"], tres["mem"]) == ("16", "16G")
    trials = sweep.finish()
    assert [str(trial.status) for trial in trials] == ["completed"] * 8
    assert all(trial.attempt == 1 for trial in trials)


def test_a_killed_worker_is_forked_again_beside_the_others(sweep: SharedSweep) -> None:
    victim = sweep.seen[0]
    os.kill(int(victim["worker"]), signal.SIGKILL)
    sweep.wait_for_trials(9)
    assert read_process(int(victim["pid"])) is None
    assert len(list((sweep.folder / "imports").iterdir())) == 3
    trials = sweep.finish()
    assert [str(trial.status) for trial in trials] == ["completed"] * 8
    assert sorted(trial.attempt for trial in trials) == [1] * 7 + [2]


def test_a_killed_host_takes_its_node_s_trials_and_all_are_run_again(sweep: SharedSweep) -> None:
    victims = [seen for seen in sweep.seen if seen["SLURMD_NODENAME"] == "n1"]
    os.kill(find_parent(int(victims[0]["worker"])), signal.SIGKILL)
    sweep.wait_for_trials(12)
    assert [read_process(int(victim["pid"])) for victim in victims] == [None] * 4
    trials = sweep.finish()
    assert [str(trial.status) for trial in trials] == ["completed"] * 8
    assert sorted(trial.attempt for trial in trials) == [1] * 4 + [2] * 4


def test_a_trial_is_lost_once_with_its_node_however_many_idle_slots_it_has(
    sweep: SharedSweep,
) -> None:
    last = next(seen for seen in sweep.seen if seen["SLURMD_NODENAME"] == "n1")
    host = find_parent(int(last["worker"]))
    (sweep.folder / f"release-all-but-{last['trial']}").touch()

    def count_ended() -> int:
        trials = Result("shared", sweep.folder / "slurm-sweeps").trials
        return sum(str(trial.status) == "completed" for trial in trials)

    wait_until(lambda: count_ended() == 7, TIMEOUT_S, lambda: f"{count_ended()} of 7 have ended")
    os.kill(host, signal.SIGKILL)
    sweep.wait_for_trials(9)
    trials = sweep.finish()
    assert [str(trial.status) for trial in trials] == ["completed"] * 8
    assert sorted(trial.attempt for trial in trials) == [1] * 7 + [2]


def test_nothing_outlives_a_killed_driver(sweep: SharedSweep) -> None:
    driver = next(p for p in leftover_processes(sweep.mark) if p.command.endswith("sweep.py 8"))
    os.kill(driver.pid, signal.SIGKILL)
    # Five seconds is the promise; what is still there by then is told.
    wait_until(
        lambda: not leftover_processes(sweep.mark), 5, lambda: str(leftover_processes(sweep.mark))
    )
