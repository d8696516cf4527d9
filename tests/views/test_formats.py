"""Values as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_sweeps.views.formats import (
    clean,
    clean_lines,
    draw_sparkline,
    format_age,
    format_duration,
    format_number,
    format_span,
    format_value,
    shorten,
    shorten_name,
    wrap_words,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.98484848, "0.9848"),
        (0.0, "0"),
        (1.5e-05, "1.5e-5"),
        (123456.0, "1.235e5"),
        (4096, "4096"),
        (12_345_678, "1.235e7"),
        (-2.0, "-2"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (None, "-"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_is_short_and_right_to_four_digits(value: float) -> None:
    text = format_number(value)
    assert len(text) <= 11
    assert float(text) == pytest.approx(value, rel=5.1e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (None, "None"),
        ("adam", "adam"),
        ("", '""'),
        ("a\x1b[31m\nb", "a [31m b"),
        ([1, 0.123456], "[1, 0.1235]"),
        ({"a": [None]}, '{"a": [null]}'),
        (math.inf, "inf"),
    ],
)
def test_value(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3661, "1:01:01"), (200_000, "2d 7:33:20"), (None, "-")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (11_550, "3 h 12 min"),
        (9e5, "10 days 10 h"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (90, "2 min"), (7200, "2 h"), (864_000, "10 days")]
)
def test_age(seconds: float, text: str) -> None:
    assert format_age(seconds) == text


def test_long_texts_are_cut() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abc", 3) == "abc"
    assert shorten_name("opt.learning_rate", 8) == "…ng_rate"


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in clean(text))
    lines = clean_lines(text)
    assert lines.count("\n") == text.count("\n")
    assert not any(ord(each) < 32 and each != "\n" for each in lines)


def test_lines_keep_their_indentation() -> None:
    assert clean_lines("a:\n    b\x1b[2J\u202ec") == "a:\n    b [2J c"


def test_lines_are_broken_between_words_alone() -> None:
    path = "/a/path/that/is-longer-than-a-line"
    text = f"one two three {path} four\n  File of a traceback, which is not broken\n\nend"
    assert wrap_words(text, 12).split("\n") == [
        *("one two", "three", path, "four", "  File of a traceback, which is not broken", "", "end")
    ]


def test_sparkline() -> None:
    assert draw_sparkline([0, 1, 2, 3], 4) == "▁▃▆█"
    assert draw_sparkline([1.0, 1.0]) == "▅▅"
    assert draw_sparkline([0.0, math.nan, 1.0]) == "▁ █"
    assert draw_sparkline([math.nan]) == " "
    assert draw_sparkline([]) == ""
    assert draw_sparkline([-1e308, 1.7e308]) == "▁█"


@given(st.lists(st.floats()), st.integers(1, 60))
def test_a_sparkline_fits(values: list[float], width: int) -> None:
    assert len(draw_sparkline(values, width)) == min(width, len(values))
