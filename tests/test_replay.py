"""The replay of learning curves: the decisions as they are live, in simulated time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
KEYS = {"table", "sampler", "pruner", "workers", "budget", "seed", "regret"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 configurations x 9 epochs: the loss falls to a value that grows with the first axis."""
    rng = np.random.default_rng(0)
    unit = rng.random((60, 2), dtype=np.float32)
    loss = unit[:, :1] + 1 / np.arange(1, 10, dtype=np.float32)
    loss[7, 3:] = np.nan
    path = tmp_path / "toy.npz"
    seconds = np.full(60, 2.0, np.float32)
    np.savez(path, loss=loss, seconds_per_epoch=seconds, unit=unit, names=["a", "b"])
    return path


def replay(table: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(BENCHMARKS / "replay.py"), str(table), "--json", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_one_line_per_table_seed_and_budget(table: Path) -> None:
    lines = replay(table, "--seeds", "2", "--workers", "3", "--budget", "0.5", "4")
    assert [(line["seed"], line["budget"]) for line in lines] == [
        (0, 0.5),
        (0, 4.0),
        (1, 0.5),
        (1, 4.0),
    ]
    assert all(line.keys() == KEYS for line in lines)
    assert all(line["regret"] >= 0 for line in lines)
    assert lines[1]["regret"] <= lines[0]["regret"]


def test_a_seed_is_repeatable(table: Path) -> None:
    first, again = (replay(table, "--seeds", "1", "--budget", "0.7", "1") for _ in range(2))
    assert first == again


def test_every_row_is_served_once_and_the_best_is_found_without_pruning(table: Path) -> None:
    (line,) = replay(table, "--pruner", "none", "--workers", "2", "--budget", "30")
    assert line["regret"] == 0
    (line,) = replay(table, "--pruner", "none", "--workers", "2", "--budget", "0.05")
    assert line["regret"] == float("inf")  # half of the first epoch: nobody has reported


def test_time_goes_to_waiting_where_there_is_a_delay(table: Path) -> None:
    (prompt,) = replay(table, "--budget", "0.2", "--workers", "1")
    (slow,) = replay(table, "--budget", "0.2", "--workers", "1", "--delay", "2")
    assert prompt["regret"] < slow["regret"]
