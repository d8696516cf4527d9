"""What holds for every sampler that learns: it learns, never repeats itself, and bears anything."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_cases import MODEL, bind, run, search

from search_cases import number_spaces, small_finite, templates
from slurm_sweeps import samplers
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.samplers import Observation, Problem
from slurm_sweeps.search.choices import Choice
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, Uniform
from slurm_sweeps.trial import Status, canonical_json

EVERY = pytest.mark.parametrize("plan", [MODEL, samplers.Optuna()])


@EVERY
def test_it_learns_where_good_configurations_lie(plan: Any) -> None:
    late = [cfg["loss"] for cfg in search(plan, 0, 60)[30:]]
    drawn = [cfg["loss"] for cfg in search(samplers.Random(), 0, 60)[30:]]
    assert np.median(late) < 0.7 * np.median(drawn)


@EVERY
def test_it_learns_which_option_to_take(plan: Any) -> None:
    names = [cfg["opt"]["name"] for cfg in search(plan, 1, 60)[30:] if cfg["opt"]]
    assert names.count("sgd") > 15


@EVERY
def test_max_is_min_of_the_negative(plan: Any) -> None:
    assert search(plan, 3, 20) == search(plan, 3, 20, "max")


@EVERY
def test_the_same_tells_give_the_same_asks(plan: Any) -> None:
    losses = [float(i % 7) for i in range(15)]
    first, again, other = (run(bind(plan, seed=seed), losses) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@EVERY
def test_a_resumed_one_goes_on_as_an_undisturbed_one(plan: Any) -> None:
    undisturbed = run(bind(plan), [float(i * i % 7) for i in range(20)])
    resumed = bind(plan)
    for number, text in enumerate(undisturbed[:12]):
        cfg = json.loads(text)
        resumed.tell(Observation(number, cfg, Status.COMPLETED, 1, float(number * number % 7)))
    assert canonical_json(resumed.ask(0.0)) == undisturbed[12]


@EVERY
def test_five_hundred_workers_get_five_hundred_configurations(plan: Any) -> None:
    sampler = bind(plan)
    run(sampler, [float(i % 11) for i in range(15)])
    asked = {canonical_json(sampler.ask(0.0)) for _ in range(500)}
    assert len(asked) == 500
    lrs = [math.log10(json.loads(text)["lr"]) for text in asked]
    assert np.std(lrs) > 0.3  # no herd


@EVERY
@settings(max_examples=8)
@given(
    templates(st.one_of(small_finite, number_spaces)),
    st.lists(
        st.one_of(st.none(), st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf])),
        min_size=8,
        max_size=25,
    ),
)
def test_any_space_and_any_values(
    plan: Any, template: dict[str, Any], losses: list[float | None]
) -> None:
    space = SearchSpace(template)
    for text in run(bind(plan, template), losses):
        assert canonical_json(space.revive(json.loads(text))) == text


@EVERY
@settings(max_examples=4)
@given(st.integers(2, 4), st.integers(4, 6), st.integers(0, 5))
def test_no_point_of_a_finite_space_comes_twice(
    plan: Any, options: int, numbers: int, seed: int
) -> None:
    template = {"a": Choice(list(range(options))), "b": Integer(1, numbers)}
    n = options * numbers
    sampler = bind(plan, template, seed)
    cfgs = run(sampler, [float(i % 3) for i in range(n)])
    assert len(set(cfgs)) == n
    assert run(sampler, [1.0], n)[0] in cfgs


@EVERY
def test_trials_of_another_sweep_and_of_another_space(plan: Any) -> None:
    sampler = bind(plan, {"x": Uniform(0, 1)})
    for i in range(20):
        sampler.warm_up({"x": i / 20}, abs(i / 20 - 0.5))
    sampler.warm_up({"foreign": 1}, 0.0)
    xs = [json.loads(text)["x"] for text in run(sampler, [1.0] * 10)]
    assert sum(abs(x - 0.5) < 0.25 for x in xs) >= 7


@EVERY
def test_a_paused_trial_that_goes_on_is_told_anew(plan: Any) -> None:
    sampler = bind(plan, {"x": Uniform(0, 1)})
    for number in range(12):
        cfg = sampler.ask(0.0)
        sampler.tell(Observation(number, cfg, Status.PAUSED, 1, 1.0 + number))
        sampler.tell(Observation(number, cfg, Status.RUNNING, 1, 1.0 + number))
        sampler.tell(Observation(number, cfg, Status.COMPLETED, 4, abs(cfg["x"] - 0.3)))
    xs = [sampler.ask(0.0)["x"] for _ in range(20)]
    assert np.median(np.abs(np.array(xs) - 0.3)) < 0.25


@EVERY
def test_without_a_metric_there_is_nothing_to_learn(plan: Any) -> None:
    with pytest.raises(UsageError, match="needs a metric to learn: pass metric="):
        plan.bind(Problem(SearchSpace({"x": Uniform(0, 1)}), 0))


def test_a_sampler_of_optuna_s_own_is_taken_as_it_is() -> None:
    own = optuna.samplers.TPESampler(multivariate=True, seed=5, constant_liar=False)
    cfgs = search(samplers.Optuna(own), 0, 60)
    drawn = search(samplers.Random(), 0, 60)
    late, random = ([cfg["loss"] for cfg in each[30:]] for each in (cfgs, drawn))
    assert np.median(late) < np.median(random)


def test_what_is_no_sampler_of_optuna_s_is_named() -> None:
    with pytest.raises(UsageTypeError, match="takes an object such as optuna"):
        bind(samplers.Optuna("tpe"))


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'slurm-sweeps\[optuna\]'"):
        bind(samplers.Optuna())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("GridSampler", ({"lr": [1]},), r"put ss.Grid\(\[…\]\) into the cfg"),
        ("BruteForceSampler", (), r"put ss.Grid\(\[…\]\) into the cfg"),
        (
            "PartialFixedSampler",
            ({"lr": 1}, optuna.samplers.RandomSampler()),
            "put the values that are fixed into the cfg",
        ),
    ],
)
def test_those_of_optunas_that_go_by_the_values_are_refused(
    name: str, arguments: tuple[Any, ...], words: str
) -> None:
    own = getattr(optuna.samplers, name)(*arguments)
    with pytest.raises(UsageError, match=rf"Optuna\({name}\(…\)\) can't work here.*{words}"):
        bind(samplers.Optuna(own))
