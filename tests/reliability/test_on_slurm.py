"""Faults on a real Slurm. The scenarios run side by side on a cluster of their own, for most of
their time is waiting: for a time limit, for KillWait, for a node to be given up.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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

from cluster_tools import SlurmCluster
from cluster_tools.config import ClusterSpec, SlurmInstall
from cluster_tools.jobs import FINAL_STATES, JobEnd
from cluster_tools.processes import leftover_processes, wait_until
from slurm_sweeps.trial import Status

#: Seconds between TERM and KILL, and seconds of silence after which a node is given up.
KILL_WAIT_S, SLURMD_TIMEOUT_S = 10, 15

pytestmark = pytest.mark.cluster


class SlurmSweep(Script):
    """The sweep as a batch job.

    Args:
        cluster: Where.
        folder: Its own.
        source: The script's text.
        options: For sbatch, apart from two tasks of one CPU; n1 or n2 unless they say where.
        settings: As of `Script`.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        folder: Path,
        *options: str,
        source: str = SWEEP,
        **settings: object,
    ) -> None:
        super().__init__(folder, source, **settings)
        self.cluster = cluster
        self.options = options or ("-xn3,n4",)
        self.job = 0
        self.stopped: set[Status] = set()
        self.restarts_before = 0

    def submit(self, command: str = "") -> SlurmSweep:
        """Hand it in, again if it was before; `command` runs it in another way than once."""
        names = {name: value for name, value in self.env.items() if name not in os.environ}
        names |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        exports = "".join(f"export {name}='{value}'\n" for name, value in names.items())
        text = f"#!/bin/bash\n{exports}{command or f'exec {self.command}'}\n"
        self.job = self.cluster.sbatch(
            text, "-n2", "-c1", "--mem=500M", "--requeue", "--open-mode=append",
            f"--output={self.output}", *self.options, cwd=self.folder,
        )  # fmt: skip
        return self

    @property
    def command(self) -> str:
        """What runs it once."""
        return f"{sys.executable} -u {self.path}"

    def change(self, old: str, new: str) -> SlurmSweep:
        """Change its text."""
        text = self.path.read_text()
        assert text.count(old) == 1
        self.path.write_text(text.replace(old, new))
        return self

    def wait_for_status(self, status: Status, count: int) -> None:
        wait_until(
            lambda: count_status(self.database, status) >= count,
            WAIT_S,
            lambda: f"no {count} trials {status}: {read_trials(self.database)}\n{self.printed()}",
        )

    def wait(self, timeout_s: float = 2 * WAIT_S) -> JobEnd:
        """Wait for the job's end; when it is queued again, let it start at once."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.cluster.job(self.job)
            if job["JobState"] in FINAL_STATES:
                return self.cluster.wait_job(self.job, WAIT_S)
            self.start_now(job)
            time.sleep(1.0)
        away = self.cluster.run(["sinfo", "-R"]).stdout
        raise AssertionError(f"{self.cluster.job(self.job)}\n{away}\n{self.printed()}")

    def note_stop(self) -> SlurmSweep:
        """Take down how it was left by a job that has ended, of which nothing may be left."""
        self.wait_until_gone()
        self.stopped = {trial.status for trial in read_trials(self.database)}
        self.restarts_before = self.restarts()
        return self

    def go_on(self) -> SlurmSweep:
        """Hand the same script in again; it must finish."""
        assert self.submit().wait().exit_code == 0, self.printed()
        return self

    def start_now(self, job: dict[str, str]) -> None:
        """A job that was queued again waits for two minutes (reason BeginTime) unless told.

        Told too early, Slurm may take the end of its former run for that of the next. One that it
        could not launch on a node that came back just then it holds (24.11) until it is released,
        and drains the node.
        """
        reason = job.get("Reason", "") if job["JobState"] == "PENDING" else ""
        if reason == "launch_failed_requeued_held":
            self.cluster.run(["scontrol", "release", str(self.job)], check=False)
        if reason.startswith("ReqNodeNotAvail"):
            nodes = f"nodename={job['ReqNodeList']}"
            self.cluster.run(["scontrol", "update", nodes, "state=resume"], check=False)
        if reason == "BeginTime":
            self.wait_until_gone()
            time.sleep(2.0)
            argv = ["scontrol", "update", f"JobId={self.job}", "StartTime=now"]
            self.cluster.run(argv, check=False)

    def find(self, *words: str) -> list[int]:
        """The pids of this sweep's processes whose command line holds all words, by age."""
        found = sorted(leftover_processes(self.mark), key=lambda process: process.start_ticks)
        return [p.pid for p in found if all(word in p.command for word in words)]

    def find_drivers(self) -> list[int]:
        """The pids of the script's own processes; hosts are told its arguments, too."""
        hosts = self.find("slurm_sweeps.running")
        return [pid for pid in self.find(sys.executable, "sweep.py") if pid not in hosts]

    def kill(self, find: Callable[[], list[int]], which: int = -1) -> None:
        """Kill one process of those found, when there is one; the youngest is the last."""

        def kill_one() -> bool:
            with contextlib.suppress(IndexError, ProcessLookupError):
                os.kill(find()[which], signal.SIGKILL)
                return True
            return False

        wait_until(kill_one, WAIT_S, self.printed)

    def list_losses(self) -> list[str]:
        """How each lost attempt was lost."""
        attempts = read_attempts(self.database)
        return [a.error.type for a in attempts if a.status is Status.LOST and a.error]

    def restarts(self) -> int:
        return int(self.cluster.job(self.job)["Restarts"])


# --- the scenarios --------------------------------------------------------------------------------


def meet_a_time_limit(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """One minute is allowed, the sweep takes longer; nobody has asked for a signal in time.

    Nor has anybody written `exec`: the driver is the batch shell's child.
    """
    n_trials = 90 if IS_CHAOS else 28
    sweep = SlurmSweep(cluster, folder, "-xn3,n4", "-t1", N_TRIALS=n_trials, PAUSE_S=1, REQUEUE=1)
    sweep.submit(f"{sys.executable} -u {sweep.path}; exit $?").wait(timeout_s=900)
    return sweep


def be_preempted(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """A job of the higher partition needs the node; the script would overwrite what is there."""
    sweep = SlurmSweep(cluster, folder, "-wn4", N_TRIALS=12, PAUSE_S=0.2, REQUEUE=1, OVERWRITE=1)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    urgent = cluster.sbatch("sleep 1", "-purgent", "-wn4", "--exclusive", cwd=folder)
    cluster.wait_job(urgent, WAIT_S)
    sweep.wait()
    return sweep


def be_cancelled(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    sweep = SlurmSweep(cluster, folder, N_TRIALS=8, PAUSE_S=0.4, REQUEUE=1)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    cluster.cancel(sweep.job)
    assert sweep.wait().state == "CANCELLED"
    return sweep.note_stop().go_on()


def get_a_signal_from_sbatch(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """USR1 to the batch script alone, as `--signal=B:USR1@300` sends it; no requeue asked."""
    sweep = SlurmSweep(cluster, folder, N_TRIALS=8, PAUSE_S=0.4)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    cluster.cancel(sweep.job, "--signal=USR1", "--batch")
    assert sweep.wait().exit_code == 75, sweep.printed()
    return sweep.note_stop().go_on()


def lose_processes(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """An srun, a worker and a trial are killed, one after another."""
    sweep = SlurmSweep(cluster, folder, N_TRIALS=14, PAUSE_S=1.2)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    sweep.kill(lambda: sweep.find("srun", "--job-name=slot-0"), which=0)  # it has a helper
    sweep.wait_for_status(Status.COMPLETED, 4)
    sweep.kill(sweep.find_workers)
    sweep.wait_for_status(Status.COMPLETED, 6)
    while "SIGKILL" not in sweep.list_losses():  # one that has just ended can't be killed
        sweep.kill(sweep.find_trials)
        time.sleep(1.0)
    assert sweep.wait().exit_code == 0, sweep.printed()
    sweep.wait_until_gone()
    return sweep


def be_killed(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """The driver is killed at random moments, each time in a job of its own."""
    randomness = random.Random(3)
    n_trials, rounds = (100, 12) if IS_CHAOS else (12, 2)
    sweep = SlurmSweep(cluster, folder, N_TRIALS=n_trials, PAUSE_S=0.1)
    for _ in range(rounds):
        sweep.submit()
        cluster.wait_state(sweep.job, ["RUNNING", *FINAL_STATES], WAIT_S)
        time.sleep(randomness.uniform(0.5, 6.0))
        for pid in sweep.find_drivers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sweep.wait()
        sweep.wait_until_gone()
    assert sweep.submit().wait().exit_code == 0, sweep.printed()
    return sweep


def be_killed_within_a_job(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """The batch script starts the driver again at once, while its steps may still be ending."""
    sweep = SlurmSweep(cluster, folder, N_TRIALS=30, PAUSE_S=0.3)
    sweep.submit(f"until {sys.executable} -u {sweep.path}; do echo again; done")
    for count in (2, 5, 8):
        sweep.wait_for_status(Status.COMPLETED, count)
        sweep.kill(sweep.find_drivers, which=0)  # the youngest may be its child
    assert sweep.wait().exit_code == 0, sweep.printed()
    assert sweep.printed().count("again") == 3
    sweep.wait_until_gone()
    return sweep


def lose_a_node(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """A slurmd is killed: Slurm gives its node up, ends the job after KillWait, and queues it."""
    where = ("-N2", "--ntasks-per-node=1", "-wn2,n3")
    sweep = SlurmSweep(cluster, folder, *where, N_TRIALS=80, PAUSE_S=0.8, PAUSE_AGAIN_S=0.05)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)

    def list_jobs() -> list[str]:
        return cluster.run(["squeue", "-a", "-h", "-wn3", "-o", "%A"]).stdout.split()

    # Others play there too, and their jobs would be lost with it.
    wait_until(lambda: list_jobs() == [str(sweep.job)], WAIT_S, lambda: f"on n3: {list_jobs()}")
    cluster.kill_node("n3")
    try:
        wait_until(lambda: sweep.restarts() > 0, WAIT_S, sweep.printed)
    finally:
        cluster.start_node("n3")
    assert sweep.wait().exit_code == 0, sweep.printed()
    return sweep


BAD_NODE = """
import os, time
import slurm_sweeps as ss

class Trap:  # ends whoever unpickles it on one of the nodes
    def __reduce__(self):
        return exec, (
            "import os; os.getenv('SLURMD_NODENAME') == 'n3' and "
            "(open('deaths', 'a').write('x'), os._exit(9))",
        )

def train(cfg, trap=Trap()):
    deaths = "../../../deaths"
    while not os.path.exists(deaths) or os.path.getsize(deaths) < 3:
        time.sleep(0.02)
    for iteration in range(1, 5):
        ss.log({"loss": cfg["x"] / iteration}, iteration)

if __name__ == "__main__":
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", "out", restore="auto")
    experiment.run(int(os.environ["N_TRIALS"]), summary_interval_in_sec=1)
"""


#: The workers of n1 wait for the one of n3.
MISSING_ON_A_NODE = SWEEP.replace(
    "def train(cfg):",
    """
def load():
    if os.environ["SLURMD_NODENAME"] == "n3":
        open("refused", "w").close()
        raise ImportError("there is no such thing on n3")
    while not os.path.exists("refused"):
        time.sleep(0.05)

class Needed:
    def __reduce__(self):
        return load, ()

needed = Needed()

def train(cfg):
    needed""",
)


def leave_a_node_out(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """On one of two nodes every worker ends at once."""
    where = ("-N2", "--ntasks-per-node=1", "-wn1,n3")
    sweep = SlurmSweep(cluster, folder, *where, N_TRIALS=400)
    sweep.path.write_text(BAD_NODE)
    return sweep.go_on()


def load_train_on_one_node_only(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """What train needs is missing on a node, which is the first to say so."""
    where = ("-N2", "--ntasks-per-node=1", "-wn1,n3")
    sweep = SlurmSweep(cluster, folder, *where, N_TRIALS=20)
    sweep.path.write_text(MISSING_ON_A_NODE)
    return sweep.go_on()


#: What is silent is asked after and given up within seconds instead of minutes.
IMPATIENT = """
import slurm_sweeps.running.slots

slurm_sweeps.running.slots.ASK_AFTER_S, slurm_sweeps.running.slots.SILENT_S = 7.0, 9.0
slurm_sweeps.running.slots.MAX_STALLS = 2
"""


def lose_a_slurmstepd(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """The link to a worker ends, and nobody is told: its srun waits on."""
    sweep = SlurmSweep(cluster, folder, N_TRIALS=14, PAUSE_S=0.5)
    sweep.path.write_text(IMPATIENT + SWEEP)
    sweep.submit().wait_for_status(Status.COMPLETED, 2)
    (step,) = leftover_processes(f"slurmstepd: [{sweep.job}.1]")
    os.kill(step.pid, signal.SIGKILL)
    assert sweep.wait().exit_code == 0, sweep.printed()
    return sweep


def find_no_room_for_a_slot(cluster: SlurmCluster, folder: Path) -> SlurmSweep:
    """Another step of the job has the place of one of its slots."""
    sweep = SlurmSweep(cluster, folder, N_TRIALS=14, PAUSE_S=0.4)
    sweep.path.write_text(IMPATIENT + SWEEP)
    other = "srun --exact -n1 -c1 --mem=200M sh -c 'touch taken; sleep 300' &"
    sweep.submit(f"{other}\nuntil [ -e taken ]; do sleep 0.1; done\n{sweep.command}\nkill -9 $!")
    sweep.wait()
    return sweep


SCENARIOS: tuple[Callable[[SlurmCluster, Path], SlurmSweep], ...] = (
    meet_a_time_limit,
    lose_a_node,
    be_preempted,
    be_cancelled,
    get_a_signal_from_sbatch,
    lose_processes,
    be_killed,
    be_killed_within_a_job,
    leave_a_node_out,
    load_train_on_one_node_only,
    lose_a_slurmstepd,
    find_no_room_for_a_slot,
)

Played = dict[str, "Future[SlurmSweep]"]


@pytest.fixture(scope="module")
def played(
    needs_slurm: None,  # noqa: ARG001 # skips
    install: SlurmInstall,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Played]:
    """All scenarios, started at once; each test waits for its own."""
    folder = tmp_path_factory.mktemp("slurm")
    spec = ClusterSpec(kill_wait_s=KILL_WAIT_S, slurmd_timeout_s=SLURMD_TIMEOUT_S)
    with (
        SlurmCluster(spec, install=install, owner=os.getpid(), label="reliability") as cluster,
        ThreadPoolExecutor(len(SCENARIOS)) as pool,
    ):
        yield {
            play.__name__: pool.submit(play, cluster, folder / play.__name__) for play in SCENARIOS
        }


# --- what must hold -------------------------------------------------------------------------------


def test_a_time_limit_is_met_and_the_job_queued_again_until_done(played: Played) -> None:
    sweep = played["meet_a_time_limit"].result()
    assert sweep.wait().exit_code == 0, f"{sweep.cluster.job(sweep.job)}\n{sweep.printed()}"
    assert sweep.restarts() >= (3 if IS_CHAOS else 1)
    assert "time limit: starting nothing new" in sweep.printed()
    assert "to go on, submit the job again" not in sweep.printed()
    assert_complete(sweep.database, 90 if IS_CHAOS else 28, 4)


def test_a_preempted_sweep_goes_on_by_itself(played: Played) -> None:
    sweep = played["be_preempted"].result()
    assert sweep.wait().state == "COMPLETED", sweep.printed()
    assert sweep.restarts() == 1
    assert "SIGTERM: starting nothing new" in sweep.printed()
    assert f"job {sweep.job} was queued again, and goes on with 'sweep'" in sweep.printed()
    assert Status.INTERRUPTED in {a.status for a in read_attempts(sweep.database)}
    assert Status.LOST not in {a.status for a in read_attempts(sweep.database)}
    assert_complete(sweep.database, 12, 4)


def test_a_cancelled_sweep_stays_so_until_it_is_submitted_again(played: Played) -> None:
    sweep = played["be_cancelled"].result()
    assert sweep.stopped == {Status.COMPLETED, Status.INTERRUPTED}
    assert sweep.restarts_before == 0
    assert "was cancelled: it is not queued again" in sweep.printed()
    assert_complete(sweep.database, 8, 4)


def test_a_signal_before_the_end_stops_the_sweep(played: Played) -> None:
    sweep = played["get_a_signal_from_sbatch"].result()
    assert "SIGUSR1: starting nothing new" in sweep.printed()
    assert "with SlurmCfg(requeue=True) it is queued again by itself" in sweep.printed()
    assert sweep.stopped == {Status.COMPLETED, Status.INTERRUPTED}
    assert sweep.restarts_before == 0
    assert_complete(sweep.database, 8, 4)


def test_killed_sruns_workers_and_trials_are_made_up_for(played: Played) -> None:
    sweep = played["lose_processes"].result()
    losses = sweep.list_losses()
    assert set(losses) == {"SIGKILL", "WorkerLost"}
    assert losses.count("WorkerLost") == 2
    assert_complete(sweep.database, 14, 4)


def test_a_killed_driver_is_made_up_for(played: Played) -> None:
    sweep = played["be_killed"].result()
    assert_complete(sweep.database, 100 if IS_CHAOS else 12, 4)


def test_a_driver_that_is_started_again_at_once_goes_on(played: Played) -> None:
    sweep = played["be_killed_within_a_job"].result()
    assert_complete(sweep.database, 30, 4)


def test_a_lost_node_costs_a_restart_and_nothing_else(played: Played) -> None:
    sweep = played["lose_a_node"].result()
    assert_complete(sweep.database, 80, 4)


def test_a_node_on_which_workers_keep_dying_is_left_out(played: Played) -> None:
    sweep = played["leave_a_node_out"].result()
    assert "n3 is left out for 60 s: 3 workers in a row ended there" in sweep.printed()
    assert {attempt.host for attempt in read_attempts(sweep.database)} == {"n1"}
    assert_complete(sweep.database, 400, 4)


def test_a_node_on_which_train_can_not_be_loaded_is_left_out(played: Played) -> None:
    sweep = played["load_train_on_one_node_only"].result()
    assert "ImportError: there is no such thing on n3" in sweep.printed()
    assert {attempt.host for attempt in read_attempts(sweep.database)} == {"n1"}
    assert_complete(sweep.database, 20, 4)


def test_a_silent_worker_is_given_up_while_its_job_runs(played: Played) -> None:
    sweep = played["lose_a_slurmstepd"].result()
    assert "nothing is heard from 1 worker(s) on" in sweep.printed()
    assert "was silent for 9 s and was given up" in sweep.printed()
    assert sweep.list_losses() == ["WorkerLost"]
    assert_complete(sweep.database, 14, 4)


def test_a_slot_that_slurm_has_no_room_for_is_taken_off_the_plan(played: Played) -> None:
    sweep = played["find_no_room_for_a_slot"].result()
    assert sweep.printed().count("taken off the plan, slot ") == 1
    assert f"`scontrol show step {sweep.job}` tells whether another one" in sweep.printed()
    assert sweep.list_losses() == []
    assert_complete(sweep.database, 14, 4)
