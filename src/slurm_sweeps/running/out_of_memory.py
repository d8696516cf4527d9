"""How it is told that a trial ran out of memory, be it a GPU's or the machine's.

Libraries raise errors of many kinds, whose words are read; the kernel kills a process without a
word, and counts that (`oom_kill`): for a memory cgroup, or where that can't be read for the whole
host. A process that was killed while the count did not rise was killed by somebody else.
"""

from __future__ import annotations

import contextlib
import functools
import re
from pathlib import Path

#: What PyTorch, CuPy, JAX, TensorFlow, CUDA's and AMD's libraries and the C++ library say.
_SAID = re.compile(
    r"out of memory|OutOfMemory|RESOURCE_EXHAUSTED|OOM when allocating|bad_alloc|"
    r"(can't|cannot) allocate memory|unable to allocate \S+ \S+ for|STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)

#: What is said of a child that was killed: by DataLoader, multiprocessing, joblib, and of programs.
_CHILD_KILLED = re.compile(
    r"killed by signal: Killed|\bSIGKILL\b|signal 9\b|exit ?code:? ?=?-9\b|"
    r"(was|were) (terminated abruptly|unexpectedly terminated)|DataLoader worker .* exited"
)

#: What Slurm says of a step in whose cgroup the kernel has killed something, or that it has ended
#: itself for its memory (JobAcctGatherParams=OverMemoryKill).
_STEP_KILLED = re.compile(
    r"^(?:slurmstepd|srun): .*"
    r"(?:oom[-_ ]kill|OOM Killed|Out Of Memory|exceeded (?:\w+ )?memory limit)",
    re.MULTILINE | re.IGNORECASE,
)


def is_out_of_memory(error: BaseException, said: str) -> bool:
    """Whether an error, which says this, tells of memory that is used up."""
    return isinstance(error, MemoryError) or bool(_SAID.search(f"{type(error).__name__}: {said}"))


def tells_of_killed_child(said: str) -> bool:
    """Whether a trial failed since a process that it has started was killed."""
    return _CHILD_KILLED.search(said) is not None


def tells_of_killed_step(said: str) -> bool:
    """Whether srun or slurmstepd says, among others' words, that a step ran out of memory."""
    return _STEP_KILLED.search(said) is not None


def count_oom_kills() -> int:
    """Return how often the out-of-memory killer has struck: in this cgroup, else on this host."""
    files = find_cgroup_files("memory.events", "memory.oom_control")
    for file in (*files, Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


@functools.cache
def find_cgroup_files(of_2: str, of_1: str) -> list[Path]:
    """Find a file of this process's memory cgroup, by its names in version 2 and 1."""
    files = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0" and path != "/":
                files.append(Path(f"/sys/fs/cgroup{path}/{of_2}"))
            elif "memory" in controllers.split(","):
                files.append(Path(f"/sys/fs/cgroup/memory{path}/{of_1}"))
    return [file for file in files if file.exists()]
