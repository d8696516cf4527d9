"""The ledger: how many trials run at once, where, and with what."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_jobs import JOBS, load_allocation, load_allocation_without_scontrol

from slurm_sweeps.errors import AllocationError, UsageError
from slurm_sweeps.slurm.allocation import Allocation, Node
from slurm_sweeps.slurm.config import LocalCfg, SlurmCfg
from slurm_sweeps.slurm.share import Plan, count_local_slots, plan_slots
from slurm_sweeps.slurm.step import Slot, format_gpus
from slurm_sweeps.slurm.text import Gres, parse_gres


def describe(plan: Plan) -> list[tuple[int, str, int, int | None, str | None]]:
    """Count the slots that are alike: how many, where, CPUs a task, memory, GRES."""
    alike = Counter(
        (",".join(slot.nodes), slot.cpus_per_task, slot.mem_mb, slot.gres) for slot in plan.slots
    )
    return sorted((count, *key) for key, count in alike.items())


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("bare", [(1, "n1", 1, 256000, None)]),
        ("per_cpu", [(18, "n1", 4, 4096, None), (18, "n2", 4, 4096, None)]),
        ("per_node", [(18, "n1", 4, 4096, None), (18, "n2", 4, 4096, None)]),
        ("gres", [(4, "n1", 16, 16384, "gpu:1"), (4, "n2", 16, 16384, "gpu:1")]),
        ("gpus_per_node", [(4, "n1", 4, 8192, "gpu:1"), (4, "n2", 4, 8192, "gpu:1")]),
        ("gpus_per_task", [(4, "n1", 4, 4096, "gpu:1"), (4, "n2", 4, 4096, "gpu:1")]),
        ("gpus_uneven", [(1, "n2", 4, 4096, "gpu:1"), (4, "n1", 4, 4096, "gpu:1")]),
        ("exclusive", [(4, "n1", 32, 64000, "gpu:1"), (4, "n2", 32, 64000, "gpu:1")]),
        ("exclusive_tasks", [(4, "n1", 32, 64000, "gpu:1"), (4, "n2", 32, 64000, "gpu:1")]),
        ("nodes_only", [(1, "n1", 1, 256000, "gpu:4"), (1, "n2", 1, 256000, "gpu:4")]),
        ("unlike_nodes", [(2, "s1", 32, 64000, "gpu:1"), (4, "n1", 32, 64000, "gpu:1")]),
        ("three_tasks", [(1, "n2", 4, 256000, None), (2, "n1", 4, 128000, None)]),
        ("two_types", [(4, "t1", 4, 400, "gpu:1")]),
        ("nomultithread", [(4, "h1", 4, 2048, None)]),
        # 10 CPUs are five cores, and a step of three CPUs would take two of them.
        ("threads", [(3, "h1", 2, 200, None)]),
        # Slurm put seven tasks beside four GPUs and one beside the other four.
        ("gpus_skewed", [(1, "n2", 4, 16384, "gpu:4"), (7, "n1", 4, 2340, "gpu:4")]),
    ],
)
def test_each_slot_gets_its_share(
    name: str, slots: list[tuple[int, str, int, int | None, str | None]]
) -> None:
    assert describe(plan_slots(load_allocation(name), SlurmCfg())) == slots


def test_every_recorded_job_is_in_the_table_above() -> None:
    table = test_each_slot_gets_its_share.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert sorted(name for name, _ in table) == JOBS


@pytest.mark.parametrize("name", ["per_cpu", "per_node", "gres", "gpus_per_task", "gpus_uneven"])
def test_scontrol_is_not_needed_where_the_environment_tells_all(name: str) -> None:
    from_all = plan_slots(load_allocation(name), SlurmCfg())
    assert plan_slots(load_allocation_without_scontrol(name), SlurmCfg()) == from_all


@pytest.mark.parametrize(
    ("name", "cfg", "slots"),
    [
        ("per_cpu", {"cpus_per_task": 2}, [(18, "n1", 2, 2048, None), (18, "n2", 2, 2048, None)]),
        ("per_node", {"cpus_per_task": 8}, [(9, "n1", 8, 8192, None), (9, "n2", 8, 8192, None)]),
        ("per_cpu", {"mem": "8G"}, [(9, "n1", 4, 8192, None), (9, "n2", 4, 8192, None)]),
        ("per_cpu", {"args": "-c 36"}, [(2, "n1", 36, 36864, None), (2, "n2", 36, 36864, None)]),
        (
            "per_cpu",
            {"args": "--mem-per-cpu=2G"},
            [(9, "n1", 4, 8192, None), (9, "n2", 4, 8192, None)],
        ),
        ("per_cpu", {"ntasks": 3}, [(6, "n1", 4, 12288, None), (6, "n2", 4, 12288, None)]),
        ("per_cpu", {"nodes": 2, "ntasks": 4}, [(9, "n1,n2", 4, 8192, None)]),
        ("gres", {"ntasks": 2}, [(2, "n1", 16, 32768, "gpu:2"), (2, "n2", 16, 32768, "gpu:2")]),
        ("gres", {"nodes": 2, "ntasks": 4}, [(2, "n1,n2", 16, 32768, "gpu:2")]),
        ("gres", {"gpus": 0}, [(4, "n1", 16, 16384, "none"), (4, "n2", 16, 16384, "none")]),
        ("gres", {"gpus": 2}, [(2, "n1", 16, 16384, "gpu:2"), (2, "n2", 16, 16384, "gpu:2")]),
        (
            "gres",
            {"nodes": 2, "ntasks": 2, "args": "--gpus-per-task=2"},
            [(2, "n1,n2", 16, 16384, "gpu:2")],
        ),
        (
            "gpus_per_task",
            {"args": "--gpus=4"},
            [(1, "n1", 4, 4096, "gpu:4"), (1, "n2", 4, 4096, "gpu:4")],
        ),
        (
            "exclusive",
            {"ntasks": 4},
            [(1, "n1", 32, 256000, "gpu:4"), (1, "n2", 32, 256000, "gpu:4")],
        ),
        (
            "exclusive",
            {"gpus": 2},
            [(2, "n1", 64, 128000, "gpu:2"), (2, "n2", 64, 128000, "gpu:2")],
        ),
        ("gpus_skewed", {"gpus": 1}, [(1, "n2", 4, 4096, "gpu:1"), (4, "n1", 4, 4096, "gpu:1")]),
        ("two_types", {"ntasks": 4}, [(1, "t1", 4, 1600, "gpu:a100:3,gpu:v100:1")]),
    ],
)
def test_what_the_user_says_is_counted(
    name: str, cfg: dict[str, Any], slots: list[tuple[int, str, int, int | None, str | None]]
) -> None:
    plan = plan_slots(load_allocation(name), SlurmCfg(**cfg))
    assert describe(plan) == slots


def test_slots_are_spread_over_the_nodes_in_turn() -> None:
    plan = plan_slots(load_allocation("per_cpu"), SlurmCfg(), 4)
    assert [slot.nodes for slot in plan.slots] == [("n1",), ("n2",), ("n1",), ("n2",)]
    assert [slot.index for slot in plan.slots] == [0, 1, 2, 3]


def test_fewer_trials_do_not_get_more() -> None:
    allocation = load_allocation("gres")
    assert (
        plan_slots(allocation, SlurmCfg(), 2).slots == plan_slots(allocation, SlurmCfg()).slots[:2]
    )


def test_more_trials_than_fit_are_capped_with_a_notice() -> None:
    plan = plan_slots(load_allocation("per_cpu"), SlurmCfg(), 100)
    assert len(plan.slots) == 36
    assert plan.notices == (
        "36 trials run at once: max_concurrent_trials=100, but no more fit the job when each gets "
        "1 x 4 CPUs on a node (cores are only given whole); smaller SlurmCfg(cpus_per_task=..., "
        "gpus=..., mem=...) make room for more",
    )


def test_more_trials_than_tasks_run_where_they_fit() -> None:
    plan = plan_slots(load_allocation("per_cpu"), SlurmCfg(cpus_per_task=2), 72)
    assert describe(plan) == [(36, "n1", 2, 2048, None), (36, "n2", 2, 2048, None)]
    assert plan.notices == ()


def test_tasks_that_do_not_fit_as_steps_get_fewer_cpus_which_is_told() -> None:
    assert plan_slots(load_allocation("threads"), SlurmCfg()).notices == (
        "each task gets 2 CPUs so that 3 trials run at once: with 3 not all would fit, because "
        "cores are only given whole; SlurmCfg(cpus_per_task=3) gives that to fewer trials",
    )
    plan = plan_slots(load_allocation("threads"), SlurmCfg(cpus_per_task=3))
    assert describe(plan) == [(2, "h1", 3, 400, None)]
    assert "2 trials run at once: the job's 3 tasks would make 3" in plan.notices[0]


def test_a_job_without_tasks_is_divided_as_asked() -> None:
    plan = plan_slots(load_allocation("exclusive"), SlurmCfg(gpus=0), 32)
    assert describe(plan) == [(16, "n1", 8, 16000, "none"), (16, "n2", 8, 16000, "none")]
    plan = plan_slots(load_allocation("exclusive"), SlurmCfg(), 4)
    assert describe(plan) == [(2, "n1", 64, 128000, "gpu:2"), (2, "n2", 64, 128000, "gpu:2")]


def test_notices_of_the_allocation_are_passed_on() -> None:
    allocation = replace(load_allocation("per_cpu"), notices=("scontrol is gone",))
    assert plan_slots(allocation, SlurmCfg()).notices == ("scontrol is gone",)


# Cores of two threads, which are only given whole.


def make_job(
    cpus: int,
    tasks: int,
    cpus_per_task: int | None = None,
    *,
    threads: int = 2,
    nodes: int = 1,
    gpus: int = 0,
) -> Allocation:
    node = Node(
        "n",
        cpus=cpus,
        tasks=tasks,
        mem_mb=16000,
        gres=(Gres("gpu", None, gpus),) if gpus else (),
        threads_per_core=threads,
    )
    return Allocation(
        job_id="7",
        nodes=tuple(replace(node, name=f"n{number}") for number in range(nodes)),
        ntasks=nodes * tasks or None,
        cpus_per_task=cpus_per_task,
        has_gres=gpus > 0,
    )


@pytest.mark.parametrize(
    ("job", "cfg", "most", "slots"),
    [
        # The most CPUs with which all tasks fit: slots, CPUs of a task, whether they own them.
        (make_job(14, 4, nodes=2, gpus=4), {}, None, (8, 2, True)),
        (make_job(6, 2, 3, nodes=2), {}, None, (4, 2, True)),
        (make_job(6, 2, 3, threads=1), {}, None, (2, 3, True)),
        (make_job(14, 4, 3), {"cpus_per_task": 3}, None, (3, 3, True)),
        (make_job(14, 0, gpus=4), {}, None, (4, 2, True)),
        # Too few cores for each to own one.
        (make_job(16, 16, 1), {}, None, (16, 1, False)),
        (make_job(16, 16, 1), {}, 16, (16, 1, False)),
        (make_job(16, 16, 1), {}, 8, (8, 1, True)),
        (make_job(2, 8), {}, None, (8, 1, False)),  # --overcommit
        (make_job(1, 8, threads=1), {}, None, (8, 1, False)),
        (make_job(16, 16, 1), {"ntasks": 2}, None, (8, 1, True)),
        (make_job(16, 16, 1), {"cpus_per_task": 1}, None, (8, 1, True)),
        # srun is asked to take one thread of each core, so that -c counts cores.
        (make_job(16, 8, 2, nodes=2), {"args": "--hint=nomultithread"}, None, (16, 1, True)),
        (make_job(16, 8, 2), {"args": "--threads-per-core=1"}, None, (8, 1, True)),
        (make_job(16, 8, 2), {"args": "-B *:*:1"}, None, (8, 1, True)),
        (make_job(16, 8, 2), {"args": "--hint=multithread"}, None, (8, 2, True)),
        (make_job(16, 8, 2), {"args": "--threads-per-core=2"}, None, (8, 2, True)),
        (make_job(16, 4, 4), {"args": "--hint=compute_bound"}, None, (4, 2, True)),
        (make_job(16, 8, 2), {"args": "--hint=memory_bound -c2"}, None, (4, 2, True)),
        # One big task a node.
        (make_job(16, 1, 16), {}, 8, (8, 2, True)),
        (make_job(16, 1, 16, threads=1), {}, 8, (8, 2, True)),
        (make_job(16, 1, 16, nodes=2), {}, 8, (8, 4, True)),
        (make_job(16, 1, 16), {"ntasks": 2}, 4, (4, 2, True)),
        (make_job(16, 1, 16), {}, None, (1, 16, True)),
        (make_job(16, 1, 16, nodes=2), {}, 2, (2, 16, True)),
        (make_job(16, 1, 16), {"cpus_per_task": 4}, 8, (4, 4, True)),
        # --cpus-per-task without a number of tasks.
        (make_job(16, 0, 4), {}, None, (4, 4, True)),
        (make_job(16, 0, 16), {}, 8, (8, 2, True)),
    ],
)
def test_all_tasks_run_at_once_where_that_can_be(
    job: Allocation, cfg: dict[str, Any], most: int | None, slots: tuple[int, int, bool]
) -> None:
    plan = plan_slots(job, SlurmCfg(**cfg), most)
    alike = {(slot.cpus_per_task, slot.exclusive) for slot in plan.slots}
    assert [(len(plan.slots), *some) for some in alike] == [slots]
    mem_mb = [slot.mem_mb or 0 for slot in plan.slots]
    assert min(mem_mb) > 0
    assert sum(mem_mb) <= sum(node.mem_mb or 0 for node in job.nodes)


def test_that_cores_are_shared_is_said() -> None:
    plan = plan_slots(make_job(16, 16, 1), SlurmCfg())
    assert {slot.step_cpus_per_task for slot in plan.slots} == {16}
    assert plan.notices == (
        "16 trials share 8 cores of n0 and float over its CPUs, since cores are only given "
        "whole; a smaller max_concurrent_trials, or more CPUs for the job, give each its own",
    )


def test_trials_that_share_cores_own_their_gpus_while_they_last() -> None:
    plan = plan_slots(make_job(4, 4, 1, gpus=4), SlurmCfg())
    assert [slot.visible_gpus for slot in plan.slots] == [(0,), (1,), (2,), (3,)]
    assert {(slot.gres, slot.exclusive) for slot in plan.slots} == {("gpu:4", False)}


# More slots than GPUs.


def node_with_gpus(gpus: int, tasks: int = 8) -> Allocation:
    gres = (Gres("gpu", None, gpus),)
    node = Node("n1", cpus=32, tasks=tasks, mem_mb=32000, gres=gres)
    return Allocation("7", (node,), ntasks=tasks, cpus_per_task=32 // tasks, has_gres=True)


def test_gpus_are_dealt_out_where_there_are_fewer_than_slots() -> None:
    plan = plan_slots(node_with_gpus(3), SlurmCfg())
    visible = [slot.visible_gpus for slot in plan.slots]
    assert visible == [(0,), (1,), (2,), (0,), (1,), (2,), (0,), (1,)]
    assert {(slot.exclusive, slot.gpus, slot.gres) for slot in plan.slots} == {(False, 1, "gpu:3")}
    assert {(slot.cpus_per_task, slot.step_cpus_per_task, slot.mem_mb) for slot in plan.slots} == {
        (4, 32, 4000)
    }
    assert plan.notices == (
        "8 trials share 3 GPUs of n1: they are dealt out in turn by CUDA_VISIBLE_DEVICES, and "
        "the trials of a node float over its CPUs; with SlurmCfg(gpus=1) a trial has GPUs of its "
        "own, and fewer run at once",
    )


def test_so_few_trials_that_gpus_need_no_sharing_own_them() -> None:
    plan = plan_slots(node_with_gpus(3), SlurmCfg(), 3)
    assert [(slot.exclusive, slot.gres, slot.visible_gpus) for slot in plan.slots] == [
        (True, "gpu:1", None)
    ] * 3


def test_each_task_of_a_trial_sees_a_shared_gpu() -> None:
    plan = plan_slots(node_with_gpus(2), SlurmCfg(ntasks=2))
    assert [slot.visible_gpus for slot in plan.slots] == [(0, 1)] * 4
    assert [slot.step_cpus_per_task for slot in plan.slots] == [16] * 4


def test_a_trial_of_more_tasks_than_gpus_sees_all() -> None:
    plan = plan_slots(node_with_gpus(2), SlurmCfg(ntasks=8))
    assert [(slot.gpus, slot.gres, slot.exclusive) for slot in plan.slots] == [(2, "gpu:2", True)]


def test_idle_gpus_are_told() -> None:
    plan = plan_slots(node_with_gpus(3, tasks=2), SlurmCfg())
    assert [slot.gpus for slot in plan.slots] == [1, 1]
    assert plan.notices == (
        "1 GPU of the job stays idle: they do not divide evenly among 2 trials, which get 1 a "
        "node; say SlurmCfg(gpus=...)",
    )


def test_nodes_without_gpus_are_left_out_unless_none_are_wanted() -> None:
    job = node_with_gpus(4, tasks=4)
    bare = Node("c1", cpus=32, tasks=4, mem_mb=32000)
    job = replace(job, nodes=(*job.nodes, bare), ntasks=8)
    plan = plan_slots(job, SlurmCfg())
    assert {slot.nodes for slot in plan.slots} == {("n1",)}
    assert plan.notices == (
        "no trial runs on c1: the job has GPUs, but none there; SlurmCfg(gpus=0) uses all nodes, "
        "without GPUs",
    )
    assert len(plan_slots(job, SlurmCfg(gpus=0)).slots) == 8


def test_several_types_are_asked_for_by_name_only_when_all_are() -> None:
    gres = parse_gres("gpu:a100:3,gpu:v100:1,tmp:5")
    assert format_gpus(gres, 1) == "gpu:1"
    assert format_gpus(gres, 4) == "gpu:a100:3,gpu:v100:1"
    assert format_gpus(parse_gres("gpu:a100:4"), 4) == "gpu:4"


# Overlapping on purpose.


def test_overlapping_trials_are_as_many_as_asked() -> None:
    plan = plan_slots(load_allocation("per_cpu"), SlurmCfg(exclusive=False), 100)
    assert len(plan.slots) == 100
    assert {(s.exclusive, s.cpus_per_task, s.step_cpus_per_task, s.mem_mb) for s in plan.slots} == {
        (False, 4, 72, None)
    }
    assert plan.notices == ()
    assert len(plan_slots(load_allocation("per_cpu"), SlurmCfg(args="--overlap"), 50).slots) == 50


def test_overlapping_trials_see_gpus_of_their_own_while_they_last() -> None:
    plan = plan_slots(node_with_gpus(4, tasks=4), SlurmCfg(exclusive=False))
    assert [slot.visible_gpus for slot in plan.slots] == [(0,), (1,), (2,), (3,)]
    assert {slot.gres for slot in plan.slots} == {"gpu:4"}


# What can't fit.


@pytest.mark.parametrize(
    ("name", "cfg", "message"),
    [
        ("per_cpu", {"nodes": 3, "ntasks": 3}, r"nodes=3\) asks for 3 nodes .* job 1 has 2: lower"),
        (
            "per_cpu",
            {"ntasks": 19},
            r"needs 76 CPUs \(19 x cpus_per_task=4\), and job 1 has n1: 72 CPUs, 0 GPUs, 73728 MB; "
            r"n2: .*Lower SlurmCfg\(ntasks=...\) or cpus_per_task, or raise --ntasks",
        ),
        ("per_cpu", {"gpus": 1}, r"needs 4 CPUs .*, 1 GPUs, and .*Lower SlurmCfg\(gpus=.*--gres"),
        ("gres", {"gpus": 5}, r"5 GPUs, and job 2 has n1: 64 CPUs, 4 GPUs.*Lower SlurmCfg\(gpus="),
        ("gres", {"args": "--gpus-per-node=5"}, r"5 GPUs, and job 2 has"),
        (
            "gres",
            {"nodes": 2, "ntasks": 2, "gpus": 10},
            r"5 GPUs on each of 2 nodes, and .* spread the trial over more nodes",
        ),
        ("gpus_uneven", {"nodes": 2, "ntasks": 2, "gpus": 4}, r"2 GPUs .*n2: 4 CPUs, 1 GPUs, 4096"),
        ("per_cpu", {"mem": "80G"}, r"81920 MB of memory, and job 1 has .*Lower SlurmCfg\(mem="),
        ("per_cpu", {"args": "--mem-per-cpu=99G"}, r"405504 MB of memory, and"),
        ("exclusive_tasks", {"ntasks": 5}, r"needs 160 CPUs \(5 x cpus_per_task=32\), and job 9"),
    ],
)
def test_what_can_not_fit_is_said(name: str, cfg: dict[str, Any], message: str) -> None:
    with pytest.raises(AllocationError, match=message):
        plan_slots(load_allocation(name), SlurmCfg(**cfg))


def test_a_long_list_of_nodes_is_cut() -> None:
    nodes = tuple(Node(f"n{index}", cpus=1, tasks=1) for index in range(9))
    with pytest.raises(AllocationError, match=r"n3: 1 CPUs, 0 GPUs; and 5 more nodes\. Lower"):
        plan_slots(Allocation("7", nodes, ntasks=9), SlurmCfg(ntasks=2))


def test_gpus_in_args_must_spread_evenly() -> None:
    with pytest.raises(UsageError, match=r"3 GPUs can't be spread evenly over 2 nodes; ask for a"):
        SlurmCfg(nodes=2, ntasks=2, args="--gpus=3")


@pytest.mark.parametrize(
    ("tasks", "cpus", "threads", "taken"),
    [
        (1, 1, 1, 1),
        (3, 2, 1, 6),
        (1, 1, 2, 2),
        (2, 1, 2, 2),
        (3, 1, 2, 4),
        (1, 3, 2, 4),
        (2, 3, 2, 8),
    ],
)
def test_cores_are_taken_whole(tasks: int, cpus: int, threads: int, taken: int) -> None:
    node = Node("n1", cpus=8, threads_per_core=threads)
    assert node.count_step_cpus(tasks, cpus) == taken


# The books are right, whatever the job and whatever is asked.


@st.composite
def allocations(draw: st.DrawFn) -> Allocation:
    threads = draw(st.sampled_from([1, 2]))
    named = draw(st.booleans())
    nodes = []
    for index in range(draw(st.integers(1, 5))):
        gpus = draw(st.integers(0, 6))
        cpus = draw(st.integers(1, 40)) * threads
        nodes.append(
            Node(
                name=f"n{index}",
                cpus=cpus,
                tasks=draw(st.integers(1, 2 * cpus)) if named else 0,
                mem_mb=draw(st.one_of(st.none(), st.integers(1000, 90000))),
                gres=(Gres("gpu", None, gpus),) if gpus else (),
                threads_per_core=threads,
            )
        )
    return Allocation(
        job_id="7",
        nodes=tuple(nodes),
        ntasks=sum(node.tasks for node in nodes) if named else None,
        cpus_per_task=draw(st.one_of(st.none(), st.integers(1, 4))),
        mem_per_cpu_mb=draw(st.one_of(st.none(), st.integers(1, 500))),
        mem_per_gpu_mb=draw(st.one_of(st.none(), st.integers(1, 500))),
        has_gres=any(node.gpus for node in nodes),
    )


@st.composite
def configurations(draw: st.DrawFn) -> SlurmCfg:
    nodes = draw(st.integers(1, 3))
    return SlurmCfg(
        exclusive=draw(st.sampled_from([True, True, True, False])),
        nodes=nodes,
        ntasks=nodes * draw(st.integers(1, 4)),
        cpus_per_task=draw(st.one_of(st.none(), st.integers(1, 6))),
        gpus=draw(st.one_of(st.none(), st.integers(0, 3).map(lambda gpus: gpus * nodes))),
        mem=draw(st.one_of(st.none(), st.integers(100, 9000).map(lambda mb: f"{mb}M"))),
    )


def plan_or_none(allocation: Allocation, cfg: SlurmCfg, most: int | None) -> Plan | None:
    try:
        return plan_slots(allocation, cfg, most)
    except AllocationError:
        return None


def sum_up(node: Node, slots: list[Slot]) -> tuple[int, int, int]:
    """Add what the steps on a node are started with: CPUs, memory, GPUs."""
    cpus = sum(node.count_step_cpus(slot.tasks_per_node, slot.step_cpus_per_task) for slot in slots)
    return cpus, sum(slot.mem_mb or 0 for slot in slots), sum(slot.gpus for slot in slots)


@given(allocations(), configurations(), st.one_of(st.none(), st.integers(1, 60)))
def test_steps_never_ask_for_more_than_a_node_has(
    allocation: Allocation, cfg: SlurmCfg, most: int | None
) -> None:
    plan = plan_or_none(allocation, cfg, most)
    for node in allocation.nodes:
        slots = [slot for slot in plan.slots if node.name in slot.nodes] if plan else []
        if not slots:
            continue
        if slots[0].exclusive:
            cpus, mem, gpus = sum_up(node, slots)
            assert cpus <= node.cpus
            assert gpus <= node.gpus
            assert mem <= (node.mem_mb or mem)
        for slot in slots:
            assert sum_up(node, [slot])[0] <= node.cpus
            assert all(gpu < node.gpus for gpu in slot.visible_gpus or ())
            gres = parse_gres(slot.gres or "")
            assert sum(item.count for item in gres) <= node.gpus
            assert bool(gres) == bool(slot.gpus)


@given(allocations(), configurations(), st.one_of(st.none(), st.integers(1, 60)))
def test_each_slot_is_what_was_asked(
    allocation: Allocation, cfg: SlurmCfg, most: int | None
) -> None:
    plan = plan_or_none(allocation, cfg, most)
    if plan is None:
        return
    assert [slot.index for slot in plan.slots] == list(range(len(plan.slots)))
    assert 1 <= len(plan.slots) <= (most or len(plan.slots))
    for slot in plan.slots:
        assert len(set(slot.nodes)) == len(slot.nodes) == cfg.nodes
        assert slot.ntasks == cfg.ntasks
        assert slot.cpus_per_task == (cfg.cpus_per_task or slot.cpus_per_task)
        assert slot.gpus * cfg.nodes == (slot.gpus * cfg.nodes if cfg.gpus is None else cfg.gpus)
        assert slot.cpus_per_task <= slot.step_cpus_per_task


@given(allocations(), configurations(), st.integers(1, 30), st.integers(1, 30))
def test_more_trials_are_never_fewer(
    allocation: Allocation, cfg: SlurmCfg, some: int, more: int
) -> None:
    if max(node.tasks for node in allocation.nodes) <= 1:
        return  # such a job is divided by the number itself
    few = plan_or_none(allocation, cfg, some)
    many = plan_or_none(allocation, cfg, some + more)
    assert (few is None) == (many is None)
    if few and many:
        assert len(few.slots) <= len(many.slots)


# Without Slurm.


@pytest.mark.parametrize(
    ("cpus", "gpus", "per_trial", "most", "slots", "notices"),
    [
        (8, 0, 0, None, 8, 0),
        (8, 2, 0, None, 8, 0),
        (8, 0, 0, 20, 20, 0),
        (8, 4, 1, None, 4, 0),
        (8, 4, 2, None, 2, 0),
        (8, 5, 2, None, 2, 0),
        (8, 4, 1, 3, 3, 0),
        (8, 2, 1, 6, 6, 1),
        (8, 2, 0.25, None, 8, 0),
        (8, 1, 0.3, None, 3, 0),
        (8, 1, 0.1, None, 10, 0),
        (8, 1, 0.25, 6, 6, 1),
    ],
)
def test_local_slots_follow_cpus_or_gpus(
    cpus: int, gpus: int, per_trial: float, most: int | None, slots: int, notices: int
) -> None:
    count, said = count_local_slots(cpus, gpus, LocalCfg(per_trial), most)
    assert (count, len(said)) == (slots, notices)


@pytest.mark.parametrize(
    ("cfg", "most", "slots"),
    [
        (LocalCfg(cpus=2), None, 4),
        (LocalCfg(cpus=3), None, 2),
        (LocalCfg(cpus=8), 1, 1),
        (LocalCfg(cpus=3, gpus=1), None, 2),
        (LocalCfg(cpus=1, gpus=1), None, 4),
        (LocalCfg(cpus=1, gpus=0.5), None, 8),
    ],
)
def test_local_slots_follow_whatever_a_trial_names(
    cfg: LocalCfg, most: int | None, slots: int
) -> None:
    assert count_local_slots(8, 4, cfg, most) == (slots, ())


def test_sharing_local_cpus_is_said() -> None:
    count, said = count_local_slots(8, 1, LocalCfg(cpus=3, gpus=0.5), 4)
    assert count == 4
    assert said == (
        "4 trials share 1 GPU, dealt out in turn by CUDA_VISIBLE_DEVICES; for 0.5 of a GPU each "
        "set max_concurrent_trials=2",
        "4 trials of 3 CPUs share 8; for CPUs of their own set max_concurrent_trials=2",
    )


def test_more_local_cpus_than_there_are_is_an_error() -> None:
    with pytest.raises(AllocationError, match=r"LocalCfg\(cpus=9\) asks for 9 CPUs .* sees 8: lo"):
        count_local_slots(8, 1, LocalCfg(cpus=9))
    with pytest.raises(AllocationError, match=r"LocalCfg\(gpus=0.5\) asks for .* sees 0: lower it"):
        count_local_slots(8, 0, LocalCfg(0.5))


def test_sharing_local_gpus_is_said() -> None:
    assert count_local_slots(8, 2, LocalCfg(1), 6)[1] == (
        "6 trials share 2 GPUs, dealt out in turn by CUDA_VISIBLE_DEVICES; for GPUs of their own "
        "set max_concurrent_trials=2",
    )


def test_more_local_gpus_than_there_are_is_an_error() -> None:
    with pytest.raises(AllocationError, match=r"LocalCfg\(gpus=2\) asks for 2 .* sees 1: lower it"):
        count_local_slots(8, 1, LocalCfg(2))


def plan_few_steps(cfg: SlurmCfg, **limits: int) -> Plan:
    """Plan eight tasks on each of two nodes, where steps are limited."""
    nodes = (Node("n1", 16, 8, 16_000), Node("n2", 16, 8, 16_000))
    return plan_slots(Allocation("7", nodes, 16, 2, **limits), cfg)


def test_where_few_steps_run_at_once_one_serves_all_slots_of_a_node() -> None:
    for cfg, limits in ((SlurmCfg(), {"srun_ports": 18}), (SlurmCfg(), {"max_steps": 6})):
        plan = plan_few_steps(cfg, **limits)
        assert plan.shares_steps
        assert len(plan.slots) == 16
        assert "allows 6 job steps at once, fewer than the 16 slots" in plan.notices[0]
    for enough in ({"srun_ports": 48, "max_steps": 40_000}, {"max_steps": 16}, {}):
        plan = plan_few_steps(SlurmCfg(), **enough)
        assert (len(plan.slots), plan.notices, plan.shares_steps) == (16, (), False)


@pytest.mark.parametrize(
    ("cfg", "trials"),
    [
        (SlurmCfg(fresh_step=True), 6),
        (SlurmCfg(args="-c2"), 6),
        (SlurmCfg(ntasks=2), 6),
        (SlurmCfg(ntasks=4), 4),  # which are not too many
    ],
)
def test_where_they_can_not_be_shared_fewer_trials_run(cfg: SlurmCfg, trials: int) -> None:
    plan = plan_few_steps(cfg, max_steps=6)
    assert len(plan.slots) == trials
    assert [slot.index for slot in plan.slots] == list(range(trials))
    told = "6 trials run at once: MaxStepCount of this cluster allows no more job steps"
    assert plan.notices == ((told,) if trials == 6 else ())


def test_fewer_steps_than_nodes_leave_nodes_out_and_none_is_an_error() -> None:
    plan = plan_few_steps(SlurmCfg(), srun_ports=5)
    assert {slot.nodes for slot in plan.slots} == {("n1",)}
    assert [slot.index for slot in plan.slots] == list(range(8))
    assert plan.notices[1].startswith("8 trials run at once: SrunPortRange")
    with pytest.raises(AllocationError, match="SrunPortRange of this cluster allows not one"):
        plan_few_steps(SlurmCfg(), srun_ports=2)
