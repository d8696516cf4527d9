"""Environments and scontrol texts of real jobs, recorded on Slurm 22.05 in the batch script.

Nodes: n1 to n4 with 128 CPUs, 256,000 MB and four GPUs; s1 half of that; t1 with 64 CPUs, four
GPUs of one type and two of another; h1 with 64 CPUs that are two threads of a core each.
"""

from __future__ import annotations

from pathlib import Path

from slurm_sweeps.slurm.allocation import Allocation, parse_allocation

FOLDER = Path(__file__).parent / "recorded"
NODE_TEXT = (FOLDER / "nodes.txt").read_text()
JOBS = sorted(path.stem for path in FOLDER.glob("*.txt") if path.stem != "nodes")


def read_job(name: str) -> tuple[dict[str, str], str]:
    """Give a recorded job's environment and what `scontrol show job -d` said of it."""
    head, _, job_text = (FOLDER / f"{name}.txt").read_text().partition("=== scontrol show job -d\n")
    lines = [line for line in head.splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines), job_text


def load_allocation(name: str) -> Allocation:
    """Give a recorded job's allocation, as both the environment and scontrol tell it."""
    env, job_text = read_job(name)
    allocation = parse_allocation(env, job_text, NODE_TEXT)
    assert allocation is not None
    return allocation


def load_allocation_without_scontrol(name: str) -> Allocation:
    """Give a recorded job's allocation as its environment alone tells it."""
    allocation = parse_allocation(read_job(name)[0])
    assert allocation is not None
    return allocation
