"""Strategies and small helpers that the tests of the search share."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from slurm_sweeps.search.choices import Choice
from slurm_sweeps.search.spaces import (
    Integer,
    LogInteger,
    LogUniform,
    Normal,
    Quantized,
    Uniform,
)
from slurm_sweeps.trial import canonical_json

UNITS = st.floats(0, 1)

#: Floats as users write bounds: a few digits, not the neighbour of zero.
_bounds = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
_positive = st.floats(-6, 6).map(lambda x: float(f"{10**x:.3g}"))
_integers = st.integers(-(10**6), 10**6)


def _pairs(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return (
        st.tuples(numbers, numbers).filter(lambda p: p[0] != p[1]).map(lambda p: (min(p), max(p)))
    )


uniforms = _pairs(_bounds).map(lambda p: Uniform(*p))
log_uniforms = _pairs(_positive).map(lambda p: LogUniform(*p))
integers = _pairs(_integers).map(lambda p: Integer(*p))
log_integers = _pairs(st.integers(1, 10**6)).map(lambda p: LogInteger(*p))
normals = st.tuples(_bounds, _positive).map(lambda p: Normal(*p))


@st.composite
def _quantized(draw: st.DrawFn) -> Quantized:
    inner = draw(st.one_of(uniforms, log_uniforms, integers, log_integers, normals))
    step = draw(st.sampled_from([1, 3, 16, 0.1, 0.25, 0.05, 1.5, 0.001]))
    if not isinstance(inner, Normal):
        # A step of at most the lower multiple's distance always has a multiple within the bounds.
        while step > inner.high - inner.low:
            step /= 8
    counts_from_low = isinstance(inner, Uniform | Integer) and draw(st.booleans())
    return Quantized(inner, step, base="low" if counts_from_low else "zero")


quantized = _quantized()
number_spaces = st.one_of(uniforms, log_uniforms, integers, log_integers, normals, quantized)

constants = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.floats(-2, 2), st.text("ab.ü ", max_size=3)
)
small_finite = st.one_of(
    st.tuples(st.integers(0, 3), st.integers(1, 3)).map(lambda p: Integer(p[0], p[0] + p[1])),
    st.just(LogInteger(1, 4)),
    st.just(Quantized(Uniform(0, 1), 0.5)),
)
_keys = st.sampled_from(["a", "b", "name", "β", "val/x"])


def templates(spaces: st.SearchStrategy[Any], max_leaves: int = 6) -> st.SearchStrategy[Any]:
    """Return cfgs with such spaces in them, nested, also in the options of choices."""
    nested = st.recursive(
        st.one_of(constants, spaces),
        lambda inner: st.one_of(
            st.dictionaries(_keys, inner, max_size=3),
            st.lists(inner, max_size=2),
            st.tuples(inner),
            st.lists(inner, min_size=1, max_size=3).map(Choice),
        ),
        max_leaves=max_leaves,
    )
    return st.dictionaries(_keys, nested, max_size=3)


def through_json(value: Any) -> Any:
    """Return the value as the store gives it back."""
    return json.loads(canonical_json(value))
