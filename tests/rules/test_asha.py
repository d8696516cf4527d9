"""ASHA as the user meets it, and the rule on a frame against the rule said plainly."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from rung_cases import ASHAS, REPORTS, Report, find_failing

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.rules.asha import ASHA


def build_frame(reports: list[Report], metric: str = "loss") -> pd.DataFrame:
    columns = ["trial_id", "iteration", f"metric_{metric}"]
    frame = pd.DataFrame([(f"t{t}", i, v) for t, i, v in reports], columns=columns)
    return frame.astype({"iteration": int, f"metric_{metric}": float})


def test_the_defaults() -> None:
    asha = ASHA("loss", "min")
    assert (asha.metric, asha.mode) == ("loss", "min")
    assert (asha.reduction_factor, asha.min_t, asha.max_t) == (4, 1, 50)
    assert asha.rungs == (1, 4, 16)
    assert asha.promote is False
    assert asha == ASHA("loss", "min")
    with pytest.raises(dataclasses.FrozenInstanceError):
        asha.mode = "max"  # type: ignore[misc] # that is the point


def test_numpys_numbers_become_pythons() -> None:
    asha = ASHA("a", "max", np.int64(3), np.int32(2), np.uint16(9))  # type: ignore[arg-type]
    assert "reduction_factor=3, min_t=2, max_t=9" in repr(asha)
    assert ASHA("a", "max", np.float64(2.5)).rungs == (1, 3, 7, 16, 40)


@given(ASHAS, REPORTS)
def test_the_frame_is_judged_as_the_reports_are(asha: ASHA, reports: list[Report]) -> None:
    """Also with promotion, and in whatever order its rows come."""
    frame = build_frame(reports)
    before = frame.copy(deep=True)
    to_prune = dataclasses.replace(asha, promote=True).find_trials_to_prune(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert to_prune == asha.find_trials_to_prune(frame)
    first_seen = dict.fromkeys(f"t{trial}" for trial, *_ in reports)
    failing = {f"t{t}" for t in find_failing(asha, reports)}
    assert to_prune == [trial for trial in first_seen if trial in failing]


def test_ids_come_in_the_order_of_their_first_rows() -> None:
    reports = [(3, 1, 9.0), (1, 1, 8.0), (2, 1, 0.0), (0, 1, 7.0), (3, 2, 9.0)]
    to_prune = ASHA("loss", "min").find_trials_to_prune(build_frame(reports))
    assert to_prune == ["t3", "t1", "t0"]
    assert all(type(trial_id) is str for trial_id in to_prune)


def test_a_large_frame_is_judged_as_by_sorting() -> None:
    asha, rng = ASHA("loss", "max", reduction_factor=3, max_t=81), random.Random(0)
    reports = [
        (trial, iteration, rng.choice([rng.random(), math.nan]))
        for trial in range(1000)
        for iteration in range(trial % 2, rng.randrange(2, 100))
    ]
    expected = {f"t{trial}" for trial in find_failing(asha, reports)}
    frame = build_frame(reports).sample(frac=1, random_state=0)
    assert set(asha.find_trials_to_prune(frame)) == expected


def test_frames_as_users_have_them() -> None:
    asha = ASHA("val/loss", "min")
    empty = pd.DataFrame({"trial_id": [], "iteration": [], "metric_val/loss": []})
    assert asha.find_trials_to_prune(empty) == []
    odd = pd.DataFrame(
        {
            "trial_id": ["a", "b", "c"],
            "iteration": [0.0, 0.0, 0.0],
            "metric_val/loss": [None, 1, 2.0],
            "timestamp": "now",
        },
        index=[7, 7, 7],
        dtype=object,
    )
    assert asha.find_trials_to_prune(odd) == ["a", "c"]
    nullable = odd.convert_dtypes()
    assert asha.find_trials_to_prune(nullable) == ["a", "c"]


@pytest.mark.parametrize("missing", ["trial_id", "iteration", "metric_loss"])
def test_a_missing_column_is_named(missing: str) -> None:
    frame = build_frame([(0, 1, 1.0)]).drop(columns=missing)
    with pytest.raises(UsageError) as caught:
        ASHA("loss", "min").find_trials_to_prune(frame)
    assert f"The frame has no column {missing!r}; ASHA needs ['trial_id'," in str(caught.value)


@pytest.mark.parametrize("column", ["trial_id", "iteration"])
def test_a_missing_value_is_named(column: str) -> None:
    frame = build_frame([(0, 1, 1.0), (1, 1, 1.0)])
    frame[column] = [frame[column][0], None]
    with pytest.raises(UsageError, match=rf"Row 1 of the frame \(from 0\) has no {column}"):
        ASHA("loss", "min").find_trials_to_prune(frame)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mode": "minimum"}, UsageError, 'ASHA: mode must be "min" or "max", got \'minimum\''),
        ({"mode": None}, UsageError, 'ASHA: mode must be "min" or "max", got None'),
        ({"metric": ""}, UsageError, "ASHA: metric must be the name of a metric, got ''"),
        ({"metric": 3}, UsageTypeError, "metric must be the name of a metric, got 3 (int)"),
        ({"reduction_factor": 1.9}, UsageError, "reduction_factor must be 2 or more, got 1.9"),
        ({"reduction_factor": math.inf}, UsageError, "reduction_factor must be finite, got inf"),
        ({"reduction_factor": "4"}, UsageTypeError, "reduction_factor must be a number, got '4'"),
        ({"reduction_factor": True}, UsageTypeError, "reduction_factor must be a number, got Tru"),
        ({"min_t": 0}, UsageError, "ASHA: min_t must be 1 or more, got 0"),
        ({"min_t": 2.0}, UsageTypeError, "ASHA: min_t must be an integer, got 2.0 (float)"),
        ({"min_t": 1.5}, UsageTypeError, "ASHA: min_t must be an integer, got 1.5 (float)"),
        ({"min_t": 9, "max_t": 8}, UsageError, "ASHA: max_t must be min_t=9 or more, got 8"),
        ({"max_t": None}, UsageTypeError, "ASHA: max_t must be an integer, got None (NoneType)"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        ASHA(**{"metric": "loss", "mode": "min", **arguments})
    assert message in str(caught.value)
