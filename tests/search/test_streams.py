"""Streams of random numbers by trial number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.search.draws import Streams

NUMBERS = st.integers(0, 2**63)


@given(st.integers(0, 2**130), NUMBERS, NUMBERS)
def test_a_stream_depends_on_its_number_alone(entropy: int, number: int, other: int) -> None:
    expected = Streams(entropy).go_to(number).random(9).tolist()
    streams = Streams(entropy)
    streams.go_to(other).integers(0, 7, size=3)
    assert streams.go_to(number).random(9).tolist() == expected
    assert streams.go_to(number).random(9).tolist() == expected
    if other != number:
        assert streams.go_to(other).random(9).tolist() != expected


def test_seeds_and_paths_part_streams() -> None:
    made = [Streams(0), Streams(1), Streams(2**64), Streams(0, "lr"), Streams(0, "β")]
    assert len({streams.go_to(0).random() for streams in made}) == len(made)
