"""The srun line, the environment around it, and the one inside it."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_jobs import read_job

from slurm_sweeps.slurm.config import SlurmCfg
from slurm_sweeps.slurm.step import (
    Slot,
    build_srun_argv,
    build_step_environment,
    build_trial_environment,
    choose_gpus,
    is_final,
    is_outage,
    is_step_waiting,
    iterate_master_ports,
    may_pass,
    parse_refusal,
    parse_step_error,
)

SLOT = Slot(0, ("n1",), ntasks=1, cpus_per_task=4, mem_mb=4096, step_cpus_per_task=4)
WIDE = Slot(1, ("n1", "n3"), ntasks=4, cpus_per_task=4, mem_mb=8192, step_cpus_per_task=4, gpus=2)


def join(slot: Slot, cfg: SlurmCfg, job_name: str | None = None) -> str:
    return " ".join(build_srun_argv(slot, cfg, ["python", "-V"], job_name))


def test_a_step_of_one_task() -> None:
    assert join(SLOT, SlurmCfg()) == (
        "srun --exact -N1 -n1 --ntasks-per-node=1 --nodelist=n1 -c4 --mem=4096M -K1 --export=ALL "
        "--mpi=none python -V"
    )


def test_a_step_of_several_tasks_brings_back_one_stdout_and_every_stderr() -> None:
    wide = Slot(**{**{name: getattr(WIDE, name) for name in WIDE.__slots__}, "gres": "gpu:2"})
    assert join(wide, SlurmCfg(nodes=2, ntasks=4)) == (
        "srun --exact -N2 -n4 --ntasks-per-node=2 --nodelist=n1,n3 -c4 --mem=8192M --gres=gpu:2 "
        "-K1 --export=ALL --mpi=none --output=0 --error=all python -V"
    )


def test_a_step_that_overlaps_asks_for_all() -> None:
    slot = Slot(
        0, ("n1",), 1, 4, gpus=1, visible_gpus=(0,), exclusive=False, step_cpus_per_task=72,
        gres="gpu:3",
    )  # fmt: skip
    assert join(slot, SlurmCfg(exclusive=False)) == (
        "srun --exact --overlap -N1 -n1 --ntasks-per-node=1 --nodelist=n1 -c72 --mem=0 "
        "--gres=gpu:3 -K1 --export=ALL --mpi=none python -V"
    )


@pytest.mark.parametrize(
    ("args", "gone"),
    [
        ("-c8", "-c4"),
        ("--cpus-per-task=8", "-c4"),
        ("--mem=1G", "--mem=4096M"),
        ("--mem-per-cpu=1G", "--mem=4096M"),
        ("--mem-per-gpu=1G", "--mem=4096M"),
        ("--gres=gpu:2", "--gres=none"),
        ("--gpus=2", "--gres=none"),
        ("--gpus-per-node=2", "--gres=none"),
        ("--gpus-per-task=2", "--gres=none"),
    ],
)
def test_what_the_user_says_is_said_once_and_last(args: str, gone: str) -> None:
    slot = Slot(0, ("n1",), 1, 4, mem_mb=4096, gres="none", step_cpus_per_task=4)
    argv = build_srun_argv(slot, SlurmCfg(args=args), ["true"])
    assert gone not in argv
    assert argv[-2:] == [args, "true"]
    assert gone in build_srun_argv(slot, SlurmCfg(), ["true"])


def test_other_options_pass_as_a_shell_would_pass_them() -> None:
    argv = build_srun_argv(SLOT, SlurmCfg(args="--mpi=pmi2 --comment='a b'"), ["true"])
    assert argv[-3:] == ["--mpi=pmi2", "--comment=a b", "true"]


def test_steps_of_workers_run_no_mpi_unless_the_user_says_so() -> None:
    assert "--mpi=none" in join(SLOT, SlurmCfg())
    assert join(SLOT, SlurmCfg(args="--mpi=pmi2")).endswith("--mpi=none --mpi=pmi2 python -V")
    # Here the trial is the step: what the user has set for MPI is meant for it.
    assert "--mpi" not in join(SLOT, SlurmCfg(fresh_step=True))


def test_a_step_can_have_a_name() -> None:
    assert join(SLOT, SlurmCfg(), "slot").endswith("--mpi=none --job-name=slot python -V")


# The environment around the line.


def test_srun_finds_its_job_but_none_of_the_jobs_wishes() -> None:
    env, _ = read_job("gpus_skewed")
    env |= {"SLURM_CONF": "/etc/slurm.conf", "PATH": "/bin", "SLURM_GPUS_PER_NODE": "4"}
    env |= {"MASTER_ADDR": "n1", "RANK": "0", "WORLD_SIZE": "8", "PMI_RANK": "0", "PMIX_ID": "1"}
    env |= {"SBATCH_PARTITION": "x", "SRUN_DEBUG": "3", "SALLOC_ACCOUNT": "x", "SLURM_HINT": "y"}
    env |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_MPI_TYPE": "pmi2", "RANKING": "mine"}
    assert build_step_environment(env) == {
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "PATH": "/bin",
        "RANKING": "mine",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOBID": "5",
        "SLURM_JOB_CPUS_PER_NODE": "28,4",
        "SLURM_JOB_ID": "5",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_MPI_TYPE": "pmi2",
        "SLURM_NODELIST": "n[1-2]",
    }


def test_the_interactive_steps_own_mpi_is_not_the_users() -> None:
    env = {"SLURM_STEP_ID": "4294967290", "SLURM_MPI_TYPE": "none", "SLURM_JOB_ID": "1"}
    assert build_step_environment(env) == {"SLURM_JOB_ID": "1"}


# The environment inside.

TASK = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[1,3]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS_PER_NODE": "18",
    "SLURM_NODELIST": "n[1-4]",
    "SLURM_MEM_PER_CPU": "1024",
    "SLURM_CPUS_PER_TASK": "4",
}


#: All that tells a library how many threads it may start.
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def test_the_environment_of_a_rank_describes_its_trial() -> None:
    assert build_trial_environment(TASK, master_port=20001, cpus_per_task=4, mem_mb=8192) == {
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "20001",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        **dict.fromkeys(THREADS, "4"),
        "SLURM_NTASKS": "4",
        "SLURM_NPROCS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_TASKS_PER_NODE": "2(x2)",
        "SLURM_NNODES": "2",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NODELIST": "n[1,3]",
        "SLURM_JOB_NODELIST": "n[1,3]",
        "SLURM_CPUS_PER_TASK": "4",
        "SLURM_JOB_CPUS_PER_NODE": "8(x2)",
        "SLURM_MEM_PER_NODE": "8192",
        "SLURM_MEM_PER_CPU": None,
        "SLURM_MEM_PER_GPU": None,
        "SLURM_GPUS": None,
        "SLURM_GPUS_PER_NODE": None,
        "SLURM_GPUS_PER_TASK": None,
    }


def test_a_lone_task_is_no_distributed_run() -> None:
    env = {**TASK, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "RANK": "7"}
    changes = build_trial_environment(env, master_port=20001, cpus_per_task=4)
    assert [changes[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == [None] * 3
    assert changes["SLURM_NTASKS"] == changes["SLURM_NTASKS_PER_NODE"] == "1"
    assert changes["SLURM_TASKS_PER_NODE"] == "1"
    assert changes["SLURM_JOB_CPUS_PER_NODE"] == "4"
    assert changes["SLURM_MEM_PER_NODE"] is None


def test_a_local_process_gets_an_address_and_its_threads_only() -> None:
    assert build_trial_environment({}, master_port=20001, cpus_per_task=2) == {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "20001",
        "RANK": None,
        "WORLD_SIZE": None,
        "LOCAL_RANK": None,
        "LOCAL_WORLD_SIZE": None,
        **dict.fromkeys(THREADS, "2"),
    }


def test_the_users_threads_and_a_known_address_stand() -> None:
    env = {**TASK, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}
    changes = build_trial_environment(env, master_port=1, master_addr="10.0.0.1", cpus_per_task=4)
    assert "OMP_NUM_THREADS" not in changes
    assert "MKL_NUM_THREADS" not in changes  # it reads the other one
    assert "POLARS_MAX_THREADS" not in changes
    assert changes["LOKY_MAX_CPU_COUNT"] == "4"
    assert changes["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("env", "visible", "expected"),
    [
        ({}, (1,), {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_VISIBLE_DEVICES": "4,5,7"}, (0, 2), {"CUDA_VISIBLE_DEVICES": "4,7"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, (1,), {"CUDA_VISIBLE_DEVICES": "GPU-b"}),
        (
            {"CUDA_VISIBLE_DEVICES": "0,1", "ROCR_VISIBLE_DEVICES": "0,1"},
            (1,),
            {"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1"},
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None, {}),
    ],
)
def test_shared_gpus_are_chosen_by_position(
    env: dict[str, str], visible: tuple[int, ...] | None, expected: dict[str, str]
) -> None:
    assert choose_gpus(env, visible) == expected


# Ports.


@given(
    st.tuples(st.integers(1024, 65000), st.integers(0, 500)),
    st.integers(1, 60),
    st.integers(0, 10**7),
)
def test_no_two_slots_ever_share_a_port(ports: tuple[int, int], slots: int, salt: int) -> None:
    first, last = ports[0], ports[0] + ports[1]
    taken = [
        set(islice(iterate_master_ports((first, last), index, slots, salt), 20))
        for index in range(slots)
    ]
    assert all(first <= port <= last for some in taken for port in some)
    if slots <= last - first + 1:  # else there is no port for each
        assert sum(map(len, taken)) == len(set().union(*taken))


def test_a_slot_takes_the_next_port_each_time() -> None:
    assert list(islice(iterate_master_ports((20000, 20009), 1, 4), 4)) == [
        20001,
        20005,
        20001,
        20005,
    ]
    assert next(iterate_master_ports((20000, 20009), 1, 4, salt=3)) == 20005


# What srun says. All lines are from Slurm 22.05.


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("", None),
        ("Traceback (most recent call last):\nValueError: no", None),
        ("srun: unrecognized option '--nonsense'\n", "unrecognized option '--nonsense'"),
        (
            "srun: error: Unable to create step for job 24: Invalid generic resource (gres) spec",
            "Unable to create step for job 24: Invalid generic resource (gres) spec",
        ),
        (
            "import torch\nsrun: error: Step requested GRES (gpu:v100) not found in the job\n"
            "srun: error: Unable to create step for job 24: Invalid generic resource (gres) spec\n",
            "Step requested GRES (gpu:v100) not found in the job; "
            "Unable to create step for job 24: Invalid generic resource (gres) spec",
        ),
        (
            "srun: error: host: task 1: Killed\nsrun: error: host: tasks 0-1: Exited with exit "
            "code 3\nsrun: Terminating StepId=3.0\nsrun: Job step aborted: Waiting up to 32 "
            "seconds for job step to finish.\nsrun: forcing job termination\n",
            None,
        ),
        (
            "srun: Job 3 step creation temporarily disabled, retrying (Requested nodes are busy)",
            None,
        ),
    ],
)
def test_the_reason_why_a_step_did_not_start(stderr: str, expected: str | None) -> None:
    assert parse_step_error(stderr) == expected


def test_a_step_that_waits_is_noticed() -> None:
    assert is_step_waiting("srun: Job 3 step creation temporarily disabled, retrying (Requested")
    assert not is_step_waiting("a task said: step creation temporarily disabled")
    assert not is_step_waiting("srun: error: Unable to create step for job 24: Invalid")


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: Unable to confirm allocation for job 5: Unable to contact slurm controller",
        "srun: error: Unable to create step for job 5: Socket timed out on send/recv operation",
        "srun: error: Unable to create step for job 5: Zero Bytes were transmitted or received",
        "srun: error: Task launch for StepId=5.1 failed on node n1: connection failure",
        "srun: error: Munge encode failed: Failed to access '/run/munge/munge.socket.2'",
        "srun: error: Unable to create step for job 5: Protocol authentication error",
    ],
)
def test_a_slurm_that_is_away_is_told_from_a_step_that_makes_no_sense(said: str) -> None:
    assert parse_refusal(said) == said.removeprefix("srun: error: ")
    assert is_outage(said)
    assert not may_pass(said)


def test_what_passes_after_an_outage_and_what_does_not() -> None:
    said = "srun: error: Unable to create step for job 5: Memory required by task is not available"
    assert may_pass(said)
    assert not is_outage(said)
    for said in ("Invalid generic resource (gres) specification", "More processors requested than"):
        assert not is_outage(said)
        assert not may_pass(said)


def test_that_all_steps_of_a_job_are_used_up_is_no_outage() -> None:
    said = "srun: error: Unable to create step for job 5: Step limit reached for this job"
    assert is_final(said)
    assert not is_outage(said)


def test_a_step_that_was_started_on_its_node_is_no_refusal() -> None:
    said = "slurmstepd-n1: error: execve(): python: No such file or directory\nsrun: error: n1: oh"
    assert parse_refusal(said) is None
    assert parse_refusal("") is None
