"""What holds for a sampler that learns: it learns, never repeats itself, and bears anything."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_cases import number_spaces, small_finite, templates

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.search import samplers
from slurm_sweeps.search.options import Choice
from slurm_sweeps.search.samplers import ModelSampler, Observation, Problem
from slurm_sweeps.search.samplers.encoding import INACTIVE, Encoding
from slurm_sweeps.search.samplers.forest import score
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, LogUniform, Uniform
from slurm_sweeps.trial import Status, canonical_json

pytest.importorskip("sklearn")

MIXED = {
    "lr": LogUniform(1e-5, 1),
    "opt": Choice([{"name": "sgd", "m": Uniform(0, 1)}, {"name": "adam"}, None]),
    "n": [Integer(1, 4), Uniform(-1, 1)],
}


def build(template: dict[str, Any] = MIXED, seed: int = 1, mode: str = "min", **plan: Any) -> Any:
    problem = Problem(SearchSpace(template), seed, "loss", mode)
    return samplers.Model(**({"n_startup": 5} | plan)).bind(problem)


def run(sampler: Any, losses: list[float | None], first: int = 0) -> list[str]:
    """Ask for one trial after the other, telling how each ended; return their cfgs."""
    cfgs = []
    for number, loss in enumerate(losses, first):
        cfg = sampler.ask(0.0)
        sampler.tell(Observation(number, cfg, Status.RUNNING))
        status = Status.FAILED if loss is None else Status.PRUNED
        sampler.tell(Observation(number, cfg, status, 1, loss))
        cfgs.append(canonical_json(cfg))
    return cfgs


def search(seed: int, n: int, mode: str = "min", **plan: Any) -> list[dict[str, Any]]:
    """Look for the best of a bowl in a conditional space; return the cfgs in their order."""
    sign = 1 if mode == "min" else -1
    sampler, cfgs = build(seed=seed, mode=mode, **plan), []
    for number in range(n):
        cfg = sampler.ask(0.0)
        momentum = cfg["opt"].get("m", 1.0) if cfg["opt"] else 2.0
        loss = abs(math.log10(cfg["lr"]) + 3) + momentum + abs(cfg["n"][1])
        sampler.tell(Observation(number, cfg, Status.COMPLETED, 1, sign * loss))
        cfgs.append(cfg | {"loss": loss})
    return cfgs


def test_it_learns_where_good_configurations_lie() -> None:
    late = [cfg["loss"] for cfg in search(0, 60)[30:]]
    drawn = [cfg["loss"] for cfg in search(0, 60, random_share=1.0)[30:]]
    assert np.median(late) < 0.6 * np.median(drawn)


def test_it_learns_which_option_to_take() -> None:
    names = [cfg["opt"]["name"] for cfg in search(1, 60)[30:] if cfg["opt"]]
    assert names.count("sgd") > 20


def test_max_is_min_of_the_negative() -> None:
    assert search(3, 20) == search(3, 20, "max")


def test_the_same_tells_give_the_same_asks() -> None:
    losses = [float(i % 7) for i in range(15)]
    first, again, other = (run(build(seed=seed), losses) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_five_hundred_workers_get_five_hundred_configurations() -> None:
    sampler = build()
    run(sampler, [float(i % 11) for i in range(15)])
    asked = {canonical_json(sampler.ask(0.0)) for _ in range(500)}
    assert len(asked) == 500
    lrs = [math.log10(json.loads(text)["lr"]) for text in asked]
    assert np.std(lrs) > 0.3  # no herd


@settings(max_examples=8)
@given(
    templates(st.one_of(small_finite, number_spaces)),
    st.lists(
        st.one_of(st.none(), st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf])),
        min_size=8,
        max_size=25,
    ),
)
def test_any_space_and_any_values(template: dict[str, Any], losses: list[float | None]) -> None:
    space = SearchSpace(template)
    sampler = build(template)
    for text in run(sampler, losses):
        assert canonical_json(space.revive(json.loads(text))) == text


@settings(max_examples=8)
@given(st.integers(2, 5), st.integers(4, 8), st.integers(0, 5))
def test_no_point_of_a_finite_space_comes_twice(options: int, numbers: int, seed: int) -> None:
    template = {"a": Choice(list(range(options))), "b": Integer(1, numbers)}
    n = options * numbers
    sampler = build(template, seed)
    cfgs = run(sampler, [float(i % 3) for i in range(n)])
    assert len(set(cfgs)) == n
    assert not sampler.repeats
    run(sampler, [1.0], n)
    assert sampler.repeats


def test_a_resumed_one_knows_what_was_tried_and_how_it_went() -> None:
    template = {"a": Integer(1, 4), "b": Integer(1, 5)}
    first = build(template)
    known = run(first, [float(i) for i in range(12)])
    resumed = build(template)
    for number, text in enumerate(known):
        resumed.tell(Observation(number, json.loads(text), Status.COMPLETED, 1, float(number)))
    rest = run(resumed, [1.0] * 8, 12)
    assert len({*known, *rest}) == 20
    assert resumed._pool is not None


def test_a_fit_can_be_made_apart() -> None:
    sampler = build()
    sampler.studies_apart = True
    run(sampler, [float(i) for i in range(10)])
    assert sampler._pool is None  # nobody has studied, so it goes on at random
    study = sampler.plan_study()
    sampler.learn(study())
    assert sampler._pool is not None
    assert sampler.plan_study() is None  # nothing new
    run(sampler, [1.0], 10)
    assert sampler.plan_study() is not None


def test_it_takes_a_fresh_look_when_its_candidates_run_out() -> None:
    sampler = build({"x": Uniform(0, 1), "y": Uniform(0, 1)})
    run(sampler, [float(i) for i in range(10)])
    pools = set()
    for _ in range(1500):
        sampler.ask(0.0)
        pools.add(id(sampler._pool))
    assert sampler._pool.n_left > 0


def test_trials_of_another_sweep_and_of_another_space() -> None:
    sampler = build({"x": Uniform(0, 1)})
    for i in range(20):
        sampler.warm_up({"x": i / 20}, abs(i / 20 - 0.5))
    sampler.warm_up({"foreign": 1}, 0.0)
    xs = [json.loads(text)["x"] for text in run(sampler, [1.0] * 10)]
    assert sum(abs(x - 0.5) < 0.25 for x in xs) >= 7


def test_what_is_not_active_is_marked() -> None:
    encoding = Encoding(SearchSpace(MIXED))
    rows = np.array([[0.5, 0.1, 0.7, 0.2, 0.3], [0.5, 0.5, 0.7, 0.2, 0.3]])
    shown = encoding.show(rows)
    assert shown[0].tolist() == rows[0].tolist()
    assert shown[1, 2] == INACTIVE
    assert encoding.build(rows[0])["opt"] == {"name": "sgd", "m": 0.7}
    assert encoding.counts.tolist() == [0, 3, 0, 0, 0]
    row = encoding.read(encoding.build(rows[1]), np.zeros)
    assert row is not None
    assert row[2] == 0


def test_scores_are_ranks_on_a_normal_scale() -> None:
    scores = score(np.array([3.0, 1.0, math.inf, 3.0]))
    assert scores[1] < scores[0] == scores[3] < scores[2]
    assert score(np.array([1.0, 1.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("plan", "error", "text"),
    [
        ({"n_startup": 0}, UsageError, "Model: n_startup must be 1 or more, got 0"),
        ({"n_startup": "x"}, UsageTypeError, "Model: n_startup must be an integer, got 'x'"),
        ({"random_share": 1.5}, UsageError, "Model: random_share must be from 0 to 1, got 1.5"),
    ],
)
def test_what_makes_no_sense_is_named(
    plan: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        samplers.Model(**plan)
    assert text in str(caught.value)


def test_without_a_metric_there_is_nothing_to_learn() -> None:
    with pytest.raises(UsageError, match="needs a metric to learn: pass asha="):
        samplers.Model().bind(Problem(SearchSpace({"x": Uniform(0, 1)}), 0))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"pip install 'slurm-sweeps\[model\]'"):
        build()


def test_both_names_are_public() -> None:
    assert samplers.ModelSampler is ModelSampler
