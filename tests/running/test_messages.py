"""Records in a stream of bytes: found however it is cut, whatever lies between, never an error."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.running import channel as messages
from slurm_sweeps.running.channel import (
    Decoder,
    encode,
    encode_parts,
    is_well_formed,
)

texts = st.text(max_size=60)
numbers = st.integers(0, 2**63 - 1)
floats = st.floats(allow_nan=False)  # NaN does not equal itself; it has a test of its own

records = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("report"),
            "number": numbers,
            "attempt": numbers,
            "iteration": numbers,
            "metrics": st.dictionaries(texts, floats, max_size=5),
        }
    ),
    st.fixed_dictionaries(
        {"kind": st.just("broken"), "traceback": st.text('a\n\x1e\x00"\\{}é\ud800🐍', max_size=60)}
    ),
    st.fixed_dictionaries({"kind": st.just("hello"), "host": texts, "pid": numbers}),
    st.fixed_dictionaries({"kind": st.just("ready")}),
)
noise = st.binary(max_size=40).map(lambda data: data.replace(b"\x1e", b"?"))


def decode_in_pieces(data: bytes, cuts: list[int]) -> tuple[list[Any], bytes, int]:
    decoder, found, rest = Decoder(), [], b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(edges):
        found += decoder.feed(data[begin:end])
        rest += decoder.take_noise()
    return found, rest, decoder.malformed


@given(st.lists(st.tuples(noise, records), max_size=8), noise, st.lists(st.integers(0), max_size=9))
def test_any_records_survive_any_cutting_and_any_noise_between(
    pairs: list[tuple[bytes, Any]], last: bytes, cuts: list[int]
) -> None:
    stream = b"".join(before + encode(record) for before, record in pairs) + last
    found, rest, malformed = decode_in_pieces(stream, cuts)
    assert found == [record for _, record in pairs]
    assert rest == b"".join(before for before, _ in pairs) + last
    assert malformed == 0


def test_a_record_in_pieces_of_one_byte() -> None:
    record = {"kind": "report", "number": 1, "attempt": 1, "iteration": 0, "metrics": {"é\n": 1.5}}
    data = b"banner\n" + encode(record)
    assert decode_in_pieces(data, list(range(len(data)))) == ([record], b"banner\n", 0)


def test_nan_and_infinities_are_carried() -> None:
    metrics = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
    report = {"kind": "report", "number": 0, "attempt": 1, "iteration": 0, "metrics": metrics}
    (found,) = Decoder().feed(encode(report))
    assert {name: repr(value) for name, value in found["metrics"].items()} == {
        "nan": "nan",
        "inf": "inf",
        "-inf": "-inf",
    }


@given(st.binary(max_size=300), st.lists(st.integers(0), max_size=4))
def test_any_bytes_at_all_raise_nothing_and_spoil_no_later_record(
    data: bytes, cuts: list[int]
) -> None:
    ready = encode({"kind": "ready"})
    found, _, _ = decode_in_pieces(data + ready, cuts)
    assert found[-1] == {"kind": "ready"}


@given(records, st.data())
def test_an_edited_record_is_counted_or_still_a_record_and_raises_nothing(
    record: Any, data: st.DataObject
) -> None:
    line = bytearray(encode(record))
    at = data.draw(st.integers(1, len(line) - 2))
    line[at] = data.draw(st.integers(0, 255))
    decoder = Decoder()
    found = decoder.feed(bytes(line) + encode({"kind": "ready"}))
    assert all(is_well_formed(one) for one in found)
    assert found[-1] == {"kind": "ready"}
    assert len(found) + decoder.malformed >= 2


@given(records, st.data())
def test_a_record_that_lacks_a_field_that_it_must_have_is_counted(
    record: Any, data: st.DataObject
) -> None:
    lacking = data.draw(st.sampled_from(["kind", *sorted(messages.KINDS[record["kind"]])]))
    rest = {name: value for name, value in record.items() if name != lacking}
    decoder = Decoder()
    assert decoder.feed(encode(rest) + encode({"kind": "ready"})) == [{"kind": "ready"}]
    assert decoder.malformed == 1


@given(records, st.integers(1, 200))
def test_a_record_cut_short_is_counted_and_kept_as_noise(record: Any, keep: int) -> None:
    line = encode(record)
    cut = line[: min(keep, len(line) - 1)]
    decoder = Decoder()
    assert decoder.feed(cut) == []
    assert decoder.feed(encode({"kind": "ready"})) == [{"kind": "ready"}]
    assert decoder.malformed == 1
    assert decoder.take_noise() == cut


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["kind", "number", "attempt", "iteration", "metrics", "sender", "text", "last", "do"]
        ),
        st.one_of(json_values, st.sampled_from(sorted(messages.KINDS)), st.just({"loss": 1.0})),
    )
)
def test_any_json_object_is_a_well_formed_record_or_is_counted(value: Any) -> None:
    decoder = Decoder()
    found = decoder.feed(b"\x1e" + json.dumps(value).encode() + b"\n")
    assert all(is_well_formed(record) for record in found)
    assert found or decoder.malformed or value.get("kind") == "part"


@pytest.mark.parametrize(
    "value",
    [
        [],
        1,
        None,
        "ready",
        {},
        {"kind": None},
        {"kind": ["ready"]},
        {"kind": {}},
        {"kind": "unheard of"},
        {"kind": "hello", "host": "n1"},
        {"kind": "hello", "host": 1, "pid": 1},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": 0, "metrics": {"loss": "low"}},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": 0, "metrics": {"loss": True}},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": 0, "metrics": {"loss": 10**400}},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": -1, "metrics": {}},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": 2**63, "metrics": {}},
        {"kind": "report", "number": True, "attempt": 1, "iteration": 1, "metrics": {}},
        {"kind": "report", "number": 0, "attempt": 1, "iteration": 0, "metrics": {"\ud800": 1.0}},
        {"kind": "ended", "how": "failed", "exit_code": "1"},
        {"kind": "ended", "how": "failed", "exit_code": 2**63},
        {"kind": "ended", "how": "failed", "signal": True},
        {"kind": "ended", "how": "failed", "at": "now"},
        {"kind": "ready", "port": [], "gpus": None},
        {"kind": "ready", "port": None, "gpus": 1},
        {"kind": "hello", "host": "n1", "pid": 1, "step": 5},
    ],
)
def test_what_makes_no_sense_is_counted(value: Any) -> None:
    decoder = Decoder()
    line = b"\x1e" + json.dumps(value).encode() + b"\n"
    assert decoder.feed(line) == []
    assert decoder.malformed == 1
    assert decoder.take_noise() == line


def test_brackets_without_end_are_counted() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1e" + b"[" * 200_000 + b"\n") == []
    assert decoder.malformed == 1


def test_a_record_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(messages, "ADDED_BYTES", 0)
    decoder = Decoder()
    for _ in range(30):
        assert decoder.feed(b"\x1e" + b"x" * 100) == []
    assert decoder.feed(b"y" * 2000) == []
    assert decoder.malformed == 30
    assert decoder.feed(encode({"kind": "ready"})) == [{"kind": "ready"}]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3000)), max_size=8),
    st.randoms(use_true_random=False),
)
def test_parts_of_several_senders_interleaved(speeches: list[tuple[int, int]], random: Any) -> None:
    lines: dict[int, list[bytes]] = {}
    said: dict[int, list[str]] = {}
    for sender, size in speeches:
        text = "é\n" * (size // 2) + str(len(said))
        said.setdefault(sender, []).append(text)
        parts = encode_parts({"kind": "notice", "text": text, "rank": sender}, sender)
        lines.setdefault(sender, []).extend(parts.splitlines(keepends=True))
    decoder = Decoder()
    heard: dict[int, list[str]] = {}
    while lines:
        sender = random.choice(sorted(lines))
        for record in decoder.feed(lines[sender].pop(0)):
            heard.setdefault(record["rank"], []).append(record["text"])
        lines = {sender: left for sender, left in lines.items() if left}
    assert heard == said
    assert decoder.malformed == 0


@given(st.text(max_size=2000))
def test_no_part_is_longer_than_what_slurm_keeps_in_one_piece(text: str) -> None:
    # Quotes and escapes grow when a record is written inside another.
    parts = encode_parts({"kind": "notice", "text": text + '"\\\n' * 500}, 3)
    assert max(map(len, parts.splitlines(keepends=True))) <= 1000


def test_parts_that_make_no_record_are_counted() -> None:
    decoder = Decoder()
    for text in ("\ud800", "{", "[]"):
        part = {"kind": "part", "sender": 1, "part": 0, "last": True, "text": text}
        assert decoder.feed(encode(part)) == []
    assert decoder.malformed == 3
