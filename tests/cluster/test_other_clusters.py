"""Clusters that differ from the usual one of the tests: every job has all its tasks at once.

Two nodes of eight cores of two threads each, and what sites set: options of slurm.conf, variables,
nodes that are not shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_shares import Answer, run_job
from test_sweeps import start_job, wait_for_trials

from cluster_tools import ClusterSpec, SlurmCluster, SlurmInstall, stop_orphans

pytestmark = pytest.mark.cluster

SPEC = ClusterSpec(nodes=2, cpus=16, threads_per_core=2, memory_mb=64_000, preemption=False)
#: As on machines that keep a core or two back for the system.
ODD = ClusterSpec(nodes=2, cpus=14, threads_per_core=2, memory_mb=64_000, preemption=False)
#: CPUs may be asked for one by one, but steps get whole cores all the same (22.05).
BY_CPU = replace(SPEC, extra=("SelectTypeParameters=CR_CPU_Memory",))
#: A scontrol that shows nothing, as with PrivateData, to all but the test itself.
HIDE = """
mkdir hidden; printf '#!/bin/sh\\necho "slurm_load_node error: Access denied" >&2; exit 1\\n' \
    > hidden/scontrol; chmod +x hidden/scontrol; export SCONTROL=$(command -v scontrol)
export PATH=$PWD/hidden:$PATH
"""


@pytest.fixture(scope="module", params=[SPEC], ids=["threads"])
def other_cluster(
    request: pytest.FixtureRequest,
    needs_slurm: None,  # noqa: ARG001 - asked for what it does
    install: SlurmInstall,
) -> Iterator[SlurmCluster]:
    """A Slurm of its own for this file."""
    stop_orphans()
    with SlurmCluster(request.param, install=install, owner=os.getpid(), label="other") as running:
        yield running


def assert_all_at_once(answer: Answer, slots: int) -> None:
    """All planned steps ran at the same time, each with its tasks, and all say where."""
    assert len(answer.slots) == slots
    assert set(answer.codes) == {0}
    for slot in answer.slots:
        assert len(slot["tasks"]) == slot["planned"]["ntasks"]
        assert int(answer.step_of(slot)["Tasks"]) == slot["planned"]["ntasks"]


@pytest.mark.parametrize(
    ("job", "cfg", "most", "slots", "cpus"),
    [
        ("-N2 --ntasks-per-node=8 -c2 --mem=16G", {"args": "--hint=nomultithread"}, None, 16, 1),
        ("-N1 -n8 -c2 --mem=8G", {"args": "--threads-per-core=1"}, None, 8, 1),
        ("-N1 -n8 -c2 --mem-per-cpu=500M", {"args": "--hint=compute_bound"}, None, 8, 1),
        ("-N1 -n8 -c2 --mem=8G", {"args": "--hint=nomultithread -c2"}, None, 4, 2),
        ("-N1 -n8 -c1 --mem=8G --hint=nomultithread", {}, None, 8, 1),
        ("-N1 -n16 -c1 --mem=16G", {}, None, 16, 1),
        ("-N1 -n16 -c1 --mem=16G", {}, 8, 8, 1),
        ("-N2 --ntasks-per-node=3 -c3 --mem=8G", {"gpus": 0}, None, 6, 2),
        ("-N1 -n8 --overcommit --mem=2G", {}, None, 8, 1),
        ("-N1 -n1 -c16 --mem=8G", {}, 8, 8, 2),
    ],
    ids=lambda value: str(value).replace(" ", ""),
)
def test_all_tasks_run_at_once(
    other_cluster: SlurmCluster,
    tmp_path: Path,
    job: str,
    cfg: dict[str, Any],
    most: int | None,
    slots: int,
    cpus: int,
) -> None:
    answer = run_job(other_cluster, tmp_path, job, cfg, most)
    assert_all_at_once(answer, slots)
    assert {slot["planned"]["cpus_per_task"] for slot in answer.slots} == {cpus}


@pytest.mark.parametrize("cfg", ["", "share_imports=True"])
def test_a_sweep_runs_as_many_trials_as_the_job_has_tasks(
    other_cluster: SlurmCluster, tmp_path: Path, cfg: str
) -> None:
    job_id = start_job(other_cluster, tmp_path, "-N1 -n16 -c1 --mem=8G", 16, cfg=cfg)
    wait_for_trials(other_cluster, tmp_path, job_id, 16)
    (tmp_path / "release").touch()
    assert other_cluster.wait_job(job_id, 60).exit_code == 0
    assert "16 trials share 8 cores of n1" in other_cluster.job_output(job_id)


@pytest.mark.parametrize("name", ["SLURM_HINT=nomultithread", "SLURM_THREADS_PER_CORE=1"])
def test_threads_that_a_site_sets_do_not_make_steps_wait(
    other_cluster: SlurmCluster, tmp_path: Path, name: str
) -> None:
    job = "-N2 --ntasks-per-node=4 -c4 --mem=4G"
    answer = run_job(other_cluster, tmp_path, job, before=f"export {name}")
    assert_all_at_once(answer, 8)
    assert {slot["planned"]["cpus_per_task"] for slot in answer.slots} == {4}


@pytest.mark.parametrize(
    "job", ["-N1 -n8 -c1 --mem=4G", "-N2 --ntasks-per-node=4 -c3", "-N1 -n8 -c2 --mem-per-cpu=1G"]
)
def test_nodes_that_are_not_shown_do_not_make_steps_wait(
    other_cluster: SlurmCluster, tmp_path: Path, job: str
) -> None:
    answer = run_job(other_cluster, tmp_path, job, before=HIDE)
    assert_all_at_once(answer, 16 // 2 if "-N1" in job else 8)
    assert "cores are taken for pairs of CPUs" in answer.notices[0]


def test_variables_of_a_site_do_not_steer_slurms_commands(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    site = "export SLURM_CLUSTERS=elsewhere SLURM_GPUS=4 SLURM_GPUS_PER_NODE=4 SLURM_MPI_TYPE=pmix"
    answer = run_job(other_cluster, tmp_path, "-N2 --ntasks-per-node=4 -c2 --mem=4G", before=site)
    assert_all_at_once(answer, 8)
    assert answer.notices == []
    assert {slot["planned"]["gpus"] for slot in answer.slots} == {0}


def test_a_default_for_mpi_whose_library_is_missing_is_in_nobodys_way(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    with other_cluster.changed(extra=("MpiDefault=pmix",)):
        answer = run_job(other_cluster, tmp_path, "-N2 --ntasks-per-node=4 -c2 --mem=4G")
        assert_all_at_once(answer, 8)


def test_few_ports_for_sruns_are_told_and_gone_round(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    with other_cluster.changed(extra=("SrunPortRange=19000-19017",)):  # three for each
        args = "-N2 --ntasks-per-node=8 -c1 --mem=4G"
        job_id = start_job(other_cluster, tmp_path, args, 16)
        wait_for_trials(other_cluster, tmp_path, job_id, 16)
        (tmp_path / "release").touch()
        assert other_cluster.wait_job(job_id, 60).exit_code == 0
    told = "SrunPortRange of this cluster allows 6 job steps at once, fewer than the 16 slots"
    assert told in other_cluster.job_output(job_id)


def test_few_steps_for_a_job_are_told_and_gone_round(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    with other_cluster.changed(extra=("MaxStepCount=12",)):
        (tmp_path / "release").touch()
        args = "-N2 --ntasks-per-node=2 -c2 --mem=4G"
        job_id = start_job(other_cluster, tmp_path, args, 20, cfg="fresh_step=True")
        assert other_cluster.wait_job(job_id, 90).exit_code == 0, other_cluster.job_output(job_id)
    assert "may have 12 steps (MaxStepCount)" in other_cluster.job_output(job_id)
    assert len(list((tmp_path / "here").iterdir())) == 20


@pytest.mark.parametrize("other_cluster", [BY_CPU], indirect=True, ids=["by cpu"])
@pytest.mark.parametrize(("job", "slots"), [("-N1 -n16 -c1", 16), ("-N1 -n5 -c3", 5)])
def test_cpus_that_are_given_one_by_one(
    other_cluster: SlurmCluster, tmp_path: Path, job: str, slots: int
) -> None:
    assert_all_at_once(run_job(other_cluster, tmp_path, f"{job} --mem=8G"), slots)


@pytest.mark.parametrize("other_cluster", [ODD], indirect=True, ids=["odd"])
def test_an_odd_number_of_cores_leaves_no_gpu_idle(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    job = "-N2 --gpus-per-node=4 --ntasks-per-node=4 --exclusive --mem=0"
    answer = run_job(other_cluster, tmp_path, job)
    assert_all_at_once(answer, 8)
    assert len(set(answer.gpus())) == 8
    assert "each task gets 2 CPUs so that 8 trials run at once: with 3" in answer.notices[0]
