"""Guesses: what they are checked for, how near them is drawn, and that this fades."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_cases import UNITS, integers, log_integers, log_uniforms, through_json, uniforms
from slurm_sweeps.errors import UsageError
from slurm_sweeps.samplers import Problem, Random
from slurm_sweeps.search.choices import Choice
from slurm_sweeps.search.draws import list_guesses
from slurm_sweeps.search.extension import build_template
from slurm_sweeps.search.priors import WIDTHS, Prior, compute_share
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, LogUniform, Quantized, Uniform
from slurm_sweeps.views.formats import format_space

CONFIDENCES = st.sampled_from(sorted(WIDTHS))


@given(
    st.one_of(uniforms, log_uniforms, integers, log_integers), UNITS, CONFIDENCES, st.lists(UNITS)
)
def test_draws_near_a_guess_stay_within_the_bounds_and_in_their_order(
    space: Any, at: float, confidence: str, units: list[float]
) -> None:
    guess = space.from_unit(at)
    guessed = type(space)(space.low, space.high, prior=Prior(guess, confidence))
    prior = guessed.prior
    assert (prior.value, prior.confidence) == (guess, confidence)
    pulled = [prior.pull(u, 0) for u in sorted(units)]
    assert pulled == sorted(pulled)
    assert all(0 <= u <= 1 for u in pulled)
    assert all(space.low <= guessed.from_unit(u) <= space.high for u in pulled)
    described = through_json(guessed.describe())
    assert build_template(described) == guessed
    if guess != space.low:  # else there may be no smaller one
        assert guessed != type(space)(space.low, space.high, prior=space.low)


@pytest.mark.parametrize(("confidence", "weight"), [("low", 2), ("medium", 4), ("high", 6)])
def test_how_near(confidence: str, weight: int) -> None:
    grid = (np.arange(20_000) + 0.5) / 20_000
    middle = Uniform(0, 1, prior=Prior(0.5, confidence)).prior
    spread = np.std([middle.pull(u, 0) for u in grid])
    assert spread == pytest.approx(
        {"low": 0.27, "medium": 0.22, "high": 0.125}[confidence], abs=0.01
    )
    option = Choice(list("abc"), prior=Prior("b", confidence)).prior
    picked = [int(option.pull(u, 3) * 3) for u in grid]
    shares = np.bincount(picked, minlength=3) / len(grid)
    assert shares == pytest.approx(np.array([1, weight, 1]) / (weight + 2), abs=1e-3)
    assert Choice(["a"], prior="a").prior.pull(0.99, 1) == 0.5


TEMPLATE = {
    "lr": LogUniform(1e-5, 1e-1, prior=1e-3),
    "n": [Integer(1, 9, prior=Prior(4, "high")), Uniform(0, 1)],
    "width": Quantized(LogUniform(16, 512, prior=100), 16),
    "opt": Choice(["adam", {"m": Uniform(0, 1, prior=0.25)}], prior={"m": 0.5}),
}


def test_the_first_configuration_takes_all_guesses_as_they_were_written() -> None:
    space = SearchSpace(TEMPLATE)
    (guess,) = list_guesses(space, 3)
    assert guess["lr"] == 1e-3
    assert guess["n"][0] == 4
    assert 0 < guess["n"][1] < 1
    assert guess["width"] == 96
    assert guess["opt"] == {"m": 0.25}
    assert list_guesses(space, 3) == [guess]
    assert list_guesses(SearchSpace({"x": Uniform(0, 1)}), 3) == []
    narrow = SearchSpace(TEMPLATE, where=lambda cfg: cfg["n"][1] > 0.9)
    assert list_guesses(narrow, 3)[0]["n"][1] > 0.9
    with pytest.raises(UsageError, match="where refuses what the priors guess"):
        list_guesses(SearchSpace(TEMPLATE, where=lambda cfg: cfg["lr"] > 0.01), 3)


def test_guesses_are_stored_and_told_with_their_space() -> None:
    described = json.loads(json.dumps(SearchSpace(TEMPLATE).describe()))
    assert build_template(described) == TEMPLATE
    assert repr(TEMPLATE["lr"]) == "LogUniform(1e-05, 0.1, prior=0.001)"
    assert format_space(described["n"][0]) == "Integer(1, 9, prior=Prior(4, 'high'))"
    steps = {"x": Quantized(Uniform(0.5, 9), 2, base="low")}
    assert build_template(SearchSpace(steps).describe()) == steps


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(0, 1, prior=2), "Uniform: prior=2 is no guess: 2 is no value of Uniform("),
        (lambda: Integer(1, 9, prior=2.5), "Integer: prior=2.5 is no guess"),
        (lambda: LogUniform(1, 9, prior="3"), "LogUniform: prior='3' is no guess"),
        (lambda: Choice(["a", "b"], prior="c"), "Choice: prior='c' is no guess"),
        (lambda: Prior(3, "sure"), 'Prior: confidence must be "low", "medium" or "high", got'),
    ],
)
def test_what_is_no_guess(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make()


def test_a_wrong_guess_is_outgrown() -> None:
    space = SearchSpace({"x": Uniform(0, 1, prior=Prior(0.0, "high")), "y": Uniform(0, 1)})
    counts = np.zeros(4)
    for seed in range(40):
        sampler = Random().bind(Problem(space, seed))
        near = [sampler.ask(0.0)["x"] < 0.25 for _ in range(400)]
        counts += [
            np.mean(near[at]) for at in (slice(16), slice(16, 64), slice(64, 200), slice(200, 400))
        ]
    shares = counts / 40
    # Of what is drawn near the guess 95 % are so near, of all others 25 %.
    expected = [
        0.25 + 0.7 * np.mean([compute_share(n) for n in range(*ends)])
        for ends in ((0, 16), (16, 64), (64, 200), (200, 400))
    ]
    assert shares == pytest.approx(expected, abs=0.04)
    assert expected[0] > 0.55
    assert expected[-1] < 0.28
    # At the first 1,000 draws together it has cost the time of 50.
    assert sum(compute_share(n) for n in range(1000)) < 50


def test_spaces_without_guesses_are_drawn_as_before() -> None:
    plain = SearchSpace({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    guessed = SearchSpace({"x": Uniform(0, 1, prior=0.5), "y": Uniform(0, 1)})
    drawn = [Random().bind(Problem(space, 1)) for space in (plain, guessed)]
    pairs = [tuple(sampler.ask(0.0) for sampler in drawn) for _ in range(64)]
    assert all(one["y"] == other["y"] for one, other in pairs)
    same = sum(one["x"] == other["x"] for one, other in pairs)
    assert 24 < same < 56
