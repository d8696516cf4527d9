"""One answer to the same value, wherever an integer, a number of seconds or a flag is asked for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slurm_sweeps as ss
from slurm_sweeps import samplers
from slurm_sweeps.experiment.arguments import RunCfg, check_arguments, check_summary
from slurm_sweeps.running.metrics import check_iteration

RUN = {
    "n_trials": 1,
    "max_concurrent_trials": 1,
    "max_retries": 0,
    "fail_fast": True,
    "grace_period_s": 1.0,
}


def run(**changed: Any) -> Any:
    return RunCfg(**(RUN | changed))


def seed_experiment(value: Any) -> Any:
    return ss.Experiment(print, {}, local_dir="no-such-folder", seed=value)


def take_snapshot(value: Any) -> Any:
    return ss.Experiment(print, {}, local_dir="no-such-folder", snapshot=value)._snapshot


#: Every argument of the public interface that takes an integer; 4 makes sense for all of them.
INTEGERS: dict[str, Callable[[Any], Any]] = {
    "ASHA(min_t)": lambda v: ss.ASHA("a", "min", min_t=v),
    "ASHA(max_t)": lambda v: ss.ASHA("a", "min", max_t=v),
    "Hyperband(max_t)": lambda v: ss.Hyperband("a", "min", max_t=v),
    "MedianStopping(min_t)": lambda v: ss.MedianStopping("a", "min", min_t=v),
    "MedianStopping(min_trials)": lambda v: ss.MedianStopping("a", "min", min_trials=v),
    "Integer(low)": lambda v: ss.Integer(v, 9),
    "Integer(high)": lambda v: ss.Integer(1, v),
    "LogInteger(low)": lambda v: ss.LogInteger(v, 9),
    "LogInteger(high)": lambda v: ss.LogInteger(1, v),
    "Uniform(seed)": lambda v: ss.Uniform(0, 1, seed=v),
    "LogUniform(seed)": lambda v: ss.LogUniform(1, 2, seed=v),
    "Normal(seed)": lambda v: ss.Normal(0, 1, seed=v),
    "Integer(seed)": lambda v: ss.Integer(0, 1, seed=v),
    "LogInteger(seed)": lambda v: ss.LogInteger(1, 2, seed=v),
    "Quantized(seed)": lambda v: ss.Quantized(ss.Uniform(0, 1), 0.5, seed=v),
    "Choice(seed)": lambda v: ss.Choice([1], seed=v),
    "Grid(seed)": lambda v: ss.Grid([1], seed=v),
    "Model(n_startup)": lambda v: samplers.Model(n_startup=v),
    "SlurmCfg(nodes)": lambda v: ss.SlurmCfg(nodes=v, ntasks=4),
    "SlurmCfg(ntasks)": lambda v: ss.SlurmCfg(ntasks=v),
    "SlurmCfg(cpus_per_task)": lambda v: ss.SlurmCfg(cpus_per_task=v),
    "SlurmCfg(gpus)": lambda v: ss.SlurmCfg(gpus=v),
    "LocalCfg(gpus)": lambda v: ss.LocalCfg(gpus=v),
    "LocalCfg(cpus)": lambda v: ss.LocalCfg(cpus=v),
    "Experiment(seed)": seed_experiment,
    "run(n_trials)": lambda v: run(n_trials=v),
    "run(max_concurrent_trials)": lambda v: run(max_concurrent_trials=v),
    "run(max_retries)": lambda v: run(max_retries=v),
    "run(nr_of_rows_in_summary)": lambda v: check_summary(1, v, True, False),
    "log(iteration)": check_iteration,
}

#: Every argument that is either True or False.
FLAGS: dict[str, Callable[[Any], Any]] = {
    "ASHA(promote)": lambda v: ss.ASHA("a", "min", promote=v),
    "Random(quasi)": lambda v: samplers.Random(quasi=v),
    "SlurmCfg(exclusive)": lambda v: ss.SlurmCfg(exclusive=v),
    "SlurmCfg(fresh_step)": lambda v: ss.SlurmCfg(fresh_step=v),
    "SlurmCfg(share_imports)": lambda v: ss.SlurmCfg(share_imports=v),
    "SlurmCfg(import_ahead)": lambda v: ss.SlurmCfg(import_ahead=v),
    "LocalCfg(import_ahead)": lambda v: ss.LocalCfg(import_ahead=v),
    "SlurmCfg(requeue)": lambda v: ss.SlurmCfg(requeue=v),
    "Experiment(restore)": lambda v: check_arguments(print, None, None, v, False),
    "Experiment(overwrite)": lambda v: check_arguments(print, None, None, False, v),
    "Experiment(join)": lambda v: check_arguments(print, None, None, False, False, v),
    "Experiment(snapshot)": take_snapshot,
    "run(fail_fast)": lambda v: run(fail_fast=v),
    "run(report)": lambda v: check_summary(1, 1, True, v),
    "run(summarize_cfg_and_metrics)": lambda v: check_summary(1, 1, v, False),
}

SECONDS: dict[str, Callable[[Any], Any]] = {
    "run(grace_period_in_sec)": lambda v: run(grace_period_s=v),
    "run(time_budget_in_sec)": lambda v: run(time_budget_s=v),
    "run(summary_interval_in_sec)": lambda v: check_summary(v, 1, True, False),
}

#: Whose every integer and flag must be in the tables; for the spaces they are said in full.
CLASSES = (
    ss.ASHA, ss.Hyperband, ss.MedianStopping, ss.SlurmCfg, ss.LocalCfg, samplers.Model,
    samplers.Random,
)  # fmt: skip


def test_the_tables_leave_none_out() -> None:
    told = {*INTEGERS, *FLAGS, *SECONDS}
    for kind in CLASSES:
        for name, parameter in inspect.signature(kind).parameters.items():
            if str(parameter.annotation).startswith(("int", "bool")):
                assert f"{kind.__name__}({name})" in told
    for function, owner in ((ss.Experiment, "Experiment"), (ss.Experiment.run, "run")):
        for name, parameter in inspect.signature(function).parameters.items():
            if str(parameter.annotation).startswith(("int", "bool")) or name.endswith("_in_sec"):
                assert f"{owner}({name})" in told


@pytest.mark.parametrize("value", [4, np.int64(4), np.uint8(4), np.int32(4)], ids=repr)
@pytest.mark.parametrize("take", INTEGERS.values(), ids=INTEGERS)
def test_an_integral_number_is_taken(take: Callable[[Any], Any], value: Any) -> None:
    assert repr(take(4)).split(" at 0x")[0] == repr(take(value)).split(" at 0x")[0]
    assert not Path("no-such-folder").exists()


@pytest.mark.parametrize(
    "value", [4.0, np.float64(4), "4", True, np.True_, Fraction(4), [4], 1e400], ids=repr
)
@pytest.mark.parametrize("take", INTEGERS.values(), ids=INTEGERS)
def test_nothing_else_is_an_integer(take: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ss.SlurmSweepsError) as caught:
        take(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [False, np.True_, np.False_], ids=repr)
@pytest.mark.parametrize("take", FLAGS.values(), ids=FLAGS)
def test_a_flag_is_taken(take: Callable[[Any], Any], value: Any) -> None:
    assert repr(take(value)) == repr(take(bool(value)))


@pytest.mark.parametrize("value", ["no", "False", 0, 1, 1.0, np.int64(1)], ids=repr)
@pytest.mark.parametrize("take", FLAGS.values(), ids=FLAGS)
def test_nothing_else_is_a_flag(take: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ss.SlurmSweepsError) as caught:
        take(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0, 2.5, np.float32(2.5), np.int64(3), Fraction(5, 2)], ids=repr)
@pytest.mark.parametrize("take", SECONDS.values(), ids=SECONDS)
def test_seconds_are_any_real_number(take: Callable[[Any], Any], value: Any) -> None:
    take(value)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e10, "5", True, np.True_], ids=repr)
@pytest.mark.parametrize("take", SECONDS.values(), ids=SECONDS)
def test_nothing_else_is_seconds(take: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ss.SlurmSweepsError) as caught:
        take(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", ["max_trial_s", "max_silence_s"])
def test_a_trial_that_has_no_time_at_all_is_none(name: str) -> None:
    run(**{name: 1})
    with pytest.raises(ss.UsageError, match=r"must be a number of seconds from 1 to .*got 0\b"):
        run(**{name: 0})
