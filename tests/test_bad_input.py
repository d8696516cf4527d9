"""What bad input gets: an error that holds the value, the place and the next step; nothing lost."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.running import channel
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.lease import build_owner, read_process_start
from slurm_sweeps.trial import Status
from sweep_scripts import Scripts

SPACE = {"x": ss.Uniform(0, 1)}


def train(cfg: dict[str, Any]) -> None:
    """One report."""
    ss.log({"loss": cfg.get("x", 0)}, 1)


def build(tmp_path: Path, *_args: Any, **kwargs: Any) -> ss.Experiment:
    """Make an experiment of which all is right but what the test says."""
    kwargs = {"local_dir": tmp_path, "cfg": SPACE, "train": train, "name": "mine"} | kwargs
    return ss.Experiment(kwargs.pop("train"), kwargs.pop("cfg"), **kwargs)


def run_one(tmp_path: Path, **kwargs: Any) -> ss.Result:
    return build(tmp_path, **kwargs).run(summary_interval_in_sec=60)


def refuse(kind: type[Exception], *words: str) -> Any:
    """Expect an error whose text holds all of these words."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, words)))


# --- which experiment -----------------------------------------------------------------------------


def test_an_experiment_that_exists(tmp_path: Path) -> None:
    run_one(tmp_path)
    words = ("'mine' exists in", str(tmp_path), "restore=True", "overwrite=True", "another name")
    with refuse(ss.ExperimentExistsError, *words):
        build(tmp_path)
    assert isinstance(ss.ExperimentExistsError("x"), ValueError)
    assert len(ss.Result("mine", tmp_path).trials) == 1


def test_an_experiment_that_came_into_being_meanwhile(tmp_path: Path) -> None:
    first, second = build(tmp_path), build(tmp_path)
    first.run(summary_interval_in_sec=60)
    with refuse(ss.ExperimentExistsError, "'mine' exists in"):
        second.run()
    assert len(ss.Result("mine", tmp_path).trials) == 1


def test_restoring_what_is_not_there(tmp_path: Path) -> None:
    words = ("there is no experiment 'mine' in", str(tmp_path), 'restore="auto"', "local_dir")
    with refuse(ss.ExperimentNotFoundError, *words):
        build(tmp_path, restore=True)
    assert not any(tmp_path.iterdir())
    assert len(run_one(tmp_path, restore="auto").trials) == 1
    with refuse(ss.ExperimentNotFoundError, "no experiment 'other' in"):
        build(tmp_path, name="other", restore=True)


def test_restore_and_overwrite_together(tmp_path: Path) -> None:
    with refuse(ss.UsageError, "restore and overwrite contradict each other", "Pass one of them"):
        build(tmp_path, restore=True, overwrite=True)
    with refuse(ss.UsageError, "restore and overwrite contradict"):
        build(tmp_path, restore="auto", overwrite=True)


@pytest.mark.parametrize("restore", ["yes", None, 2, 1])
def test_restore_that_is_neither(tmp_path: Path, restore: Any) -> None:
    with refuse(ss.UsageError, 'restore must be True, False or "auto"; got', repr(restore)):
        build(tmp_path, restore=restore)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a/b", "holds a slash"),
        ("/etc", "holds a slash"),
        ("../up", "holds a slash"),
        ("a\0b", "holds a control character"),
        ("a\nb", "holds a control character"),
        ("..", "means another folder"),
        (".", "means another folder"),
        ("", "is empty"),
        (" a", "begins or ends with a blank"),
        ("x" * 256, "is 256 bytes long, 255 are the most"),
        ("slurm-sweeps.db", ""),
    ],
)
def test_names_that_can_not_be_a_folders(tmp_path: Path, name: str, fault: str) -> None:
    with refuse(ss.UsageError, "the experiment's name", repr(name), fault, "'my sweep-2'"):
        build(tmp_path, name=name)
    with refuse(ss.UsageError, repr(name)):
        ss.Result(name, tmp_path)
    assert not any(tmp_path.iterdir())


def test_two_drivers_that_begin_at_the_same_moment(tmp_path: Path, scripts: Scripts) -> None:
    """One comes just when the other has found that there is no such experiment yet."""
    rival = """
    import sys, time
    import slurm_sweeps as ss
    def train(cfg):
        ss.log({"loss": 1}, 1)
        time.sleep(600)
    ss.Experiment(train, {}, "mine", "out").run()
    """
    is_told = False
    with contextlib.ExitStack() as stack:

        class Plan:
            metric = "loss"

            @property
            def mode(self) -> str:  # asked for when the settings of a new experiment are made
                if is_told and not (scripts.folder / "out" / "mine").exists():
                    stack.enter_context(scripts.start(rival))
                    scripts.wait_for_file("out/mine/*/stdout.log")
                return "min"

            def build_pruner(self) -> Any:
                return ss.ASHA("loss", "min").build_pruner()

        driver = build(tmp_path, local_dir=tmp_path / "out", restore="auto", asha=Plan())
        is_told = True
        with refuse(ss.ExperimentLockedError, "'mine'", "is in use by another driver"):
            driver.run(summary_interval_in_sec=60)
    scripts.wait_until_gone(60)


@pytest.mark.parametrize("when", ["before", "after"])
def test_overwriting_that_was_killed_half_way(tmp_path: Path, scripts: Scripts, when: str) -> None:
    """When the experiment's files were to be deleted, and when they had been."""
    run_one(tmp_path)
    script = f"""
    import os, signal
    import slurm_sweeps as ss
    from slurm_sweeps.experiment import claim
    remove = claim.remove_folder
    def remove_and_die(*args, **kwargs):
        if {when!r} == "after":
            remove(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    claim.remove_folder = remove_and_die
    ss.Experiment(print, {{}}, "mine", {str(tmp_path)!r}, overwrite=True).run()
    """
    scripts.run(script, code=-signal.SIGKILL)
    assert (tmp_path / "mine").exists() == (when == "before")
    assert len(run_one(tmp_path, overwrite=True).trials) == 1


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    with refuse(ss.UsageTypeError, "the experiment's name must be a string, not 5"):
        build(tmp_path, name=5)


def test_a_folder_that_is_somebody_elses(tmp_path: Path) -> None:
    thesis = tmp_path / "mine" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    thesis.parent.chmod(0o755)
    for overwrite in (False, True):
        words = (f"the folder {thesis.parent} exists and holds 'thesis.tex'", "another name")
        with refuse(ss.ExperimentExistsError, *words):
            build(tmp_path, overwrite=overwrite)
    assert thesis.read_text() == "years of work"
    assert thesis.parent.stat().st_mode & 0o777 == 0o755


def test_another_search_space_than_it_was_begun_with(tmp_path: Path) -> None:
    run_one(tmp_path)
    words = ("'mine' was begun with another search space", "overwrite=True", "another name")
    with refuse(ss.UsageError, *words):
        build(tmp_path, cfg={"x": ss.Uniform(0, 2)}, restore=True).run()
    assert len(ss.Result("mine", tmp_path).trials) == 1


def test_another_seed_than_it_was_begun_with(tmp_path: Path) -> None:
    run_one(tmp_path, seed=1)
    with refuse(ss.UsageError, "'mine' was begun with seed=1, not 2: leave seed out"):
        build(tmp_path, seed=2, restore=True).run()


def test_an_experiment_that_another_driver_is_at(tmp_path: Path) -> None:
    run_one(tmp_path)
    other = build_owner(None)
    with Database.open(tmp_path / "slurm-sweeps.db") as database:
        # The parent of this process, which lives, holds the lease.
        start = read_process_start(os.getppid())
        parent = dataclasses.replace(other, pid=os.getppid(), start=start)
        assert database.take_lease(database.experiment("mine").id, parent, 1e12, None)
    with refuse(ss.ExperimentLockedError, "'mine'", other.host, str(os.getppid())):
        build(tmp_path, restore=True).run(n_trials=2)
    assert len(ss.Result("mine", tmp_path).trials) == 1


# --- what to try ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "kind", "words"),
    [
        (None, ss.UsageTypeError, "cfg must be a dict, got None (NoneType)"),
        ([ss.Uniform(0, 1)], ss.UsageTypeError, "cfg must be a dict, got [Uniform"),
        ({("a", "b"): 1}, ss.UsageError, "('a', 'b')"),
        ({"a": {b"b": 1}}, ss.UsageError, "b'b'"),
        ({"a.b": 1, "a": {"b": 2}}, ss.UsageError, "the dotted name 'a.b'"),
    ],
)
def test_cfgs_that_are_none(tmp_path: Path, cfg: Any, kind: type[Exception], words: str) -> None:
    with refuse(kind, words):
        build(tmp_path, cfg=cfg)


def test_a_cfg_that_holds_itself(tmp_path: Path) -> None:
    cfg: dict[str, Any] = {"x": ss.Uniform(0, 1)}
    cfg["again"] = [cfg]
    with refuse(ss.UsageError, "nested without an end: a part of it holds itself"):
        build(tmp_path, cfg=cfg)


def test_a_class_of_spaces(tmp_path: Path) -> None:
    words = "cfg['o.x'] is the class Uniform; make a space of it, such as Uniform(0, 1)"
    with refuse(ss.UsageTypeError, words):
        build(tmp_path, cfg={"o": {"x": ss.Uniform}})
    with refuse(ss.UsageTypeError, "is the class Uniform"):
        ss.Choice([1, ss.Uniform])


@pytest.mark.parametrize(
    "cfg", [{"a": {"b": threading.Lock()}}, {"a": ss.Choice([1, threading.Lock()])}]
)
def test_a_cfg_that_can_not_travel(tmp_path: Path, cfg: Any) -> None:
    experiment = build(tmp_path, cfg=cfg)
    with refuse(ss.UsageTypeError, "cfg can't be pickled: TypeError", "lock", "inside train"):
        experiment.run()
    assert not (tmp_path / "slurm-sweeps.db").exists()


NAN = float("nan")


@pytest.mark.parametrize(
    ("space", "args", "words"),
    [
        (ss.Uniform, (2, 1), "needs low <= high, got low=2.0, high=1.0"),
        (ss.Uniform, (0, NAN), "nan"),
        (ss.Uniform, (0, float("inf")), "inf"),
        (ss.LogUniform, (0, 1), "0"),
        (ss.LogUniform, (-1, 1), "-1"),
        (ss.LogUniform, (2, 1), "2"),
        (ss.Integer, (5, 4), "5"),
        (ss.LogInteger, (0, 10), "0"),
        (ss.Normal, (0, 0), "0"),
        (ss.Normal, (0, -1), "-1"),
        (ss.Choice, ([],), "at least one option, got []"),
        (ss.Grid, ([],), "at least one option, got []"),
        (ss.Quantized, (ss.Uniform(0, 1), 0), "0"),
        (ss.Quantized, (ss.Uniform(0, 1), -0.5), "-0.5"),
    ],
)
def test_spaces_that_are_none(space: Any, args: tuple[Any, ...], words: str) -> None:
    with refuse(ValueError, space.__name__, words):
        space(*args)


@pytest.mark.parametrize(
    ("space", "args"),
    [
        (ss.Uniform, ("0", 1)),
        (ss.Uniform, (True, 2)),
        (ss.Integer, (0.5, 2)),
        (ss.Choice, ("abc",)),
        (ss.Choice, (5,)),
        (ss.Quantized, ([1], 1)),
    ],
)
def test_spaces_of_something_else(space: Any, args: tuple[Any, ...]) -> None:
    with refuse((TypeError, ValueError), space.__name__, repr(args[0])):  # type: ignore[arg-type]
        space(*args)


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_seeds_that_are_none(tmp_path: Path, seed: Any) -> None:
    with refuse((ss.UsageError, ss.UsageTypeError), "Experiment: seed must be", repr(seed)):  # type: ignore[arg-type]
        build(tmp_path, seed=seed)
    with refuse((TypeError, ValueError), "seed", repr(seed)):  # type: ignore[arg-type]
        ss.Uniform(0, 1, seed=seed)


@pytest.mark.parametrize(
    ("kwargs", "kind", "words"),
    [
        ({"mode": "low"}, ss.UsageError, 'mode must be "min" or "max", got \'low\''),
        ({"mode": None}, ss.UsageError, 'mode must be "min" or "max", got None'),
        ({"reduction_factor": 1}, ss.UsageError, "reduction_factor must be 2 or more, got 1"),
        ({"reduction_factor": "4"}, ss.UsageTypeError, "'4'"),
        ({"min_t": 0}, ss.UsageError, "min_t must be 1 or more, got 0"),
        ({"min_t": 1.5}, ss.UsageTypeError, "1.5"),
        ({"min_t": 10, "max_t": 9}, ss.UsageError, "max_t must be min_t=10 or more, got 9"),
        ({"metric": ""}, ss.UsageError, "metric must be the name of a metric, got ''"),
        ({"metric": None}, ss.UsageTypeError, "metric must be the name of a metric, got None"),
    ],
)
def test_ashas_that_are_none(kwargs: Any, kind: type[Exception], words: str) -> None:
    with refuse(kind, "ASHA", words):
        ss.ASHA(**({"metric": "loss", "mode": "min"} | kwargs))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"asha": ss.ASHA},
            "asha must be an instance of ss.ASHA, ss.MedianStopping, ss.Hyperband or of a class "
            "with the same methods; got <class",
        ),
        ({"asha": "loss"}, "or of a class with the same methods; got 'loss'"),
        ({"slurm_cfg": {"ntasks": 4}}, "slurm_cfg must be an instance of ss.SlurmCfg; got {"),
        ({"local_cfg": 1}, "local_cfg must be an instance of ss.LocalCfg; got 1"),
        ({"train": "train"}, "train must be a function that takes a cfg dict; got 'train'"),
        ({"train": None}, "got None"),
    ],
)
def test_arguments_of_a_wrong_kind(tmp_path: Path, kwargs: Any, words: str) -> None:
    with refuse(ss.UsageTypeError, words):
        build(tmp_path, **kwargs)


async def train_in_a_loop(cfg: dict[str, Any]) -> None:
    train(cfg)


def train_in_steps(cfg: dict[str, Any]) -> Iterator[None]:
    yield train(cfg)


@pytest.mark.parametrize("function", [train_in_a_loop, train_in_steps])
def test_a_train_whose_call_runs_nothing_of_it(tmp_path: Path, function: Any) -> None:
    for each in (function, functools.partial(function)):
        with refuse(ss.UsageTypeError, "is a generator or async function", "would run nothing"):
            build(tmp_path, train=each)


def test_a_sampler_that_is_none(tmp_path: Path) -> None:
    with refuse(ss.UsageTypeError, "sampler must have a method bind(problem)"):
        build(tmp_path, sampler="random").run()


# --- how to run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize("name", ["n_trials", "max_concurrent_trials"])
def test_counts_that_are_none(tmp_path: Path, name: str, value: Any) -> None:
    with refuse((ss.UsageError, ss.UsageTypeError), f"run: {name} must be", f"got {value!r}"):  # type: ignore[arg-type]
        build(tmp_path).run(**{name: value})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"max_retries": -1}, "run: max_retries must be 0 or more, got -1"),
        ({"grace_period_in_sec": -1}, "grace_period_in_sec must be a number of seconds"),
        ({"grace_period_in_sec": NAN}, "grace_period_in_sec must be finite, got nan"),
        ({"summary_interval_in_sec": "5"}, "summary_interval_in_sec must be a number, got '5'"),
        ({"nr_of_rows_in_summary": -1}, "nr_of_rows_in_summary must be 0 or more, got -1"),
        ({"out_of_memory": "retry"}, 'out_of_memory must be "fail" or "infeasible", got \'retry\''),
        ({"max_trial_sec": -1}, "max_trial_sec must be a number of seconds from 1"),
        ({"fail_fast": "no"}, "run: fail_fast must be True or False, got 'no' (str)"),
        ({"report": 1}, "run: report must be True or False, got 1 (int)"),
        ({"summarize_cfg_and_metrics": "loss"}, "True, False or a list of names; got 'loss'"),
        ({"summarize_cfg_and_metrics": [1]}, "True, False or a list of names; got [1]"),
    ],
)
def test_other_arguments_of_run(tmp_path: Path, kwargs: Any, words: str) -> None:
    with refuse((ss.UsageError, ss.UsageTypeError), words):  # type: ignore[arg-type]
        build(tmp_path).run(**kwargs)
    assert not any(tmp_path.iterdir())


def test_more_gpus_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with refuse(ss.AllocationError, "LocalCfg(gpus=3)", "2"):
        build(tmp_path, local_cfg=ss.LocalCfg(gpus=3)).run()
    assert not any(tmp_path.iterdir())


def test_a_driver_inside_a_job_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    with refuse(ss.UsageError, "srun", "sbatch"):
        build(tmp_path).run()
    assert not any(tmp_path.iterdir())


def test_a_sampler_that_is_refused_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    grid = ss.samplers.Optuna(optuna.samplers.GridSampler({"x": [1]}))
    with refuse(ss.UsageError, "GridSampler", "ss.Grid"):
        build(tmp_path, sampler=grid, metric="loss", mode="min").run()
    with pytest.raises(ss.ExperimentNotFoundError):
        ss.Result("mine", tmp_path)
    assert len(run_one(tmp_path).trials) == 1


# --- the train function ---------------------------------------------------------------------------


def test_a_train_that_can_not_be_pickled_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    lock = threading.Lock()

    def train(_cfg: dict[str, Any]) -> None:
        with lock:
            pass

    experiment = build(tmp_path, train=train)
    words = ("can't be pickled: TypeError: cannot pickle '_thread.lock' object", "inside train")
    with refuse(ss.TrainError, *words):
        experiment.run()
    assert not any(tmp_path.iterdir())
    assert len(run_one(tmp_path).trials) == 1


def test_a_train_that_can_not_be_imported_in_the_worker(scripts: Scripts) -> None:
    # The module can be imported once only: in the driver.
    scripts.write("import os\nos.mkdir('imported')\ndef train(cfg): pass\n", "once.py")
    source = """
    import slurm_sweeps as ss
    from once import train
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir="out").run(n_trials=1000)
    """
    done = scripts.run(source, code=1)
    assert "TrainError: train can't be loaded in a worker on " in done.stderr
    # One error, with the worker's traceback, instead of a thousand failed trials.
    assert done.stderr.count("FileExistsError: [Errno 17] File exists: 'imported'") == 1
    assert "once.py" in done.stderr
    # Nothing came of it, so the same script can simply be run again once it is mended.
    scripts.write("def train(cfg): pass\n", "once.py")
    scripts.run(source.replace("1000", "2"))
    assert len(ss.Result("MySweep", scripts.folder / "out").trials) == 2


def test_a_train_that_can_not_be_written(tmp_path: Path) -> None:
    run_one(tmp_path)
    file = tmp_path / "mine" / "train.pkl"
    file.unlink()
    file.mkdir()
    with refuse(ss.StorageError, f"can't write {file}", "Choose a local_dir"):
        build(tmp_path, restore=True).run(n_trials=2)


def test_a_cfg_that_is_too_large_to_be_sent(tmp_path: Path) -> None:
    """Known before anything starts where all cfgs are so large, else as it is drawn."""
    large = "b" * (65 << 20)
    with refuse(ss.UsageError, "a cfg takes 65.0 MiB", "64 MiB is the most", "its path in cfg"):
        run_one(tmp_path, cfg={"x": ss.Uniform(0, 1), "table": large})
    assert not (tmp_path / "mine").exists()


def test_a_drawn_cfg_that_is_too_large_to_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MAX_RECORD_BYTES", 1000)
    space = {"table": ss.Grid(["small", "middle", "b" * 1000])}
    with refuse(ss.UsageError, "the cfg of trial ", "MiB is the most", "its path in cfg"):
        build(tmp_path, cfg=space).run(max_concurrent_trials=1, summary_interval_in_sec=60)


def test_a_report_that_is_too_large_to_be_sent(tmp_path: Path) -> None:
    (trial,) = run_one(tmp_path, train=log_too_much).trials
    assert trial.status is Status.COMPLETED
    assert trial.metrics == {"loss": {2: 1.0}}


def log_too_much(_cfg: dict[str, Any]) -> None:
    with refuse(ss.UsageError, "what log was given takes 65", "64 MiB is the most", "log fewer"):
        ss.log({"x" * (65 << 20): 1.0}, 1)
    ss.log({"loss": 1.0}, 2)


def test_a_metric_that_asha_needs_and_trials_never_log(tmp_path: Path) -> None:
    asha = ss.ASHA("val_loss", "min")
    words = ("is complete and never logged 'val_loss'", "it logged 'loss'", "Log 'val_loss', or")
    with refuse(ss.SweepFailedError, *words):
        build(tmp_path, asha=asha).run(n_trials=1000, summary_interval_in_sec=60)
    assert len(ss.Result("mine", tmp_path).trials) < 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("ss.log({'loss': True}, 1)", "metric 'loss' must be a real number, not builtins.bool"),
        ("ss.log({'loss': '1'}, 1)", "metric 'loss' must be a real number, not builtins.str"),
        ("ss.log({'loss': 1}, -1)", "iteration must be from 0 to 2**63 - 1; got -1"),
        ("ss.log({'loss': 10**5000}, 1)", "metric 'loss' is too large for a float"),
        ("ss.log({'loss': 1}, 0.5)", "iteration must be a whole number (0, 1, 2, …); got 0.5"),
    ],
)
def test_bad_reports_fail_their_trial(tmp_path: Path, call: str, words: str) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        exec(call, {"ss": ss})

    (trial,) = run_one(tmp_path, train=train).trials
    assert trial.status is Status.FAILED
    assert trial.error is not None
    assert words in trial.error.message


def test_an_error_whose_text_is_not_utf_8(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        open(b"no such \xff file")  # noqa: SIM115 - it is not there

    (trial,) = run_one(tmp_path, train=train).trials
    assert trial.error is not None
    assert trial.error.type == "FileNotFoundError"
    assert "no such \\udcff file" in trial.error.message or "\\xff" in trial.error.message


def test_a_train_that_can_not_be_called_with_one_dict(tmp_path: Path) -> None:
    def apart(lr: float, bs: int) -> None:
        """Takes what a cfg holds."""

    words = ("calls train(cfg), with one dict, and apart(", "missing a required argument: 'bs'")
    for kept in (apart, lambda: None):
        with refuse(ss.UsageTypeError, "calls train(cfg), with one dict"):
            build(tmp_path, train=kept)
    with refuse(ss.UsageTypeError, *words, "write def apart(cfg)"):
        build(tmp_path, train=apart)
    assert not any(tmp_path.iterdir())
    build(tmp_path, train=functools.partial(apart, bs=1))
    build(tmp_path, train=print)


@pytest.mark.parametrize("kind", [ss.Choice, ss.Grid])
def test_options_without_a_list(kind: Any) -> None:
    for options in (("adam", "sgd"), (1, 2), ("a", "b", "c")):
        shown = ", ".join(map(repr, options))
        with refuse(ss.UsageTypeError, f"got {shown} (", f"write {kind.__name__}([{shown}])"):
            kind(*options)
    assert kind(["a", "b"], 1).seed == 1


def test_what_is_likely_not_meant_is_told(tmp_path: Path, capsys: Any) -> None:
    def ask(cfg: dict[str, Any], n_trials: int = 2) -> str:
        build(tmp_path, cfg=cfg, overwrite=True).run(n_trials, summary_interval_in_sec=60)
        said: str = capsys.readouterr().out
        return said

    # Nothing varies, so what may be meant to is named; beside a space, only lists are.
    cfg = {"opt": {"lr": [0.1, 0.01]}, "drop": (0, 1), "width": [8, 256], "layers": [64, 64]}
    said = ask(cfg)
    told = "opt.lr is a constant, the list [0.1, 0.01]: write ss.Choice([0.1, 0.01]), or ss.Grid, "
    assert f"{told}to try each\n" in said
    assert "drop is a constant, the tuple (0, 1)" in said
    assert "to try each; ss.Uniform(0, 1) for any number between\n" in said
    assert "each; ss.Integer(8, 256) or ss.LogInteger(8, 256) for any number between\n" in said
    assert "layers" not in said.split("completed")[0]
    said = ask({**SPACE, "names": ["a", "b"], "kernel": (3, 5), "data": list(range(99))})
    assert "names is a constant, the list ['a', 'b']" in said
    assert "to try each\n" in said
    assert "kernel is" not in said
    assert "data is" not in said
    assert "constant" not in ask({"lr": 0.1})

    one = "n_trials is 1, so one trial is run: run(n_trials=100)"
    assert one in ask(SPACE, 1)
    assert one not in ask(SPACE, 2)
    assert one not in ask({"x": ss.Grid([1])}, 1)


def test_only_nan_and_nothing_at_all_are_told(tmp_path: Path, capsys: Any) -> None:
    def log_nan(_cfg: dict[str, Any]) -> None:
        ss.log({"loss": float("nan")}, 1)

    run_one(tmp_path, train=log_nan, asha=ss.ASHA("loss", "min"))
    assert "all values of loss are NaN or infinite" in capsys.readouterr().out
    run_one(tmp_path, train=lambda _cfg: None, overwrite=True)
    assert "nothing was logged: train reports with ss.log(" in capsys.readouterr().out


def test_an_error_of_ours_comes_without_our_frames(tmp_path: Path) -> None:
    for call in (lambda: build(tmp_path, name="a/b"), lambda: build(tmp_path).run(n_trials=None)):
        with pytest.raises(ss.UsageError) as caught:
            call()
        frames = [entry.name for entry in caught.traceback if "slurm_sweeps" in str(entry.path)]
        assert len(frames) == 1


# --- where it is kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_local_dir_that_can_not_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    place = tmp_path / "file" / below
    with refuse(ss.StorageError, str(tmp_path / "file")):
        build(place).run()


def test_what_version_0_1_had_is_told_what_took_its_place(tmp_path: Path) -> None:
    # As its documentation has them; what is imported is the only place to say so.
    with pytest.raises(
        ImportError, match=r"version 0\.1 only: pass Experiment.*slurm_cfg=ss.Slurm"
    ):
        exec("from slurm_sweeps import SlurmBackend")
    with pytest.raises(ImportError, match=r"version 0\.1 only"):
        _ = ss.Backend  # type: ignore[attr-defined]
    with refuse(ss.UsageTypeError, "backend was an argument of version 0.1", "slurm_cfg="):
        build(tmp_path, backend=object())
    result = run_one(tmp_path, backend=None)
    with pytest.raises(AttributeError, match=r"no attribute 'sort_values'; Result.to_dataframe\("):
        _ = result.sort_values("loss")

    old = tmp_path / "slurm_sweeps" / "slurm_sweeps.db"
    old.parent.mkdir()
    old.touch()
    said = f"{old} is of version 0.1"
    for place in (old.parent, tmp_path / "slurm-sweeps"):
        with refuse(ss.ExperimentNotFoundError, said):
            ss.Result("mine", place)
        with refuse(ss.ExperimentNotFoundError, said):
            build(place, restore=True)


def test_a_local_dir_that_the_environment_names(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SLURM_SWEEPS_DIR", str(tmp_path / "from"))
    result = run_one(tmp_path, local_dir=None)
    assert result.local_dir == tmp_path / "from"
    assert len(ss.Result("mine").trials) == 1
    assert run_one(tmp_path).local_dir == tmp_path  # what is said counts


def test_a_local_dir_that_can_not_be_written(tmp_path: Path) -> None:
    place = Path("/proc/sys/kernel") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        place.mkdir(mode=0o555)
    with refuse(ss.StorageError, str(place), "local_dir"):
        build(place).run()


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "slurm-sweeps.db").write_text("Dear diary, " * 1000)
    for attempt in (build, lambda place: ss.Result("mine", place)):
        with refuse(ss.StorageError, "slurm-sweeps.db is not a database", "choose another"):
            attempt(tmp_path)
    assert (tmp_path / "slurm-sweeps.db").read_text().startswith("Dear diary")


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    run_one(tmp_path)
    database = sqlite3.connect(tmp_path / "slurm-sweeps.db")
    database.execute("PRAGMA user_version = 9999")
    database.close()
    for attempt in (build, lambda place: ss.Result("mine", place)):
        with refuse(ss.StorageError, "slurm-sweeps.db", "newer", "9999", "pip install -U"):
            attempt(tmp_path)


def test_a_database_that_is_not_ours(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "slurm-sweeps.db")
    database.execute("CREATE TABLE cars (name)")
    database.close()
    with refuse(ss.StorageError, "slurm-sweeps.db is a SQLite database, but not one of"):
        build(tmp_path)


def test_a_database_whose_driver_was_killed_before_it_made_the_tables(tmp_path: Path) -> None:
    (tmp_path / "slurm-sweeps.db").touch()
    with refuse(ss.StorageError, "slurm-sweeps.db is empty"):
        ss.Result("mine", tmp_path)
    assert len(run_one(tmp_path).trials) == 1


def test_a_result_that_is_not_there(tmp_path: Path) -> None:
    with refuse(ss.ExperimentNotFoundError, "there is no experiment 'mine'", "local_dir"):
        ss.Result("mine", tmp_path)
    run_one(tmp_path)
    with refuse(ss.ExperimentNotFoundError, "'other'", "'mine'"):
        ss.Result("other", tmp_path)
