"""The sampler that trials ask for each value: what it draws, and what it learns from."""

from __future__ import annotations

import statistics
from typing import Any

import optuna
import pytest

from slurm_sweeps.samplers import DefineByRun, Observation, Problem, SuggestingSampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.trial import Status

X = {"low": -10.0, "high": 10.0}


def bind(sampler: Any = None, mode: str = "min") -> Any:
    bound = DefineByRun(sampler).bind(Problem(SearchSpace({}), 1, "loss", mode, True))
    assert isinstance(bound, SuggestingSampler)
    return bound


def tell(sampler: Any, number: int, cfg: dict[str, Any], value: float) -> None:
    sampler.tell(Observation(number, cfg, Status.COMPLETED, 1, value))


def run(sampler: Any, numbers: range, sign: float = 1.0) -> list[float]:
    """Run trials that are best at 2, and draw a second value only where the first is high."""
    drawn = []
    for number in numbers:
        assert sampler.ask(0.0) == {}
        sampler.tell(Observation(number, {}, Status.RUNNING))
        cfg = {"x": sampler.suggest(number, {}, "x", "float", X)}
        if cfg["x"] > 0:
            args = {"low": 1, "high": 9, "step": 2}
            cfg["n"] = sampler.suggest(number, dict(cfg), "n", "int", args)
            assert cfg["n"] in (1, 3, 5, 7, 9)
        tell(sampler, number, cfg, sign * (cfg["x"] - 2) ** 2)
        drawn.append(cfg["x"])
    return drawn


def measure(drawn: list[float]) -> float:
    return statistics.median(abs(x - 2) for x in drawn)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1.0), ("max", -1.0)])
def test_it_learns_and_is_repeatable(mode: str, sign: float) -> None:
    drawn = run(bind(mode=mode), range(40), sign)
    assert measure(drawn[20:]) < measure(drawn[:10]) / 2
    assert drawn == run(bind(mode=mode), range(40), sign)


def test_restored_it_knows_what_was_drawn_before_though_not_from_what() -> None:
    before = bind()
    drawn = run(before, range(40))
    after = bind()
    for number, x in enumerate(drawn):
        tell(after, number, {"x": x, "n": 3, "gone": "a"}, (x - 2) ** 2)
    assert measure(run(after, range(40, 50))) < measure(drawn[:10]) / 2


def test_what_was_drawn_from_other_ranges_is_left_out() -> None:
    sampler = bind()
    for number in range(20):
        tell(sampler, number, {"x": -100.0 if number % 2 else 2.0}, float(number % 2))
    assert measure(run(sampler, range(20, 30))) < 5


def test_a_trial_that_goes_on_keeps_what_it_has_drawn() -> None:
    sampler = bind(optuna.samplers.TPESampler(multivariate=False, seed=0))
    sampler.ask(0.0)
    sampler.suggest(0, {"x": 0.5}, "y", "categorical", {"choices": ["a", None, 3]})
    assert sampler.suggest(0, {"x": 0.5}, "x", "float", X) == 0.5


def test_what_makes_no_sense_is_an_error_of_the_value() -> None:
    with pytest.raises(ValueError, match="low"):
        bind().suggest(0, {}, "x", "float", {"low": 1.0, "high": 0.0})
