"""PURE  What `scontrol` says of jobs and steps, and how a job ends."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: A job in one of these does nothing more, unless it is requeued by hand.
FINAL_STATES = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
    | {"BOOT_FAIL", "DEADLINE"}
)


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended.

    Args:
        job_id: The job.
        state: Slurm's word, for example COMPLETED, FAILED, TIMEOUT, CANCELLED.
        exit_code: The batch script's exit code.
        signal: The signal that ended the script, 0 for none.
    """

    job_id: int
    state: str
    exit_code: int
    signal: int


def parse_records(text: str) -> list[dict[str, str]]:
    """Read the output of `scontrol -o show …`: one record a line, `Key=value` pairs in it."""
    pair = re.compile(r"(\S+?)=(.*?)(?=\s+[A-Z][\w:/]*=|\s*$)")
    return [dict(pair.findall(line)) for line in text.splitlines() if "=" in line]
