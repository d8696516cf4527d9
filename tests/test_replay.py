"""The replay of learning curves: the decisions as they are live, in simulated time."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
from importlib import import_module
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
    """Replay in this process, which has imported what that needs."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.syspath_prepend(str(BENCHMARKS))
        patch.setattr(sys, "argv", ["replay.py", str(table), "--json", *arguments])
        import_module("replay").main()
    return [json.loads(line) for line in said.getvalue().splitlines()]


def test_it_is_a_command(table: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "replay.py"), str(table), "--json", "--seeds", "1"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert [json.loads(line) for line in output.splitlines()] == replay(table, "--seeds", "1")


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


def test_each_seed_may_have_rows_of_its_own(table: Path) -> None:
    lines = {
        share: replay(table, "--pruner", "none", "--budget", "9", "--seeds", "9", "--rows", share)
        for share in ("1", "0.1")
    }
    # What is left of 60 rows is tried to the end: each seed's regret is one of its own six.
    assert all(line["regret"] == 0 for line in lines["0.1"])
    assert any(line["regret"] > 0 for line in lines["1"])


def test_a_table_that_a_sweep_has_made(tmp_path: Path) -> None:
    """Of 5 configurations, once begun with 3; then it can be replayed."""
    for n in ("3", "5"):
        make = [sys.executable, str(BENCHMARKS / "make_table.py"), "made.npz", "--epochs", "4"]
        done = subprocess.run(
            [*make, "--configurations", n], cwd=tmp_path, check=True, capture_output=True, text=True
        )
    assert done.stdout.splitlines()[-1] == "made.npz: 5 learning curves of 4 epochs"
    path = tmp_path / "made.npz"
    with np.load(path) as file:
        assert list(file["names"])[:2] == ["learning_rate", "beta_1"]
        assert file["loss"].shape == (5, 4)
        assert file["unit"].shape == (5, 6)
        assert len({tuple(row) for row in file["unit"].tolist()}) == 5
        assert ((file["unit"] >= 0) & (file["unit"] <= 1)).all()
        assert (file["seconds_per_epoch"] > 0).all()
        best = file["loss"].min()
        # The fastest learner has come further than the slowest.
        rate = file["unit"][:, 0]
        assert file["loss"][rate.argmax(), -1] < file["loss"][rate.argmin(), -1]
    assert 0 < best < np.log(10)
    lines = replay(path, "--pruner", "none", "--budget", "5", "--workers", "4")
    assert [line["regret"] for line in lines] == [0.0]

    for name in ("made", "there/is/no/such.npz"):  # told before any work
        with pytest.raises(subprocess.CalledProcessError) as raised:
            subprocess.run([*make[:2], name], cwd=tmp_path, check=True, capture_output=True)
        assert b"must end in .npz, in a folder that is there" in raised.value.stderr


def test_seeds_are_replayed_in_three_ways(table: Path) -> None:
    """Without noise each is as good with one seed as with all; with more time none is worse."""
    command = [sys.executable, str(BENCHMARKS / "replay_seeds.py"), str(table)]
    command += ["--budget", "0.5", "3", "--seeds", "2", "--noise", "0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line.split("|") for line in done.stdout.splitlines()[2:]]
    assert [row[2].strip() for row in rows] == ["one", "all", "race"]
    for row in rows:
        early, late = (float(cell.split("±")[0]) for cell in row[3:5])
        assert 0 <= late <= early


def test_a_comparison_keeps_what_it_does_not_replay(table: Path, tmp_path: Path) -> None:
    """Results of another table and of another contender stay; its own are made anew."""
    folder = tmp_path / "mine"
    folder.mkdir()
    old = {"sampler": "random", "pruner": "asha", "workers": 4, "seed": 0, "regret": 7.0}
    others = [{**old, "table": "elsewhere", "budget": budget} for budget in (1.0, 3.0, 10.0)] + [
        {**old, "table": "toy", "sampler": "quasi", "budget": budget} for budget in (1.0, 3.0, 10.0)
    ]
    own = [{**old, "table": "toy", "budget": budget} for budget in (1.0, 3.0, 10.0)]
    results = folder / "search.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in [*others, *own]))
    command = [sys.executable, str(BENCHMARKS / "replay_compare.py"), str(table)]
    command += ["--only", "random:asha", "clairvoyance", "--seeds", "2", "--into", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line for line in lines if line["regret"] == 7.0] == others
    anew = [line for line in lines if line["regret"] != 7.0]
    assert len(anew) == 2 * 3 * 2 + 2 * 3  # workers, budgets, seeds; a bound has one seed
    assert "| random, ASHA |" in (folder / "SEARCH.md").read_text()


def test_nothing_does_better_than_clairvoyance(tmp_path: Path) -> None:
    """Of two rows the better one takes three times as long: half a full training is 4 s."""
    loss = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.1, 0.0]])
    np.savez(
        path := tmp_path / "two.npz",
        loss=loss,
        seconds_per_epoch=np.array([1.0, 3.0]),
        unit=np.array([[0.1], [0.9]]),
    )
    arguments = ("--workers", "2", "--budget", "0.5", "1", "2", "--pruner", "none")
    bounds, found = (
        [line["regret"] for line in replay(path, *arguments, "--sampler", sampler)]
        for sampler in ("clairvoyance", "random")
    )
    # Losses 0.5, 0.4 and 0.0 after 4, 8 and 16 s, in units of the median final one, 0.3.
    assert bounds == pytest.approx([5 / 3, 4 / 3, 0.0])
    assert found == bounds
    late = replay(path, *arguments, "--sampler", "clairvoyance", "--delay", "1")
    assert [line["regret"] for line in late] == pytest.approx([5 / 3, 4 / 3, 0.0])
    later = replay(path, *arguments, "--sampler", "clairvoyance", "--delay", "1.5")
    assert [line["regret"] for line in later] == pytest.approx([0.9 / 0.3, 5 / 3, 1 / 3])


def test_a_search_of_many_rows_stays_above_the_bound(table: Path) -> None:
    arguments = ("--budget", "0.3", "1", "3", "--workers", "2", "--seeds", "3")
    bounds = {
        line["budget"]: line["regret"]
        for line in replay(table, *arguments, "--sampler", "clairvoyance")
    }
    for line in replay(table, *arguments):
        assert line["regret"] >= bounds[line["budget"]]
    assert bounds[0.3] > bounds[1.0] == bounds[3.0] == 0


def test_rows_are_drawn_by_the_seed(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    known = import_module("replay_table").read_table(table)
    first, again, other = (known.draw_share(0.25, seed) for seed in (0, 0, 1))
    assert first.unit.shape == (15, 2)
    assert first.loss.shape == (15, 9)
    assert (first.unit == again.unit).all()
    assert not (first.unit == other.unit).all()
    assert (known.draw_share(1.0, 3).unit == known.unit).all()
    for word in ("0", "1.5", "nan", "half"):
        with pytest.raises(SystemExit):
            replay(table, "--rows", word)
    assert known.draw_share(0.001, 0).unit.shape == (1, 2)


def test_every_row_is_served_once_and_the_best_is_found_without_pruning(table: Path) -> None:
    (line,) = replay(table, "--pruner", "none", "--workers", "2", "--budget", "30")
    assert line["regret"] == 0
    (line,) = replay(table, "--pruner", "none", "--workers", "2", "--budget", "0.05")
    assert line["regret"] == float("inf")  # half of the first epoch: nobody has reported


def test_time_goes_to_waiting_where_there_is_a_delay(table: Path) -> None:
    (prompt,) = replay(table, "--budget", "0.2", "--workers", "1")
    (slow,) = replay(table, "--budget", "0.2", "--workers", "1", "--delay", "2")
    assert prompt["regret"] < slow["regret"]


def simulate(table: Path, sampler: str, budget: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replay a table; return its curves, the tuner's sampler, and the trials' rows in turn."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module, simulated = import_module("replay"), import_module("replay_simulation")
    curves = module.read_table(table)
    options = module.build_parser().parse_args([str(table), "--sampler", sampler])
    tuner = module.build_tuner(curves, options, seed=0)
    game = simulated.TableGame(curves, tuner, options.workers)
    game.run([budget])
    return curves, tuner._sweep._sampler, [run.row for run in game._runs.values()]


def test_the_sampler_is_told_what_an_epoch_takes(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves, model, rows = simulate(table, "model", 2.0, monkeypatch)
    assert len(model._told) > 10
    for number, trial in model._told.items():
        assert trial.seconds == pytest.approx(curves.seconds[rows[number]])


def test_foresight_knows_the_curves_of_the_very_rows_that_are_served(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves, foresight, rows = simulate(table, "foresight", 12.0, monkeypatch)
    assert foresight._rows == rows
    row, told = rows[0], foresight._model._told[0]
    assert told.points[-2] == (8, pytest.approx(curves.loss[row, 7]))


def test_a_peer_s_objects_are_driven_by_the_same_simulator(table: Path) -> None:
    def replay_peer(peer: str) -> list[dict[str, Any]]:
        # As `replay.py --peer` does, in this environment instead of the peer's own.
        script = [sys.executable, str(BENCHMARKS / "replay_peers.py"), peer, str(table)]
        options = ["--seeds", "2", "--workers", "3", "--budget", "1", "12"]
        output = subprocess.run([*script, *options], check=True, capture_output=True, text=True)
        return [json.loads(line) for line in output.stdout.splitlines()]

    lines = replay_peer("optuna-random")
    assert [(line["seed"], line["budget"]) for line in lines] == [
        (0, 1.0),
        (0, 12.0),
        (1, 1.0),
        (1, 12.0),
    ]
    assert all(line.keys() == KEYS for line in lines)
    assert {line["pruner"] for line in lines} == {"SuccessiveHalvingPruner"}
    assert all(line["regret"] < 0.1 for line in lines if line["budget"] == 12)
    assert replay_peer("optuna-tpe-independent") == replay_peer("optuna-tpe-independent")


def test_a_peer_s_rule_is_given_the_points_that_the_random_sampler_draws(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import replay as ours
    import replay_peers
    from replay_table import read_table

    known = read_table(table)
    options = ours.build_parser().parse_args([str(table), "--pruner", "none"])
    tuner = ours.build_tuner(known, options, seed=3)
    peer = replay_peers.OptunaTuner(known, 3, "random")
    for slot in range(5):
        number, point = peer.assign(slot, 0.0)
        expected = tuner.assign(slot, 0.0)
        assert expected is not None
        assert number == expected[0]
        assert point.tolist() == expected[1].tolist()


def test_searches_are_compared_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import replay_compare

    def results(sampler: str, pruner: str, regrets: list[float]) -> list[dict[str, Any]]:
        return [
            {
                "table": table,
                "sampler": sampler,
                "pruner": pruner,
                "workers": workers,
                "budget": budget,
                "seed": seed,
                "regret": regret * (1 + seed),
            }
            for table in ("a", "b")
            for workers, budgets in replay_compare.BUDGETS.items()
            for budget, regret in zip(budgets, regrets, strict=True)
            for seed in (0, 1)
        ]

    lines = results("random", "asha", [0.4, 0.2, 0.1]) + results("model", "asha", [0.4, 0.1, 0.05])
    lines += results("ray-random", "its own", [0.5, 0.2, 0.2])
    slow = [line for line in results("syne-kde", "its own", [0.8, 0.4, 0.4]) if line["seed"] == 0]
    text = replay_compare.format_results(lines + slow)
    # Seeds of 0.4 and 0.8: mean 0.6, standard error 0.2 on each of two tables.
    assert "| random, ASHA | 60.0 ± 14.1 | 30.0 ± 7.1 | 15.0 ± 3.5 | 1.5 / 2.5 / 2.0 | " in text
    assert " | 1.00 / 0.50 / 0.50 | 2 |" in text
    # Differences of 0.1 and 0.2 on each of two tables; none; of 0.1 and 0.2 again.
    assert "its ASHA | +15.0 ± 3.5 | +0.0 ± 0.0 | +15.0 ± 3.5 | 2 |" in text
    assert "its ASHA | 80.0 | 40.0 | 40.0 | 4.0 / 4.0 / 4.0 | 1.33 / 1.33 / 2.67 | 1 |" in text
    assert "| **model, ASHA** | 60 / 15 / 7.5 | 60 / 15 / 7.5 |" in text
    sys.modules.pop("replay_compare")


def test_peers_of_another_version_are_replayed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    replay_compare = import_module("replay_compare")
    peer, table = "optuna-tpe-independent", Path("toy.npz")
    options = argparse.Namespace(only=[peer], tables=[table], again=False)
    line = {"table": "toy", "sampler": peer, "pruner": "its own", "workers": 4, "budget": 1.0}
    line |= {"seed": 0, "regret": 0.5}
    pin = replay_compare.find_version(peer)
    pinned, older = ([{**line, "version": version}] for version in (pin, "optuna==4.6.0"))
    for kept, workers in ((pinned, [36]), (older, [4, 36]), ([], [4, 36])):
        tasks = replay_compare.list_tasks(options, kept)
        assert [task[0].sampler for task in tasks] == [peer] * len(workers)
        assert [task[1:] for task in tasks] == [(table, n) for n in workers]
    text = replay_compare.format_results(pinned + older)
    row = "Optuna: TPE, multivariate=False, its halving"
    assert f"- optuna==4.6.0: {row}\n- {pin}: {row}\n" in text
    sys.modules.pop("replay_compare")


def test_pruning_by_fronts_finds_more_of_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """At equal time, where a dearer epoch comes with a lower loss, as with larger networks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fronts, tables = import_module("fronts"), import_module("replay_table")
    rng = np.random.default_rng(0)
    unit = rng.random((400, 3))
    seconds = 10 ** (2 * unit[:, 0])
    final = 1 - 0.6 * unit[:, 0] + 2 * np.abs(unit[:, 1:] - 0.5).sum(axis=1)
    loss = final[:, None] + np.exp(-np.arange(1, 28) / 5)
    table = tables.Table("toy", loss, seconds, unit)
    shares = {
        setup: np.mean([fronts.measure(table, setup, seed, 4, [3.0]) for seed in range(8)])
        for setup in ("random, no pruning", "random, ASHA", "random, Hyperband")
    }
    assert shares["random, ASHA"] > shares["random, no pruning"] + 10
    assert shares["random, Hyperband"] > shares["random, no pruning"] + 3
    assert 99 < fronts.measure(table, "random, no pruning", 0, 4, [500.0])[0] < 100.1


def test_the_area_that_points_dominate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    compute = import_module("fronts").compute_hypervolume
    assert compute(np.array([[0.0, 0.0]])) == 1
    assert compute(np.array([[0.5, 0.5], [0.25, 0.75], [0.6, 0.6], [np.nan, 0], [2, 0]])) == (
        pytest.approx(0.25 + 0.25 * 0.25)
    )
