"""Sweeps that run only what is new: real ones, after others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss


def train(cfg: dict[str, Any]) -> float:
    """Some fail."""
    if cfg["a"] == 3 and cfg["b"] == "x":
        raise ValueError("not these")
    return float(cfg["a"])


def run(tmp_path: Path, name: str, cfg: Any, n_trials: int | None = None, **kwargs: Any) -> Any:
    kwargs = {"metric": "loss", "mode": "min", "seed": 0, "restore": "auto"} | kwargs
    experiment = ss.Experiment(train, cfg, name=name, local_dir=tmp_path, **kwargs)
    return experiment.run(n_trials, 2, summary_interval_in_sec=60)


def list_points(result: ss.Result) -> list[tuple[int, str]]:
    return sorted((trial.cfg["a"], trial.cfg["b"]) for trial in result.trials)


def test_a_grid_that_has_grown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What failed is run again; so is what the older sweep did not have."""
    old = run(tmp_path, "old", {"a": ss.Grid([1, 2, 3]), "b": ss.Grid(["x"])})
    new = {"a": ss.Grid([1, 2, 3]), "b": ss.Grid(["x", "y"])}
    other = run(tmp_path, "other", {"a": ss.Grid([7]), "b": ss.Grid(["z"])})
    result = run(tmp_path, "new", new, skip=[old, other])
    assert list_points(result) == [(1, "y"), (2, "y"), (3, "x"), (3, "y")]
    said = capfd.readouterr().out
    assert "skip: 2 configurations were tried before and are not run again; 1 trial is" in said
    assert "another sweep has tried 2 of the 6 points of the grids in cfg, so that 4 are" in said
    assert "4 of 4 done" in said
    assert len(run(tmp_path, "new", new, skip=[old, other]).trials) == 4  # which are restored
    assert run(tmp_path, "none", {"a": ss.Grid([1, 2]), "b": "x"}, skip=[old]).trials == []


def test_a_finite_space_and_points_to_evaluate(tmp_path: Path) -> None:
    space = {"a": ss.Integer(1, 4), "b": ss.Choice(["y", "z"])}
    old = run(tmp_path, "old", space, 5)
    points = [trial.cfg for trial in old.trials[:2]]
    new = run(tmp_path, "new", space, 100, skip=[old], points_to_evaluate=points)
    assert sorted(list_points(old) + list_points(new)) == [
        (a, b) for a in (1, 2, 3, 4) for b in "yz"
    ]


@pytest.mark.parametrize("skip", ["old", ["old"], {"old": 1}])
def test_what_makes_no_sense_is_told(skip: Any, tmp_path: Path) -> None:
    with pytest.raises(ss.UsageTypeError, match="skip must be a list of Results"):
        run(tmp_path, "new", {"a": 1, "b": "y"}, 1, skip=skip)
