"""What the user says of the jobs that a driver submits, their script, and how many there are."""

from __future__ import annotations

import shlex
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.slurm.config import SlurmCfg
from slurm_sweeps.slurm.jobs import (
    JobQueue,
    Jobs,
    build_job_name,
    build_sbatch_argv,
    format_job_script,
    may_be_accepted_later,
    parse_job_id,
    parse_job_queue,
    parse_submission_refusal,
    plan_hiring,
    wrap_in_setup,
)
from slurm_sweeps.slurm.step import build_submission_environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"most": 0}, "Jobs: most must be 1 or more, got 0"),
        ({"args": "-p 'gpu"}, r"Jobs\(args=\"-p 'gpu\"\) can't be split .* close the quotes"),
        ({"args": "-p gpu job.sh"}, "'job.sh', which is no option of sbatch, .* instead of the"),
        ({"args": "--requeue job.sh"}, "holds 'job.sh', which is no option of sbatch"),
        ({"args": "-o out.txt"}, "holds '-o': the experiment's folder keeps what jobs print"),
        ({"args": "--error=err"}, "holds '--error=err': the experiment's folder keeps"),
        ({"args": "-J mine"}, "holds '-J': the sweep finds its jobs by the name"),
        ({"args": "-a1-3"}, "holds '-a1-3': each job is submitted by itself: .* most=…"),
        ({"args": "--wrap=true"}, r"the sweep writes the jobs' script: use setup=\[…\]"),
        ({"args": "-W"}, "the driver must not wait for its jobs"),
        ({"args": "-M other"}, "srun can't enter jobs of another cluster"),
    ],
)
def test_what_makes_no_sense_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Jobs(**{"most": 1, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"most": "20"}, "Jobs: most must be an integer, got '20'"),
        ({"args": ["-p", "gpu"]}, r"Jobs\(args=\['-p', 'gpu'\]\): give one text of options"),
        ({"setup": "module load cuda"}, r"Jobs\(setup='module load cuda'\): give a list of lines"),
        ({"setup": [1]}, r"Jobs\(setup=\[1\]\): give a list of lines"),
    ],
)
def test_what_is_of_a_wrong_type_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageTypeError, match=message):
        Jobs(**{"most": 1, **arguments})


def test_a_share_takes_jobs_only() -> None:
    assert SlurmCfg(jobs=Jobs(2)).jobs == Jobs(2)
    with pytest.raises(UsageTypeError, match=r"SlurmCfg\(jobs=20\): give ss.Jobs\(most=…, args="):
        SlurmCfg(jobs=20)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "ntasks", "slots"),
    [
        ("", 1, 1),
        ("-p gpu --gres=gpu:1 -c 8 --mem=32G -t 2:00:00", 1, 1),
        ("--gres=gpu:4", 1, 4),
        ("-N2 --gpus-per-node=a100:4", 1, 8),
        ("-n 12", 1, 12),
        ("-n 12", 4, 3),
        ("-N 2-4 --ntasks-per-node=6", 1, 12),
        ("-n 2", 4, 1),
        ("--gres=gpu:all", 1, 1),
    ],
)
def test_a_jobs_slots_are_guessed(args: str, ntasks: int, slots: int) -> None:
    assert Jobs(1, args).guess_slots(ntasks) == slots


def test_the_script_says_what_it_does() -> None:
    jobs = Jobs(20, "-p gpu --comment='a b'", ["module load cuda", "source .venv/bin/activate"])
    argv = build_sbatch_argv(jobs, "big-1", "/s/big/jobs/job-%j.log", "/s/big/jobs/job.sh")
    assert argv == [
        *("sbatch", "--parsable", "--job-name=big-1", "--output=/s/big/jobs/job-%j.log"),
        *("--open-mode=append", "-p", "gpu", "--comment=a b", "/s/big/jobs/job.sh"),
    ]
    join = ["/py/python", "-m", "slurm_sweeps", "join", "my sweep"]
    lines = format_job_script("my sweep", jobs.setup, argv, "/s/my sweep", join).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert f"#   {shlex.join(argv)}" in lines
    assert lines[-4:] == [
        "module load cuda",
        "source .venv/bin/activate",
        "cd '/s/my sweep' || exit 1",
        "exec /py/python -m slurm_sweeps join 'my sweep'",
    ]


def test_a_job_name_is_one_word_and_nobody_elses() -> None:
    name = build_job_name("my sweep, äöü", "/a")
    assert set(name) <= {*string.ascii_letters, *string.digits, *"_.-"}
    assert name.startswith("my_sweep_")
    assert name == build_job_name("my sweep, äöü", "/a") != build_job_name("my sweep, äöü", "/b")


def test_a_job_inherits_nothing_of_the_job_around_the_driver() -> None:
    env = {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SLURM_JOB_ID": "7",
        "SLURM_JOBID": "7",
        "SLURM_NODELIST": "n1",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_SWEEPS_DIR": "/sweeps",
        "SBATCH_ACCOUNT": "physics",
        "SBATCH_WAIT": "1",
        "SBATCH_ARRAY_INX": "1-9",
    }
    kept = build_submission_environment(env)
    assert kept.pop("SLURM_TIME_FORMAT") == "standard"
    assert kept == {
        "PATH": "/bin",
        "SLURM_CONF": "/etc/slurm.conf",
        "SBATCH_ACCOUNT": "physics",
    }


@pytest.mark.parametrize(
    ("text", "job_id"), [("17\n", "17"), ("17;east\n", "17"), ("", None), ("sbatch 22.05\n", None)]
)
def test_the_id_of_a_submitted_job(text: str, job_id: str | None) -> None:
    assert parse_job_id(text) == job_id


@pytest.mark.parametrize(
    ("stderr", "words", "later"),
    [
        (
            "sbatch: error: invalid partition specified: gup\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: gup; Batch job submission failed: Invalid partition name "
            "specified",
            False,
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission "
            "failed: Job violates accounting/QOS policy (job submit limit, user's size and/or "
            "time limits)\n",
            "QOSMaxSubmitJobPerUserLimit; Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            True,
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available\n",
            "Batch job submission failed: Requested node configuration is not available",
            False,
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller "
            "(connect failure)\n",
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            True,
        ),
        ("sbatch: unrecognized option '--foo'\n", "unrecognized option '--foo'", False),
    ],
)
def test_what_sbatch_says_as_it_refuses(stderr: str, words: str, later: bool) -> None:
    assert parse_submission_refusal(stderr) == words
    assert may_be_accepted_later(words) is later


def test_no_words_of_sbatch() -> None:
    assert parse_submission_refusal("bash: sbatch: command not found\n") is None


def test_jobs_in_the_queue() -> None:
    text = (
        "12 PENDING Resources\n9 PENDING Priority\n7 RUNNING None\n11 COMPLETING None\n"
        "10 SUSPENDED None\n13 CONFIGURING None\n14 FAILED JobLaunchFailure\n15 CANCELLED None\n"
    )
    assert parse_job_queue(text) == JobQueue(
        ("9", "12", "13"), ("7", "10"), "Priority", {"14": "JobLaunchFailure"}
    )
    assert parse_job_queue("") == JobQueue()


@pytest.mark.parametrize(
    ("waiting", "running", "work", "slots", "most", "submit", "cancel"),
    [
        ("", "", 0, 1, 5, 0, ""),
        ("", "", 3, 1, 5, 3, ""),
        ("", "", 30, 1, 5, 5, ""),
        ("", "", 9, 4, 5, 3, ""),
        ("a", "b", 9, 4, 5, 1, ""),
        ("abc", "d", 3, 1, 5, 0, "c"),
        ("abc", "d", 3, 4, 5, 0, "abc"),
        ("ab", "cdef", 1, 1, 5, 0, "ab"),
        ("", "abcdef", 9, 1, 5, 0, ""),
    ],
)
def test_as_many_jobs_as_there_is_work_for(
    waiting: str, running: str, work: int, slots: int, most: int, submit: int, cancel: str
) -> None:
    plan = plan_hiring(JobQueue(tuple(waiting), tuple(running)), work, slots, most)
    assert (plan.submit, plan.cancel) == (submit, tuple(cancel))


@given(
    waiting=st.integers(0, 30),
    running=st.integers(0, 30),
    work=st.integers(0, 1000),
    slots=st.integers(1, 64),
    most=st.integers(1, 30),
)
def test_a_plan_leads_to_what_is_wanted_and_then_to_nothing(
    waiting: int, running: int, work: int, slots: int, most: int
) -> None:
    queue = JobQueue(tuple(f"w{i}" for i in range(waiting)), tuple(f"r{i}" for i in range(running)))
    plan = plan_hiring(queue, work, slots, most)
    kept = tuple(job for job in queue.waiting if job not in plan.cancel)
    assert kept == queue.waiting[: len(kept)]
    then = JobQueue((*kept, *(f"s{i}" for i in range(plan.submit))), queue.running)
    there = len(then.waiting) + running
    assert there <= max(most, running)
    assert there * slots >= min(work, most * slots)  # there is room for all work
    assert not then.waiting or (there - 1) * slots < work  # and none waits in vain
    assert not plan.submit or not plan.cancel
    again = plan_hiring(then, work, slots, most)
    assert (again.submit, again.cancel) == (0, ())


def test_setup_comes_before_the_command_and_does_not_read_its_input() -> None:
    assert wrap_in_setup([], ["python", "x"]) == ["python", "x"]
    lines = ["module load cuda", "read word"]
    wrapped = wrap_in_setup(lines, ["python", "-c", "a b"])
    assert wrapped[:2] == ["bash", "-c"]
    assert wrapped[2] == '{\nmodule load cuda\nread word\n} < /dev/null\nexec "$@"'
    assert wrapped[3:] == ["bash", "python", "-c", "a b"]
