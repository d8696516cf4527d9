"""One sweep in several Slurm jobs: they come, go, and take the driver's place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from reliable_sweeps import (
    IS_CHAOS,
    NAME,
    SWEEP,
    WAIT_S,
    Script,
    assert_complete,
    count_status,
    read_attempts,
    read_curves,
    read_trials,
)
from reliable_trains import succeed

import slurm_sweeps as ss
from cluster_tools import SlurmCluster
from cluster_tools.jobs import FINAL_STATES
from cluster_tools.processes import wait_until
from frameworks import require_package
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.jobs import read_jobs
from slurm_sweeps.storage.records import AttemptRecord, JobRecord
from slurm_sweeps.trial import Status

pytestmark = pytest.mark.cluster

JOINED = SWEEP.replace('{"restore": "auto"}', '{"join": True}').replace(
    'max_concurrent_trials=int(os.environ.get("SLOTS", "2")), ', ""
)
assert JOINED.count("join") == 1
assert "SLOTS" not in JOINED

#: Trials go on when they may, or are told to leave.
HELD = JOINED.replace(
    "        time.sleep(PAUSE_S)\n",
    "        time.sleep(PAUSE_S)\n"
    "        while os.path.exists('../../../held') and not ss.should_stop():\n"
    "            time.sleep(0.05)\n",
)
assert HELD.count("held") == 1


class JoinedSweep(Script):
    """The same script, or `slurm-sweeps join`, in any number of jobs."""

    def __init__(
        self, cluster: SlurmCluster, folder: Path, source: str = JOINED, **settings: object
    ) -> None:
        super().__init__(folder, source, **settings)
        self.cluster = cluster
        self.jobs: list[int] = []
        self._pending_since: dict[int, float] = {}

    def submit(self, *options: str, command: str | None = None) -> int:
        """Hand in a job of one node, unless its options say more; `command` runs in its place."""
        names = {name: value for name, value in self.env.items() if name not in os.environ}
        names |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        exports = "".join(f"export {name}='{value}'\n" for name, value in names.items())
        text = f"#!/bin/bash\n{exports}exec {command or f'{sys.executable} -u {self.path}'}\n"
        job = self.cluster.sbatch(
            text, "-N1", "-n2", "-c1", "--mem=500M", "--requeue", "--open-mode=append", "-t5",
            f"--output={self.folder}/%j.txt", *options, cwd=self.folder,
        )  # fmt: skip
        self.jobs.append(job)
        return job

    def lend(self, *options: str, name: str = NAME) -> int:
        """Hand in a job that only lends."""
        return self.submit(
            *options, command=f"{sys.executable} -m slurm_sweeps join {name} --local-dir out"
        )

    def read(self, job: int) -> str:
        """What a job has printed."""
        path = self.folder / f"{job}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def tell_all(self) -> str:
        """What all jobs have printed, and what they are to the sweep."""
        texts = [f"--- job {job}\n{self.read(job)[-3000:]}" for job in self.jobs]
        return "\n".join([*texts, *map(str, self.rows())])

    def rows(self) -> list[JobRecord]:
        if not count_experiments(self.database):
            return []
        with Database.open(self.database, read_only=True, timeout_s=30) as opened:
            return read_jobs(opened, opened.experiment(NAME).id)

    def show(self) -> tuple[list[list[str]], list[str]]:
        """What the verb `jobs` prints: the cells of each job, and what is said of some."""
        argv = [sys.executable, "-m", "slurm_sweeps", "jobs", NAME, "--local-dir", "out"]
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, check=True)
        lines = done.stdout.splitlines()
        titles = next(at for at, line in enumerate(lines) if line.startswith("job  "))
        count = len(self.rows())
        assert titles == (1 if self.driver() else 0), done.stdout
        assert max(map(len, lines[: titles + 1 + count])) <= 80, done.stdout
        rows, notes = lines[titles + 1 :][:count], lines[titles + 1 + count :]
        return [row.split() for row in rows], notes

    def driver(self) -> int:
        """The job that drives; 0 where none does."""
        if not count_experiments(self.database):
            return 0
        with Database.open(self.database, read_only=True, timeout_s=30) as opened:
            lease = opened.experiment(NAME).lease
        return int(lease.owner.job_id or 0) if lease else 0

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        wait_until(lambda: bool(is_so()), WAIT_S, lambda: f"{what}\n{self.tell_all()}")

    def wait_for_driver(self, other_than: int = 0) -> int:
        self.wait(lambda: self.driver() not in (0, other_than), f"no driver but {other_than}")
        return self.driver()

    def wait_for_return(self, job: int) -> None:
        """Wait until a job that was queued again has a part in the sweep again."""
        came = lambda: [j for j in self.rows() if j.job_id == str(job) and j.restarts]  # noqa: E731
        self.wait(lambda: self.is_over(job) or came(), f"job {job} does not come again")

    def wait_for_jobs(self, count: int) -> None:
        """Wait until so many jobs have a part in the sweep at once."""
        at_hand = lambda: [j for j in self.rows() if j.state.value in ("lending", "driving")]  # noqa: E731
        self.wait(lambda: len(at_hand()) >= count, f"not {count} jobs")

    def wait_for(self, status: Status, count: int) -> None:
        self.wait(lambda: count_status(self.database, status) >= count, f"not {count} {status}")

    def wait_until_over(self, *jobs: int) -> dict[int, tuple[str, int]]:
        """Wait for jobs, by default all; return how each ended."""
        ends = {}
        for job in jobs or self.jobs:
            self.wait(partial(self.is_over, job), f"job {job} goes on")
            end = self.cluster.wait_job(job, WAIT_S)
            ends[job] = end.state, end.exit_code
        return ends

    def is_over(self, job: int) -> bool:
        """Whether a job has ended; one that was queued again is started soon, not in minutes.

        Told too early, Slurm may take the end of its former run for that of the next.
        """
        shown = self.cluster.job(job)
        if shown["JobState"] != "PENDING" or shown.get("Reason") != "BeginTime":
            self._pending_since.pop(job, None)
        elif time.monotonic() - self._pending_since.setdefault(job, time.monotonic()) > 3.0:
            self.cluster.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False)
        return shown["JobState"] in FINAL_STATES


def count_experiments(database: Path) -> int:
    if not database.exists():
        return 0
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM experiments").fetchone()[0])
        except sqlite3.OperationalError:  # no table yet
            return 0


@contextlib.contextmanager
def node_down(cluster: SlurmCluster, node: str) -> Iterator[None]:
    """Take a node for broken, with all that runs there."""
    update = ["scontrol", "update", f"nodename={node}"]
    cluster.run([*update, "state=down", "reason=test"])
    try:
        yield
    finally:

        def is_back() -> bool:
            cluster.run([*update, "state=resume"], check=False)
            return "down" not in cluster.node_states()[node]

        wait_until(is_back, WAIT_S, lambda: f"{cluster.node_states()}")


def test_a_sweep_outlives_all_that_happens_to_its_jobs(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    n_trials = 48
    sweep = JoinedSweep(cluster, tmp_path / "sweep", HELD, N_TRIALS=n_trials, PAUSE_S=0.3)
    for node in ("n1", "n2", "n1", "n2"):
        sweep.submit(f"-w{node}", "-t9")
    first = sweep.wait_for_driver()
    sweep.wait_for_jobs(4)
    for node in ("n3", "n4"):  # who ends sooner drives later
        sweep.submit(f"-w{node}")
    sweep.wait_for_jobs(6)
    sweep.wait_for(Status.COMPLETED, 4)
    cluster.cancel(first)
    second = sweep.wait_for_driver(first)
    sweep.wait_for(Status.COMPLETED, 12)
    (sweep.folder / "held").touch()  # or the sweep may be over before its third driver comes
    preempted = sweep.jobs[4]  # alone on its node
    others = [job for job in sweep.jobs if job not in (first, second, preempted)]
    cancelled, queued_again = others[:2]
    node = cluster.job(preempted)["NodeList"]
    urgent = cluster.sbatch("sleep 1", "-purgent", f"-w{node}", "--exclusive", cwd=tmp_path)
    cluster.cancel(cancelled)
    cluster.run(["scontrol", "requeue", str(queued_again)])
    sweep.wait_for_return(queued_again)
    cluster.wait_job(urgent, WAIT_S)
    cluster.cancel(second)
    third = sweep.wait_for_driver(second)
    find_states = lambda: {row[0]: row[1] for row in sweep.show()[0]}  # noqa: E731 # at last
    left = [str(job) for job in (first, second, cancelled)]
    sweep.wait(lambda: {find_states()[job] for job in left} <= {"gone", "released"}, "not told")
    states = find_states()
    assert states[str(third)] == "driving"
    assert states[str(queued_again)] in ("waiting", "lending", "driving"), states
    down = next(n for n in ("n1", "n2") if n != cluster.job(third)["NodeList"])
    with node_down(cluster, down):
        (sweep.folder / "held").unlink()
        sweep.wait_for(Status.COMPLETED, n_trials)
    ends = sweep.wait_until_over()
    assert_complete(sweep.database, n_trials, 4)
    over = {job for job, (state, code) in ends.items() if (state, code) == ("COMPLETED", 0)}
    assert over == {*sweep.jobs} - {first, second, cancelled}, (ends, sweep.tell_all())
    printed = "".join(map(sweep.read, sweep.jobs))
    assert printed.count("\ndone\n") == 1, sweep.tell_all()  # what follows `run` is done once
    shown, _ = sweep.show()
    assert {row[1] for row in shown} == {"gone", "released"}
    assert sum(int(row[-1]) for row in shown) == len(read_attempts(sweep.database)), shown
    assert not [a for a in read_attempts(sweep.database) if a.status is Status.LOST]
    lost = [trial for trial in read_trials(sweep.database) if trial.lost_count]
    assert not lost, (lost, read_attempts(sweep.database), sweep.tell_all())
    same = ss.Experiment(succeed, {"x": ss.Uniform(0, 1)}, NAME, tmp_path / "same", seed=7)
    undisturbed = [trial.cfg["x"] for trial in same.run(n_trials, 2).trials]
    disturbed = [json.loads(trial.cfg_json)["x"] for trial in read_trials(sweep.database)]
    assert disturbed == undisturbed


def test_short_jobs_carry_a_sweep_to_its_end(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Each is killed, whatever it is to the sweep, when its time is over."""
    n_jobs, n_trials, life_s, n_nodes = (40, 300, 30, 4) if IS_CHAOS else (8, 24, 6, 2)
    sweep = JoinedSweep(cluster, tmp_path, N_TRIALS=n_trials, PAUSE_S=1.25 if IS_CHAOS else 0.25)
    command = f"timeout -s KILL {life_s} {sys.executable} -u {sweep.path}"
    for at in range(n_jobs):  # two at once on each node
        sweep.submit(f"-wn{1 + at % n_nodes}", "-c32", "--no-requeue", command=command)
    sweep.wait_until_over()
    if count_status(sweep.database, Status.COMPLETED) < n_trials:
        sweep.wait_until_over(sweep.submit())
    assert not [job for job in sweep.rows() if job.state.value == "waiting"], sweep.tell_all()
    assert_complete(sweep.database, n_trials, 4)
    used = Counter(attempt.job_id for attempt in read_attempts(sweep.database))
    assert len(used) > 1, sweep.tell_all()


#: Slurm is asked often, and who is silent is soon doubted.
DOUBTFUL = """
import functools
from slurm_sweeps.experiment import experiment
from slurm_sweeps.running import driver, lent, slots

lent.ASK_S, lent.ASK_SOON_S, driver.TRUST_S = 1, 1, 1
slots.ALIVE_EVERY_S, slots.ASK_AFTER_S, slots.SILENT_S = 3, 7, 9
experiment.Patience = functools.partial(experiment.Patience, term_grace_s=1, answer_s=1)
"""


def test_a_suspended_job_keeps_its_trials(cluster: SlurmCluster, tmp_path: Path) -> None:
    """None is begun there, and one that is to leave has its time when the job goes on."""
    sweep = JoinedSweep(cluster, tmp_path, DOUBTFUL + JOINED, N_TRIALS=16, PAUSE_S=0.5, GRACE_S=1)
    sweep.submit("-wn1", "-n1")
    sweep.wait_for_driver()
    lent = sweep.lend("-wn2")
    find = lambda: [a for a in read_attempts(sweep.database) if a.job_id == str(lent)]  # noqa: E731
    sweep.wait(lambda: len(find()) >= 2, "no trials in the lent job")
    cluster.run(["scontrol", "suspend", str(lent)])
    sweep.wait(lambda: "stand still" in sweep.read(sweep.jobs[0]), "not seen")
    there = [each for each in find() if each.status is Status.RUNNING]
    assert 1 <= len(there) <= 2, sweep.tell_all()
    sweep.wait(lambda: "nothing is heard from" in sweep.read(sweep.jobs[0]), "not missed")
    with Database.open(sweep.database, timeout_s=30) as opened:
        for each in there:
            trial_id = read_trials(sweep.database)[each.number].trial_id
            opened.add_request(opened.experiment(NAME).id, "prune", trial_id, time.time())
    done = count_status(sweep.database, Status.COMPLETED)
    sweep.wait_for(Status.COMPLETED, done + 3)  # six seconds and more, without that job
    assert [each for each in find() if each.status is Status.RUNNING] == there, sweep.tell_all()
    cluster.run(["scontrol", "resume", str(lent)])
    assert set(sweep.wait_until_over().values()) == {("COMPLETED", 0)}, sweep.tell_all()
    told = sweep.read(sweep.jobs[0])
    assert f"job {lent} runs again" in told
    assert "worker of slot" not in told, sweep.tell_all()  # none was given up
    assert {a.attempt for a in read_attempts(sweep.database)} == {1}, sweep.tell_all()
    assert count_status(sweep.database, Status.COMPLETED) == 16 - len(there), sweep.tell_all()
    assert len(find()) > 2, sweep.tell_all()


#: Trials say what they see; the first HOLD of them wait to be released.
SHOW = """
import json, os, time
import slurm_sweeps as ss

NAMES = ["SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_STEP_NUM_TASKS", "CUDA_VISIBLE_DEVICES",
         "SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"]

def train(cfg):
    if os.environ.get("SLURM_PROCID", "0") == "0":
        seen = ss.trial_dir() / "seen"
        seen.with_name("new").write_text(json.dumps({n: os.environ.get(n) for n in NAMES}))
        seen.with_name("new").rename(seen)
    deadline = time.monotonic() + 100
    hold = int(os.environ.get("HOLD", "1"))
    while cfg["x"] < hold and time.monotonic() < deadline:
        if os.path.exists("../../../release"):
            break
        time.sleep(0.05)
    time.sleep(0.3)
    ss.log({"loss": cfg["x"]}, 1)

if __name__ == "__main__":
    cfg = eval(os.environ.get("SLURM_CFG", "ss.SlurmCfg()"))
    space = {"x": ss.Grid(list(range(int(os.environ["N_TRIALS"]))))}
    ss.Experiment(train, space, "sweep", "out", join=True, slurm_cfg=cfg).run(
        None, summary_interval_in_sec=1
    )
    print("done", flush=True)
"""


def read_seen(sweep: JoinedSweep) -> list[dict[str, str]]:
    """What the trials of `SHOW` have seen."""
    return [json.loads(file.read_text()) for file in (sweep.folder / "out").glob("*/*/seen")]


def test_the_last_trial_keeps_no_other_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    sweep = JoinedSweep(cluster, tmp_path, SHOW, N_TRIALS=12)
    sweep.submit("-wn1")
    sweep.wait_for_driver()
    lenders = [sweep.submit("-wn2"), sweep.lend("-wn3")]
    sweep.wait_for_jobs(3)
    sweep.wait_for(Status.COMPLETED, 11)
    (last,) = [t for t in read_trials(sweep.database) if t.status is Status.RUNNING]
    idle = [job for job in lenders if str(job) != last.job_id]
    assert sweep.wait_until_over(*idle) == dict.fromkeys(idle, ("COMPLETED", 0)), sweep.tell_all()
    assert count_status(sweep.database, Status.RUNNING) == 1
    assert "needed no more" in sweep.read(idle[0])
    (tmp_path / "release").touch()
    assert set(sweep.wait_until_over().values()) == {("COMPLETED", 0)}, sweep.tell_all()
    late = [sweep.submit(), sweep.lend()]
    assert sweep.wait_until_over(*late) == dict.fromkeys(late, ("COMPLETED", 0)), sweep.tell_all()
    assert "\ndone" not in sweep.read(late[0])


def test_jobs_of_other_shapes_are_divided_by_the_same_rule(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """One task, a step for each node, and trials over two nodes; each trial has GPUs of its own.

    Those of the job that lends have a type.
    """
    cfgs = ["ss.SlurmCfg()", "ss.SlurmCfg(share_imports=True)", "ss.SlurmCfg(nodes=2, ntasks=2)"]
    sweeps = [
        JoinedSweep(cluster, tmp_path / str(at), SHOW, N_TRIALS=7, HOLD=7, SLURM_CFG=cfg)
        for at, cfg in enumerate(cfgs)
    ]
    for sweep in sweeps:
        sweep.submit("-N2", "-n2", "--mem=1G", "--gres=gpu:1", "-wn[1-2]")
    for sweep in sweeps:
        sweep.wait_for_driver()
        sweep.lend("-N2", "-n4", "--ntasks-per-node=2", "-c3", "--gres=gpu:a100:2", "-wn[3-4]")
    for sweep, slots, devices in zip(sweeps, (6, 6, 3), (4, 4, 2), strict=True):
        sweep.wait(lambda: len(read_seen(sweep)) >= slots, f"not {slots} trials")  # noqa: B023
        gpus = {
            (each["SLURM_JOB_NODELIST"], each["CUDA_VISIBLE_DEVICES"])
            for each in read_seen(sweep)
            if each["SLURM_JOB_ID"] == str(sweep.jobs[1])
        }
        assert len(gpus) == devices, sweep.tell_all()  # of trials that run at once
        (sweep.folder / "release").touch()
    for sweep in sweeps:
        assert set(sweep.wait_until_over().values()) == {("COMPLETED", 0)}, sweep.tell_all()
    for sweep, slots in zip(sweeps, ([2, 4], [2, 4], [1, 2]), strict=True):
        assert [job.slots for job in sweep.rows()] == slots, sweep.tell_all()
        seen = read_seen(sweep)
        lent = [each for each in seen if each["SLURM_JOB_ID"] == str(sweep.jobs[1])]
        assert slots[1] <= len(lent) < len(seen) == 7, sweep.tell_all()
        assert {each["SLURM_CPUS_PER_TASK"] for each in lent} == {"3"}
        assert all(len(each["CUDA_VISIBLE_DEVICES"]) == 1 for each in lent)
        nodes = {each["SLURM_JOB_NODELIST"] for each in lent}
        assert nodes <= ({"n[3-4]"} if sweep is sweeps[2] else {"n3", "n4"})
        steps = {each["SLURM_STEP_ID"] for each in lent}
        assert len(steps) <= 2 or sweep is sweeps[0]


#: Who was refused is asked again soon.
HASTY = "from slurm_sweeps.running import nodes\nnodes.LONGEST_PAUSE_S = 0.2\n"


#: 22.05's words, and those of 24.11.
NO_SUCH_GRES = r"(?:Step requested GRES \(gpu:a100\) not found|.*: Invalid generic resource)"


def test_a_job_that_can_not_be_used_says_why(cluster: SlurmCluster, tmp_path: Path) -> None:
    cfg = 'ss.SlurmCfg(args="--gres=gpu:a100:1")'
    sweep = JoinedSweep(cluster, tmp_path, HASTY + SHOW, N_TRIALS=4, HOLD=4, SLURM_CFG=cfg)
    sweep.submit("--gres=gpu:a100:2", "-wn3")
    sweep.wait_for_driver()
    small, unknown, untyped = sweep.lend(), sweep.lend(name="sweap"), sweep.lend("--gres=gpu:1")
    join = f"{sys.executable} -m slurm_sweeps join {NAME} --local-dir"
    astray = sweep.submit(command=f"{join} elsewhere")
    (tmp_path / "older.py").write_text(sweep.path.read_text().replace('"x"', '"y"'))
    older = sweep.submit("--gres=gpu:1", command=f"{sys.executable} {tmp_path / 'older.py'}")
    (tmp_path / "python").symlink_to(sys.executable)  # an environment of its own
    seen = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
    apart = sweep.submit("--gres=gpu:1", command=f"env {seen} {tmp_path / 'python'} {sweep.path}")
    old = "from slurm_sweeps.storage import schema\nschema.VERSION -= 1\n"
    (tmp_path / "release_before.py").write_text(old + sweep.path.read_text())
    behind = sweep.submit(
        "--gres=gpu:1", command=f"{sys.executable} {tmp_path / 'release_before.py'}"
    )
    wrong = [small, unknown, untyped, astray, older, apart, behind]
    ends = sweep.wait_until_over(*wrong)
    assert {state for state, _ in ends.values()} == {"FAILED"}, sweep.tell_all()
    assert "can't be used by the driver of 'sweep': not one trial fits" in sweep.read(small)
    assert "did you mean 'sweep'" in sweep.read(unknown)
    why = rf"can't be used by the driver of 'sweep': {NO_SUCH_GRES}"
    assert re.search(why, sweep.read(untyped)), sweep.read(untyped)
    assert f"there is no database at {tmp_path / 'elsewhere'}" in sweep.read(astray)
    assert "was begun with another search space" in sweep.read(older)
    assert f"this script runs {tmp_path / 'python'}, and the sweep that it" in sweep.read(apart)
    assert "was written by a newer slurm_sweeps" in sweep.read(behind)
    shown, notes = sweep.show()
    assert (shown[0][:2], shown[0][3], shown[0][-1]) == ([str(sweep.jobs[0]), "driving"], "2", "0")
    refused = {str(small): "not one trial fits", str(untyped): NO_SUCH_GRES}
    assert {(row[0], row[1]) for row in shown[1:]} == {(job, "refused") for job in refused}
    assert all(re.search(refused[note[: note.index(":")]], note) for note in notes), notes
    (tmp_path / "release").touch()
    assert sweep.wait_until_over(sweep.jobs[0]) == {sweep.jobs[0]: ("COMPLETED", 0)}


#: Ranks that reduce over two nodes, until they are told to end; they go on from their checkpoint.
REDUCE = """
import os, pathlib, time
import slurm_sweeps as ss

def train(cfg):
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank, state = dist.get_rank(), ss.checkpoint_dir() / "epoch"
    epoch = first = 1 + int(state.read_text() if state.exists() else 0)
    try:
        while True:
            told = os.path.exists("../../../release")
            seen = torch.tensor([cfg["x"] * (rank + 1.0), float(told)])
            dist.all_reduce(seen)
            if rank == 0:
                state.with_name("new").write_text(str(epoch))
                state.with_name("new").rename(state)
            ss.log({"sum": seen[0].item(), "size": dist.get_world_size(), "first": first}, epoch)
            if seen[1] > 0:
                return
            epoch += 1
            time.sleep(0.1)
    except ss.TrialPruned:
        pathlib.Path(f"left.{rank}.{os.environ['SLURMD_NODENAME']}").write_text(str(epoch))
        raise

if __name__ == "__main__":
    cfg = ss.SlurmCfg(nodes=2, ntasks=2)
    experiment = ss.Experiment(
        train, {"x": ss.Grid([1.0, 2.0, 3.0])}, "sweep", "out", join=True, slurm_cfg=cfg
    )
    experiment.run(None, summary_interval_in_sec=1)
"""


def test_ranks_over_two_nodes_find_each_other_in_a_job_that_lends(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """They are pruned together; those whose job goes are run elsewhere from where they were."""
    require_package("torch")
    sweep = JoinedSweep(cluster, tmp_path, REDUCE)
    wide = "-N2", "--ntasks-per-node=1", "--mem=1G"
    sweep.submit(*wide, "-wn[1-2]")
    sweep.wait_for_driver()
    lent = sweep.lend(*wide, "-wn[3-4]")

    def find(job: int) -> list[AttemptRecord]:
        return [each for each in read_attempts(sweep.database) if each.job_id == str(job)]

    def reports(attempt: AttemptRecord) -> int:
        return len(read_curves(sweep.database, "sum")[attempt.number])

    sweep.wait(lambda: find(lent) and reports(find(lent)[0]) > 2, "no trial in the lent job")
    (pruned,) = find(lent)
    trial_id = read_trials(sweep.database)[pruned.number].trial_id
    with Database.open(sweep.database, timeout_s=30) as opened:
        opened.add_request(opened.experiment(NAME).id, "prune", trial_id, time.time())
    sweep.wait(lambda: len(find(lent)) > 1 and reports(find(lent)[1]) > 2, "none after it")
    left = sorted((tmp_path / "out" / NAME / trial_id).glob("left.*"))
    assert [path.name for path in left] == ["left.0.n3", "left.1.n4"], sweep.tell_all()
    assert left[0].read_text() == left[1].read_text()
    cluster.cancel(lent)
    sweep.wait(lambda: f"job {lent} lends n3,n4 no more" in sweep.read(sweep.jobs[0]), "not missed")
    (tmp_path / "release").touch()
    assert sweep.wait_until_over(sweep.jobs[0]) == {sweep.jobs[0]: ("COMPLETED", 0)}
    trials = ss.Result(NAME, tmp_path / "out").trials
    assert count_status(sweep.database, Status.COMPLETED) == 2, sweep.tell_all()
    moved = trials[find(lent)[1].number]
    assert [a.job_id for a in read_attempts(sweep.database) if a.number == moved.number] == [
        str(lent),
        str(sweep.jobs[0]),
    ]
    assert moved.metrics["first"][max(moved.metrics["first"])] > 2, sweep.tell_all()
    assert not [trial for trial in read_trials(sweep.database) if trial.lost_count]
    for trial in trials:
        assert set(trial.metrics["size"].values()) == {2.0}
        assert set(trial.metrics["sum"].values()) == {3 * trial.cfg["x"]}
