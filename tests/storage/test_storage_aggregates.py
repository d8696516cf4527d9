"""The aggregates always equal what recomputing them from the metric rows gives."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_samples import assert_aggregates, make_report, make_trial, open_in_memory

from slurm_sweeps.storage.records import ReportRecord
from slurm_sweeps.storage.rows import read_metric_ids, write_records

VALUES = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0]),
    st.floats(allow_nan=True, allow_subnormal=True),
)
REPORTS = st.builds(
    ReportRecord,
    number=st.integers(0, 2),
    attempt=st.integers(1, 3),
    iteration=st.one_of(st.integers(0, 6), st.integers(0, 2**63 - 1)),
    metrics=st.dictionaries(st.sampled_from(["loss", "val/acc", "β 1"]), VALUES),
    logged_at=st.just(1.0),
)


@settings(deadline=None)
@given(st.lists(st.lists(REPORTS, max_size=12), max_size=6))
def test_aggregates_equal_their_rows(transactions: list[list[ReportRecord]]) -> None:
    curves: dict[str, dict[int, dict[int, float]]] = {}
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(number) for number in range(3)])
        for reports in transactions:
            write_records(database, key, reports)
            for report in reports:
                for name, value in report.metrics.items():
                    curve = curves.setdefault(name, {}).setdefault(report.number, {})
                    curve[report.iteration] = value

        assert set(read_metric_ids(database, key)) == set(curves)
        for name, by_trial in curves.items():
            assert_aggregates(database, key, by_trial, name)


@settings(deadline=None)
@given(st.data())
def test_a_retry_replaces_what_it_logs_again(data: st.DataObject) -> None:
    first = data.draw(st.lists(VALUES, min_size=1, max_size=8))
    second = data.draw(st.lists(VALUES, max_size=8))
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(0)])
        for attempt, values in ((1, first), (2, second)):
            for iteration, value in enumerate(values):
                write_records(database, key, [make_report(0, iteration, attempt, loss=value)])

        merged = dict(enumerate(first)) | dict(enumerate(second))
        assert_aggregates(database, key, {0: merged}, "loss")
        with database.reading() as connection:
            rows = connection.execute("SELECT attempt FROM metrics ORDER BY iteration").fetchall()
        assert rows == [(2,)] * len(second) + [(1,)] * (len(first) - len(second))


@pytest.mark.parametrize("iterations", [[1, 1], [2, 1], [1, 2, 2], [5, 6, 1]])
@pytest.mark.parametrize("size", [1, 3])
def test_iterations_that_do_not_rise(iterations: list[int], size: int) -> None:
    reports = [make_report(0, at, loss=float(index)) for index, at in enumerate(iterations)]
    with open_in_memory() as database:
        key = database.create_experiment("a", {}, 0.0).id
        write_records(database, key, [make_trial(0)])
        for first in range(0, len(reports), size):
            write_records(database, key, reports[first : first + size])

        curve = {report.iteration: report.metrics["loss"] for report in reports}
        assert_aggregates(database, key, {0: curve}, "loss")
