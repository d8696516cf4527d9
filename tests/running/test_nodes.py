"""Which nodes workers may be started on, as time and failures go by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.running.nodes import (
    ALONE_S,
    FIRST_REST_S,
    GATHER_S,
    LONGEST_PAUSE_S,
    LONGEST_REST_S,
    MAX_DEATHS,
    Nodes,
)


def kill_workers(nodes: Nodes, since: float) -> tuple[float, list[str]]:
    """Have workers start and die, one a second, until their node is left out."""
    for at in range(MAX_DEATHS):
        nodes.note_death(["n1"], since + at, since + at + 0.5)
        told = list(nodes.leave_out(["n1"], since + at + 0.5))
        if told:
            return since + at + 0.5, told
    raise AssertionError("it is not left out")


def test_a_node_is_left_out_for_longer_each_time_until_a_trial_ends_there() -> None:
    nodes, at = Nodes(), 0.0
    for rest_s in (60, 120, 240):
        at, told = kill_workers(nodes, at)
        assert told[0].startswith(f"n1 is left out for {rest_s} s: 3 workers in a row")
        assert nodes.are_left_out(["n1", "n2"], at)
        at = nodes.find_start(["n1", "n2"])
        assert not nodes.are_left_out(["n1"], at)
        assert list(nodes.note_begun(["n1"], at + 1)) == []
        at += 2
    assert list(nodes.note_success(["n1"])) == ["n1 is in use again: a trial has ended there"]
    assert list(nodes.note_success(["n1"])) == []
    at, told = kill_workers(nodes, at)
    assert told[0].startswith(f"n1 is left out for {FIRST_REST_S:.0f} s")


def test_workers_that_die_of_the_same_cause_count_as_one() -> None:
    nodes = Nodes()
    for _ in range(10):
        nodes.note_death(["n1"], 1.0, 2.0)
    assert list(nodes.leave_out(["n1"], 2.0)) == []


def test_where_slurm_starts_no_worker_the_next_one_goes_alone() -> None:
    nodes = Nodes()
    for name in ("n1", "n2", "n1"):  # the third was asked for with the first
        nodes.note_refusal([name], "it is away", 1.0, 10.0)
    assert nodes.find_start(["n1"]) == nodes.find_start(["n2"]) == 11.0
    assert not nodes.are_left_out(["n1"], 10.0)
    assert list(nodes.take_refusals(10.0)) == []
    (told,) = nodes.take_refusals(10.0 + GATHER_S)
    assert told.startswith("Slurm starts no worker on n1, n2: it is away.")
    nodes.note_start(["n1"], 11.0)
    assert nodes.find_start(["n1"]) == 11.0 + ALONE_S
    nodes.note_refusal(["n1"], "it is away", 1.0, 11.5)  # of before
    assert nodes.find_start(["n1"]) == 11.0 + ALONE_S
    nodes.note_refusal(["n1"], "it is away", 11.0, 12.0)
    assert nodes.find_start(["n1"]) == 14.0
    assert nodes.find_refusal() == (10.0, "it is away")
    assert list(nodes.take_refusals(99.0)) == []  # it is told already
    assert list(nodes.note_begun(["n1"], 15.0)) == ["Slurm starts workers on n1 again, after 5 s"]
    assert list(nodes.note_begun(["n1"], 16.0)) == []
    assert nodes.find_start(["n1"]) == 0.0
    assert nodes.find_refusal() == (10.0, "it is away")  # on the other one
    list(nodes.note_begun(["n2"], 16.0))
    assert nodes.find_refusal() is None


def test_a_step_that_waits_counts_from_when_its_worker_was_started() -> None:
    nodes = Nodes()
    nodes.note_stall(["n1"], "no room", 3.0)
    nodes.note_stall(["n1"], "no room", 9.0)
    assert nodes.find_refusal() == (3.0, "no room")
    assert nodes.find_start(["n1"]) == 0.0
    assert list(nodes.note_begun(["n1"], 10.0)) == []
    assert nodes.find_refusal() is None


def test_one_that_goes_alone_and_finds_no_room_holds_nobody_up() -> None:
    nodes = Nodes()
    nodes.note_refusal(["n1"], "it is away", 1.0, 10.0)
    nodes.note_start(["n1"], 11.0)
    nodes.note_stall(["n1"], "no room", 11.0)
    assert nodes.find_start(["n1"]) == 0.0
    assert nodes.find_refusal() == (10.0, "it is away")


@given(st.lists(st.sampled_from(["death", "refusal", "begun", "success"]), max_size=200))
def test_every_wait_has_an_end(events: list[str]) -> None:
    nodes, now = Nodes(), 0.0
    for event in events:
        now = max(now + 1.0, nodes.find_start(["n1"]))
        nodes.note_start(["n1"], now)
        if event == "death":
            list(nodes.note_begun(["n1"], now))
            nodes.note_death(["n1"], now, now + 0.5)
            list(nodes.leave_out(["n1"], now + 0.5))
        elif event == "refusal":
            nodes.note_refusal(["n1"], "away", now, now + 0.5)
        else:
            list(nodes.note_begun(["n1"], now))
        if event == "success":
            list(nodes.note_success(["n1"]))
        now += 0.5
        wait_s = nodes.find_start(["n1"]) - now
        assert wait_s <= (LONGEST_REST_S if event == "death" else LONGEST_PAUSE_S)
