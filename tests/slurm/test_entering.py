"""Entering another job: what it offers, srun's line and environment, what is said when it goes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slurm_sweeps.errors import AllocationError
from slurm_sweeps.slurm.allocation import (
    Allocation,
    Node,
    describe_allocation,
    revive_allocation,
)
from slurm_sweeps.slurm.config import SlurmCfg
from slurm_sweeps.slurm.share import plan_slots
from slurm_sweeps.slurm.step import (
    build_entry_environment,
    build_srun_argv,
    is_cancelled,
    is_job_taken,
)
from slurm_sweeps.slurm.text import Gres, JobSight, parse_jobs, parse_steps

JOB = Allocation(
    "7",
    (Node("n1", 4, 2, 4096, (Gres("gpu", "a100", 2),)), Node("n2", 4, 2, 4096, ())),
    ntasks=4,
    notices=("a", "b"),
    max_steps=40_000,
)


def test_what_a_job_offers_comes_back_from_json() -> None:
    assert revive_allocation(json.loads(json.dumps(describe_allocation(JOB)))) == JOB


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"nodes": [{"name": "n1"}], "notices": []},
        {"nodes": [], "notices": [], "job_id": "7"},
        {**describe_allocation(JOB), "job_id": "7; rm"},
        {**describe_allocation(JOB), "more": 1},
    ],
)
def test_what_is_no_offer_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises(AllocationError, match=r"what a job offers|is no Slurm job"):
        revive_allocation(described)


def test_a_step_in_another_job_is_told_of_that_job_alone() -> None:
    env = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "3",
        "SLURM_JOB_NODELIST": "n9",
        "SLURM_JOB_PARTITION": "small",
        "SLURM_ARRAY_TASK_ID": "5",
        "SLURM_GPUS": "8",
    }
    assert build_entry_environment(env, JOB) == {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "7",
        "SLURM_JOBID": "7",
        "SLURM_JOB_NODELIST": "n1,n2",
        "SLURM_NODELIST": "n1,n2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_CPUS_PER_NODE": "4,4",
    }
    slot = plan_slots(JOB, SlurmCfg(gpus=0)).slots[0]
    own = build_srun_argv(slot, SlurmCfg(gpus=0), ["true"])
    assert build_srun_argv(slot, SlurmCfg(gpus=0), ["true"], job_id="7") == [
        "srun",
        "--jobid=7",
        *own[1:],
    ]


#: As srun printed it on 22.05 and 24.11.
CANCELLED = """srun: Job step aborted: Waiting up to 32 seconds for job step to finish.
slurmstepd-n1: error: *** STEP 1.4 ON n1 CANCELLED AT 2026-11-27T18:41:50 ***
srun: error: n1: task 0: Terminated
srun: launch/slurm: _step_signal: Terminating StepId=1.4"""


@pytest.mark.parametrize(
    ("said", "of_one", "of_several"),
    [
        (CANCELLED, True, False),  # a dead task of several has srun cancel the others
        (CANCELLED.replace(" ***", " DUE TO PREEMPTION ***"), True, True),
        (CANCELLED.replace(" ***", " DUE TO JOB REQUEUE ***"), True, True),
        (CANCELLED.replace(" ***", " DUE TO TIME LIMIT ***"), True, True),
        (CANCELLED.replace("STEP 1.4", "JOB 1"), True, True),
        ("srun: error: Node failure on n3", True, True),
        ("srun: error: Slurm job 1 has expired", True, True),
        (
            "srun: error: Unable to confirm allocation for job 2: Job is pending execution",
            True,
            True,
        ),
        ("srun: error: n1: task 0: Exited with exit code 3", False, False),
        ("srun: error: n1: task 0: Killed\nsrun: Force Terminated StepId=1.3", False, False),
        ("Traceback: MemoryError", False, False),
    ],
)
def test_a_job_that_was_taken_away_is_told_from_a_worker_that_died(
    said: str, of_one: bool, of_several: bool
) -> None:
    assert (is_job_taken(said, 1), is_job_taken(said, 4)) == (of_one, of_several)
    assert is_cancelled(CANCELLED)


def test_all_jobs_are_read_at_once() -> None:
    jobs = parse_jobs("1 RUNNING 4:59\n22 PENDING UNLIMITED\n3 SUSPENDED 1-00:00:00\n4 COMPLETING")
    assert jobs == {
        "1": JobSight("RUNNING", 299.0),
        "22": JobSight("PENDING", None),
        "3": JobSight("SUSPENDED", 86_400.0),
    }
    assert [job for job, sight in jobs.items() if sight.is_there] == ["1", "3"]


def test_only_steps_of_slots_are_ours() -> None:
    text = "1.0 slot-0\n1_4.1 slot-12\n1.batch batch\n2.0 bash\n3.0 slot-0-mine\n"
    assert parse_steps(text) == [("1", "0"), ("1_4", "1")]
