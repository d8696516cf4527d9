"""On a real Slurm: all planned steps run at once, each with the share that was planned."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster_tools import SlurmCluster
from cluster_tools.jobs import parse_records

PROBE = Path(__file__).with_name("start_all_steps.py")
TIMEOUT_S = 90


@dataclass(frozen=True)
class Answer:
    """What the steps of a job said, and what Slurm said of them while all of them ran."""

    slots: list[dict[str, Any]]
    notices: list[str]
    steps: dict[str, dict[str, str]]
    codes: list[int]

    def step_of(self, slot: dict[str, Any]) -> dict[str, str]:
        seen = slot["tasks"][0]["seen"]
        return self.steps[f"{seen['SLURM_JOB_ID']}.{seen['SLURM_STEP_ID']}"]

    def gpus(self) -> list[tuple[str, str]]:
        """Node and CUDA_VISIBLE_DEVICES of each slot's first task, as a trial would see them."""
        pairs = []
        for slot in self.slots:
            task = slot["tasks"][0]
            trial = {**task["seen"], **task["changes"]}
            pairs.append((trial["SLURMD_NODENAME"], trial.get("CUDA_VISIBLE_DEVICES", "")))
        return pairs


def run_job(
    cluster: SlurmCluster,
    folder: Path,
    job: str,
    cfg: dict[str, Any] | None = None,
    most: int | None = None,
    before: str = "",
) -> Answer:
    """Run the probe in a batch job, after the lines `before`, and read its answer."""
    answer = folder / "answer.json"
    argv = [sys.executable, str(PROBE), str(answer), json.dumps(cfg or {})]
    script = shlex.join([*argv, str(most)] if most else argv)
    job_id = cluster.sbatch(f"{before}\n{script}", "-t2", *job.split(), cwd=folder)
    end = cluster.wait_job(job_id, TIMEOUT_S)
    assert end.exit_code == 0, cluster.job_output(job_id)
    told = json.loads(answer.read_text())
    steps = {step["StepId"]: step for step in parse_records(told["steps"]) if "StepId" in step}
    return Answer(told["slots"], told["notices"], steps, told["codes"])


def read_mem_mb(step: dict[str, str]) -> float:
    """Read a step's memory, which scontrol rounds to two digits: `mem=62.50G`."""
    tres = dict(pair.split("=", 1) for pair in step["TRES"].split(","))
    return float(tres["mem"][:-1]) * {"M": 1, "G": 1024}[tres["mem"][-1]]


def assert_as_planned(answer: Answer) -> None:
    """Every step runs, with the CPUs, the memory and the tasks that were planned for it."""
    assert set(answer.codes) == {0}
    for slot in answer.slots:
        planned, step = slot["planned"], answer.step_of(slot)
        assert slot["rest"] == []
        assert len(slot["tasks"]) == planned["ntasks"] == int(step["Tasks"])
        assert int(step["Nodes"]) == len(planned["nodes"])
        assert int(step["CPUs"]) == planned["ntasks"] * planned["step_cpus_per_task"]
        if planned["mem_mb"] is not None:
            mem_mb = planned["mem_mb"] * len(planned["nodes"])
            assert read_mem_mb(step) == pytest.approx(mem_mb, rel=0.01)


@pytest.mark.parametrize(
    ("job", "slots", "cpus", "mem_mb", "gpus"),
    [
        ("-N2 --ntasks-per-node=18 -c4 --mem-per-cpu=1G", 36, 4, 4096, 0),
        ("-N2 --ntasks-per-node=18 -c4 --mem=72G", 36, 4, 4096, 0),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gres=gpu:4", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem=32G --gpus-per-node=4", 8, 4, 8192, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-gpu=4G --gpus=8", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gpus-per-task=1", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gres=gpu:a100:4", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem=32G --gpus-per-node=a100:4", 8, 4, 8192, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-gpu=4G --gpus=a100:8", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gpus-per-task=a100:1", 8, 4, 4096, 1),
        ("-N2 --ntasks-per-node=2 -c4 --gres=gpu:4", 4, 4, 128000, 2),
        ("-N2 --ntasks-per-node=4 --exclusive --mem=0", 8, 32, 64000, 1),
        ("-N2 --exclusive --mem=0", 8, 32, 64000, 1),
        ("-N2 --gres=gpu:4", 2, 1, 256000, 4),
        ("-N2", 2, 1, 256000, 0),
        ("-N1", 1, 1, 256000, 0),
    ],
    ids=lambda value: value.replace(" ", "") if isinstance(value, str) else None,
)
def test_all_steps_run_at_once_with_their_share(
    cluster: SlurmCluster, tmp_path: Path, job: str, slots: int, cpus: int, mem_mb: int, gpus: int
) -> None:
    answer = run_job(cluster, tmp_path, job)
    assert_as_planned(answer)
    assert answer.notices == []
    assert [slot["planned"]["cpus_per_task"] for slot in answer.slots] == [cpus] * slots
    assert {slot["planned"]["mem_mb"] for slot in answer.slots} == {mem_mb}
    owned = [
        (node, gpu) for node, devices in answer.gpus() for gpu in devices.split(",") if devices
    ]
    assert len(set(owned)) == len(owned) == slots * gpus


def test_unlike_nodes_get_as_many_steps_as_they_hold(cluster: SlurmCluster, tmp_path: Path) -> None:
    answer = run_job(cluster, tmp_path, "-N2 -n3 -c4 --mem-per-cpu=100M")
    assert_as_planned(answer)
    assert sorted(slot["planned"]["nodes"] for slot in answer.slots) == [["n1"], ["n1"], ["n2"]]


def test_a_trial_can_span_nodes(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = "-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G --gres=gpu:4"
    answer = run_job(cluster, tmp_path, job, {"nodes": 2, "ntasks": 4})
    assert_as_planned(answer)
    assert len(answer.slots) == 2
    for slot in answer.slots:
        ranks = {int(task["changes"]["RANK"]): task for task in slot["tasks"]}
        assert sorted(ranks) == [0, 1, 2, 3]
        changes = [ranks[rank]["changes"] for rank in range(4)]
        assert [change["LOCAL_RANK"] for change in changes] == ["0", "1", "0", "1"]
        assert [ranks[rank]["seen"]["SLURMD_NODENAME"] for rank in range(4)] == [
            "n1",
            "n1",
            "n2",
            "n2",
        ]
        alike = ("MASTER_ADDR", "WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "SLURM_NODELIST")
        assert {tuple(change[name] for name in alike) for change in changes} == {
            ("n1", "4", "2", "n[1-2]")
        }
    owned = [(node, gpu) for node, devices in answer.gpus() for gpu in devices.split(",")]
    assert len(set(owned)) == len(owned) == 4


def test_more_slots_than_gpus_share_them_evenly(cluster: SlurmCluster, tmp_path: Path) -> None:
    answer = run_job(cluster, tmp_path, "-N1 -n8 -c4 --mem-per-cpu=1G --gres=gpu:2")
    assert_as_planned(answer)
    assert [devices for _, devices in answer.gpus()] == ["0", "1"] * 4
    assert len(answer.notices) == 1
    assert "8 trials share 2 GPUs of n1" in answer.notices[0]


def test_trials_without_gpus_run_beside_each_other_in_a_gpu_job(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    answer = run_job(cluster, tmp_path, "-N1 -n8 -c4 --mem=8G --gres=gpu:2", {"gpus": 0})
    assert_as_planned(answer)
    assert answer.gpus() == [("n1", "")] * 8


def test_overlapping_trials_run_beyond_what_fits(cluster: SlurmCluster, tmp_path: Path) -> None:
    answer = run_job(cluster, tmp_path, "-N2 -n2 -c2 --mem=1G", {"exclusive": False}, 8)
    assert_as_planned(answer)
    assert len(answer.slots) == 8


@pytest.mark.parametrize(
    "cfg",
    [
        {"cpus_per_task": 2},
        {"mem": "8G"},
        {"args": "-c2 --mem=2G"},
        {"args": "--mem-per-cpu=512M"},
        {"gpus": 2},
        {"args": "--gpus-per-task=2"},
        {"args": "--gres=gpu:a100:2"},
        {"ntasks": 2, "args": "--gpus=2"},
        {"ntasks": 2},
    ],
    ids=str,
)
def test_what_the_user_says_runs_at_once(
    cluster: SlurmCluster, tmp_path: Path, cfg: dict[str, Any]
) -> None:
    gpus = "gpu:a100:4" if "a100" in cfg.get("args", "") else "gpu:4"
    answer = run_job(cluster, tmp_path, f"-N1 -n4 -c4 --mem-per-cpu=1G --gres={gpus}", cfg)
    assert_as_planned(answer)
    owned = [gpu for _, devices in answer.gpus() for gpu in devices.split(",")]
    assert len(set(owned)) == len(owned) == 4


def test_a_trial_sees_itself_and_not_the_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    answer = run_job(cluster, tmp_path, "-N2 --ntasks-per-node=4 -c4 --mem-per-cpu=1G")
    for slot in answer.slots:
        (task,) = slot["tasks"]
        trial = {**task["seen"], **task["changes"]}
        node = slot["planned"]["nodes"][0]
        expected = {
            "SLURM_NTASKS": "1",
            "SLURM_NPROCS": "1",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_TASKS_PER_NODE": "1",
            "SLURM_NNODES": "1",
            "SLURM_NODELIST": node,
            "SLURM_JOB_NODELIST": node,
            "SLURM_CPUS_PER_TASK": "4",
            "OMP_NUM_THREADS": "4",
            "MASTER_ADDR": node,
        }
        assert {name: trial[name] for name in expected} == expected


def test_a_driver_in_a_step_is_refused(cluster: SlurmCluster, tmp_path: Path) -> None:
    argv = ["srun", sys.executable, str(PROBE), str(tmp_path / "answer.json"), "{}"]
    job_id = cluster.sbatch(shlex.join(argv), "-t1", "-n1", cwd=tmp_path)
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code != 0
    assert f"the sweep was started inside job step {job_id}.0" in cluster.job_output(job_id)
