"""The spaces of numbers: in range, of the right type, and the same after a trip through JSON."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_cases import (
    UNITS,
    integers,
    log_integers,
    log_uniforms,
    normals,
    number_spaces,
    quantized,
    uniforms,
)
from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.search.spaces import (
    Integer,
    LogInteger,
    LogUniform,
    Normal,
    Quantized,
    Space,
    Uniform,
)


@given(st.one_of(uniforms, log_uniforms, integers, log_integers), UNITS)
def test_values_are_within_the_bounds_and_native(space: Any, u: float) -> None:
    value = space.from_unit(u)
    assert space.low <= value <= space.high
    assert type(value) is (int if isinstance(space, (Integer, LogInteger)) else float)


@given(quantized, UNITS)
def test_quantized_values_are_multiples_within_the_bounds(space: Quantized, u: float) -> None:
    value = space.from_unit(u)
    base = 0 if space.base == "zero" else space.space.low  # type: ignore[union-attr] # it has one
    is_whole = isinstance(space.step, int) and base == int(base)
    assert type(value) is (int if is_whole else float)
    steps = (value - base) / space.step
    assert math.isclose(steps, round(steps), rel_tol=1e-9, abs_tol=1e-6)
    if not isinstance(space.space, Normal):
        assert space.space.low <= value <= space.space.high


@given(number_spaces, UNITS, UNITS)
def test_from_unit_grows_with_u(space: Space, u: float, v: float) -> None:
    assert space.from_unit(min(u, v)) <= space.from_unit(max(u, v))


@given(number_spaces, UNITS)
def test_to_unit_is_the_way_back(space: Space, u: float) -> None:
    value = space.from_unit(u)
    unit = space.to_unit(value)
    assert 0 <= unit <= 1
    if isinstance(space, Normal) and not 1e-6 < u < 1 - 1e-6:
        return  # out there, floats next to 1 are too far apart to tell one value from the next
    assert space.from_unit(unit) == pytest.approx(value, rel=1e-9, abs=1e-5)
    if space.size is not None:
        assert space.from_unit(unit) == value


@given(st.one_of(uniforms, log_uniforms, normals), st.floats(0.001, 0.999))
def test_units_of_continuous_spaces_come_back(space: Space, u: float) -> None:
    assert space.to_unit(space.from_unit(u)) == pytest.approx(u, abs=1e-3)


@given(number_spaces, UNITS)
def test_values_survive_json(space: Space, u: float) -> None:
    value = space.from_unit(u)
    revived = space.revive(json.loads(json.dumps(value)))
    assert revived == value
    assert type(revived) is type(value)


@given(number_spaces)
def test_descriptions_survive_json_and_the_repr_makes_the_same_space(space: Space) -> None:
    assert json.loads(json.dumps(space.describe())) == space.describe()
    assert eval(repr(space)) == space


@given(st.one_of(integers, log_integers, quantized), st.data())
def test_at_numbers_all_points(space: Space, data: st.DataObject) -> None:
    if space.size is None:
        return
    index = data.draw(st.integers(0, min(space.size, 10**6) - 1))
    value = space.at(index)
    assert space.revive(value) == value
    assert index == 0 or space.at(index - 1) < value


@given(number_spaces, st.integers(0, 2**32))
def test_sampling_is_repeatable_and_leaves_numpys_global_state_alone(
    space: Space, seed: int
) -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index] # the legacy tuple
    draws = [space.sample(np.random.default_rng(seed)) for _ in range(2)]
    assert draws[0] == draws[1]
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index] # the legacy tuple


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (Quantized(Uniform(0, 1), 0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Quantized(Uniform(0, 0.5), 0.1), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (Quantized(Uniform(0.001, 0.3), 0.1), [0.1, 0.2, 0.3]),
        (Quantized(Integer(1, 10), 3), [3, 6, 9]),
        (Quantized(LogUniform(16, 64), 16), [16, 32, 48, 64]),
        (Quantized(LogInteger(2, 9), 4), [4, 8]),
        (Quantized(Integer(0, 1), 0.5), [0.0, 0.5, 1.0]),
        (Quantized(Uniform(-1e5, 1e5), 1e5), [-1e5, 0.0, 1e5]),
        (Quantized(Integer(1, 8), 3, base="low"), [1, 4, 7]),
        (Quantized(Uniform(1, 3), 1, base="low"), [1, 2, 3]),
        (Quantized(Uniform(0.25, 1), 0.3, base="low"), [0.25, 0.55, 0.85]),
        (Quantized(Uniform(-5.5, -4), 0.5, base="low"), [-5.5, -5.0, -4.5, -4.0]),
        (Uniform(0.5, 0.5), [0.5]),
        (LogUniform(2, 2), [2.0]),
        (Integer(3, 3), [3]),
        (LogInteger(3, 3), [3]),
        (Quantized(Uniform(3, 3), 1, base="low"), [3]),
        (Integer(-1, 2), [-1, 0, 1, 2]),
        (LogInteger(1, 3), [1, 2, 3]),
    ],
)
def test_all_points_of_a_finite_space(space: Space, expected: list[float]) -> None:
    points = [space.at(i) for i in range(space.size or 0)]
    assert points == expected
    assert [type(p) for p in points] == [type(e) for e in expected]
    rng = np.random.default_rng(0)
    assert {space.sample(rng) for _ in range(500)} == set(expected)


def test_no_float_has_dust() -> None:
    space = Quantized(Uniform(0, 1), 0.1)
    assert [repr(space.at(i)) for i in range(11)] == [
        "0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0",
    ]  # fmt: skip


@pytest.mark.parametrize("space", [Integer(0, 4), Quantized(Uniform(0, 1), 0.25)])
def test_the_ends_are_as_likely_as_the_middle(space: Space) -> None:
    counts = Counter(space.from_unit((i + 0.5) / 1000) for i in range(1000))
    assert set(counts.values()) == {200}


def test_a_log_integer_is_as_likely_in_each_order_of_magnitude() -> None:
    space = LogInteger(1, 10_000)
    values = [space.from_unit((i + 0.5) / 10_000) for i in range(10_000)]
    assert sum(v > 1000 for v in values) == pytest.approx(2325, abs=5)
    assert sum(10 < v <= 100 for v in values) == pytest.approx(2276, abs=5)


def test_a_normal_has_its_mean_and_deviation() -> None:
    values = [Normal(3, 2).from_unit((i + 0.5) / 1000) for i in range(1000)]
    assert np.mean(values) == pytest.approx(3, abs=0.01)
    assert np.std(values) == pytest.approx(2, abs=0.02)
    assert Normal(0, 1).from_unit(0) == -Normal(0, 1).from_unit(1)


def test_extreme_bounds_do_not_overflow() -> None:
    assert LogUniform(5e-324, 1.7e308).from_unit(1) == 1.7e308
    assert LogUniform(1e300, math.nextafter(1e300, 2e300)).to_unit(1.1e300) == 0
    assert Uniform(-8e307, 8e307).from_unit(0.5) == 0


def test_numpys_numbers_become_pythons() -> None:
    space = Integer(np.int64(1), np.int64(5))  # type: ignore[arg-type] # what users do
    assert type(space.low) is int
    assert type(Uniform(np.float32(0), np.float64(1)).high) is float  # type: ignore[arg-type]
    assert type(Integer(1, 9, seed=np.uint8(3)).seed) is int  # type: ignore[arg-type]
    assert type(Quantized(Integer(0, 9), np.int64(3)).from_unit(0.5)) is int


def test_a_quantized_space_takes_the_seed_of_its_inner_one() -> None:
    assert Quantized(Uniform(0, 1, seed=3), 0.1).seed == 3
    assert Quantized(Uniform(0, 1, seed=3), 0.1, seed=0).seed == 0
    assert repr(Uniform(0, 1, seed=3)) == "Uniform(0.0, 1.0, seed=3)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Uniform(2, 1), UsageError, "Uniform needs low <= high, got low=2.0, high=1.0"),
        (lambda: LogUniform(2, 1), UsageError, "LogUniform needs low <= high, got low=2.0, high="),
        (lambda: Integer(4, 3), UsageError, "Integer needs low <= high, got low=4, high=3"),
        (lambda: LogInteger(9, 3), UsageError, "LogInteger needs low <= high, got low=9, high=3"),
        (lambda: LogUniform(0, 1), UsageError, "LogUniform needs low > 0, because a logarithmic"),
        (lambda: LogInteger(0, 9), UsageError, "a logarithmic scale has no zero, got low=0"),
        (lambda: Normal(0, 0), UsageError, "Normal needs std > 0, got std=0.0"),
        (lambda: Uniform(0, math.inf), UsageError, "Uniform: high must be finite, got inf"),
        (lambda: Uniform(math.nan, 1), UsageError, "Uniform: low must be finite, got nan"),
        (lambda: Uniform(-1e308, 1e308), UsageError, "Uniform: high - low must be finite, got inf"),
        (lambda: Uniform("0", 1), UsageTypeError, "Uniform: low must be a number, got '0' (str)"),
        (lambda: Uniform(0, True), UsageTypeError, "high must be a number, got True (bool)"),
        (lambda: Normal(None, 1), UsageTypeError, "Normal: mean must be a number, got None"),
        (lambda: Uniform(0, 10**400), UsageTypeError, "Uniform: high must be a number, got 1000"),
        (lambda: Integer(0.5, 2), UsageTypeError, "Integer: low must be an integer, got 0.5 (floa"),
        (lambda: Integer(0, "9"), UsageTypeError, "Integer: high must be an integer, got '9' (str"),
        (lambda: Integer(False, 2), UsageTypeError, "Integer: low must be an integer, got False"),
        (lambda: Uniform(0, 1, seed=-1), UsageError, "Uniform: seed must be 0 or more, got -1"),
        (lambda: Uniform(0, 1, seed="x"), UsageTypeError, "Uniform: seed must be an integer, got"),
        (lambda: Quantized(Uniform(0, 1), 0), UsageError, "Quantized needs step > 0, got step=0"),
        (lambda: Quantized(Uniform(0, 1), "a"), UsageTypeError, "Quantized: step must be a number"),
        (
            lambda: Quantized(Integer(4, 6), 7),
            UsageError,
            "Quantized: no multiple of step=7 lies between 4 and 6",
        ),
        (
            lambda: Quantized(LogUniform(1, 9), 2, base="low"),
            UsageError,
            'Quantized: base="low" is for a Uniform or an Integer',
        ),
        (
            lambda: Quantized(Integer(1, 9), 2, base="high"),
            UsageError,
            'Quantized: base must be "zero" or "low", got \'high\'',
        ),
        (
            lambda: Quantized(Quantized(Uniform(0, 1), 0.1), 0.2),
            UsageTypeError,
            "Quantized: space must be a Uniform, LogUniform, Integer, LogInteger or Normal, got "
            "Quantized(Uniform(0.0, 1.0), 0.1) (Quantized)",
        ),
        (lambda: Uniform(0, 1).at(0), UsageError, "Uniform(0.0, 1.0) has no end, so none of its p"),
        (lambda: Quantized(Normal(0, 1), 1).at(2), UsageError, "so none of its points has the num"),
        (lambda: Uniform(0, 1).revive(2), UsageError, "2 is no value of Uniform(0.0, 1.0)"),
        (lambda: Integer(0, 1).revive(0.5), UsageError, "0.5 is no value of Integer(0, 1)"),
        (lambda: Integer(0, 1).revive(True), UsageError, "True is no value of Integer(0, 1)"),
        (lambda: Uniform(0, 1).revive("0"), UsageError, "'0' is no value of Uniform(0.0, 1.0)"),
        (lambda: Normal(0, 1).revive(math.nan), UsageError, "nan is no value of Normal(0.0, 1.0)"),
        (lambda: Quantized(Integer(0, 9), 3).revive(4), UsageError, "4 is no value of Quantized("),
        (lambda: LogInteger(1, 3).revive(4), UsageError, "4 is no value of LogInteger(1, 3)"),
        (lambda: LogUniform(1, 3).revive(4), UsageError, "4 is no value of LogUniform(1.0, 3.0)"),
    ],
)
def test_bad_input_is_named(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
