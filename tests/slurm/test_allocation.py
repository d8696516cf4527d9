"""What is read of an allocation, from recorded environments and scontrol's texts."""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_jobs import (
    JOBS,
    NODE_TEXT,
    load_allocation,
    load_allocation_without_scontrol,
    read_job,
)

from slurm_sweeps.errors import AllocationError, UsageError
from slurm_sweeps.slurm.allocation import (
    Allocation,
    Node,
    check_not_inside_a_step,
    parse_allocation,
)
from slurm_sweeps.slurm.client import ask, read_allocation
from slurm_sweeps.slurm.text import Gres, parse_job_nodes, parse_threads_per_core

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_CPUS_PER_NODE": "4(x2)"}


def describe(nodes: tuple[Node, ...]) -> list[tuple[str, int, int, int | None, int]]:
    return [(node.name, node.cpus, node.tasks, node.mem_mb, node.gpus) for node in nodes]


def test_outside_of_slurm_there_is_none() -> None:
    assert parse_allocation({"PATH": "/bin"}) is None
    assert parse_allocation({"SLURM_JOB_ID": ""}) is None
    assert read_allocation({}) is None


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("bare", [("n1", 1, 0, 256000, 0)]),
        ("exclusive", [("n1", 128, 0, 256000, 4), ("n2", 128, 0, 256000, 4)]),
        ("exclusive_tasks", [("n1", 128, 4, 256000, 4), ("n2", 128, 4, 256000, 4)]),
        ("gpus_per_node", [("n1", 16, 4, 32768, 4), ("n2", 16, 4, 32768, 4)]),
        ("gpus_per_task", [("n1", 16, 4, 16384, 4), ("n2", 16, 4, 16384, 4)]),
        ("gpus_skewed", [("n1", 28, 7, 16384, 4), ("n2", 4, 1, 16384, 4)]),
        ("gpus_uneven", [("n1", 16, 4, 16384, 4), ("n2", 4, 1, 4096, 1)]),
        ("gres", [("n1", 64, 4, 65536, 4), ("n2", 64, 4, 65536, 4)]),
        ("nodes_only", [("n1", 1, 0, 256000, 4), ("n2", 1, 0, 256000, 4)]),
        ("nomultithread", [("h1", 16, 4, 8192, 0)]),
        ("per_cpu", [("n1", 72, 18, 73728, 0), ("n2", 72, 18, 73728, 0)]),
        ("per_node", [("n1", 72, 18, 73728, 0), ("n2", 72, 18, 73728, 0)]),
        ("threads", [("h1", 10, 3, 1000, 0)]),
        ("three_tasks", [("n1", 8, 2, 256000, 0), ("n2", 4, 1, 256000, 0)]),
        ("two_types", [("t1", 16, 4, 1600, 4)]),
        ("unlike_nodes", [("n1", 128, 0, 256000, 4), ("s1", 64, 0, 128000, 2)]),
    ],
)
def test_each_node_has_what_slurm_gave(
    name: str, nodes: list[tuple[str, int, int, int | None, int]]
) -> None:
    assert describe(load_allocation(name).nodes) == nodes


def test_every_recorded_job_is_in_the_table_above() -> None:
    table = test_each_node_has_what_slurm_gave.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert sorted(name for name, _ in table) == JOBS


# Where the environment alone says less than scontrol, it is because it can't say more.
@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("bare", [("n1", 1, 0, None, 0)]),
        ("exclusive", [("n1", 128, 0, None, 4), ("n2", 128, 0, None, 4)]),
        ("gpus_uneven", [("n1", 16, 4, 16384, 4), ("n2", 4, 1, 4096, 1)]),
        ("gpus_skewed", [("n1", 28, 7, 16384, 4), ("n2", 4, 1, 16384, 4)]),
        ("per_cpu", [("n1", 72, 18, 73728, 0), ("n2", 72, 18, 73728, 0)]),
        ("per_node", [("n1", 72, 18, 73728, 0), ("n2", 72, 18, 73728, 0)]),
        ("two_types", [("t1", 16, 4, 1600, 4)]),
    ],
)
def test_without_scontrol_the_environment_has_to_do(
    name: str, nodes: list[tuple[str, int, int, int | None, int]]
) -> None:
    assert describe(load_allocation_without_scontrol(name).nodes) == nodes


def test_the_job_is_described() -> None:
    job = load_allocation("per_cpu")
    assert (job.job_id, job.ntasks, job.cpus_per_task) == ("1", 36, 4)
    assert (job.mem_per_cpu_mb, job.mem_per_gpu_mb, job.has_gres) == (1024, None, False)
    assert load_allocation("gpus_skewed").mem_per_gpu_mb == 4096
    assert load_allocation("exclusive").ntasks is None


def test_types_of_gpus_are_kept() -> None:
    assert load_allocation("two_types").nodes[0].gres == (
        Gres("gpu", "a100", 3),
        Gres("gpu", "v100", 1),
    )


def test_other_gres_count_as_gres() -> None:
    text = "   JOB_GRES=tmp:2\n     Nodes=n[1-2] CPU_IDs=0-3 Mem=100 GRES=tmp:1\n"
    allocation = parse_allocation(JOB, text)
    assert allocation is not None
    assert allocation.has_gres
    assert allocation.nodes[0].gpus == 0


def test_threads_come_from_the_nodes() -> None:
    assert load_allocation("threads").nodes[0].threads_per_core == 2
    # Asked for one thread a core, the job's CPUs are cores.
    assert load_allocation("nomultithread").nodes[0].threads_per_core == 1


def test_where_the_nodes_are_not_shown_cores_are_taken_for_pairs() -> None:
    assert load_allocation_without_scontrol("threads").nodes[0].threads_per_core == 2
    odd = parse_allocation({**JOB, "SLURM_JOB_CPUS_PER_NODE": "4,3"})
    assert odd is not None
    assert [node.threads_per_core for node in odd.nodes] == [2, 1]
    # The job itself says that it counts cores.
    assert load_allocation_without_scontrol("nomultithread").nodes[0].threads_per_core == 1


def test_a_site_may_give_threads_away_one_by_one() -> None:
    env = {**JOB, "SLURM_JOB_CPUS_PER_NODE": "1,4"}
    text = "NodeName=n1 ThreadsPerCore=2\nNodeName=n2 ThreadsPerCore=2"
    allocation = parse_allocation(env, "", text)
    assert allocation is not None
    assert [node.threads_per_core for node in allocation.nodes] == [1, 2]


def test_a_site_may_count_one_cpu_a_core() -> None:
    text = "NodeName=n1 CoresPerSocket=4 CPUTot=8 Sockets=2 ThreadsPerCore=2"
    assert parse_threads_per_core(text) == {"n1": 1}
    assert parse_threads_per_core(text.replace("CPUTot=8", "CPUTot=16")) == {"n1": 2}


@pytest.mark.parametrize(
    "site",
    [
        {"SLURM_GPUS": "4", "SLURM_GPUS_ON_NODE": "4", "SLURM_GPUS_PER_NODE": "4"},
        {"SLURM_MEM_PER_CPU": "100"},
        {"SLURM_MEM_PER_GPU": "100"},
        {"SLURM_CPUS_PER_TASK": "2"},
        {"SLURM_THREADS_PER_CORE": "1"},
    ],
    ids=str,
)
def test_what_a_site_sets_against_the_job_is_not_believed(site: dict[str, str]) -> None:
    env, job_text = read_job("three_tasks")
    assert parse_allocation(env | site, job_text, NODE_TEXT) in (
        load_allocation("three_tasks"),
        replace(load_allocation("three_tasks"), cpus_per_task=None),
    )


def test_a_number_of_tasks_that_are_not_laid_out_is_not_believed() -> None:
    env, job_text = read_job("exclusive")
    found = parse_allocation({**env, "SLURM_NTASKS": "3"}, job_text, NODE_TEXT)
    assert found == load_allocation("exclusive")


def test_a_hint_on_threads_that_is_not_the_jobs_own_is_told() -> None:
    env, job_text = read_job("threads")
    found = parse_allocation({**env, "SLURM_HINT": "nomultithread"}, job_text, NODE_TEXT)
    assert found is not None
    assert len(found.notices) == 1
    assert "SLURM_HINT='nomultithread' is not handed on" in found.notices[0]
    assert "say SlurmCfg(args='--hint=nomultithread') if you want it" in found.notices[0]
    assert load_allocation("nomultithread").notices == ()


def test_memory_that_slurm_does_not_count_is_unknown() -> None:
    allocation = parse_allocation(JOB, "     Nodes=n[1-2] CPU_IDs=0-3 Mem=0 GRES=\n")
    assert allocation is not None
    assert [node.mem_mb for node in allocation.nodes] == [None, None]


def test_lines_per_node_are_read() -> None:
    found = parse_job_nodes(read_job("gpus_uneven")[1])
    assert {name: mem_mb for name, (mem_mb, _) in found.items()} == {"n1": 16384, "n2": 4096}
    assert parse_job_nodes("slurm_load_jobs error: Invalid job id specified") == {}


def test_threads_of_nodes_are_read() -> None:
    threads = parse_threads_per_core(NODE_TEXT)
    assert sorted(threads) == ["h1", "n1", "n2", "n3", "n4", "s1", "t1"]
    assert [name for name, count in threads.items() if count == 2] == ["h1"]
    assert parse_threads_per_core("NodeName=x State=DOWN") == {"x": 1}


def test_a_job_without_its_nodes_is_told_apart() -> None:
    with pytest.raises(AllocationError, match=r"SLURM_JOB_ID='7' says .*unset SLURM_JOB_ID to run"):
        parse_allocation({"SLURM_JOB_ID": "7"})


def test_lists_that_do_not_match_are_quoted() -> None:
    env = {**JOB, "SLURM_JOB_CPUS_PER_NODE": "4(x3)"}
    with pytest.raises(AllocationError, match=r"'n\[1-2\]' has 2 nodes, .*'4\(x3\)' has 3: start"):
        parse_allocation(env)


def test_a_heterogeneous_job_is_refused() -> None:
    with pytest.raises(AllocationError, match=r"job 7 is a heterogeneous job \(SLURM_HET_SIZE='2'"):
        parse_allocation({**JOB, "SLURM_HET_SIZE": "2"})


# scontrol is a program that may be missing or fail: a small real one stands in for it.


def make_scontrol(folder: Path, script: str) -> dict[str, str]:
    program = folder / "scontrol"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(0o755)
    return {**JOB, "PATH": str(folder)}


@pytest.mark.processes
def test_without_scontrol_there_is_a_notice(tmp_path: Path) -> None:
    allocation = read_allocation({**JOB, "PATH": str(tmp_path)})
    assert allocation is not None
    assert len(allocation.notices) == 1
    assert "`scontrol show job -d 7` failed" in allocation.notices[0]
    assert "say SlurmCfg(gpus=..., mem=...)" in allocation.notices[0]


@pytest.mark.processes
def test_a_scontrol_that_fails_is_quoted(tmp_path: Path) -> None:
    env = make_scontrol(tmp_path, "import sys; sys.exit('no controller')")
    allocation = read_allocation(env)
    assert isinstance(allocation, Allocation)
    assert "exit status 1, no controller" in allocation.notices[0]


#: A scontrol that fails the first time that it is asked something, and then is what follows.
AWAY_AT_FIRST = """
import os, sys
file = FILE + sys.argv[-1]
if not os.path.exists(file):
    open(file, "w").close()
    sys.exit("Unable to contact slurm controller (connect failure)")
"""


@pytest.mark.processes
def test_a_slurm_that_is_away_is_waited_for_and_nothing_guessed(tmp_path: Path) -> None:
    script = AWAY_AT_FIRST.replace("FILE", repr(str(tmp_path / "asked"))) + "print('NodeName=n1')"
    told: list[str] = []
    allocation = read_allocation(make_scontrol(tmp_path, script), 60, told.append)
    assert allocation is not None
    assert allocation.notices == ()
    assert told[0].startswith("Slurm is away, and waited for: `scontrol show job -d 7` failed")
    assert told[1].startswith("Slurm is back, after ")
    assert len(told) == 2


@pytest.mark.processes
def test_waiting_for_slurm_has_an_end(tmp_path: Path) -> None:
    env = make_scontrol(tmp_path, "import sys; sys.exit('Socket timed out on send/recv')")
    with pytest.raises(AllocationError, match=r"Slurm is away.*timed out.*outage_in_sec"):
        read_allocation(env, 0.5)


@pytest.mark.processes
def test_slurms_own_commands_do_not_see_what_would_steer_them(tmp_path: Path) -> None:
    env = make_scontrol(tmp_path, "import os, sys; sys.exit(repr(sorted(os.environ)))")
    env |= {"SLURM_CLUSTERS": "other", "SLURM_GPUS": "4", "SQUEUE_FORMAT": "%i", "SLURM_CONF": "c"}
    answer = ask(env, "scontrol", "ping")
    assert "'SLURM_CONF'" in answer.problem
    assert "'SLURM_TIME_FORMAT'" in answer.problem
    for name in ("SLURM_CLUSTERS", "SLURM_GPUS", "SQUEUE_FORMAT"):
        assert name not in answer.problem


@pytest.mark.processes
def test_nodes_that_a_site_hides_are_told(tmp_path: Path) -> None:
    allocation = read_allocation(make_scontrol(tmp_path, "print()"))
    assert allocation is not None
    assert "`scontrol show node` tells nothing: each trial's share" in allocation.notices[0]


@pytest.mark.processes
def test_scontrol_is_asked_for_the_job_and_its_nodes(tmp_path: Path) -> None:
    answers = {
        "show job -d 7": "RunTime=00:00:10 TimeLimit=01:00:00\n"
        "     Nodes=n[1-2] CPU_IDs=0-3 Mem=900 GRES=gpu:2",
        "--oneliner show node n[1-2]": "NodeName=n2 NodeAddr=10.0.0.2 ThreadsPerCore=4",
    }
    env = make_scontrol(tmp_path, f"import sys; print({answers!r}[' '.join(sys.argv[1:])])")
    before = time.time()
    allocation = read_allocation(env)
    assert allocation is not None
    assert before <= (allocation.ends_at or 0.0) - 3590.0 <= time.time()
    assert allocation.notices == ()
    assert describe(allocation.nodes) == [("n1", 4, 0, 900, 2), ("n2", 4, 0, 900, 2)]
    assert [node.threads_per_core for node in allocation.nodes] == [2, 4]


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("/usr/bin/python sweep.py --x 'a b'", "python sweep.py --x 'a b'"),
        ("/venv/bin/python3 /venv/bin/slurm-sweeps run s.yaml", "slurm-sweeps run s.yaml"),
        ("python", "python"),
    ],
)
def test_in_a_step_the_command_is_said_that_was_used(
    monkeypatch: pytest.MonkeyPatch, command: str, typed: str
) -> None:
    monkeypatch.setattr(sys, "orig_argv", shlex.split(command))
    env = {"SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}
    with pytest.raises(UsageError, match=re.escape(f"without srun: `{typed}` in the sbatch")):
        check_not_inside_a_step(env)


@pytest.mark.parametrize(
    ("step", "inside"),
    [
        (None, False),
        ("0", True),
        ("17", True),
        ("4294967290", False),  # the shell of salloc, with LaunchParameters=use_interactive_step
        ("4294967291", False),  # the batch script
        ("4294967292", False),  # ssh to a node of the job
    ],
)
def test_steps_are_told_apart(step: str | None, inside: bool) -> None:
    env = {} if step is None else {"SLURM_STEP_ID": step, "SLURM_JOB_ID": "7"}
    if inside:
        with pytest.raises(UsageError, match=rf"inside job step 7\.{step} .*Start it without srun"):
            check_not_inside_a_step(env)
    else:
        check_not_inside_a_step(env)
