"""Slots that come and go while a sweep runs, with real workers on this machine."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster_tools.processes import read_process, wait_until
from slurm_sweeps.running.channel import append_to
from slurm_sweeps.running.deadlines import Patience
from slurm_sweeps.running.launchers import LocalLauncher
from slurm_sweeps.running.slots import EXIT_S, SILENT_S, Slots, SlotState, SlotStatus
from slurm_sweeps.running.train import pickle_train, write_train
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.sweep_types import TrialState
from slurm_sweeps.trial import Status

TIMEOUT_S = 60.0


class Pool:
    """Slots, and the part of a driver that hears that their workers are ready."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.notices: list[str] = []
        self.selector = selectors.DefaultSelector()
        patience = Patience()
        self.init = {
            "train": str(layout.train),
            "prune_grace_s": patience.prune_grace_s,
            "exit_grace_s": patience.exit_grace_s,
            "term_grace_s": patience.term_grace_s,
        }
        self.slots = Slots(self.init, self.selector, self._notify, append_to)

    def _notify(self, text: str, again: bool = False) -> None:  # noqa: ARG002 - all are kept
        self.notices.append(text)

    def start_all(self) -> list[SlotState]:
        """Start all workers; return the slots as they have become ready."""
        self.slots.start(len(self.slots), time.monotonic())
        wait_until(self._hear_all, TIMEOUT_S, lambda: f"not all are ready; {self.notices}")
        return sorted(self.slots.idle, key=lambda slot: slot.number)

    def _hear_all(self) -> bool:
        for key, _ in self.selector.select(0.05):
            for record in key.data.read(key.fd) or []:
                slot = self.slots.find(key.data, record)
                assert slot is not None
                if record["kind"] == "ready":
                    self.slots.note_ready(slot, record)  # type: ignore[arg-type] # it is one
        return len(self.slots.idle) == len(self.slots)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    layout = Layout(tmp_path, "pool")
    layout.slots.mkdir(parents=True)

    def train(_cfg: dict[str, Any]) -> None:
        return None

    pool = Pool(layout)
    pool.init["digest"] = write_train(pickle_train(train), layout.train)
    yield pool
    pool.slots.dismiss()
    pool.selector.close()


def list_pids(slots: list[SlotState]) -> set[int]:
    return {slot.connection.process.pid for slot in slots if slot.connection is not None}


def test_launchers_lend_slots_and_take_them_back(pool: Pool) -> None:
    first, second = (LocalLauncher(2, pool.layout) for _ in range(2))
    pool.slots.lend(first)
    begun = pool.start_all()
    assert [slot.number for slot in begun] == [0, 1]
    pool.slots.lend(second)  # a driver's loop has long begun
    both = pool.start_all()
    assert [slot.number for slot in both] == [0, 1, 2, 3]
    assert [slot.place.number for slot in both] == [0, 1, 0, 1]

    gone, trial = list_pids(begun), TrialState(7, "0" * 12, 0, {})
    pool.slots.begin(begun[1], trial)
    assert not pool.slots.let_go(first)  # while a trial runs there, its host stays
    loss = pool.slots.withdraw(pool.slots.list_lent(first))
    assert [(slot.number, ended.status) for slot, ended in loss.ends] == [(1, Status.INTERRUPTED)]
    assert loss.ends[0][1].error is not None
    assert loss.ends[0][1].error.message.startswith("the worker was withdrawn (exit code ")
    assert begun[1].trial is trial  # whoever hears of the loss still knows whose it is
    wait_until(lambda: not any(map(read_process, gone)), TIMEOUT_S, lambda: f"{gone} are there")
    assert [slot.number for slot in pool.slots.with_worker] == [2, 3]
    assert len(pool.slots) == 2
    assert not pool.slots.is_out

    pool.slots.lend(first)  # comes back; its slots are others than before
    assert [slot.number for slot in pool.start_all()] == [2, 3, 4, 5]
    for launcher in (first, second):
        assert pool.slots.withdraw(pool.slots.list_lent(launcher)).ends == []
    assert len(pool.slots) == 0
    assert pool.notices == []


def test_hosts_that_are_let_go_leave_by_themselves_and_no_other_is_started(pool: Pool) -> None:
    launcher = LocalLauncher(2, pool.layout)
    pool.slots.lend(launcher)
    slots = pool.start_all()
    (pid,) = list_pids(slots)
    assert not pool.slots.let_go(launcher)
    assert {slot.status for slot in slots} == {SlotStatus.LEAVING}
    wait_until(lambda: read_process(pid) is None, TIMEOUT_S, lambda: f"{pid} is there")
    loss = pool.slots.lose(slots, "ended")
    assert (loss.ends, loss.notices) == ([], [])
    assert pool.slots.let_go(launcher)
    assert not pool.slots.may_start(time.monotonic() + 1e9)
    pool.slots.withdraw(slots)
    assert len(pool.slots) == 0


def test_what_follows_from_a_lost_worker_is_one_value(pool: Pool) -> None:
    pool.slots.lend(LocalLauncher(2, pool.layout))
    lost, other = pool.start_all()
    pool.slots.begin(lost, TrialState(3, "0" * 12, 0, {}))
    now = time.monotonic()
    pool.slots.expect_end(lost, now)
    assert pool.slots.pop_overdue(now + 0.001) == [lost]
    loss = pool.slots.lose([lost], "did not answer in time and was killed")
    assert [(slot.number, ended.status) for slot, ended in loss.ends] == [(0, Status.LOST)]
    (notice,) = loss.notices
    assert notice == (
        f"the worker of slot 0 on {lost.place.nodes[0]} did not answer in time and was killed"
    )
    assert (lost.status, lost.failures) == (SlotStatus.DOWN, 1)
    assert not pool.slots.may_start(time.monotonic())  # a moment later
    assert pool.slots.may_start(lost.start_at)
    assert pool.slots.with_worker == [other]
    assert pool.slots.pop_overdue(time.monotonic() + 1e6) == []


def test_each_of_several_lost_workers_has_its_own_exit_code(pool: Pool) -> None:
    for _ in range(2):
        pool.slots.lend(LocalLauncher(1, pool.layout))
    slots = pool.start_all()
    ended = slots[0].connection
    assert ended is not None
    os.kill(ended.process.pid, signal.SIGALRM)
    assert ended.process.wait(TIMEOUT_S) == -signal.SIGALRM
    loss = pool.slots.lose(slots, "did not answer")
    assert [text.partition("(")[2] for text in loss.notices] == [
        f"exit code {-signal.SIGALRM})",
        f"exit code {-signal.SIGKILL})",
    ]


def test_only_as_many_workers_are_started_as_there_is_work_for(pool: Pool) -> None:
    pool.slots.lend(LocalLauncher(3, pool.layout))
    count: Callable[[], int] = lambda: len(pool.slots.with_worker)  # noqa: E731 - asked often
    pool.slots.start(1, time.monotonic())
    assert count() == 1
    pool.slots.start(2, time.monotonic())
    pool.slots.start(2, time.monotonic())
    assert count() == 2
    pool.slots.start(9, time.monotonic())
    assert count() == 3


def test_a_worker_that_does_not_leave_after_its_one_trial_is_ended(pool: Pool) -> None:
    launcher = LocalLauncher(1, pool.layout)
    launcher.fresh_workers = True
    pool.slots.lend(launcher)
    (slot,) = pool.start_all()
    (pid,) = list_pids([slot])
    pool.slots.begin(slot, TrialState(3, "0" * 12, 0, {}))
    os.kill(pid, signal.SIGSTOP)
    slot.trial = None
    assert not pool.slots.note_success(slot)
    assert pool.slots.pop_overdue(time.monotonic()) == []
    assert pool.slots.pop_overdue(time.monotonic() + EXIT_S + 1) == [slot]
    loss = pool.slots.lose([slot], "did not answer in time and was killed")
    assert (loss.ends, loss.notices) == ([], [])  # its trial was over: nobody needs to know
    assert (slot.status, slot.failures) == (SlotStatus.DOWN, 0)
    wait_until(lambda: not read_process(pid), TIMEOUT_S, lambda: f"{pid} is there")


def test_who_says_ready_twice_gets_no_second_trial(pool: Pool) -> None:
    pool.slots.lend(LocalLauncher(1, pool.layout))
    (slot,) = pool.start_all()
    pool.slots.begin(slot, TrialState(3, "0" * 12, 0, {}))
    assert not pool.slots.note_ready(slot, {})
    assert slot.status is SlotStatus.BUSY


def test_who_is_excused_for_silence_stays_quiet(pool: Pool) -> None:
    """As in a suspended job: what is overdue there must not be ended before Slurm was asked."""
    pool.slots.lend(LocalLauncher(1, pool.layout))
    (slot,) = pool.start_all()
    pool.slots.note_alive(slot, {"kind": "alive"})
    assert not pool.slots.is_quiet(slot)
    now = time.monotonic()
    assert pool.slots.find_silent(now + SILENT_S + 1) == [slot]
    pool.slots.excuse_silence([slot], now)
    assert pool.slots.is_quiet(slot)


def test_a_host_has_its_time_for_what_it_does_at_exit(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never ends is ended by the host's own clock, not by the driver before."""
    hook = "import atexit, time\natexit.register(time.sleep, 600)\n"
    (tmp_path / "slow_to_leave.py").write_text(hook)
    monkeypatch.syspath_prepend(tmp_path)

    def train(_cfg: dict[str, Any]) -> None:
        import slow_to_leave  # type: ignore[import-not-found] # written above

        slow_to_leave.time.sleep(0)

    pool.init["digest"] = write_train(pickle_train(train), pool.layout.train)
    pool.slots.lend(LocalLauncher(1, pool.layout))
    (slot,) = pool.start_all()
    connection = slot.connection
    assert connection is not None
    pool.slots.dismiss()
    assert connection.process.returncode == -signal.SIGALRM
