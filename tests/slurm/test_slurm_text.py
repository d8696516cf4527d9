"""The small languages that Slurm writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.errors import AllocationError, UsageError
from slurm_sweeps.slurm.text import (
    Fate,
    Gres,
    count_gpus,
    parse_counts,
    parse_fate,
    parse_gres,
    parse_job_left,
    parse_kill_wait,
    parse_mem,
    parse_nodelist,
    parse_step_limits,
    parse_time_left,
    parse_waiting_steps,
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("n1,n2", ["n1", "n2"]),
        ("n[1-2,5],gpu-a[001-003]x", ["n1", "n2", "n5", "gpu-a001x", "gpu-a002x", "gpu-a003x"]),
        ("n[1-3,07]", ["n1", "n2", "n3", "n07"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("r[0-1]n[0-1]", ["r0n0", "r0n1", "r1n0", "r1n1"]),
        ("r[1,3]c2n[4].site.org,x", ["r1c2n4.site.org", "r3c2n4.site.org", "x"]),
    ],
)
def test_node_lists_are_expanded(text: str, names: list[str]) -> None:
    assert parse_nodelist(text) == names


@pytest.mark.parametrize("text", ["n[1-2", "n1]", "n[2-1]", "n[a-b]", "n[]", "n[1,,2]", "n[[1]]"])
def test_a_broken_node_list_is_quoted(text: str) -> None:
    with pytest.raises(AllocationError, match="can't read the list of nodes") as caught:
        parse_nodelist(text)
    assert repr(text) in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), min_size=1, max_size=5))
def test_ranges_hold_every_number_with_its_width(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first:03d}-{first + more:03d}" for first, more in ranges)
    numbers = [number for first, more in ranges for number in range(first, first + more + 1)]
    assert parse_nodelist(f"a[{text}]b") == [f"a{number:03d}b" for number in numbers]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("4", [4]), ("72(x2),36", [72, 72, 36]), ("1(x3)", [1, 1, 1]), ("7,1", [7, 1])],
)
def test_counts_are_repeated(text: str, counts: list[int]) -> None:
    assert parse_counts(text) == counts


@pytest.mark.parametrize("text", ["", "4(2)", "a", "4,", "4(x2"])
def test_broken_counts_are_quoted(text: str) -> None:
    with pytest.raises(AllocationError, match=r"counts per node .*expected '72\(x2\),36'"):
        parse_counts(text)


@pytest.mark.parametrize(
    ("text", "mb"),
    [
        ("4000", 4000),
        ("16G", 16384),
        ("1g", 1024),
        ("500MB", 500),
        ("1T", 1024**2),
        ("1K", 1),
        ("1025K", 2),
        ("0", 0),
    ],
)
def test_memory_is_read_in_megabytes(text: str, mb: int) -> None:
    assert parse_mem(text) == mb


@pytest.mark.parametrize("text", ["", "much", "1.5G", "-1", "16 G", "16P"])
def test_unreadable_memory_is_quoted(text: str) -> None:
    with pytest.raises(UsageError, match=r"amount of memory .*'16G'") as caught:
        parse_mem(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "gres"),
    [
        ("", ()),
        ("(null)", ()),
        ("gpu", (Gres("gpu", None, 1),)),
        ("gpu:4", (Gres("gpu", None, 4),)),
        ("gpu:4(S:0-1)", (Gres("gpu", None, 4),)),
        ("gpu:3(IDX:0,2-3),shard:8", (Gres("gpu", None, 3), Gres("shard", None, 8))),
        ("gpu:a100:4", (Gres("gpu", "a100", 4),)),
        ("gpu:a100", (Gres("gpu", "a100", 1),)),
        ("gres:gpu:a100:4", (Gres("gpu", "a100", 4),)),
        ("gres/gpu:a100=4", (Gres("gpu", "a100", 4),)),
        ("gres/gpu=4", (Gres("gpu", None, 4),)),
        ("tmp:2K", (Gres("tmp", None, 2048),)),
        (
            "gpu:a100:3(IDX:0-2),gpu:v100:1(IDX:4)",
            (Gres("gpu", "a100", 3), Gres("gpu", "v100", 1)),
        ),
    ],
)
def test_gres_are_read(text: str, gres: tuple[Gres, ...]) -> None:
    assert parse_gres(text) == gres


@pytest.mark.parametrize("text", ["gpu:a100:4:5", ":4", "gpu:4x"])
def test_broken_gres_are_quoted(text: str) -> None:
    with pytest.raises(AllocationError, match=r"generic resources .*expected 'gpu:a100:4'"):
        parse_gres(text)


def test_only_gpus_count_as_gpus() -> None:
    assert count_gpus(parse_gres("gpu:a100:3,gpu:v100:1,tmp:7")) == 4


@pytest.mark.parametrize(
    ("text", "left_s"),
    [
        ("0:07\n", 7.0),
        ("59:00", 3540.0),
        ("1:00:00", 3600.0),
        ("2-00:00:01", 172801.0),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_the_time_left_is_read(text: str, left_s: float | None) -> None:
    assert parse_time_left(text) == left_s
    assert parse_job_left(f"RunTime=00:00:00 TimeLimit={text}") == left_s
    assert parse_job_left(f"RunTime=3-00:00:00 TimeLimit={text}") == (None if left_s is None else 0)


def test_the_time_between_term_and_kill_is_read() -> None:
    assert parse_kill_wait("JobFileAppend = 0\nKillWait                = 45 sec\n") == 45.0
    assert parse_kill_wait("KillOnBadExit = 0\n") is None


@pytest.mark.parametrize(
    ("text", "fate"),
    [
        ("", Fate.UNKNOWN),
        ("JobState=RUNNING Restarts=0 RunTime=00:00:05 TimeLimit=00:02:00", Fate.UNKNOWN),
        ("JobState=COMPLETING Restarts=0 RunTime=00:00:05 TimeLimit=00:02:00", Fate.CANCELLED),
        ("JobState=CANCELLED Restarts=0 RunTime=00:00:05 TimeLimit=UNLIMITED", Fate.CANCELLED),
        ("JobState=COMPLETING Restarts=0 RunTime=00:02:01 TimeLimit=00:02:00", Fate.UNKNOWN),
        ("JobState=COMPLETING Restarts=0 PreemptTime=2022-05-01T10:00:00", Fate.UNKNOWN),
        ("JobState=COMPLETING Restarts=1 RunTime=00:00:05 PreemptTime=None", Fate.REQUEUED),
    ],
)
def test_the_fate_of_a_job_that_ends_is_told(text: str, fate: Fate) -> None:
    assert parse_fate(text, restarts=0) is fate


def test_sruns_that_wait_for_room_are_known_by_their_process_ids() -> None:
    text = (
        "StepId=8.0 UserId=0 State=RUNNING Partition=main CPUFreqReq=Default SrunHost:Pid=vm:3225\n"
        "StepId=8.TDB UserId=0 State=PENDING Partition=main Name=(null) SrunHost:Pid=vm.site:3227\n"
    )
    assert parse_waiting_steps(text) == {3227}
    assert parse_waiting_steps("") == frozenset()


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("MaxStepCount            = 40000\nSrunPortRange           = 0-0\n", (40000, None)),
        ("SrunPortRange           = 60001-60018\n", (None, 18)),
        ("", (None, None)),
    ],
)
def test_what_limits_the_steps_of_a_job(text: str, limits: tuple[int | None, int | None]) -> None:
    assert parse_step_limits(text) == limits
