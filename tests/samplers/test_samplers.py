"""What holds for every sampler, and what random draws and grids add to it."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from search_cases import number_spaces, small_finite, templates, through_json
from slurm_sweeps import samplers
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.samplers import (
    Observation,
    Problem,
    Sampler,
    bind_sampler,
)
from slurm_sweeps.search.choices import Choice, Grid
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import (
    Integer,
    LogInteger,
    LogUniform,
    Normal,
    Quantized,
    Uniform,
)
from slurm_sweeps.trial import Status, canonical_json

MIXED = {
    "lr": LogUniform(1e-5, 1),
    "opt": Choice([{"name": "sgd", "m": Uniform(0, 1, seed=1)}, {"name": "adam"}]),
    "n": [Integer(1, 4, seed=2), Quantized(Normal(0, 1), 0.5)],
}
FINITE = {"a": Integer(1, 4), "b": Choice(["x", {"c": LogInteger(1, 3)}]), "d": {"e": 5}}
GRIDDED = {"a": Grid([1, 2]), "b": Grid(["x", {"u": Uniform(0, 1)}]), "x": Uniform(0, 1)}
GUESSED = {"x": Uniform(0, 1, prior=0.3), "o": Choice(["a", {"m": Integer(1, 9, prior=2)}])}

EVERY = pytest.mark.parametrize(
    ("plan", "template"),
    [
        (samplers.Random(), MIXED),
        (samplers.Random(), FINITE),
        (samplers.Random(), GRIDDED),
        (samplers.Random(), {"constant": 1}),
        (samplers.Random(), GUESSED),
        (samplers.Random(quasi=True), GUESSED),
        (samplers.Random(quasi=True), MIXED),
        (samplers.Random(quasi=True), FINITE),
        (samplers.Random(quasi=True), GRIDDED),
        (samplers.Random(quasi=True), {"constant": 1}),
        (samplers.Sobol(64), MIXED),
        (samplers.Sobol(64), FINITE),
        (samplers.LatinHypercube(60), MIXED),
        (samplers.LatinHypercube(60), GRIDDED),
        (samplers.Grid(), GRIDDED),
        (None, GRIDDED),
        (None, MIXED),
    ],
)


def ask_all(sampler: Sampler, n: int) -> list[str]:
    """Ask up to n times, telling of each start as an experiment does."""
    written = []
    for _ in range(n):
        cfg = sampler.ask(0.0)
        if cfg is None:
            break
        sampler.tell(Observation(len(written), cfg, Status.RUNNING))
        written.append(canonical_json(cfg))
    return written


def resume(plan: Any, template: dict[str, Any], seed: int, known: list[str]) -> Sampler:
    """Return a fresh sampler that was told of known trials as they come back from the store."""
    space = SearchSpace(template)
    sampler = bind_sampler(plan, Problem(space, seed))
    for number, text in enumerate(known):
        cfg = space.revive(json.loads(text))
        sampler.tell(Observation(number, cfg, Status.COMPLETED, iteration=3, value=0.5))
    return sampler


@EVERY
def test_the_seed_alone_decides(plan: Any, template: dict[str, Any]) -> None:
    first, again, other = (
        ask_all(bind_sampler(plan, Problem(SearchSpace(template), seed)), 30) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other or template == {"constant": 1}


@EVERY
@pytest.mark.parametrize("n_known", [0, 1, 7, 29, 45])
def test_a_resumed_sampler_goes_on_as_an_undisturbed_one(
    plan: Any, template: dict[str, Any], n_known: int
) -> None:
    undisturbed = ask_all(bind_sampler(plan, Problem(SearchSpace(template), 3)), 60)
    resumed = resume(plan, template, 3, undisturbed[:n_known])
    rest = []
    while len(rest) < len(undisturbed) - n_known:
        cfg = resumed.ask(0.0)
        rest.append(canonical_json(cfg))
    assert rest == undisturbed[n_known:]


@EVERY
def test_the_end_of_a_trial_changes_nothing_for_these(plan: Any, template: dict[str, Any]) -> None:
    quiet = bind_sampler(plan, Problem(SearchSpace(template), 3))
    told = bind_sampler(plan, Problem(SearchSpace(template), 3))
    for number in range(4):
        cfg = told.ask(0.0)
        assert quiet.ask(9.9) == cfg
        assert cfg is not None
        for status in (Status.RUNNING, Status.FAILED, Status.RUNNING, Status.COMPLETED):
            told.tell(Observation(number, cfg, status, 1, float("nan")))


@settings(max_examples=50)
@given(templates(st.one_of(small_finite, number_spaces)), st.integers(0, 5), st.integers(0, 12))
def test_any_space_is_resumed_rightly(template: dict[str, Any], seed: int, n_known: int) -> None:
    undisturbed = ask_all(bind_sampler(None, Problem(SearchSpace(template), seed)), 24)
    resumed = resume(None, template, seed, undisturbed[:n_known])
    rest = [canonical_json(resumed.ask(0.0)) for _ in undisturbed[n_known:]]
    assert rest == undisturbed[n_known:]


@settings(max_examples=50)
@given(templates(small_finite), st.integers(0, 5))
def test_no_point_comes_twice_until_all_were_tried(template: dict[str, Any], seed: int) -> None:
    space = SearchSpace(template)
    assume(space.size is not None and space.size <= 100)
    points = {canonical_json(space.at(i)) for i in range(space.size or 0)}
    sampler = samplers.Random().bind(Problem(space, seed))
    for _ in range(3):
        round_ = [canonical_json(sampler.ask(0.0)) for _ in points]
        assert set(round_) == points


def test_unlikely_points_are_all_found() -> None:
    # One point in a thousand draws is the other one; and half of all draws are of 1 to 30.
    template = {"a": Choice([0] * 999 + [1]), "b": LogInteger(1, 1000)}
    sampler = samplers.Random().bind(Problem(SearchSpace(template), 0))
    assert len(set(ask_all(sampler, 2000))) == 2000


def test_the_first_draws_follow_the_space_and_not_the_count_of_points() -> None:
    sampler = samplers.Random().bind(Problem(SearchSpace({"n": LogInteger(1, 10**6)}), 0))
    values = [json.loads(text)["n"] for text in ask_all(sampler, 200)]
    assert len(set(values)) == 200
    assert sum(value < 1000 for value in values) > 40


def test_a_point_of_an_infinite_space_does_not_come_twice_either() -> None:
    template = {"opt": Choice([{"name": "sgd", "m": Uniform(0, 1)}, {"name": "adam"}])}
    sampler = samplers.Random().bind(Problem(SearchSpace(template), 0))
    names = Counter(json.loads(text)["opt"]["name"] for text in ask_all(sampler, 100))
    assert names == {"sgd": 99, "adam": 1}


def test_a_point_counts_as_tried_though_a_continuous_option_could_have_made_it() -> None:
    template = {"x": Choice([Uniform(0, 1), Quantized(Uniform(0, 1), 0.5), None])}
    undisturbed = ask_all(samplers.Random().bind(Problem(SearchSpace(template), 0)), 40)
    assert len(set(undisturbed)) == 40
    for n_known in range(40):
        resumed = resume(samplers.Random(), template, 0, undisturbed[:n_known])
        assert canonical_json(resumed.ask(0.0)) == undisturbed[n_known]


def test_an_infinite_space_repeats_when_nothing_else_can_be_hit() -> None:
    template = {"q": Quantized(Normal(0, 1), 5.0)}
    sampler = samplers.Random().bind(Problem(SearchSpace(template), 0))
    known = ask_all(sampler, 20)
    assert len(known) == 20
    assert len(set(known)) < 20
    assert resume(samplers.Random(), template, 0, known).ask(0.0) is not None


def test_a_template_without_spaces_repeats() -> None:
    sampler = samplers.Random().bind(Problem(SearchSpace({"a": [1]}), 0))
    assert ask_all(sampler, 3) == ['{"a": [1]}'] * 3


def test_a_space_with_a_seed_keeps_its_stream() -> None:
    def draw(seed: int, other: Any) -> list[float]:
        template = {"x": Uniform(0, 1, seed=5), "y": other, "z": Uniform(0, 1, seed=5)}
        sampler = samplers.Random().bind(Problem(SearchSpace(template), seed))
        cfgs = [json.loads(text) for text in ask_all(sampler, 20)]
        assert all(cfg["x"] != cfg["z"] for cfg in cfgs)
        return [cfg["x"] for cfg in cfgs]

    assert draw(1, 0) == draw(2, Uniform(0, 1))
    assert len(set(draw(1, 0))) == 20


def test_draws_are_spread_evenly_over_trials() -> None:
    sampler = samplers.Random().bind(Problem(SearchSpace({"x": Uniform(0, 1)}), 0))
    values = [json.loads(text)["x"] for text in ask_all(sampler, 2000)]
    counts = np.histogram(values, bins=10, range=(0, 1))[0]
    assert counts.min() > 150
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.07


def test_quasi_random_points_leave_no_gap() -> None:
    # Of 256 points of such a sequence exactly one lies in each of 256 intervals, on every axis.
    template = {"x": Uniform(0, 1), "y": {"z": Uniform(0, 1)}}
    for seed in range(3):
        sampler = samplers.Random(quasi=True).bind(Problem(SearchSpace(template), seed))
        cfgs = [json.loads(text) for text in ask_all(sampler, 1024)]
        for values in ([cfg["x"] for cfg in cfgs], [cfg["y"]["z"] for cfg in cfgs]):
            for start in range(0, 1024, 256):
                cells = {int(value * 256) for value in values[start : start + 256]}
                assert len(cells) == 256


def test_quasi_random_points_are_taken_once_each_while_there_are_others() -> None:
    template = {"a": Integer(1, 8), "b": Choice(list("uvwxyz"))}
    sampler = samplers.Random(quasi=True).bind(Problem(SearchSpace(template), 0))
    assert len(set(ask_all(sampler, 48))) == 48


@pytest.mark.parametrize("quasi", [1, None, "yes"])
def test_quasi_is_yes_or_no(quasi: Any) -> None:
    with pytest.raises(UsageTypeError, match="Random: quasi must be True or False"):
        samplers.Random(quasi=quasi)


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(UsageError, match=r"needs SciPy .* 'slurm-sweeps\[model\]'"):
        samplers.Random(quasi=True).bind(Problem(SearchSpace({"x": Uniform(0, 1)}), 0))


def test_a_grid_is_tried_in_order_once_and_then_ends() -> None:
    template = {"a": Grid([1, 2]), "x": Uniform(0, 1), "b": {"c": Grid(["u", "v", "w", "v"])}}
    sampler = bind_sampler(None, Problem(SearchSpace(template), 0))
    cfgs = [json.loads(text) for text in ask_all(sampler, 100)]
    points = [(cfg["a"], cfg["b"]["c"]) for cfg in cfgs]
    assert points == list(itertools.product([1, 2], ["u", "v", "w"]))
    assert len({cfg["x"] for cfg in cfgs}) == 6
    assert sampler.ask(0.0) is None
    assert sampler.ask(0.0) is None


def test_a_grid_skips_points_that_others_tried() -> None:
    template = {"a": Grid([1, 2, 3, 4]), "x": Integer(0, 9)}
    sampler = samplers.Grid().bind(Problem(SearchSpace(template), 0))
    for number, a in enumerate([3, 2, 7]):
        sampler.tell(Observation(number, {"a": a, "x": 0}, Status.COMPLETED))
    rest = [sampler.ask(0.0), sampler.ask(0.0), sampler.ask(0.0)]
    assert [cfg and cfg["a"] for cfg in rest] == [1, 4, None]


def test_random_is_told_of_foreign_configurations_without_harm() -> None:
    template = {"opt": Choice([{"m": Uniform(0, 1)}, "adam"])}
    sampler = samplers.Random().bind(Problem(SearchSpace(template), 0))
    sampler.tell(Observation(0, {"opt": "rmsprop"}, Status.COMPLETED))
    assert sampler.ask(0.0) is not None


def test_twenty_lines_make_a_sampler() -> None:
    text = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = [each for each in codes if "class HillClimber" in each]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/choosing.md", "exec"), names)
    template = {"x": Uniform(0, 1), "opt": Choice([{"m": Uniform(0, 1)}, "adam"])}

    def climb(sampler: Any, numbers: range) -> list[dict[str, Any]]:
        cfgs = []
        for number in numbers:
            cfg = sampler.ask(0.0)
            value = abs(cfg["x"] - 0.9) + (cfg["opt"] == "adam")
            sampler.tell(Observation(number, cfg, Status.RUNNING))
            sampler.tell(Observation(number, cfg, Status.COMPLETED, 1, value))
            cfgs.append(cfg)
        return cfgs

    def bind() -> Any:
        problem = Problem(SearchSpace(template), 0, "loss", "min")
        return bind_sampler(names["HillClimber"](), problem)

    climbed = climb(bind(), range(60))
    assert abs(climbed[-1]["x"] - 0.9) < 0.5
    assert climbed[-1]["opt"] != "adam"
    resumed = bind()
    for number, cfg in enumerate(climbed[:40]):
        value = abs(cfg["x"] - 0.9) + (cfg["opt"] == "adam")
        resumed.tell(Observation(number, through_json(cfg), Status.COMPLETED, 1, value))
    assert climb(resumed, range(40, 60)) == climbed[40:]


@pytest.mark.parametrize("plan", [samplers.Random, "random", object()])
def test_what_is_no_sampler_is_named(plan: Any) -> None:
    with pytest.raises(UsageTypeError) as caught:
        bind_sampler(plan, Problem(SearchSpace({}), 0))
    assert "sampler must have a method bind(problem), as samplers.Random() has" in str(caught.value)
    assert repr(plan) in str(caught.value)


def test_a_grid_sampler_without_a_grid_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"needs a Grid in the cfg, and there is none in \{'a': 1\}"
    ):
        samplers.Grid().bind(Problem(SearchSpace({"a": 1}), 0))
