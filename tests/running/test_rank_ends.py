"""How a trial of several ranks counts, how one rank ends, and where the others find the first."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from worker_process import start_worker

from slurm_sweeps.running.attempts import judge_ends
from slurm_sweeps.running.step_place import find_address


def end(how: str, at: float, rank: int = 0, message: str = "") -> dict[str, Any]:
    return {"kind": "ended", "how": how, "at": at, "rank": rank, "message": message}


@pytest.mark.parametrize(
    ("ends", "how", "message"),
    [
        ([end("completed", 1)], "completed", ""),
        ([end("lost", 1)], "lost", ""),
        ([end("completed", 1), end("completed", 2, 1)], "completed", ""),
        ([end("pruned", 1), end("pruned", 2, 1)], "pruned", ""),
        ([end("interrupted", 2), end("completed", 1, 1)], "interrupted", ""),
        ([end("completed", 2), end("failed", 1, 1, "oh")], "failed", "rank 1: oh"),
        ([end("failed", 2, 0, "gone"), end("failed", 1, 1, "oh")], "failed", "rank 1: oh"),
        ([end("failed", 2, 0, "gone"), end("lost", 1, 1, "killed")], "failed", "rank 1: killed"),
        ([end("failed", 1, 0, "oh"), end("lost", 2, 1, "killed")], "failed", "rank 0: oh"),
        ([end("interrupted", 1), end("lost", 2, 1, "killed")], "failed", "rank 1: killed"),
    ],
)
def test_the_first_broken_rank_speaks_for_all(
    ends: list[dict[str, Any]], how: str, message: str
) -> None:
    found = judge_ends({record["rank"]: record for record in ends})
    assert (found["how"], found["message"]) == (how, message)


def test_a_rank_that_met_a_problem_speaks_before_those_that_broke() -> None:
    """The others may have failed of its silence before it was heard."""
    full = {**end("interrupted", 2, 1, "no space"), "problem": "a disk is full"}
    assert judge_ends({0: end("failed", 1, 0, "no peer"), 1: full}) == full


GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:23345"


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        ("ConnectionError", "a rank has gone"),
        ("ConnectionResetError", "[Errno 104] Connection reset by peer"),
        ("BrokenPipeError", "[Errno 32] Broken pipe"),
        ("EOFError", ""),
        ("RuntimeError", GLOO),
        ("DistBackendError", "NCCL error: remote process exited; ncclRemoteError: a call failed"),
    ],
)
@pytest.mark.parametrize("how", ["failed", "lost"])
def test_a_rank_that_lost_another_is_not_the_reason(type_: str, message: str, how: str) -> None:
    """As it unwinds, the one that fails hangs up; the others may be through before it is."""
    lost = {**end("failed", 1, 0, message), "error_type": type_}
    reason = {**end(how, 2, 1, "oh"), "error_type": "ValueError"}
    assert judge_ends({0: lost, 1: reason})["message"] == "rank 1: oh"
    alone = judge_ends({0: lost, 1: end("completed", 2, 1)})
    assert (alone["how"], alone["message"]) == ("failed", f"rank 0: {message}")


def test_a_node_is_found_by_its_name_or_else_by_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "localhost")
    assert find_address.__wrapped__() == "localhost"
    monkeypatch.setenv("SLURMD_NODENAME", "no-such-node.invalid")
    other = find_address.__wrapped__()
    assert other
    assert other != "no-such-node.invalid"


def test_an_exit_after_a_term_is_an_interruption(tmp_path: Path) -> None:
    """So Lightning ends a trial that got a TERM: by a SystemExit without a code."""

    def train(cfg: dict[str, Any]) -> None:
        import os
        import signal

        if cfg["term"]:
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        for number, (term, how) in enumerate([(False, "completed"), (True, "interrupted")]):
            worker.run({"term": term}, number)
            assert worker.wait_for("ended")["how"] == how


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_warnings_of_a_jobs_end_reach_neither_worker_nor_trial(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)

    def train(cfg: dict[str, Any]) -> None:
        import os
        import signal

        assert signal.getsignal(cfg["signal"]) is signal.SIG_IGN
        os.kill(os.getpid(), cfg["signal"])

    with start_worker(tmp_path, train) as worker:
        worker.wait_for("ready")
        os.kill(worker.process.pid, number)
        worker.run({"signal": int(number)})
        assert worker.wait_for("ended")["how"] == "completed"


def test_with_a_step_of_its_own_a_trial_loads_train_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPI starts up once in a step: an import in the worker would use that up."""
    module = tmp_path / "modules" / "says_where.py"
    module.parent.mkdir()
    module.write_text("import os\n\nLOADED_IN = os.getpid()\n")
    monkeypatch.syspath_prepend(module.parent)

    def train(_cfg: dict[str, Any]) -> None:
        import os

        import says_where

        assert os.getpid() == says_where.LOADED_IN

    with start_worker(tmp_path, train, fresh=True) as worker:
        worker.wait_for("ready")
        worker.run()
        assert worker.wait_for("ended")["how"] == "completed"


def test_train_that_can_not_be_loaded_there_is_a_failure(tmp_path: Path) -> None:
    with start_worker(tmp_path, print, fresh=True) as worker:
        worker.wait_for("ready")
        (tmp_path / "train.pkl").write_bytes(b"no pickle")
        worker.run()
        end = worker.wait_for("ended")
        assert (end["how"], end["error_type"]) == ("failed", "TrainError")
