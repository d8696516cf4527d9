"""A cfg with spaces in it: walked, drawn, stored, revived and compared."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import functools
import itertools
import types
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from search_cases import number_spaces, small_finite, templates, through_json
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.search.choices import Choice, Grid
from slurm_sweeps.search.search_space import SearchSpace, list_differences
from slurm_sweeps.search.spaces import Integer, LogUniform, Uniform
from slurm_sweeps.trial import canonical_json

CONDITIONAL = {
    "opt": Choice(
        [
            {"name": "sgd", "momentum": Uniform(0, 1), "lr": LogUniform(1e-4, 1)},
            {"name": "adam", "betas": (Uniform(0.8, 1), 0.999)},
            {"name": "sgd", "nested": Choice([{"deep": Integer(1, 2)}, None])},
        ]
    ),
    "seed": 3,
}


@dataclasses.dataclass
class Options:
    lr: object
    other: object = None


@dataclasses.dataclass
class Slotted:
    __slots__ = ("lr",)
    lr: object


SPACE = Uniform(0, 1)


@pytest.mark.parametrize(
    ("constant", "words"),
    [
        (Options(SPACE), "cfg['o'] is a Options with a space in it: lr is Uniform(0.0, 1.0)"),
        (Slotted(SPACE), "is a Slotted with a space in it: lr is"),
        (Options(1, Options([1, SPACE])), "other.lr[1] is Uniform(0.0, 1.0). Spaces are drawn in"),
        (argparse.Namespace(lr=SPACE), "is a Namespace with a space in it: lr is"),
        (types.MappingProxyType({"lr": SPACE}), "is a mappingproxy with a space in it: ['lr'] is"),
        (collections.UserDict(lr=SPACE), "is a UserDict with a space in it: ['lr'] is"),
        (collections.deque([SPACE]), "is a deque with a space in it: [0] is"),
        ({SPACE}, "is a set with a space in it: a member is"),
        (np.array([1, SPACE], dtype=object), "is a ndarray with a space in it: flat[1] is"),
        (functools.partial(print, SPACE), "is a partial with a space in it: "),
    ],
)
def test_a_space_where_none_is_drawn_is_refused(constant: Any, words: str) -> None:
    with pytest.raises(UsageTypeError) as refused:
        SearchSpace({"o": constant})
    assert words in str(refused.value)


def test_an_option_with_a_space_where_none_is_drawn_is_refused() -> None:
    with pytest.raises(UsageTypeError, match="is a Options with a space in it: lr is"):
        Choice([1, Options(SPACE)])


def test_a_constant_without_spaces_is_looked_into_for_no_longer_than_it_takes() -> None:
    endless = Options(1)
    endless.other = [endless, np.arange(10), {"a": {1, 2}}, Options, collections]
    assert SearchSpace({"o": endless}).template["o"] is endless


def test_leaves_are_in_order_with_their_paths_and_parents() -> None:
    space = SearchSpace(CONDITIONAL)
    assert [leaf.path for leaf in space.leaves] == [
        "opt", "opt.momentum", "opt.lr", "opt.betas.0", "opt.nested", "opt.nested.deep",
    ]  # fmt: skip
    opt, momentum, _, beta, nested, deep = space.leaves
    assert opt.parent is None
    assert (momentum.parent, momentum.option) == (opt, 0)
    assert (beta.parent, beta.option) == (opt, 1)
    assert (nested.parent, nested.option) == (opt, 2)
    assert (deep.parent, deep.option) == (nested, 0)


def test_only_active_leaves_are_asked_for() -> None:
    space = SearchSpace(CONDITIONAL)
    asked: list[str] = []

    def pick(leaf: Any) -> float:
        asked.append(leaf.path)
        return 0.5

    cfg = space.build(pick)
    assert cfg == {"opt": {"name": "adam", "betas": (0.9, 0.999)}, "seed": 3}
    assert asked == ["opt", "opt.betas.0"]


@given(templates(number_spaces), st.integers(0, 10))
def test_what_is_drawn_comes_back_from_json_and_from_its_units(
    template: dict[str, Any], seed: int
) -> None:
    space = SearchSpace(template)
    cfg = space.sample(np.random.default_rng(seed))
    revived = space.revive(through_json(cfg))
    assert canonical_json(revived) == canonical_json(cfg)
    units = space.to_units(cfg)
    assert all(0 <= unit <= 1 for unit in units.values())
    rebuilt = space.build(lambda leaf: units[leaf])
    assert set(space.to_units(rebuilt)) == set(units)


@given(templates(small_finite))
def test_a_finite_space_has_as_many_points_as_it_says(template: dict[str, Any]) -> None:
    space = SearchSpace(template)
    assume(space.size is not None and space.size <= 500)
    points = [space.at(i) for i in range(space.size or 0)]
    for point in points:
        assert canonical_json(space.revive(through_json(point))) == canonical_json(point)
    # Options may overlap, so some points can be the same; none is missing, though.
    drawn = {canonical_json(space.sample(np.random.default_rng(i))) for i in range(30)}
    assert drawn <= {canonical_json(point) for point in points}


def test_nothing_of_the_users_is_changed_or_shared() -> None:
    template = {"a": {"b": Uniform(0, 1)}, "c": [1, Integer(0, 1)]}
    before = copy.deepcopy(template)
    space = SearchSpace(template)
    cfg = space.sample(np.random.default_rng(0))
    cfg["a"]["b"], cfg["new"] = 5, 1
    cfg["c"].append(2)
    assert template == before
    constant = SearchSpace({"a": 1})
    constant.sample(np.random.default_rng(0))["a"] = 2
    constant.at(0)["a"] = 2
    constant.revive({"a": 1})["a"] = 2
    assert constant.template == {"a": 1}
    assert (constant.size, constant.leaves) == (1, ())


def test_containers_keep_their_types_and_keys() -> None:
    point = namedtuple("point", "x y")
    template = {"p": point(Integer(0, 1), 2), "t": (Integer(0, 1),), "w": {0: Uniform(0, 1), 5: 1}}
    space = SearchSpace(template)
    cfg = space.build(lambda _leaf: 0.0)
    assert cfg == {"p": point(0, 2), "t": (0,), "w": {0: 0.0, 5: 1}}
    revived = space.revive(through_json(cfg))
    assert revived == cfg
    assert type(revived["p"]) is point
    assert [leaf.path for leaf in space.leaves] == ["p.0", "t.0", "w.0"]


def test_grid_points_are_in_row_major_order() -> None:
    template = {"a": Grid([1, 2]), "x": Uniform(0, 1), "b": {"c": Grid(["u", "v", "w"])}}
    space = SearchSpace(template)
    assert space.n_grid_points == 6
    points = []
    for i in range(6):
        units = space.pick_grid_point(i)
        cfg = space.build(lambda leaf, units=units: units.get(leaf, 0.5))  # type: ignore[misc] # a bound loop variable
        points.append((cfg["a"], cfg["b"]["c"]))
        assert space.find_grid_point(space.to_units(cfg)) == i
    assert points == list(itertools.product([1, 2], ["u", "v", "w"]))
    assert SearchSpace({"a": Uniform(0, 1)}).n_grid_points == 1  # of none


@given(templates(number_spaces))
def test_a_space_does_not_differ_from_its_stored_self(template: dict[str, Any]) -> None:
    space = SearchSpace(template)
    assert through_json(space.describe()) == through_json(space.describe())
    assert not [*list_differences(through_json(space.describe()), space.describe())]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            {"opt": {"lr": Uniform(0, 1)}},
            {"opt": {"lr": LogUniform(0.1, 1)}},
            "cfg['opt.lr'] was Uniform(0.0, 1.0) and is now LogUniform(0.1, 1.0)",
        ),
        ({"a": 1}, {"a": 2}, "cfg['a'] was 1 and is now 2"),
        ({"a": 1}, {"a": True}, "cfg['a'] was 1 and is now True"),
        ({"a": Uniform(0, 1)}, {"a": 0.5}, "cfg['a'] was Uniform(0.0, 1.0) and is now 0.5"),
        ({"a": 1, "b": 2}, {"a": 1}, "cfg['b'] was 2 and is gone"),
        ({"a": 1}, {"a": 1, "b": {"c": [2]}}, "cfg['b'] is new: {'c': [2]}"),
        (
            {"a": Choice([1, 2])},
            {"a": Choice([1, 3])},
            "cfg['a'] was Choice([1, 2]) and is now Choice([1, 3])",
        ),
        (
            {"a": Uniform(0, 1)},
            {"a": Uniform(0, 1, seed=4)},
            "cfg['a'] was Uniform(0.0, 1.0) and is now Uniform(0.0, 1.0, seed=4)",
        ),
        ({"a": [1, 2]}, {"a": [1, 3]}, "cfg['a'] was [1, 2] and is now [1, 3]"),
        ({"a": {}}, {"a": {"b": 1}}, "cfg['a.b'] is new: 1"),
    ],
)
def test_a_difference_is_one_sentence(
    old: dict[str, Any], new: dict[str, Any], sentence: str
) -> None:
    stored = through_json(SearchSpace(old).describe())
    assert next(list_differences(stored, SearchSpace(new).describe())) == sentence


def test_a_description_that_is_none_differs_too() -> None:
    assert [*list_differences(None, {})] == ["cfg was None and is now {}"]


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ([1], UsageTypeError, "cfg must be a dict, got [1] (list)"),
        (None, UsageTypeError, "cfg must be a dict, got None (NoneType)"),
        ({"a": {(1, 2): 3}}, UsageError, "cfg['a'] has the key (1, 2) (tuple), which JSON can't"),
        (
            {b"a": 3},
            UsageError,
            "cfg has the key b'a' (bytes), which JSON can't hold; use a string",
        ),
        ({"a": [{1: 0, "x": 1}]}, UsageError, "cfg['a.0'] mixes keys of types that have no order"),
        ({1: 0, "1": 1}, UsageError, "cfg has keys that JSON writes the same way: [1, '1']"),
        ({"a": Choice([{"b": 1}]), "a.b": 2}, UsageError, "two values with the dotted name 'a.b'"),
        ({"x": {"a.b": 1, "a": {"b": 2}}}, UsageError, "two values with the dotted name 'x.a.b'"),
    ],
)
def test_a_bad_template_is_named(template: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        SearchSpace(template)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"a": 0.5}, "cfg is {'a': 0.5}, but here a dict with the keys ['a', 'r', 'c', 'k']"),
        ({"a": 2, "r": [0], "c": 1, "k": 0}, "cfg['a']: 2 is no value of Uniform(0.0, 1.0)"),
        ({"a": 0, "r": [], "c": 1, "k": 0}, "cfg['r'] is [], but here a list of 1"),
        ({"a": 0, "r": [0], "c": 3, "k": 0}, "cfg['c'] is 3, which is none of the options of Cho"),
        ({"a": 0, "r": [0], "c": 1, "k": 7}, "cfg['k'] is 7, but here 0"),
    ],
)
def test_a_stored_cfg_of_another_space_is_named(cfg: Any, message: str) -> None:
    space = SearchSpace({"a": Uniform(0, 1), "r": [Integer(0, 1)], "c": Choice([1, 2]), "k": 0})
    with pytest.raises(UsageError) as caught:
        space.revive(cfg)
    assert message in str(caught.value)
