"""What the user says of a trial's share, and of srun's options."""

from __future__ import annotations

from typing import Any

import pytest

from slurm_sweeps.errors import UsageError, UsageTypeError
from slurm_sweeps.slurm.config import (
    MASTER_PORT_RANGE,
    LocalCfg,
    SlurmCfg,
    build_demand,
    parse_step_options,
)


def test_the_documented_arguments_are_positional() -> None:
    cfg = SlurmCfg(False, 2, 4, "--mpi=pmi2")
    assert (cfg.exclusive, cfg.nodes, cfg.ntasks, cfg.args) == (False, 2, 4, "--mpi=pmi2")


def test_the_defaults_are_one_exclusive_task_with_its_share() -> None:
    cfg = SlurmCfg()
    assert (cfg.exclusive, cfg.nodes, cfg.ntasks, cfg.args) == (True, 1, 1, "")
    assert (cfg.cpus_per_task, cfg.gpus, cfg.mem, cfg.fresh_step) == (None, None, None, None)
    assert (cfg.requeue, cfg.master_port_range) == (False, MASTER_PORT_RANGE)
    assert LocalCfg().gpus == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": 0}, "SlurmCfg: nodes must be 1 or more, got 0"),
        ({"ntasks": -1}, "SlurmCfg: ntasks must be 1 or more, got -1"),
        ({"nodes": 2}, r"SlurmCfg\(nodes=2, ntasks=1\): the tasks are spread evenly over 2 nodes"),
        ({"nodes": 2, "ntasks": 3}, r"ntasks=3\): .* ntasks must be a multiple of nodes"),
        ({"cpus_per_task": 0}, "SlurmCfg: cpus_per_task must be 1 or more, got 0"),
        ({"gpus": -1}, "SlurmCfg: gpus must be 0 or more, got -1"),
        (
            {"nodes": 2, "ntasks": 2, "gpus": 3},
            r"gpus=3, .* 3 GPUs can't be spread evenly over 2 nodes",
        ),
        ({"mem": "much"}, r"amount of memory 'much': write a whole number and a unit, '16G'"),
        ({"mem": "0"}, r"SlurmCfg\(mem='0'\): give at least 1M per node, or None"),
        ({"args": "--x='"}, r"args=\"--x='\"\) can't be split .* No closing quotation; close the"),
        ({"args": "foo --x"}, r"args='foo --x'\) holds 'foo', which is no option of srun, nor the"),
        ({"args": "--mem=8G foo"}, "holds 'foo', which is no option"),
        ({"args": "-c 4 foo"}, "holds 'foo', which is no option"),
        ({"args": "--overlap foo"}, "holds 'foo', which is no option"),
        ({"args": "--new-option value foo"}, "holds 'foo', which is no option"),
        ({"args": "--mem=8G -- foo"}, "holds '--', which is no option"),
        (
            {"args": "-c many"},
            r"args='-c many'\): --cpus-per-task: give a whole number of 1 or more, not 'many'",
        ),
        ({"args": "-c"}, r"args='-c'\): --cpus-per-task: give a whole number of 1 or more, not ''"),
        ({"args": "--gres=gpu:4x"}, r"--gres: can't read the generic resources 'gpu:4x'"),
        ({"args": "--mem=much"}, r"args='--mem=much'\): --mem: can't read the amount of memory"),
        ({"args": "-n 4"}, r"holds '-n': the layout is said by SlurmCfg\(nodes=..., ntasks=...\)"),
        ({"args": "--nodes=2"}, r"holds '--nodes=2': the layout is said by SlurmCfg"),
        ({"args": "-w n1"}, r"holds '-w': the sweep itself places its steps .* sbatch or salloc"),
        ({"args": "-o out"}, r"holds '-o': srun's standard streams are the channel"),
        ({"args": "--pty"}, r"holds '--pty': srun's standard streams are the channel"),
        ({"args": "-u"}, r"holds '-u': srun's standard streams are the channel"),
        ({"master_port_range": (2000, 1024)}, r"master_port_range=\(2000, 1024\)\): give the fir"),
        ({"outage_in_sec": -1}, r"SlurmCfg: outage_in_sec must be a number of seconds from 0 to"),
        ({"master_port_range": (80, 90)}, r"between 1024 and 65535"),
        ({"master_port_range": 8080}, r"master_port_range=8080\): give the first and the last"),
    ],
)
def test_values_that_make_no_sense_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SlurmCfg(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ntasks": "4"}, r"SlurmCfg: ntasks must be an integer, got '4' \(str\)"),
        ({"ntasks": True}, "SlurmCfg: ntasks must be an integer, got True"),
        ({"gpus": 0.5}, "SlurmCfg: gpus must be an integer, got 0.5"),
        ({"mem": 16}, r"SlurmCfg\(mem=16\): give a text with a unit, '16G'"),
        ({"args": ["-c4"]}, r"SlurmCfg\(args=\['-c4'\]\): give one text of options"),
    ],
)
def test_values_of_a_wrong_type_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageTypeError, match=message):
        SlurmCfg(**arguments)


def test_gpus_of_a_local_trial_are_checked() -> None:
    with pytest.raises(UsageError, match="LocalCfg: gpus must be 0 or more, got -1"):
        LocalCfg(-1)
    with pytest.raises(UsageError, match="LocalCfg: cpus must be 1 or more, got 0"):
        LocalCfg(cpus=0)
    for gpus in (1.5, 0.0, -0.5, float("nan")):
        with pytest.raises(UsageError, match=r"LocalCfg: gpus must be .* or a part of a GPU"):
            LocalCfg(gpus)
    with pytest.raises(UsageTypeError, match="gpus must be a number, 0 to leave GPUs alone, got N"):
        LocalCfg(gpus=None)  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("", {}),
        ("-c4", {"cpus_per_task": 4}),
        ("-c 4", {"cpus_per_task": 4}),
        ("--cpus-per-task=4", {"cpus_per_task": 4}),
        ("--cpus-per-task 4 -c8", {"cpus_per_task": 8}),
        ("--mem=8G", {"mem_mb": 8192}),
        ("--mem=0", {"mem_mb": 0}),
        ("--mem-per-cpu=500M", {"mem_per_cpu_mb": 500}),
        ("--mem-per-gpu 4G", {"mem_per_gpu_mb": 4096}),
        ("--gres=gpu:a100:2", {"gpus_per_node": 2}),
        ("--gres=none", {"gpus_per_node": 0}),
        ("--gres=tmp:1", {"gpus_per_node": 0}),
        ("--gpus-per-node=v100:2", {"gpus_per_node": 2}),
        ("--gpus-per-task=1", {"gpus_per_task": 1}),
        ("-G2", {"gpus": 2}),
        ("--gpus=a100:2,v100:1", {"gpus": 3}),
        ("--overlap", {}),
        ("--gpus-per-node=2 --gres=gpu:1", {"gpus_per_node": 2}),
        ("--threads-per-core=1", {"threads_per_core": 1}),
        ("--hint=nomultithread", {"threads_per_core": 1}),
        ("--hint compute_bound", {"threads_per_core": 1}),
        ("--hint=multithread", {}),
        ("-B 2:4:1", {"threads_per_core": 1}),
        ("--extra-node-info=2:4", {}),
        ("-B *:*:*", {}),
        ("--mpi=pmi2 --unknown thing", {}),
    ],
)
def test_the_share_is_read_from_args(args: str, expected: dict[str, Any]) -> None:
    assert parse_step_options(args).said == expected


def test_overlapping_is_read_from_args() -> None:
    assert not build_demand(SlurmCfg(args="--overlap")).exclusive


def test_args_are_split_as_a_shell_splits() -> None:
    options = parse_step_options("--comment='two words' -K0")
    assert options.tokens == ("--comment=two words", "-K0")


def test_memory_of_a_trial_is_spread_over_its_nodes() -> None:
    assert build_demand(SlurmCfg(nodes=2, ntasks=2, mem="5G")).mem_mb == 2560
    assert build_demand(SlurmCfg()).mem_mb is None
