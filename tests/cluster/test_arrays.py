"""One task of an array has the array's number as its id, by which Slurm takes all of its tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster_tools import SlurmCluster, wait_until
from cluster_tools.jobs import parse_records

pytestmark = pytest.mark.cluster

#: Each task has a step like that of a slot. The one of an id of its own lasts longer, ends its step
#: as a driver does that takes over, and the other is queued again then.
TASK = """
srun -n1 --mem=50M --job-name=slot-0 bash -c 'touch step.$SLURM_JOB_ID; exec sleep 300' &
[ $SLURM_JOB_ID = $SLURM_ARRAY_JOB_ID ] || scontrol update jobid=$SLURM_JOB_ID timelimit=9
exec {python} - <<'END'
import os, pathlib, subprocess, time
from slurm_sweeps.slurm import client

def wait_for(pattern, count):
    deadline = time.monotonic() + 60
    while len(list(pathlib.Path().glob(pattern))) < count and time.monotonic() < deadline:
        time.sleep(0.1)

job = os.environ["SLURM_JOB_ID"]
wait_for("step.*", 2)
is_named_like_all = job == os.environ["SLURM_ARRAY_JOB_ID"]
with client.JobClock(job) as clock:
    while clock.runs(0.0) is None:
        time.sleep(0.1)
    minutes = [clock.get_time_left() / 60]
allocation = client.read_allocation(os.environ)
minutes.append((allocation.ends_at - time.time()) / 60)
task = "_".join(os.environ[f"SLURM_ARRAY_{{each}}_ID"] for each in ("JOB", "TASK"))
told = [*map(round, minutes), clock.runs(0.0), client.is_job_over(job)]
told.append(allocation.array_task == task)
if not is_named_like_all:
    told.append(client.end_steps_of_slots({{job}}))
else:
    wait_for("other.txt", 1)
pathlib.Path("new").write_text(repr(told))
os.rename("new", "own.txt" if is_named_like_all else "other.txt")
if is_named_like_all:
    client.requeue(job, 0.0, print)
time.sleep(60)
END
"""


def test_a_task_of_an_array_is_a_job_of_its_own(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = cluster.sbatch(
        TASK.format(python=sys.executable), "--array=1-2", "-n1", "--mem=200M", "-t5", "--requeue",
        "--output=%a.out", cwd=tmp_path,
    )  # fmt: skip

    def read_tasks() -> dict[bool, dict[str, str]]:
        shown = cluster.run(["scontrol", "-o", "show", "job", str(job)]).stdout
        return {each["JobId"] == str(job): each for each in parse_records(shown)}

    def is_queued_again() -> bool:
        tasks = read_tasks().values()
        assert "FAILED" not in [each["JobState"] for each in tasks], tell()
        return any(each["Restarts"] != "0" for each in tasks)

    def tell() -> str:
        return "\n".join(file.read_text() for file in tmp_path.glob("*.out"))

    wait_until(is_queued_again, 90, tell)
    assert {own: each["Restarts"] for own, each in read_tasks().items()} == {True: "1", False: "0"}
    assert (tmp_path / "own.txt").read_text() == "[5, 5, True, False, True]"
    assert (tmp_path / "other.txt").read_text() == "[9, 9, True, False, True, '']"
    ended = f"{job}_{read_tasks()[False]['ArrayTaskId']}.0"
    assert ended not in [each["StepId"] for each in cluster.steps(job)]
    cluster.cancel(job)
