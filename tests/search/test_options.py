"""Choice and Grid: values come back as the very objects, and are told apart by what is stored."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_cases import UNITS, constants
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.search.choices import Choice, Grid
from slurm_sweeps.search.spaces import Integer, Uniform
from slurm_sweeps.trial import canonical_json


class Relu:
    pass


def double(x: float) -> float:
    return 2 * x


KINDS = pytest.mark.parametrize("kind", [Choice, Grid])


@KINDS
@given(options=st.lists(st.one_of(constants, st.lists(constants)), min_size=1), u=UNITS)
def test_a_value_is_the_very_object_also_after_json(
    kind: Any, options: list[Any], u: float
) -> None:
    space = kind(options)
    value = space.from_unit(u)
    assert any(value is option for option in options)
    revived = space.revive(json.loads(canonical_json(value)))
    assert any(revived is option for option in options)
    assert canonical_json(revived) == canonical_json(value)
    assert canonical_json(space.from_unit(space.to_unit(value))) == canonical_json(value)


def test_classes_functions_and_odd_values_are_found_again() -> None:
    options = [Relu, double, None, True, 1, 1.0, "1", {"a": (1, 2)}, [1, 2], math.inf, math.nan]
    space = Choice(options)
    for option in options:
        assert space.revive(json.loads(canonical_json(option))) is option
    assert space.size == len(options)


def test_numpys_values_become_pythons() -> None:
    assert [type(o) for o in Choice(np.arange(3)).options] == [int] * 3
    assert [type(o) for o in Grid(np.linspace(0, 1, 3)).options] == [float] * 3
    assert [type(o) for o in Choice([np.int64(1), np.bool_(True)]).options] == [int, bool]
    assert [type(o) for o in Choice(pd.Series([1, 2])).options] == [int, int]
    assert Choice(range(3)).options == (0, 1, 2)


def test_an_option_given_twice_is_twice_as_likely_but_one_point() -> None:
    choice = Choice([1, 2, 1])
    assert choice.size == 2
    assert [choice.at(0), choice.at(1)] == [1, 2]
    assert [choice.from_unit((i + 0.5) / 3) for i in range(3)] == [1, 2, 1]


def test_a_grid_counts_an_option_once() -> None:
    assert Grid([1, 2, 1, 1.0]).options == (1, 2, 1.0)
    assert Grid([1, 2, 1]).size == 2


def test_options_may_hold_spaces() -> None:
    space = Choice([{"name": "sgd", "m": Uniform(0, 1)}, {"name": "adam"}, Integer(5, 7)])
    rng = np.random.default_rng(0)
    draws = [space.sample(rng) for _ in range(60)]
    assert {d["name"] for d in draws if isinstance(d, dict)} == {"sgd", "adam"}
    assert {d for d in draws if isinstance(d, int)} == {5, 6, 7}
    assert all(0 <= d["m"] <= 1 for d in draws if isinstance(d, dict) and "m" in d)
    assert space.size is None
    assert space.revive({"name": "sgd", "m": 0.5}) == {"name": "sgd", "m": 0.5}
    assert Choice([Integer(1, 3), Choice(["a", Integer(8, 9)])]).size == 6
    assert Choice([{"m": Uniform(0, 1)}, {"m": Uniform(0, 1)}])._node.distinct == (0,)


def test_the_repr_is_stable_and_readable() -> None:
    space = Choice(["a", {"m": Uniform(0, 1, seed=2)}, [1, None]], seed=7)
    assert repr(space) == "Choice(['a', {'m': Uniform(0.0, 1.0, seed=2)}, [1, None]], seed=7)"
    assert repr(Grid([double])) == f"Grid(['{__name__}.double'])"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([], UsageError, "{kind} needs at least one option, got []"),
        ("abc", UsageTypeError, "{kind} needs a list of options, got 'abc' (str)"),
        ({"a": 1}, UsageTypeError, "{kind} needs a list of options, got {{'a': 1}} (dict)"),
        ({1, 2}, UsageTypeError, "{kind} needs a list of options, got {{1, 2}} (set)"),
        (3, UsageTypeError, "{kind} needs a list of options, got 3 (int)"),
        (np.array(3), UsageTypeError, "{kind} needs a list of options, got 3 (int)"),
        ([lambda: 1, lambda: 2], UsageError, "could not be told apart; use named functions"),
        (
            [functools.partial(double, 1), functools.partial(double, 2)],
            UsageError,
            'are both stored as "<functools.partial>"',
        ),
        ([{(1, 2): 3}], UsageError, "cfg has the key (1, 2) (tuple), which JSON can't hold"),
        ([Grid([1])], UsageError, "a Grid can't lie in an option of a Choice or a Grid"),
        ([{"a": [Grid([1])]}], UsageError, "cfg['a.0']: a Grid can't lie in an option of a Choice"),
    ],
)
@KINDS
def test_bad_options_are_named(
    kind: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        kind(options)
    assert message.format(kind=kind.__name__) in str(caught.value)


@KINDS
def test_a_bad_seed_is_named(kind: Any) -> None:
    with pytest.raises(UsageError, match=rf"{kind.__name__}: seed must be 0 or more.*got -3"):
        kind([1], seed=-3)


def test_a_value_that_is_no_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"cfg is 'c', which is none of the options of Choice\("):
        Choice(["a", "b"]).revive("c")
