"""What the model adds to what holds for every sampler that learns, and its forest."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from learning_cases import MIXED, bind, run
from sklearn.ensemble import ExtraTreesRegressor

from slurm_sweeps import samplers
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.samplers import ModelSampler, Observation
from slurm_sweeps.samplers.forest import (
    COMPLETE,
    INACTIVE,
    MAX_TRIALS,
    Encoding,
    Told,
    fit,
    predict_costs,
    scale,
    score,
)
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.search.spaces import Integer, Uniform
from slurm_sweeps.trial import Status


def test_a_resumed_one_knows_what_was_tried_and_how_it_went() -> None:
    template = {"a": Integer(1, 4), "b": Integer(1, 5)}
    first = bind(template=template)
    known = run(first, [float(i) for i in range(12)])
    resumed = bind(template=template)
    for number, text in enumerate(known):
        resumed.tell(Observation(number, json.loads(text), Status.COMPLETED, 1, float(number)))
    rest = run(resumed, [1.0] * 8, 12)
    assert len({*known, *rest}) == 20
    assert resumed._used is not None


def test_a_fit_can_be_made_apart() -> None:
    sampler = bind()
    assert isinstance(sampler, samplers.StudyingSampler)
    run(sampler, [4.0, 3.0, 2.0, 1.0])
    assert sampler.plan_study() is None  # too few were told
    run(sampler, [5.0], 4)
    study = sampler.plan_study()
    assert not sampler.awaits_study  # one more is asked for meanwhile
    run(sampler, [6.0], 5)
    assert sampler.awaits_study
    pool = study()
    sampler.learn(pool)
    assert not sampler.awaits_study
    run(sampler, [7.0], 6)
    assert sampler._used.pool is pool
    assert sampler.plan_study() is not None  # of what was told since


def test_when_a_fit_has_failed_it_goes_on_at_random() -> None:
    sampler, drawn = bind(), bind(samplers.Random())
    run(sampler, [float(i) for i in range(10)])
    assert sampler._used is not None
    sampler.draw_at_random()
    run(drawn, [1.0] * 10)
    for number in range(10, 40):
        assert sampler.plan_study() is None
        (cfg,) = run(sampler, [1.0], number)
        assert cfg == run(drawn, [1.0], number)[0]


def test_it_takes_a_fresh_look_when_its_candidates_run_out() -> None:
    sampler = bind(template={"x": Uniform(0, 1), "y": Uniform(0, 1)})
    run(sampler, [float(i) for i in range(10)])
    pools = set()
    for _ in range(1500):
        sampler.ask(0.0)
        pools.add(id(sampler._used))
    assert len(pools) > 2


def test_it_sees_from_the_curves_what_early_values_are_worth() -> None:
    """Where x is large, trials begin well and end badly; most are pruned before that shows."""
    sampler = bind(template={"x": Uniform(0, 1)})
    for number in range(40):
        x = sampler.ask(0.0)["x"]
        curve = {1: 1 - 0.5 * x, 4: 0.8 - 0.3 * x, 16: 0.4 + 0.4 * x, 50: x}
        told = curve if number % 4 == 0 else {1: curve[1]}
        status = Status.COMPLETED if number % 4 == 0 else Status.PRUNED
        iteration, value = list(told.items())[-1]
        sampler.tell(Observation(number, {"x": x}, status, iteration, value, told))
    assert np.median([sampler.ask(0.0)["x"] for _ in range(40)]) < 0.4


def propose(seconds: Callable[[float], float | None], **how: float) -> list[float]:
    """Return the x of proposals where a trial's end depends on y, what it takes on x alone."""
    plan = samplers.Model(n_startup=60, random_share=0.0, **how)
    sampler = bind(plan, template={"x": Uniform(0, 1), "y": Uniform(0, 1)})
    for number in range(60):
        cfg = sampler.ask(0.0)
        took = seconds(cfg["x"])
        told = Observation(number, cfg, Status.PRUNED, 1, cfg["y"], {1: cfg["y"]}, took)
        sampler.tell(told)
    return [sampler.ask(0.0)["x"] for _ in range(80)]


def test_of_two_that_promise_the_same_the_cheaper_comes_first() -> None:
    def grow(x: float) -> float:
        return 0.1 * 64**x

    assert np.median(propose(grow)) < 0.25
    assert 0.25 < np.median(propose(grow, cost_weight=0.0)) < 0.75
    assert propose(grow, cost_weight=0.0) == propose(lambda _x: None, cost_weight=0.0)


@pytest.mark.parametrize("took", [7.0, None])
def test_where_all_take_the_same_or_nobody_knows_costs_change_nothing(took: float | None) -> None:
    assert propose(lambda _x: took) == propose(lambda _x: took, cost_weight=0.0)


@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (100, 1.0), (400, 0.5), (10_000, 0.1)])
def test_costs_count_less_among_many(n: int, share: float) -> None:
    rng = np.random.default_rng(1)
    encoding = Encoding(SearchSpace({"x": Uniform(0, 1)}))
    rows = rng.random((n, 1))
    told = [Told(row, ((1.0, rng.random()),), 2.0 ** float(row[0])) for row in rows]
    heedless, weighed = (fit(told, encoding, 1, weight).predictions for weight in (0.0, 0.2))
    again = fit(told, encoding, 1, 0.4).predictions
    assert np.allclose(again - heedless, 2 * (weighed - heedless))
    if n > 1:
        spread = np.ptp((weighed - heedless)[0])  # that of the logarithms is ln 2
        assert spread == pytest.approx(0.2 * share * math.log(2), rel=0.2)
    else:
        assert np.array_equal(weighed, heedless)  # what one trial costs says nothing of others


def test_a_suspended_trial_says_nothing_of_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    shown = rng.random((60, 3))
    seconds = np.where(np.arange(60) < 6, 30_000.0, 10.0 * 1.05 ** rng.standard_normal(60))
    costs = predict_costs(shown, seconds, rng.random((500, 3)), rng)
    assert abs(0.2 * costs).max() < 0.2


def test_costs_are_learned_from_no_more_trials_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    fitted = []
    learn = ExtraTreesRegressor.fit
    monkeypatch.setattr(
        ExtraTreesRegressor,
        "fit",
        lambda forest, rows, values: fitted.append(len(rows)) or learn(forest, rows, values),
    )
    shown = rng.random((3 * MAX_TRIALS, 2))
    costs = predict_costs(shown, np.exp(shown[:, 0]), np.array([[0.1, 0.5], [0.9, 0.5]]), rng)
    assert costs == pytest.approx([-0.4, 0.4], abs=0.1)
    assert fitted == [MAX_TRIALS]


@pytest.mark.parametrize("status", [Status.RUNNING, Status.INTERRUPTED, Status.LOST])
def test_what_a_trial_logged_before_it_runs_once_more_is_known(status: Status) -> None:
    """Restored, one that was promoted is told of as it was when its driver died."""
    lived, restored = bind(), bind()
    cfg, curve = lived.ask(0.0), {1: 3.0, 4: 2.0}
    lived.tell(Observation(0, cfg, Status.PAUSED, 4, 2.0, curve))
    lived.tell(Observation(0, cfg, status, 4, 2.0, curve))
    restored.tell(Observation(0, cfg, status, 4, 2.0, curve))
    (known,), (again,) = lived._told.values(), restored._told.values()
    assert known.points == again.points == ((1, 3.0), (4, 2.0))
    fresh = bind()
    fresh.tell(Observation(0, cfg, Status.RUNNING))
    assert not fresh._told


@pytest.mark.parametrize(
    ("status", "curve", "points"),
    [
        (Status.PRUNED, {1: 3.0, 4: 2.0}, [(1, 3), (4, 2)]),
        (Status.COMPLETED, {1: 3.0, 4: 2.0}, [(1, 3), (COMPLETE, 2)]),
        (Status.COMPLETED, {}, [(COMPLETE, math.inf)]),
        (Status.FAILED, {1: 3.0, 4: 2.0}, [(1, 3), (4, 2), (COMPLETE, math.inf)]),
        (Status.PRUNED, {1: 3.0, 4: math.nan}, [(1, 3), (COMPLETE, math.inf)]),
        (Status.PRUNED, {1: math.inf, 4: 2.0}, [(4, 2)]),
    ],
)
def test_what_a_trial_is_taken_for(
    status: Status, curve: dict[int, float], points: list[tuple[float, float]]
) -> None:
    sampler = bind()
    cfg = sampler.ask(0.0)
    *_, (iteration, value) = [(None, None), *curve.items()]
    sampler.tell(Observation(0, cfg, status, iteration, value, curve))
    assert list(sampler._told[0].points) == points
    if curve:  # who keeps no curve says the last value alone
        sampler.tell(Observation(0, cfg, status, iteration, value))
        assert sampler._told[0].points[-1] == points[-1]


def test_iterations_are_shown_by_their_logarithm() -> None:
    assert scale(np.array([0.0, 3.0, 15.0, COMPLETE])).tolist() == [0.0, 0.5, 1.0, 1.0]
    assert scale(np.array([0.0, COMPLETE])).tolist() == [0.0, 1.0]
    assert scale(np.array([COMPLETE])).tolist() == [1.0]


def test_what_is_not_active_is_marked() -> None:
    space = SearchSpace(MIXED)
    encoding = Encoding(space)
    rows = np.array([[0.5, 0.1, 0.7, 0.2, 0.3], [0.5, 0.5, 0.7, 0.2, 0.3]])
    shown = encoding.show(rows)
    assert shown[0].tolist() == rows[0].tolist()
    assert shown[1, 2] == INACTIVE
    assert encoding.counts.tolist() == [0, 3, 0, 0, 0]
    cfg = space.build(lambda leaf: rows[1, encoding.columns[leaf]])
    row = encoding.read(cfg, np.zeros)
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
        ({"cost_weight": -1}, UsageError, "Model: cost_weight must be 0 or more, got -1"),
        ({"cost_weight": math.nan}, UsageError, "Model: cost_weight must be finite, got nan"),
        ({"cost_weight": "x"}, UsageTypeError, "Model: cost_weight must be a number, got 'x'"),
    ],
)
def test_what_makes_no_sense_is_named(
    plan: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as caught:
        samplers.Model(**plan)
    assert text in str(caught.value)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError, match=r"pip install 'slurm-sweeps\[model\]'"):
        bind()


def test_both_names_are_public() -> None:
    assert samplers.ModelSampler is ModelSampler
