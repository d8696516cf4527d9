"""On a real Slurm: what can't be is said before anything starts, and once."""

from __future__ import annotations

import re
from pathlib import Path

from rank_jobs import run_sweep

from cluster_tools import SlurmCluster


def test_what_can_not_be_is_said_first(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = ("-N2", "--ntasks-per-node=4", "--gres=gpu:4", "-t3")
    output = run_sweep(cluster, tmp_path, "refused_sweeps.py", job=job)
    said = dict(re.findall(r"^case (\d): (.*)$", output, re.MULTILINE))
    expected = {
        "0": r"AllocationError: SlurmCfg\(nodes=3\) asks for 3 nodes a trial, but job \d+ has 2",
        "1": r"UsageError: .*ntasks must be a multiple of nodes",
        "2": r"AllocationError: not one trial fits: it needs 256 CPUs .* on each of 2 nodes",
        "3": r"AllocationError: not one trial fits: it needs .*5 GPUs, .* has n\d: .*4 GPUs",
        "4": r"LaunchError: .*unrecognized option '--no-such-option=1'",
    }
    assert set(said) == set(expected)
    for case, pattern in expected.items():
        assert re.match(pattern, said[case]), f"case {case}: {said[case]}"
    assert output.count("unrecognized option") == 1, output
    assert not list(tmp_path.glob("slurm-sweeps/*/stdout.log"))
