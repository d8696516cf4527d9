"""What scontrol says of a job and of nodes: the call, and pure functions that read its text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..slurm.text import Gres, parse_gres, parse_nodelist

_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class JobNode:
    """What `scontrol show job -d` says of one node of a job; `mem_mb` is 0 where not counted."""

    mem_mb: int
    gres: tuple[Gres, ...]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What `scontrol show node` says of a node, whoever uses it."""

    threads_per_core: int
    address: str


def parse_job_nodes(text: str) -> dict[str, JobNode]:
    """Read the per-node lines of `scontrol show job -d`: name to memory and GRES."""
    found: dict[str, JobNode] = {}
    lines = re.findall(r"^\s+Nodes=(\S+) CPU_IDs=\S* Mem=(\d+) GRES=(\S*)", text, re.MULTILINE)
    for names, mem, gres in lines:
        found |= dict.fromkeys(parse_nodelist(names), JobNode(int(mem), parse_gres(gres)))
    return found


def parse_node_facts(text: str) -> dict[str, NodeFacts]:
    """Read `scontrol --oneliner show node`: name to threads per core and address."""
    found: dict[str, NodeFacts] = {}
    for line in text.splitlines():
        pairs = re.findall(r"(?:^|\s)(NodeName|NodeAddr|ThreadsPerCore)=(\S+)", line)
        fields: dict[str, str] = dict(pairs)
        if "NodeName" in fields:
            name = fields["NodeName"]
            found[name] = NodeFacts(
                int(fields.get("ThreadsPerCore", 1)), fields.get("NodeAddr", name)
            )
    return found


def run_scontrol(words: Sequence[str], env: Mapping[str, str]) -> tuple[str, str]:
    """Run scontrol; give what it printed, and what went wrong (empty if nothing did).

    A controller that does not answer within 15 s counts as a failure.
    """
    argv = ["scontrol", *words]
    try:
        done = subprocess.run(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", _format_problem(argv, str(error))
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        return "", _format_problem(argv, f"exit status {done.returncode}, {' '.join(last)}")
    return done.stdout, ""


def _format_problem(argv: Sequence[str], problem: str) -> str:
    return (
        f"`{' '.join(argv)}` failed ({problem}): each trial's share is worked out from the "
        f"environment alone, so say SlurmCfg(gpus=..., mem=...) if it is wrong"
    )
