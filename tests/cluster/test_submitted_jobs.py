"""A driver outside of any job, whose trials run in the jobs that it submits itself."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import slurm_sweeps as ss
from cluster_tools import SlurmCluster, wait_until
from slurm_sweeps.slurm.jobs import build_job_name

TIMEOUT_S = 90

#: Each trial says in which job it runs, then waits for the word to go on.
SWEEP = """
import os, pathlib, time
import slurm_sweeps as ss
from slurm_sweeps.running import recruiter
from slurm_sweeps.storage import writer

# Instead of 45, 15 and 10 seconds.
recruiter.WAIT_S, recruiter.POLL_S, writer.HEARTBEAT_INTERVAL_S = {wait_s}, 3, 1
HERE = pathlib.Path({folder!r})

def train(cfg):
    job = os.environ["SLURM_JOB_ID"]
    (HERE / f"{{time.time_ns()}}.{{job}}").touch()
    deadline = time.monotonic() + {trial_s}
    while not (HERE / "release").exists() and time.monotonic() < deadline:
        if ss.should_stop():
            break
        time.sleep(0.05)
    ss.log({{"loss": cfg["x"], "seen": float(os.environ.get("SEEN", "nan"))}}, 1)

if __name__ == "__main__":
    jobs = ss.Jobs(most=3, args={args!r}, setup={setup!r})
    experiment = ss.Experiment(
        train, {{"x": ss.Uniform(0, 1)}}, name="hired", metric="loss", mode="min",
        slurm_cfg=ss.SlurmCfg(jobs=jobs), restore="auto",
    )
    experiment.run(n_trials={n_trials}, grace_period_in_sec=3)
"""

ARGS = "-N1 -n2 -c1 --mem=500M -t5"
#: Two of these fill the cluster's four nodes.
WIDE = "-N2 -n2 --exclusive -t5"


class Driver:
    """A sweep's process, outside of any job or in what is `around` it, and its jobs."""

    def __init__(
        self, cluster: SlurmCluster, folder: Path, around: Sequence[str] = (), **cfg: object
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.here = folder / "here"
        self.here.mkdir(exist_ok=True)
        cfg = {
            "folder": str(self.here),
            "args": ARGS,
            "setup": [],
            "n_trials": 6,
            "trial_s": 60,
            "wait_s": 5,
        } | cfg
        (folder / "sweep.py").write_text(SWEEP.format(**cfg))
        self.output = folder / "driver.txt"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*around, sys.executable, "sweep.py"],
                cwd=folder,
                env=cluster.env,
                stdout=output,
                stderr=output,
            )

    @property
    def jobs(self) -> dict[str, str]:
        """The sweep's jobs that wait or run: id to state."""
        name = build_job_name("hired", str(self.folder / "slurm-sweeps" / "hired"))
        done = self.cluster.run(["squeue", "-h", f"--name={name}", "-o", "%A %T"])
        jobs = dict(line.split() for line in done.stdout.splitlines())
        return {job: state for job, state in jobs.items() if state != "COMPLETING"}

    def describe(self) -> str:
        logs = sorted((self.folder / "slurm-sweeps" / "hired" / "jobs").glob("*.log"))
        texts = [log.read_text() for log in logs if log.exists()]
        return "\n".join([self.output.read_text(), str(self.jobs), *texts])

    def list_begun(self) -> list[str]:
        """Return in which job each attempt began, in their order."""
        names = [file.name for file in self.here.iterdir() if file.name != "release"]
        return [name.partition(".")[2] for name in sorted(names)]

    def wait_for_begun(self, count: int) -> list[str]:
        wait_until(lambda: len(self.list_begun()) >= count, TIMEOUT_S, self.describe)
        return self.list_begun()

    def wait_until_all_gone(self) -> None:
        wait_until(lambda: not self.jobs, 60, self.describe)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def release(self) -> None:
        (self.here / "release").touch()


@contextlib.contextmanager
def drive(
    cluster: SlurmCluster, folder: Path, around: Sequence[str] = (), **cfg: object
) -> Iterator[Driver]:
    driver = Driver(cluster, folder, around, **cfg)
    try:
        yield driver
    finally:
        driver.kill()
        for job in driver.jobs:
            cluster.cancel(int(job))


def test_jobs_are_submitted_used_replaced_and_gone_at_the_end(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Six trials, two a job: three jobs. One that is cancelled is replaced, at no trial's cost.

    The driver runs in a small job, and in a step of that as a notebook does.
    """
    around = ["srun", "-n1", "-c1", "--mem=300M", "-t5", "--overlap"]
    with drive(cluster, tmp_path, around, n_trials=6, setup=["export SEEN=7"]) as driver:
        first = set(driver.wait_for_begun(6))
        assert len(first) == 3
        show = [sys.executable, "-m", "slurm_sweeps", "show", "hired"]
        shown = subprocess.run(show, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "6 of 6 slots busy, jobs: 3 lend" in shown.stdout
        cluster.cancel(int(min(first)))
        wait_until(lambda: len(set(driver.list_begun())) == 4, TIMEOUT_S, driver.describe)
        driver.release()
        assert driver.process.wait(TIMEOUT_S) == 0, driver.describe()
        driver.wait_until_all_gone()
        trials = ss.Result("hired", tmp_path / "slurm-sweeps").trials
        assert [trial.status for trial in trials] == [ss.Status.COMPLETED] * 6
        assert {trial.metrics["seen"][1] for trial in trials} == {7.0}
        with sqlite3.connect(tmp_path / "slurm-sweeps" / "slurm-sweeps.db") as database:
            assert database.execute("SELECT max(lost_count) FROM trials").fetchone() == (0,)
        assert "join" in (tmp_path / "slurm-sweeps" / "hired" / "jobs" / "job.sh").read_text()


def wait_for_queue(driver: Driver, **count: int) -> None:
    def count_states() -> dict[str, int]:
        states = list(driver.jobs.values())
        return {state: states.count(state) for state in ("RUNNING", "PENDING")}

    wanted = {"RUNNING": 0, "PENDING": 0, **count}
    wait_until(lambda: count_states() == wanted, TIMEOUT_S, driver.describe)


def test_ctrl_c_ends_all_jobs(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Those that run, and the one that waits."""
    with drive(cluster, tmp_path, args=WIDE) as driver:
        driver.wait_for_begun(4)
        wait_for_queue(driver, RUNNING=2, PENDING=1)
        driver.process.send_signal(signal.SIGINT)
        assert driver.process.wait(TIMEOUT_S) == 130, driver.describe()
        driver.wait_until_all_gone()


def test_a_killed_driver_is_followed_by_another_and_else_leaves_no_job(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """The next one takes over those that wait, and that run; at last all go, and one that waits."""
    others = cluster.sbatch("sleep 600", "-N4", "--exclusive", cwd=tmp_path)
    cluster.wait_state(others, ["RUNNING"], TIMEOUT_S)
    with contextlib.ExitStack() as stack:

        def begin() -> Driver:
            return stack.enter_context(drive(cluster, tmp_path, args=WIDE, wait_s=12))

        driver = begin()
        wait_for_queue(driver, PENDING=3)
        waiting = set(driver.jobs)
        driver.kill()
        driver = begin()
        cluster.cancel(others)
        first = driver.wait_for_begun(4)
        assert set(first) < waiting == set(driver.jobs)
        driver.kill()
        driver = begin()
        begun = driver.wait_for_begun(8)
        assert set(begun) == set(first)
        wait_for_queue(driver, RUNNING=2, PENDING=1)
        driver.kill()
        driver.wait_until_all_gone()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("-p nowhere", "invalid partition specified: nowhere"),
        ("--gres=gpu:99", "Requested node configuration is not available"),
        ("--no-such-option", "unrecognized option '--no-such-option'"),
    ],
)
def test_what_sbatch_refuses_is_told_in_its_own_words(
    cluster: SlurmCluster, tmp_path: Path, args: str, words: str
) -> None:
    with drive(cluster, tmp_path, args=args) as driver:
        assert driver.process.wait(TIMEOUT_S) == 1
        last = driver.output.read_text().splitlines()[-1]
        assert re.search(f"LaunchError: sbatch submits no job: .*{words}.* Mend SlurmCfg", last)
        assert not driver.jobs


def test_jobs_that_fail_and_can_not_say_why_are_told_of(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """As on nodes that don't see the experiment's folder: what a job prints can't be kept there."""
    with drive(cluster, tmp_path, args=f"{ARGS} --begin=now+4") as driver:
        wait_for_queue(driver, PENDING=3)
        for job in driver.jobs:
            log = tmp_path / "slurm-sweeps" / "hired" / "jobs" / f"job-{job}.log"
            log.symlink_to("nowhere/log")
        why = r"JobLaunchFailure|RaisedSignal:53\(.*\)"  # 24.11 says it in the second way
        told = rf"job {job} has ended .* failed \(({why})\), and printed nothing: do all"
        find = lambda: re.search(told, driver.output.read_text())  # noqa: E731
        wait_until(find, TIMEOUT_S, driver.describe)


@pytest.mark.chaos  # takes a minute
def test_nothing_is_begun_that_would_be_lost_and_the_job_goes_early(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """A job of a minute has 51 s for trials of 12: it takes four, one by one, and goes."""
    args = "-N1 -n1 -c1 --mem=500M -t1"
    told = r"job (\d+) is released: nothing comes to an end in \d+ s; 1[234] s are needed"
    with drive(cluster, tmp_path, n_trials=20, trial_s=12, args=args) as driver:
        find = lambda: re.search(told, driver.output.read_text())  # noqa: E731
        wait_until(find, TIMEOUT_S, driver.describe)
        found = find()
        assert found is not None
        assert driver.list_begun().count(found[1]) in (3, 4)
        trials = ss.Result("hired", tmp_path / "slurm-sweeps").trials
        assert all(trial.attempt == 1 for trial in trials)
