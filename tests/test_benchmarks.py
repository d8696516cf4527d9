"""The benchmarks' own arithmetic, and that the simulated sweep runs to its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """The modules `results` and `scale`, which lie outside of the package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import results
    import scale

    yield results, scale
    for name in ("results", "scale"):
        sys.modules.pop(name)


def test_ratios_are_taken_within_a_round_and_failures_are_told(modules: tuple[Any, Any]) -> None:
    results, _ = modules

    def run(peer: str, number: int, value: float | None, error: str | None = None) -> Any:
        return results.Run(peer, "report after 0 rows", number, value, "ms", {}, 1.0, error)

    runs = [
        *(run(results.OURS, number, value) for number, value in enumerate([1.0, 2.0, 4.0], 1)),
        *(run("other", number, value) for number, value in enumerate([3.0, 4.0, 20.0], 1)),
        run("broken", 1, None, "ImportError: no such thing"),
    ]
    text = results.format_results(runs, {"other": results.Size(3, 5_000_000)}, True, BENCHMARKS)
    again = "`--measure report --only 'slurm-sweeps, this checkout' {}`"
    assert f"| other | 3 ms | 4 ms | 20 ms | 3 |  | {again.format('other')} |" in text
    why = "ImportError: no such thing"
    assert f"| broken | failed |  |  |  | {why} | {again.format('broken')} |" in text
    assert "| other |  | 3 | 5 |" in text
    assert "## One report and its verdict by ASHA after 0 rows (less is better)" in text


@pytest.mark.parametrize(("trials", "workers"), [(40, 8), (5, 9)])
def test_virtual_workers_run_all_trials(
    modules: tuple[Any, Any], trials: int, workers: int
) -> None:
    _, scale = modules
    sweep = scale.build_sweep(trials, workers)
    tally = scale.simulate(sweep, workers)
    assert tally.trials == trials
    assert sweep.is_done
    assert trials <= tally.reports <= trials * scale.MAX_T
