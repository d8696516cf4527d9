"""The test cluster itself: what other tests take for granted about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster_tools import (
    ClusterError,
    ClusterSpec,
    SlurmCluster,
    leftover_processes,
    stop_orphans,
    wait_until,
)

SMALL = ClusterSpec(nodes=1, cpus=4, gpus=1, memory_mb=1000, preemption=False)


# The session's cluster.


def test_all_nodes_are_idle(cluster: SlurmCluster) -> None:
    assert cluster.node_states() == {"n1": "idle", "n2": "idle", "n3": "idle", "n4": "idle"}


def test_a_step_runs_over_two_nodes(cluster: SlurmCluster) -> None:
    done = cluster.run(["srun", "-N2", "-n2", "-l", "printenv", "SLURMD_NODENAME"])
    assert sorted(done.stdout.splitlines()) == ["0: n1", "1: n2"]


def test_a_gpu_step_sees_one_gpu(cluster: SlurmCluster) -> None:
    done = cluster.run(["srun", "-n1", "--gres=gpu:1", "printenv", "CUDA_VISIBLE_DEVICES"])
    assert done.stdout == "0\n"


def test_a_batch_job_ends_with_its_exit_code(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = cluster.sbatch("echo hello; exit 3", cwd=tmp_path)
    end = cluster.wait_job(job_id, timeout_s=30)
    assert (end.state, end.exit_code, end.signal) == ("FAILED", 3, 0)
    assert cluster.job_output(job_id) == "hello\n"


def test_a_running_job_shows_its_steps(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = cluster.sbatch("srun -c2 --exact sleep 100", "-n1", "-c4", cwd=tmp_path)
    cluster.wait_state(job_id, ["RUNNING"], timeout_s=30)
    wait_until(lambda: len(cluster.steps(job_id)) == 2, 30, lambda: str(cluster.steps(job_id)))
    step = next(step for step in cluster.steps(job_id) if step["StepId"] == f"{job_id}.0")
    assert step["CPUs"] == "2"


def test_clear_ends_jobs_that_ignore_term(cluster: SlurmCluster, tmp_path: Path) -> None:
    mark = f"MARK={uuid.uuid4()}"
    script = f"export {mark}; trap '' TERM; srun -n2 bash -c 'trap \"\" TERM; sleep 100'"
    job_id = cluster.sbatch(script, "-n2", cwd=tmp_path)
    cluster.wait_state(job_id, ["RUNNING"], timeout_s=30)
    wait_until(lambda: leftover_processes(mark), 30, lambda: "no task has started")
    cluster.clear(timeout_s=25)
    wait_until(lambda: not leftover_processes(mark), 5, lambda: str(leftover_processes(mark)))


def test_cancel_ends_a_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = cluster.sbatch("sleep 100", cwd=tmp_path)
    cluster.cancel(job_id)
    assert cluster.wait_job(job_id, timeout_s=30).state == "CANCELLED"


def test_the_urgent_partition_preempts(cluster: SlurmCluster, tmp_path: Path) -> None:
    whole = ("-N4", "--exclusive")
    low = cluster.sbatch("sleep 100", *whole, cwd=tmp_path)
    cluster.wait_state(low, ["RUNNING"], timeout_s=30)
    high = cluster.sbatch("true", "-p", "urgent", *whole, cwd=tmp_path)
    assert cluster.wait_job(high, timeout_s=60).state == "COMPLETED"
    assert cluster.job(low)["Restarts"] == "1"


def test_behaviour_is_changed_for_a_while(cluster: SlurmCluster) -> None:
    def kill_wait() -> str:
        shown = cluster.run(["scontrol", "show", "config"]).stdout
        return next(line for line in shown.splitlines() if line.startswith("KillWait")).split()[2]

    with cluster.changed(kill_wait_s=3):
        assert kill_wait() == "3"
    assert kill_wait() == "30"


def test_a_killed_node_comes_back(cluster: SlurmCluster) -> None:
    before = cluster.pids["n4"]
    cluster.kill_node("n4")
    assert "n4" not in cluster.pids
    cluster.start_node("n4")
    assert cluster.pids["n4"] != before
    cluster.wait_idle()
    done = cluster.run(["srun", "-w", "n4", "printenv", "SLURMD_NODENAME"])
    assert done.stdout == "n4\n"


def test_a_failed_command_says_why(cluster: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match=r"\['srun', '-pno', 'true'\] exited with 1:\n.*invalid"):
        cluster.run(["srun", "-pno", "true"])


def test_a_slow_command_shows_the_queue(cluster: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match=r"(?s)'60'\] took more than 1 s.*PARTITION"):
        cluster.run(["srun", "sleep", "60"], timeout_s=1)


def test_a_job_that_does_not_end_shows_its_output(cluster: SlurmCluster, tmp_path: Path) -> None:
    job_id = cluster.sbatch("echo so far; sleep 100", cwd=tmp_path)
    cluster.wait_state(job_id, ["RUNNING"], timeout_s=30)
    wait_until(lambda: cluster.job_output(job_id), 30, lambda: "no output")
    with pytest.raises(ClusterError, match=rf"(?s)job {job_id} is not yet .*PARTITION.*so far"):
        cluster.wait_job(job_id, timeout_s=0.2)


# Clusters of a test's own.


@pytest.fixture
def small(needs_slurm: None) -> Iterator[SlurmCluster]:  # noqa: ARG001 # skips
    with SlurmCluster(SMALL, owner=os.getpid()) as running:
        yield running


@pytest.mark.cluster
def test_stop_leaves_nothing_behind(small: SlurmCluster, tmp_path: Path) -> None:
    mark = f"MARK={uuid.uuid4()}"
    job_id = small.sbatch(f"export {mark}; srun -n2 sleep 100", "-n2", cwd=tmp_path)
    small.wait_state(job_id, ["RUNNING"], timeout_s=30)
    wait_until(lambda: len(leftover_processes(mark)) >= 3, 30, lambda: "no task has started")
    daemons = small.daemons.started
    small.stop()
    assert leftover_processes(mark) == []
    assert leftover_processes(str(small.base)) == []
    assert [daemon for daemon in daemons if daemon.is_alive()] == []
    assert not small.base.exists()


@pytest.mark.cluster
def test_a_daemon_that_ends_is_named_with_its_log(small: SlurmCluster) -> None:
    os.kill(small.pids["n1"], 9)
    node = small.daemons.started[-1]
    wait_until(lambda: not node.is_alive(), 10, lambda: f"{node} is alive")
    with pytest.raises(ClusterError, match=r"(?s)n1 ended with -9\n.*slurmd"):
        small.wait_idle()


@pytest.mark.cluster
def test_a_daemon_that_does_not_end_is_named(small: SlurmCluster) -> None:
    with pytest.raises(ClusterError, match=r"n1 survived signal 18 by 0.1 s\n"):
        small.daemons.kill("n1", signal.SIGCONT, timeout_s=0.1)


@pytest.mark.cluster
@pytest.mark.usefixtures("needs_slurm")
def test_a_cluster_that_does_not_start_says_why_and_leaves_nothing() -> None:
    cluster = SlurmCluster(ClusterSpec(nodes=1, extra=("NoSuchOption=1",)))
    with pytest.raises(ClusterError, match="NoSuchOption"):
        cluster.start()
    assert leftover_processes(str(cluster.base)) == []
    assert not cluster.base.exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("needs_slurm")
def test_orphans_of_a_crashed_run_are_ended() -> None:
    code = """
        import os
        from cluster_tools import ClusterSpec, SlurmCluster

        cluster = SlurmCluster(ClusterSpec(nodes=1), owner=os.getpid()).start()
        print(cluster.base, flush=True)
        os.kill(os.getpid(), 9)
    """
    crashed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parent,
    )
    base = Path(crashed.stdout.strip())
    daemons = json.loads((base / "cluster.json").read_text())["daemons"]
    assert set(daemons) == {"munged", "slurmctld", "n1"}
    stop_orphans()
    # Another run of tests on this machine may have been at it already.
    wait_until(lambda: not base.exists(), 60, lambda: f"{base} is still there")
    assert leftover_processes(str(base)) == []


@pytest.mark.cluster
@pytest.mark.usefixtures("needs_slurm")
def test_make_cluster_finds_the_one_that_runs(tmp_path: Path) -> None:
    def play(action: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "cluster_tools", action],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    try:
        first, second = play("start"), play("start")
        assert first == second
        assert "export SLURM_CONF=/" in first
    finally:
        stopped = play("stop")
    assert stopped.startswith("ended /")
