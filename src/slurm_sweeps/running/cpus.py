"""The CPUs that a worker keeps to, so that its trials do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence


def count_cpus() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def bind_to_cpus(first: int, count: int, total: int) -> None:
    """Keep this process to a slot's CPUs, where that can be done (Linux); see `choose_cpus`."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (_find_core(cpu), cpu))
        os.sched_setaffinity(0, choose_cpus(allowed, first, count, total))


def _find_core(cpu: int) -> int:
    """Return the first CPU of the core that a CPU belongs to; itself where that is not told."""
    siblings = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    with contextlib.suppress(OSError, ValueError), open(siblings) as file:
        return int(file.read().replace("-", ",").split(",")[0])
    return cpu


def choose_cpus(allowed: Sequence[int], first: int, count: int, total: int) -> Sequence[int]:
    """Return a slot's CPUs among those there are; all, if they are not as many as was thought.

    Args:
        allowed: Those that this process may use, those of a core side by side.
        first: The position of the slot's first one; behind the last one it begins anew.
        count: How many are the slot's.
        total: How many there should be: those of all slots of a step that Slurm has bound, or of
            this machine.
    """
    if len(allowed) != total:
        return allowed
    return [allowed[(first + place) % total] for place in range(count)]
