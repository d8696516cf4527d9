"""What `train` may call: which metrics and iterations are taken, and what follows a decision."""

from __future__ import annotations

import decimal
import fractions
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slurm_sweeps as ss
from slurm_sweeps.running import session as session_module
from slurm_sweeps.running.channel import Decoder, encode
from slurm_sweeps.running.metrics import check_iteration, check_metrics
from slurm_sweeps.running.session import Session, TrialContext

STOP = {"kind": "stop", "number": 0, "grace_s": 60.0}


class Tensor:
    """Something like a tensor of another library."""

    def __init__(self, shape: tuple[int, ...], value: Any = 0.5) -> None:
        self.shape = shape
        self._value = value

    def numpy(self) -> Any:
        return np.full(self.shape, self._value)


class Model:
    """What is no number, and raises when it is looked at."""

    @property
    def shape(self) -> Any:
        raise KeyError("not fitted")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (0.5, 0.5),
        (3, 3.0),
        (-0.0, 0.0),
        (2**80, float(2**80)),
        (np.float64(0.25), 0.25),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.uint8(255), 255.0),
        (fractions.Fraction(1, 4), 0.25),
        (decimal.Decimal("0.25"), 0.25),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (np.array([[3]]), 3.0),
        (Tensor(()), 0.5),
        (Tensor((1, 1)), 0.5),
        (float("inf"), float("inf")),
        (float("-inf"), float("-inf")),
        (np.float32("inf"), float("inf")),
    ],
)
def test_real_numbers_are_taken_as_floats(value: Any, taken: float) -> None:
    result = check_metrics({"loss": value})["loss"]
    assert result == taken
    assert type(result) is float


def test_nan_is_taken() -> None:
    assert repr(check_metrics({"loss": float("nan")})) == "{'loss': nan}"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "metric 'loss' must be a real number, not builtins.bool"),
        ("0.5", "not builtins.str"),
        (None, "not builtins.NoneType"),
        (1j, "not builtins.complex"),
        ([0.5], "not builtins.list"),
        (np.bool_(True), "not numpy.bool; pass int(loss) of a truth value"),
        (np.array(True), "must be a real number, not numpy.ndarray"),
        (np.array("0.5"), "must be a real number, not numpy.ndarray"),
        (np.zeros(3), "not numpy.ndarray of shape (3,); pass one number of it, or its mean"),
        (np.zeros(0), "of shape (0,)"),
        (Tensor((2,)), "Tensor of shape (2,)"),
        (Tensor((), value=1j), "Tensor"),
        (Model, "not builtins.type"),
    ],
)
def test_other_values_are_refused(value: Any, words: str) -> None:
    with pytest.raises(TypeError) as refused:
        check_metrics({"loss": value})
    assert words in str(refused.value)
    assert isinstance(refused.value, ss.UsageTypeError)


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError, match="metric 'n' is too large for a float"):
        check_metrics({"n": 10**400})


@pytest.mark.parametrize("name", ["val/loss", "a b", "β-損失", "x" * 300, "\n", "1", "; DROP --"])
def test_any_name_is_allowed(name: str) -> None:
    assert check_metrics({name: 1}) == {name: 1.0}


@pytest.mark.parametrize(
    ("metrics", "kind", "words"),
    [
        (0.5, TypeError, "log needs a dict of metrics, like {'loss': 0.1}; got float"),
        ([("loss", 1)], TypeError, "got list"),
        ({1: 0.5}, TypeError, "the name of a metric is a str; got 1"),
        ({"": 0.5}, ValueError, "can't be empty or hold NUL; got ''"),
        ({"a\0": 0.5}, ValueError, r"can't be empty or hold NUL; got 'a\x00'"),
        ({"\ud800": 0.5}, ValueError, r"must be writable as UTF-8; got '\ud800'"),
    ],
)
def test_other_metrics_are_refused(metrics: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as refused:
        check_metrics(metrics)
    assert words in str(refused.value)


@pytest.mark.parametrize("iteration", [0, 1, 2**63 - 1, np.int64(5), np.uint8(5)])
def test_whole_numbers_are_iterations(iteration: Any) -> None:
    assert check_iteration(iteration) == iteration
    assert type(check_iteration(iteration)) is int


@pytest.mark.parametrize(
    ("iteration", "words"),
    [
        (-1, "iteration must be from 0 to 2**63 - 1; got -1"),
        (2**63, "got 9223372036854775808"),
        (1.0, "iteration must be a whole number (0, 1, 2, …); got 1.0"),
        ("1", "got '1'"),
        (None, "got None"),
        (True, "got True"),
        (np.bool_(True), "got "),
        (np.array([1]), "got array([1])"),
    ],
)
def test_other_iterations_are_refused(iteration: Any, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is read below
        check_iteration(iteration)
    assert words in str(refused.value)


class Peer:
    """The other end of a session's socket: answers each report with the next of `answers`."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.answers: list[list[dict[str, Any]]] = []
        self.heard: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        decoder = Decoder()
        while data := self.end.recv(65536):
            for record in decoder.feed(data):
                self.heard.append(record)
                if record["kind"] in ("report", "await"):
                    for answer in self.answers.pop(0):
                        self.end.sendall(encode(answer))


def decide(do: str, iteration: int = 1, trial: int = 3, attempt: int = 2) -> dict[str, Any]:
    return {
        "kind": "decision",
        "number": trial,
        "attempt": attempt,
        "iteration": iteration,
        "do": do,
    }


def build_context(directory: Path, rank: int = 0, world_size: int = 1) -> TrialContext:
    return TrialContext("0123456789ab", 3, 2, str(directory), rank, world_size, 77)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    mine, its = socket.socketpair()
    with mine, its:
        yield mine, its


@pytest.fixture
def peer(ends: tuple[socket.socket, socket.socket]) -> Peer:
    return Peer(ends[1])


@pytest.fixture
def session(ends: tuple[socket.socket, socket.socket], tmp_path: Path) -> Session:
    return Session(ends[0], build_context(tmp_path))


def hang_up(session: Session, peer: Peer) -> None:
    session._link.shutdown(socket.SHUT_WR)
    peer.finish()


def test_a_report_goes_out_and_the_trial_goes_on(session: Session, peer: Peer) -> None:
    peer.answers = [[decide("go_on", 1)], [decide("go_on", 2)]]
    peer.start()
    session.log({"loss": np.float32(0.5), "val/acc": 1}, 1)
    session.log({"loss": float("nan")}, np.int64(2))
    hang_up(session, peer)
    first, second = peer.heard
    assert first == {
        "kind": "report",
        "number": 3,
        "attempt": 2,
        "iteration": 1,
        "metrics": {"loss": 0.5, "val/acc": 1.0},
    }
    assert (second["iteration"], repr(second["metrics"])) == (2, "{'loss': nan}")


def test_iterations_count_by_themselves(
    ends: tuple[socket.socket, socket.socket], peer: Peer, tmp_path: Path
) -> None:
    session = Session(ends[0], build_context(tmp_path)._replace(logged=4))
    peer.answers = [[decide("go_on")] for _ in range(4)]
    peer.start()
    for iteration in (None, 9, 2, None):
        session.log({"loss": 1}, iteration)
    assert session.describe_final(0.5) == {"iteration": 11, "metrics": {"value": 0.5}}
    hang_up(session, peer)
    assert [record["iteration"] for record in peer.heard] == [5, 9, 2, 10]


def test_another_rank_that_does_not_count_waits_for_the_next_decision(
    ends: tuple[socket.socket, socket.socket], peer: Peer, tmp_path: Path
) -> None:
    session = Session(ends[0], build_context(tmp_path, rank=1, world_size=2))
    peer.answers = [[decide("go_on", 8)]]
    peer.start()
    session.log({"loss": 1})
    assert session.describe_final(0.5) == {}  # rank 0 says it
    hang_up(session, peer)
    assert peer.heard == [{"kind": "await", "iteration": 0}]


@pytest.mark.parametrize(
    ("returned", "metrics"),
    [
        (0.5, {"acc": 0.5}),
        (np.float32(0.5), {"acc": 0.5}),
        (np.array([2]), {"acc": 2.0}),
        ({"a": 1, "b": np.array(0.5)}, {"a": 1.0, "b": 0.5}),
        (None, None),
        (True, None),
        ("0.5", None),
        ([0.5], None),
        ((0.5, 0.1), None),
        (np.zeros(3), None),
        (Model(), None),
        (Model, None),
        ({}, None),
    ],
)
def test_what_train_returns_is_its_last_report(
    session: Session, returned: Any, metrics: dict[str, float] | None
) -> None:
    session.context = session.context._replace(metric="acc")
    expected = {} if metrics is None else {"iteration": 1, "metrics": metrics}
    assert session.describe_final(returned) == expected


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ({"loss": [1, 2]}, "this is none: metric 'loss' must be a real number, not builtins.list"),
        ({"ok": True}, "'ok' must be a real number, not builtins.bool"),
        ({1: 0.5}, "the name of a metric is a str; got 1"),
        (10**400, "train returned a number that is too large for a float"),
    ],
)
def test_a_wrong_dict_is_refused(session: Session, returned: Any, words: str) -> None:
    with pytest.raises((ss.UsageError, ss.UsageTypeError)) as refused:
        session.describe_final(returned)
    assert words in str(refused.value)


@pytest.mark.parametrize("word", ["prune", "pause"])
def test_a_pruned_trial_is_told_again_when_it_goes_on(
    session: Session, peer: Peer, word: str
) -> None:
    peer.answers = [[decide(word)]]
    peer.start()
    for iteration in (1, 2, 3):
        with pytest.raises(ss.TrialPruned, match="trial 0123456789ab is not among the best"):
            session.log({"loss": 1}, iteration)
    hang_up(session, peer)
    # It is not asked about again, the worker knows that it was told, and the user that it goes on.
    assert [record["kind"] for record in peer.heard] == ["report", "told", "notice"]
    assert peer.heard[1]["do"] == word


def test_a_trial_told_to_stop_is_interrupted(session: Session, peer: Peer) -> None:
    peer.answers = [[decide("stop")]]
    peer.start()
    with pytest.raises(ss.TrialInterrupted, match="trial 0123456789ab was asked to stop"):
        session.log({"loss": 1}, 1)
    assert session.should_stop()
    assert session.was_told_to_stop
    hang_up(session, peer)


def test_a_request_to_stop_is_seen_between_reports(
    session: Session, ends: tuple[socket.socket, socket.socket]
) -> None:
    assert not session.should_stop()
    ends[1].sendall(encode(STOP))
    assert session.should_stop()
    assert session.was_told_to_stop


def test_after_a_request_to_stop_the_next_report_is_stored_and_then_raises(
    session: Session, peer: Peer
) -> None:
    peer.answers = [[STOP, decide("go_on")]]
    peer.start()
    with pytest.raises(ss.TrialInterrupted):
        session.log({"loss": 1}, 1)
    hang_up(session, peer)
    assert peer.heard[0]["kind"] == "report"


def test_decisions_of_other_trials_and_attempts_are_left_aside(
    session: Session, peer: Peer
) -> None:
    peer.answers = [[decide("prune", attempt=1), decide("prune", trial=4), decide("go_on")]]
    peer.start()
    session.log({"loss": 1}, 1)
    hang_up(session, peer)


def test_reports_take_the_direct_way_where_there_is_one(
    ends: tuple[socket.socket, socket.socket], peer: Peer, tmp_path: Path
) -> None:
    link, worker = socket.socketpair()
    with link, worker:
        session = Session(link, build_context(tmp_path), direct=ends[0])
        peer.answers = [[decide("prune")]]
        peer.start()
        with pytest.raises(ss.TrialPruned):
            session.log({"loss": 1}, 1)
        (told,) = Decoder().feed(worker.recv(4096))
        assert told == {"kind": "told", "do": "prune"}
        ends[0].shutdown(socket.SHUT_WR)
        peer.finish()
    assert [record["kind"] for record in peer.heard] == ["report"]


def test_other_ranks_ask_only_for_the_decision(
    ends: tuple[socket.socket, socket.socket], peer: Peer, tmp_path: Path
) -> None:
    session = Session(ends[0], build_context(tmp_path, rank=2, world_size=4))
    peer.answers = [[decide("prune", 7)]]
    peer.start()
    with pytest.raises(ss.TrialPruned):
        session.log({"loss": 1}, 7)
    hang_up(session, peer)
    assert peer.heard[0] == {"kind": "await", "iteration": 7}


def test_a_term_is_a_request_to_stop_but_not_in_one_of_several_ranks(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    alone = Session(ends[0], build_context(tmp_path))
    alone.ask_to_stop()
    assert alone.should_stop()
    together = Session(ends[0], build_context(tmp_path, rank=1, world_size=2))
    together.ask_to_stop()
    assert not together.should_stop()


def test_a_lost_connection_says_so(
    session: Session, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].close()
    with pytest.raises(ss.SlurmSweepsError, match="connection from this trial to its worker"):
        session.log({"loss": 1}, 1)


def test_a_connection_that_ends_while_waiting_says_so(session: Session, peer: Peer) -> None:
    peer.end.shutdown(socket.SHUT_WR)
    with pytest.raises(ss.SlurmSweepsError, match=r"is gone \(end of file\): the worker has ended"):
        session.log({"loss": 1}, 1)


def test_a_socket_that_train_closed_says_so(session: Session) -> None:
    os.close(session._link.detach())
    with pytest.raises(ss.SlurmSweepsError, match="train closed file descriptors"):
        session.log({"loss": 1}, 1)


def test_threads_of_a_trial_report_one_after_another(session: Session, peer: Peer) -> None:
    peer.answers = [[decide("go_on")] for _ in range(40)]
    peer.start()

    def report(start: int) -> None:
        for iteration in range(start, start + 10):
            session.log({"loss": 1}, iteration)

    threads = [threading.Thread(target=report, args=(start,)) for start in (0, 10, 20, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    hang_up(session, peer)
    assert sorted(record["iteration"] for record in peer.heard) == list(range(40))


# --- outside a trial ------------------------------------------------------------------------------


def test_log_outside_a_trial_prints_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    ss.log({"loss": 0.123456789, "n": np.int64(3), "bad": float("nan")}, 4)
    assert capsys.readouterr().out == "iteration 4: loss=0.123457, n=3, bad=nan\n"


def test_log_outside_a_trial_checks_just_the_same() -> None:
    with pytest.raises(TypeError, match="must be a real number"):
        ss.log({"loss": "low"}, 1)
    with pytest.raises(ValueError, match="whole number"):
        ss.log({"loss": 1}, 1.5)  # type: ignore[arg-type] # that is the point


def test_the_rest_outside_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ss.should_stop() is False
    assert ss.attempt() == 1
    assert ss.trial_dir() == tmp_path
    assert ss.checkpoint_dir() == tmp_path / "checkpoints"
    assert ss.checkpoint_dir().is_dir()
    with pytest.raises(ss.UsageError, match=r"trial_id\(\) only makes sense inside a trial"):
        ss.trial_id()
    assert ss.trial_seed() == 0


def test_the_rest_inside_a_trial(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "_active", session)
    assert ss.trial_id() == "0123456789ab"
    assert ss.trial_seed() == 77
    assert ss.attempt() == 2
    assert ss.trial_dir() == tmp_path
    assert ss.checkpoint_dir() == tmp_path / "checkpoints"
