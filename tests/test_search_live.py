"""Pausing and going on, other pruners and samplers: as events, and with real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.checks import Goal
from slurm_sweeps.experiment.arguments import RunCfg
from slurm_sweeps.experiment.search import Search
from slurm_sweeps.rules.protocol import Decision
from slurm_sweeps.samplers import Observation, Problem, bind_sampler
from slurm_sweeps.search.search_space import SearchSpace
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.lease import build_owner
from slurm_sweeps.storage.records import ReportRecord, TrialRecord
from slurm_sweeps.storage.rows import write_records
from slurm_sweeps.sweep import Sweep
from slurm_sweeps.sweep_types import Answer, Ended, Pace, SweepCfg
from slurm_sweeps.trial import Status

PROMOTE = ss.ASHA("loss", "min", reduction_factor=2, max_t=8, promote=True)
PRUNED = Ended(Status.PRUNED)  # what a worker says of any trial that was told to leave


def build_sweep(n_trials: int) -> Sweep:
    problem = Problem(SearchSpace({"x": ss.Uniform(0, 1)}), 1, "loss", "min")
    cfg = SweepCfg(n_trials, Goal("loss", "min"))
    return Sweep(cfg, bind_sampler(None, problem), PROMOTE.build_pruner())


def begin(sweep: Sweep, *losses: float) -> None:
    """Run new trials one after the other; each reports once, and leaves if it is told to."""
    for loss in losses:
        trial = sweep.assign(0.0)
        assert trial is not None
        if sweep.report(trial.number, 1, {"loss": loss}).decision is Decision.PAUSE:
            assert sweep.end(trial.number, PRUNED).status is Status.PAUSED


def test_a_paused_trial_goes_on_as_a_further_attempt() -> None:
    sweep = build_sweep(4)
    begin(sweep, 0.1, 0.2, 0.3)  # the first runs on, the second is promotable once the third is in
    assert sweep.count_startable(9) == 2
    again = sweep.assign(0.0)
    assert again is not None
    assert (again.number, again.attempt, again.status) == (1, 2, Status.RUNNING)
    assert sweep.report(1, 2, {"loss": 0.15}) == Answer(Decision.GO_ON)


def test_a_sweep_with_nothing_left_to_promote_is_done() -> None:
    sweep = build_sweep(2)
    begin(sweep, 0.1, 0.2)
    assert not sweep.is_done
    assert sweep.end(0, Ended(Status.COMPLETED)).status is Status.COMPLETED
    assert sweep.is_done
    assert sweep.drawn == 2


def test_one_that_begins_again_after_a_pause_is_told_of_once() -> None:
    sweep = build_sweep(20)
    begin(sweep, 0.1, 0.2, 0.3)
    again = sweep.assign(0.0)
    assert again is not None
    (text,) = sweep.report(again.number, 1, {"loss": 0.2}).notices
    assert (
        f"trial {again.trial_id} was paused at iteration 1 and began again at iteration 1" in text
    )
    assert "ss.checkpoint_dir()" in text


@pytest.mark.parametrize("how", [Status.PRUNED, Status.LOST, Status.INTERRUPTED])
def test_who_was_told_to_pause_is_paused_however_it_left(how: Status) -> None:
    sweep = build_sweep(4)
    begin(sweep, 0.1)
    trial = sweep.assign(0.0)
    assert trial is not None
    assert sweep.report(trial.number, 1, {"loss": 0.2}).decision is Decision.PAUSE
    assert sweep.end(trial.number, Ended(how)).status is Status.PAUSED


def test_a_restored_sweep_knows_who_waits() -> None:
    first = build_sweep(5)
    begin(first, 0.1, 0.2)
    states = [first.running[0], *first._paused.values()]
    second = build_sweep(5)
    second.restore(states, [0])
    for number, loss in ((0, 0.1), (1, 0.2)):
        assert second._pruner is not None
        second._pruner.report(number, 1, loss)
    assert [trial.number for trial in (second.assign(0.0), second.assign(0.0)) if trial] == [
        0,
        2,
    ]
    second.report(2, 1, {"loss": 0.3})
    second.end(2, PRUNED)
    resumed = second.assign(0.0)
    assert resumed is not None
    assert resumed.number == 1
    assert not Status.PAUSED.is_unfinished


def train(cfg: dict[str, Any]) -> None:
    state = ss.checkpoint_dir() / "epoch"
    epoch = int(state.read_text()) if state.exists() else 0
    while epoch < 8:
        epoch += 1
        state.write_text(str(epoch))
        ss.log({"loss": cfg["x"] + 1 / epoch, "attempt": ss.attempt()}, epoch)


def test_real_trials_pause_and_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    space = {"x": ss.Uniform(0, 1)}
    experiment = ss.Experiment(train, space, local_dir=tmp_path, asha=PROMOTE, seed=4)
    trials = experiment.run(12, 2, summarize_cfg_and_metrics=False).trials
    statuses = {trial.status for trial in trials}
    assert statuses == {Status.COMPLETED, Status.PAUSED}
    resumed = [trial for trial in trials if trial.attempt > 1]
    assert resumed
    for trial in trials:  # each iteration once: whoever was resumed went on where it was
        assert trial.metrics is not None
        iterations = sorted(trial.metrics["loss"])
        assert iterations == list(range(1, len(iterations) + 1))
        assert trial.metrics["attempt"][iterations[0]] == 1
    best = min(trials, key=lambda trial: trial.cfg["x"])
    assert best.status is Status.COMPLETED


@pytest.mark.parametrize(
    "plan", [ss.Hyperband("loss", "min", 8, 2), ss.MedianStopping("loss", "min")]
)
def test_other_pruners_in_a_real_sweep(tmp_path: Path, plan: Any) -> None:
    space = {"x": ss.Uniform(0, 1)}
    experiment = ss.Experiment(train, space, local_dir=tmp_path, pruner=plan, seed=4)
    result = experiment.run(12, 2)
    assert {trial.status for trial in result.trials} == {Status.COMPLETED, Status.PRUNED}
    assert result.best_trial().cfg["x"] == min(trial.cfg["x"] for trial in result.trials)


def test_a_pruner_has_one_name_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say the same thing: pass one of them"):
        ss.Experiment(train, {}, local_dir=tmp_path, asha=PROMOTE, pruner=PROMOTE)
    with pytest.raises(TypeError, match=r"pruner must be an instance of ss\.ASHA"):
        ss.Experiment(train, {}, local_dir=tmp_path, pruner=ss.Hyperband)  # type: ignore[arg-type] # the test


def test_a_model_in_a_real_sweep(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    experiment = ss.Experiment(
        train,
        {"x": ss.Uniform(0, 1), "opt": ss.Choice([{"name": "sgd", "m": ss.Uniform(0, 1)}, "adam"])},
        local_dir=tmp_path,
        asha=ss.ASHA("loss", "min", 2, max_t=8),
        sampler=ss.samplers.Model(n_startup=5),
        seed=1,
    )
    trials = experiment.run(30, 2).trials
    assert len({trial.trial_id for trial in trials}) == 30
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}


def train_slowly(_cfg: dict[str, Any]) -> None:
    for epoch in range(1, 100_000):
        ss.log({"loss": 1 / epoch}, epoch)


def test_a_sweep_ends_when_its_time_is_up(tmp_path: Path) -> None:
    experiment = ss.Experiment(train_slowly, {"x": ss.Uniform(0, 1)}, local_dir=tmp_path)
    result = experiment.run(None, 2, time_budget_in_sec=1.5)
    # On a machine that is busy no trial may have begun by then.
    assert {trial.status for trial in result.trials} <= {Status.INTERRUPTED}


@pytest.mark.parametrize(("mode", "target"), [("min", 0.01), ("max", 1.0)])
def test_a_sweep_ends_when_the_target_is_reached(tmp_path: Path, mode: str, target: float) -> None:
    plan = ss.MedianStopping("loss", mode, min_trials=100)
    experiment = ss.Experiment(
        train_slowly, {"x": ss.Uniform(0, 1)}, local_dir=tmp_path, pruner=plan
    )
    result = experiment.run(None, 1, target=target)
    (trial,) = result.trials
    assert trial.metrics is not None
    assert trial.metrics["loss"][100 if mode == "min" else 1] == target


def test_what_never_ends_or_has_no_metric_is_named(tmp_path: Path) -> None:
    experiment = ss.Experiment(train_slowly, {}, local_dir=tmp_path)
    with pytest.raises(ValueError, match="n_trials=None never ends: pass time_budget_in_sec or"):
        experiment.run(None)
    with pytest.raises(ValueError, match=r"target=0\.1 needs a metric: pass metric="):
        experiment.run(target=0.1)
    with pytest.raises(ValueError, match="time_budget_in_sec must be a number of seconds"):
        experiment.run(None, time_budget_in_sec=-1)


class Recorder:
    """Draws one number after the other, and writes down what it is told, and of whose end."""

    def bind(self, problem: Problem) -> Recorder:
        self.space, self.number = problem.space, 0
        self.told: dict[int, Observation] = {}
        self.tells: list[Observation] = []
        return self

    def ask(self, _now: float) -> dict[str, Any]:
        return self.space.build(lambda _leaf: self.number / 10)

    def tell(self, trial: Observation) -> None:
        self.number = max(self.number, trial.number + 1)
        self.tells.append(trial)
        if trial.status.is_final:
            self.told[trial.number] = trial


def train_at_length(cfg: dict[str, Any]) -> None:
    for epoch in range(1, 40):
        ss.log({"loss": cfg["x"] + 1 / epoch}, epoch)
        if epoch % 2:
            ss.log({"other": 1.0}, epoch + 1)


def test_a_resumed_sampler_is_told_the_same_curves(tmp_path: Path) -> None:
    def run(n_trials: int) -> dict[int, Observation]:
        asha = ss.ASHA("loss", "min", max_t=100)
        recorder = Recorder()
        ss.Experiment(
            train_at_length,
            {"x": ss.Uniform(0, 1)},
            local_dir=tmp_path,
            asha=asha,
            restore="auto",
            sampler=recorder,
        ).run(n_trials, 2, summarize_cfg_and_metrics=False)
        return recorder.told

    first, second = run(5), run(6)
    assert len(first) == 5
    assert {number: second[number] for number in first} == first
    assert list(first[0].curve) == [1, 4, 16, 39]
    assert first[0].value == first[0].curve[39]
    assert all(0 < told.seconds_per_iteration < 60 for told in first.values())


def test_a_sampler_hears_how_long_an_iteration_takes() -> None:
    problem = Problem(SearchSpace({"x": ss.Uniform(0, 1)}), 1, "loss", "min")
    recorder = Recorder().bind(problem)
    sweep = Sweep(SweepCfg(1, Goal("loss", "min")), recorder)
    assert sweep.assign(50.0) is not None
    sweep.report(0, 2, {"other": 0.5}, 51.0)
    sweep.report(0, 2, {"loss": 0.5}, 53.0)
    sweep.report(0, 4, {"loss": 0.5}, 90.0)
    sweep.end(0, Ended(Status.LOST))
    assert sweep.assign(100.0) is not None
    sweep.report(0, 16, {"loss": 0.5}, 120.0)
    sweep.end(0, Ended(Status.COMPLETED))
    told = [tell.seconds_per_iteration for tell in recorder.tells]
    assert told == [None, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("attempts", "seconds"),
    [
        ([[1, 2, 3]], 7.0),
        ([[0, 1, 2], [2, 3]], 14.0),
        ([[4, 5], [6]], 1.75),
        ([[2, 3], [1, 2]], None),
        ([[1, 2], [], [1, 2], [3]], None),
        ([[0], [1]], None),
        ([[], [50]], None),
    ],
)
def test_a_sweep_that_goes_on_knows_the_same_pace(
    tmp_path: Path, attempts: list[list[int]], seconds: float | None
) -> None:
    """What the sweep has timed is what it finds when it is read from the database."""
    search = Search(
        SearchSpace({"x": ss.Uniform(0, 1)}),
        (Goal("loss", "min"),),
        ss.ASHA("loss", "min"),
        None,
        1,
    )
    lived, now = Pace(), 1000.0
    with Database.open(tmp_path / "a.db", create=True) as database:
        owner = build_owner()
        record = database.create_experiment("a", search.describe(), now, owner)
        for attempt, iterations in enumerate(attempts, start=1):
            now += 100.0
            lived.begin(attempt, now)
            row = TrialRecord(
                0,
                "0" * 12,
                0,
                '{"x": 0.5}',
                status=Status.RUNNING,
                attempt=attempt,
                start_time=now,
            )
            write_records(database, record.id, [row])
            for iteration in iterations:
                now += 7.0
                lived.note(iteration, now)
                report = ReportRecord(0, attempt, iteration, {"loss": 1.0}, now)
                write_records(database, record.id, [report])
        cfg = RunCfg(1, 1, 0, fail_fast=True, grace_period_s=1.0)
        sweep = search.build_sweep(
            database, record, owner, cfg, slots=1, more_slots=0, notify=print
        )
    restored = sweep.assign(now)
    assert restored is not None
    assert lived.seconds == restored.pace.seconds == seconds


def test_a_sampler_hears_of_a_trial_that_runs() -> None:
    problem = Problem(SearchSpace({"x": ss.Uniform(0, 1)}), 1, "loss", "min")
    recorder = Recorder().bind(problem)
    sweep = Sweep(SweepCfg(1, Goal("loss", "min")), recorder)
    assert sweep.assign(0.0) is not None
    for epoch in range(1, 21):
        sweep.report(0, epoch, {"loss": 1 / epoch})
        sweep.report(0, epoch, {"other": 0.0})
    sweep.end(0, Ended(Status.COMPLETED))
    assert [(tell.status, tell.iteration, tell.value) for tell in recorder.tells] == [
        (Status.RUNNING, None, None),
        (Status.RUNNING, 1, 1.0),
        (Status.RUNNING, 4, 0.25),
        (Status.RUNNING, 16, 0.0625),
        (Status.COMPLETED, 20, 0.05),
    ]
    assert recorder.tells[3].curve == {1: 1.0, 4: 0.25, 16: 0.0625}


@pytest.mark.parametrize("sampler", [ss.samplers.Optuna(), ss.samplers.Random(quasi=True)])
def test_other_samplers_with_real_trials(tmp_path: Path, sampler: Any) -> None:
    def train(cfg: dict[str, Any]) -> None:
        for epoch in range(1, 5):
            ss.log({"loss": (cfg["x"] - 0.3) ** 2 + 1 / epoch}, epoch)

    asha = ss.ASHA("loss", "min", reduction_factor=2, max_t=4)
    experiment = ss.Experiment(
        train, {"x": ss.Uniform(0, 1)}, local_dir=tmp_path, asha=asha, sampler=sampler, seed=3
    )
    trials = experiment.run(30, 2, summarize_cfg_and_metrics=False).trials
    assert len(trials) == 30
    assert len({trial.cfg["x"] for trial in trials}) == 30
    assert {trial.status for trial in trials} == {Status.COMPLETED, Status.PRUNED}


@pytest.mark.parametrize("sampler", [None, ss.samplers.Optuna(), ss.samplers.Sobol(12)])
def test_a_sweep_begins_with_its_guesses_and_goes_on_as_an_undisturbed_one(
    tmp_path: Path, sampler: Any
) -> None:
    def train(cfg: dict[str, Any]) -> float:
        return float((cfg["x"] - 0.3) ** 2)

    opt = ss.Choice(["a", "b"], prior="b")
    space = {"x": ss.Uniform(0, 1, prior=ss.Prior(0.3, "high")), "opt": opt}
    drawn = []
    for name, steps in (("whole", [12]), ("parts", [5, 12])):
        for n_trials in steps:
            experiment = ss.Experiment(
                train,
                space,
                name=name,
                local_dir=tmp_path,
                metric="value",
                mode="min",
                sampler=sampler,
                seed=3,
                restore="auto",
            )
            result = experiment.run(n_trials, 1, summarize_cfg_and_metrics=False)
        drawn.append([trial.cfg for trial in result.trials])
        assert result.verify()
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 12
    # A design is a study, for which a guess is no matter.
    is_study = isinstance(sampler, ss.samplers.Sobol)
    assert (drawn[0][0] == {"x": 0.3, "opt": "b"}) != is_study
    space = {**space, "x": ss.Uniform(0, 1, prior=0.4)}
    with pytest.raises(ss.UsageError, match=r"was Uniform\(0.0, 1.0, prior=Prior\(0.3, 'high'\)\)"):
        ss.Experiment(train, space, name="parts", local_dir=tmp_path, restore=True).run(12)
