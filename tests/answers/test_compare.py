"""Configurations of several runs, compared; a real sweep of such, killed and taken up again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.storage.records import TrialRecord
from slurm_sweeps.trial import Status, canonical_json, split_cfg
from slurm_sweeps.views.compare import compare, correct, rank_configurations
from sweep_scripts import Scripts

SWEEP = """
import random, time
import slurm_sweeps as ss

def train(cfg):
    rng = random.Random(repr(sorted(cfg.items())))
    for i in range(1, 5):
        ss.log({"loss": cfg["lr"] + 1 / i + 0.02 * rng.random()}, i)
        time.sleep(0.01)

if __name__ == "__main__":
    cfg = {"lr": ss.Uniform(0, 1, prior=ss.Prior(0.02, "high")), "seed": ss.Repeat([11, 22, 33])}
    rule = ss.ASHA("loss", "min", 2, max_t=4)
    sweep = ss.Experiment(train, cfg, "race", asha=rule, seed=1, restore="auto")
    result = sweep.run(30, max_concurrent_trials=2)
    print(result.compare(3))
"""


def test_a_killed_sweep_goes_on_with_the_race_and_its_answers_agree(tmp_path: Path) -> None:
    scripts = Scripts(tmp_path)
    path = tmp_path / "slurm-sweeps" / "slurm-sweeps.db"

    def has_raced() -> bool:
        if not path.exists():
            return False
        with sqlite3.connect(path) as connection, contextlib.suppress(sqlite3.OperationalError):
            rows = connection.execute("SELECT cfg FROM trials WHERE status = 'completed'")
            return any(json.loads(cfg)["seed"] == 22 for (cfg,) in rows)
        return False  # its tables are being made

    with scripts.start(SWEEP) as process:
        wait_until(has_raced, 60, lambda: "no configuration is run again")
        os.kill(process.pid, signal.SIGKILL)
    printed = scripts.run(SWEEP).stdout
    result = ss.Result("race", tmp_path / "slurm-sweeps")
    trials = result.trials
    assert len(trials) == 30
    runs: dict[str, list[int]] = {}
    for trial in trials:
        key, seed = split_cfg(trial.cfg, "seed")
        runs.setdefault(key, []).append(seed)
    assert all(seeds == [11, 22, 33][: len(seeds)] for seeds in runs.values())
    assert max(map(len, runs.values())) == 3
    assert trials[0].cfg == {"lr": 0.02, "seed": 11}  # what is guessed, and it is run again
    assert len(next(iter(runs.values()))) > 1
    verdict = result.verify()
    assert verdict, str(verdict)
    assert verdict.cfgs == len(runs) - 1  # but for the guess
    best = result.best_trial()
    top = result.compare(3).rows[0]
    assert top.n >= 2
    assert best.value == pytest.approx(top.mean)
    assert (best.trial_id, best.cfg["lr"]) == (top.trial_id, top.cfg["lr"])
    assert str(result.compare(3)) in printed
    assert f"mean of {top.n} runs" in printed
    assert len({split_cfg(t.cfg, "seed")[0] for t in result.best_trials(5)}) == 5
    page = result.report(tmp_path / "report.html").read_text()
    assert result.compare(10).sentence in page
    _check_command_line(tmp_path, top)


def _check_command_line(folder: Path, top: Any) -> None:
    def call(*words: str, code: int = 0) -> str:
        verb = [str(Path(sys.executable).with_name("slurm-sweeps")), *words]
        done = subprocess.run(verb, cwd=folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "the best: " in call("compare", "race")
    assert len(json.loads(call("compare", "race", "--json", "--top", "2"))["rows"]) == 2
    best = json.loads(call("best", "race", "--json"))[0]
    assert (best["trial_id"], best["runs"]) == (top.trial_id, top.n)
    assert "would have stopped" in call("whatif", "race", "--asha", "reduction_factor=3")


REPEAT = {"path": "seed", "counts_at": None}


def build(values: dict[str, Sequence[float]], status: Status = Status.COMPLETED) -> Any:
    """Trials of configurations by name; the values of each one's seeds in order."""
    return [
        (
            TrialRecord(
                i * 10 + seed,
                trial_id=f"{name}{seed}",
                repetition=0,
                cfg_json=canonical_json({"a": name, "seed": seed}),
                status=status,
            ),
            value,
            1,
        )
        for i, (name, runs) in enumerate(values.items())
        for seed, value in enumerate(runs)
    ]


def test_a_comparison_by_hand() -> None:
    values = {"few": [0.5], "best": [1.0, 2.0, 3.0], "same": [1.1, 2.3, 2.9], "worse": [9, 10, 11]}
    ranked = rank_configurations(build(values), REPEAT, "min")
    assert [json.loads(runs.key)["a"] for runs in ranked] == ["best", "same", "worse", "few"]
    answer = compare(ranked, "loss")
    best, same, worse, few = answer.rows
    assert (best.mean, best.spread, best.trial_id) == (2.0, 1.0, "best0")
    # Student's t for 2 degrees of freedom and 95 %: 4.3027; of the root of 3.
    assert best.interval == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    # Differences 0.1, 0.3, -0.1: mean 0.1, standard deviation 0.2, t = 0.866, p = 0.4778
    assert (same.difference, same.p) == (pytest.approx(0.1), pytest.approx(0.4778, abs=1e-3))
    assert (worse.difference, worse.p) == (8.0, 0.0)
    assert (few.n, few.spread, few.p) == (1, None, None)
    assert answer.sentence == (
        "best is best0, mean loss 2 of 3 runs; indistinguishable from the best: 1; worse: 1; too "
        "few runs to tell: 1"
    )
    assert len(str(answer).splitlines()) == 6


def test_what_has_not_completed_comes_last_and_stands_for_itself() -> None:
    pruned = build({"fast": [0.1]}, Status.PRUNED)
    ranked = rank_configurations([*pruned, *build({"whole": [5.0, 6.0]})], REPEAT, "min")
    assert [(each.n, each.mean) for each in ranked] == [(2, 5.5), (1, 0.1)]
    highest = rank_configurations(build({"low": [1, 2], "high": [3, 4]}), REPEAT, "max")
    assert [each.best[1] for each in highest] == [4, 2]


@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_corrected_p_values_are_larger_and_in_order(ps: list[float | None]) -> None:
    corrected = correct(ps)
    known = [(p, c) for p, c in zip(ps, corrected, strict=True) if p is not None and c is not None]
    assert [p is None for p in ps] == [c is None for c in corrected]
    assert all(p <= c <= 1 for p, c in known)
    assert [c for _, c in sorted(known)] == sorted(c for _, c in known)
    if known:
        assert min(c for _, c in known) == min(1.0, min(p for p, _ in known) * len(known))


def test_without_scipy_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ss.UsageError, match=r"slurm-sweeps\[model\]"):
        compare(rank_configurations(build({"a": [1.0, 2.0]}), REPEAT, "min"), "loss")
