"""Faults of Slurm itself, on a cluster of their own: it is waited for, and nobody is blamed.

What is away is away for all jobs of a cluster, so sweeps of several kinds go through it together.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from reliable_sweeps import (
    IS_CHAOS,
    SWEEP,
    WAIT_S,
    Script,
    assert_complete,
    count_status,
    read_attempts,
    read_trials,
)
from test_on_slurm import IMPATIENT, SlurmSweep

from cluster_tools import ClusterSpec, SlurmCluster, SlurmInstall, wait_until
from slurm_sweeps.trial import Status

pytestmark = pytest.mark.cluster

#: How long Slurm is away, in seconds. Its commands ask slurmctld for a minute (MessageTimeout).
AWAY_S = 80 if IS_CHAOS else 6

SPEC = ClusterSpec(nodes=2, cpus=16, memory_mb=64_000, gpus=0, preemption=False, kill_wait_s=5)


@pytest.fixture(scope="module")
def other_cluster(
    needs_slurm: None,  # noqa: ARG001 # skips
    install: SlurmInstall,
) -> Iterator[SlurmCluster]:
    with SlurmCluster(SPEC, install=install, owner=os.getpid(), label="away") as running:
        yield running


@pytest.mark.parametrize("daemon", ["slurmctld", "munged"])
def test_slurm_is_waited_for_and_nobody_is_blamed(
    other_cluster: SlurmCluster, tmp_path: Path, daemon: str
) -> None:
    """One sweep starts a step for each trial, and one begins meanwhile."""
    job = ("-N2", "-n4", "--ntasks-per-node=2", "--mem=4G")
    fresh = SlurmSweep(other_cluster, tmp_path / "fresh", *job, N_TRIALS=14, PAUSE_S=0.2, SLOTS=4)
    fresh.change("requeue=bool", "fresh_step=True, requeue=bool")
    late = SlurmSweep(other_cluster, tmp_path / "late", *job, N_TRIALS=4, SLOTS=4)
    fresh.submit().wait_for_status(Status.COMPLETED, 2)
    late.submit(f"echo here; until [ -e go ]; do sleep 0.1; done; exec {late.command}")
    late.wait_for_print("here")
    with other_cluster.without(daemon):
        (late.folder / "go").touch()
        if IS_CHAOS or daemon == "munged":
            late.wait_for_print("Slurm is away, and waited for: ")
        time.sleep(AWAY_S)  # the fault itself
    for sweep, n_trials in ((fresh, 14), (late, 4)):
        assert sweep.wait().exit_code == 0, sweep.printed()
        assert_complete(sweep.database, n_trials, 4)
        assert {trial.lost_count for trial in read_trials(sweep.database)} == {0}
        assert "left out" not in sweep.printed()
    assert ("Slurm is back, after" in late.printed()) == (IS_CHAOS or daemon == "munged")
    assert "trials run at once" not in late.printed()


def test_a_job_is_queued_again_when_slurm_is_back(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    """One on two nodes of which one has more slots, told to stop while slurmctld is away."""
    job = ("-N2", "-n3", "--mem=2G")
    sweep = SlurmSweep(other_cluster, tmp_path / "sweep", *job, REQUEUE=1, N_TRIALS=12, PAUSE_S=0.3)
    sweep.env |= {"SLOTS": "3", "PAUSE_AGAIN_S": "0"}
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    driver = sweep.find_drivers()[0]  # besides what it starts just then
    with other_cluster.without("slurmctld"):
        os.kill(driver, signal.SIGUSR1)
        sweep.wait_for_print("Slurm is away, and waited for: ")
    assert sweep.wait().exit_code == 0, sweep.printed()
    assert sweep.restarts() == 1
    assert "is queued again; it goes on where it stopped" in sweep.printed()
    assert_complete(sweep.database, 12, 4)
    hosts = [(each.host, each.slot) for each in read_attempts(sweep.database)]
    assert {host for host, _ in hosts} == {"n1", "n2"}
    assert {slot for _, slot in hosts} == {0, 1, 2}


#: A Prolog that takes long on one node.
PROLOG = """#!/bin/sh
[ "$SLURMD_NODENAME" = n2 ] || exit 0
for i in $(seq 600); do [ -e {folder}/go ] && exit 0; sleep 0.1; done
"""


def test_a_node_whose_prolog_takes_long_is_used_when_it_is_done(
    other_cluster: SlurmCluster, tmp_path: Path
) -> None:
    prolog = tmp_path / "prolog"
    prolog.write_text(PROLOG.format(folder=tmp_path))
    prolog.chmod(0o755)
    job = ("-N2", "-n4", "--ntasks-per-node=2", "--mem=4G")
    sweep = SlurmSweep(other_cluster, tmp_path / "sweep", *job, N_TRIALS=24, PAUSE_S=0.2, SLOTS=4)
    holds = f"while not os.path.exists({str(tmp_path / 'go')!r}):\n        time.sleep(0.05)"
    sweep.change("def train(cfg):\n", f"def train(cfg):\n    {holds}\n")
    with other_cluster.changed(extra=(f"Prolog={prolog}", "MessageTimeout=4")):
        sweep.submit().wait_for_print("Slurm starts no worker on n2: ")
        (tmp_path / "go").touch()
        assert sweep.wait().exit_code == 0, sweep.printed()
    assert "timed out" in sweep.printed()
    assert "Slurm starts workers on n2 again, after" in sweep.printed()
    assert {attempt.host for attempt in read_attempts(sweep.database)} == {"n1", "n2"}
    assert_complete(sweep.database, 24, 4)


#: How long jobs are suspended, in seconds, when workers are missed: longer than they may be silent
#: here, and in `make chaos` than their time limit allows them to run.
SUSPENDED_S = 75 if IS_CHAOS else 5


def test_suspended_jobs_cost_the_pause_alone(other_cluster: SlurmCluster, tmp_path: Path) -> None:
    """One with its driver, and one whose driver runs elsewhere and finds its workers silent."""
    job = ("-N1", "-n2", "--mem=2G", "-t1")
    whole = SlurmSweep(other_cluster, tmp_path / "whole", *job, N_TRIALS=12, PAUSE_S=0.3)
    lent = other_cluster.sbatch("sleep 600", *job[:3], "-t10", cwd=tmp_path)
    other_cluster.wait_state(lent, ["RUNNING"], WAIT_S)
    node = other_cluster.job(lent)["NodeList"]
    names = {"NODELIST": node, "CPUS_PER_NODE": 2, "NUM_NODES": 1, "ID": lent}
    env = {f"SLURM_JOB_{name}": value for name, value in names.items()}
    env |= {"SLURM_NTASKS": 2, "SLURM_TASKS_PER_NODE": 2, **other_cluster.exports}
    apart = Script(tmp_path / "apart", N_TRIALS=12, PAUSE_S=0.3, **env)
    for sweep in (whole, apart):
        sweep.path.write_text(IMPATIENT + SWEEP)
    with apart.start() as driver:
        whole.submit().wait_for_status(Status.COMPLETED, 1)
        wait_until(lambda: count_status(apart.database, Status.COMPLETED), WAIT_S, apart.printed)
        for verb in ("suspend", "resume"):
            for number in (whole.job, lent):
                other_cluster.run(["scontrol", verb, str(number)])
            if verb == "suspend":
                apart.wait_for_print("nothing is heard from 2 worker(s) on")
                time.sleep(SUSPENDED_S)  # the pause itself
        assert driver.wait(WAIT_S) == 0, apart.printed()
    assert whole.wait().exit_code == 0, whole.printed()
    for sweep in (whole, apart):
        assert_complete(sweep.database, 12, 4)
        assert {trial.attempt for trial in read_trials(sweep.database)} == {1}
        assert "time limit" not in sweep.printed()
