"""On a real Slurm: what happens to a trial of four ranks when one of them misbehaves."""

from __future__ import annotations

from pathlib import Path

from rank_jobs import TIMEOUT_S, read_ranks, read_result, run_sweep, start_sweep

from cluster_tools import SlurmCluster, wait_until
from slurm_sweeps import Trial


def run_with_fault(
    cluster: SlurmCluster, folder: Path, fault: str, at_once: int = 1
) -> tuple[Trial, Trial]:
    """Run two trials, of which the first has a fault; by default one after the other."""
    run_sweep(cluster, folder, "faults_sweep.py", fault, str(at_once), "2")
    trials = read_result(folder, "faults").trials
    first, second = sorted(trials, key=lambda trial: trial.cfg["number"])
    return first, second


def test_a_killed_rank_fails_the_trial_soon_and_frees_the_slot(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    first, second = run_with_fault(cluster, tmp_path, "kill_a_rank")
    assert (first.status, second.status) == ("failed", "completed")
    assert first.error
    assert first.error.message == "rank 2: the trial's process was killed by SIGKILL"
    (killed,) = tmp_path.glob("slurm-sweeps/faults/*/killed")
    assert first.end_time
    # The promise, not a measurement: the others sat in a call that no TERM reaches.
    assert first.end_time.timestamp() - float(killed.read_text()) < 10
    assert max(second.metrics["loss"]) == 6


def test_a_rank_that_raises_fails_the_trial_with_its_traceback(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    first, second = run_with_fault(cluster, tmp_path, "raise_in_a_rank")
    assert (first.status, second.status) == ("failed", "completed")
    assert first.error
    assert first.error.type == "ValueError"
    assert first.error.message == "rank 3: rank three has had enough"
    assert "in raise_in_a_rank" in first.error.traceback
    (log,) = tmp_path.glob(f"slurm-sweeps/faults/{first.trial_id}/stderr.3.log")
    assert "rank three has had enough" in log.read_text()


def test_a_silent_trial_is_ended_and_every_rank_shows_where_it_is(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    first, second = run_with_fault(cluster, tmp_path, "fall_silent")
    assert (first.status, second.status) == ("failed", "completed")
    assert first.error
    assert first.error.type == "TrialSilent"
    assert "reported nothing for max_silence_sec=10; its stderr" in first.error.message
    assert second.memory_mb  # of all ranks, that of each being some ten
    assert second.cpu_sec
    assert second.memory_mb > 20
    where = {0: "all_reduce", 1: "all_reduce", 2: "all_reduce", 3: "sit"}
    for rank, function in where.items():
        name = f"stderr.{rank}.log" if rank else "stderr.log"
        log = (tmp_path / "slurm-sweeps" / "faults" / first.trial_id / name).read_text()
        assert f" in {function}\n" in log, log


def test_rank_0_alone_may_log(cluster: SlurmCluster, tmp_path: Path) -> None:
    first, second = run_with_fault(cluster, tmp_path, "only_rank_0_logs")
    assert (first.status, second.status) == ("completed", "completed")
    assert len(first.metrics["loss"]) == len(second.metrics["loss"]) == 6


def test_a_rank_that_hangs_after_a_prune_is_ended(cluster: SlurmCluster, tmp_path: Path) -> None:
    first, second = run_with_fault(cluster, tmp_path, "hang_when_pruned", at_once=2)
    assert (first.status, second.status) == ("pruned", "completed")
    assert list(tmp_path.glob(f"slurm-sweeps/faults/{first.trial_id}/stays"))


def test_a_stop_takes_all_ranks_at_the_same_iteration(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    job_id = start_sweep(cluster, tmp_path, "faults_sweep.py", "run_until_stopped", "2", "20")
    running = "slurm-sweeps/faults/*/running"
    wait_until(
        lambda: len(list(tmp_path.glob(running))) == 2,
        TIMEOUT_S,
        lambda: cluster.job_output(job_id),
    )
    cluster.cancel(job_id, "--batch", "--signal=USR1")
    assert cluster.wait_job(job_id, TIMEOUT_S).exit_code == 75
    assert [trial.status for trial in read_result(tmp_path, "faults").trials] == ["interrupted"] * 2
    left = read_ranks(tmp_path, "left.*.json")
    assert [len(ranks) for ranks in left.values()] == [4, 4]
    assert all(len(set(ranks)) == 1 for ranks in left.values()), left
