"""What an attempt used of its share, be it memory, CPU time or a GPU's memory, or more than that.

A trial's process tells it when nothing is left of it but its exit. Of one that can't, as it was
killed, its worker knows, which has reaped it. In a job step that is the slot's alone, and in a
cgroup, the kernel knows the memory of all processes together; else the largest one is told.

Memory is resident memory, what is shared with others included: in a fork what its worker has
loaded; and who starts another program is counted as that until it begins (Linux).

That a trial ran out of memory, a GPU's or the machine's, is told by the words of its error; the
kernel kills a process without a word, and counts that (`oom_kill`): for a memory cgroup, or where
that can't be read for the whole host. What was killed while the count did not rise was killed by
somebody else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import resource
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .channel import Record
from .processes import iterate_descendants

if TYPE_CHECKING:
    import subprocess

#: What `ru_maxrss` counts in, of a MiB.
_PER_MIB = 1024 if sys.platform == "linux" else 2**20

#: What is stored of an attempt, as `AttemptRecord` has it.
FIELDS = ("memory_mb", "cpu_s", "gpu_memory_mb")

#: Shorter trials tell little of what a share is good for, in seconds.
LEAST_S = 60.0
#: A share of which no trial used more than this part is said to be too large.
FAR = 0.25


class Meter:
    """Measures one attempt, from now on, in the trial's own process."""

    def __init__(self) -> None:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._cpu_s = time.process_time() + _count_cpu_s(children)
        self._program_kb = 0

    def read(self) -> Record:
        """Return what was used so far; `is_alone` tells that there were no other processes."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        largest = max(own.ru_maxrss, self._program_kb or children.ru_maxrss)
        used: Record = {
            "memory_mb": largest / _PER_MIB,
            "cpu_s": _count_cpu_s(own) + _count_cpu_s(children) - self._cpu_s,
            "is_alone": not children.ru_maxrss,
        }
        gpu_memory_mb = _read_gpu_memory()
        return used if gpu_memory_mb is None else {**used, "gpu_memory_mb": gpu_memory_mb}

    def poll(self, process: subprocess.Popen[bytes]) -> int | None:
        """Return the exit code of a program, None while it runs; note what memory it took.

        A process that runs one program after another would else know the largest of all.
        """
        if process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                pid, status, used = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    self._program_kb = used.ru_maxrss
        return process.poll()


def _count_cpu_s(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def describe_reaped(used: resource.struct_rusage) -> Record:
    """Tell what a process had used that was reaped, with those that it has waited for."""
    return {"memory_mb": used.ru_maxrss / _PER_MIB, "cpu_s": _count_cpu_s(used)}


# --- a GPU's memory -------------------------------------------------------------------------------


def _read_gpu_memory() -> float | None:
    """Return the GPU memory that this process took, in MiB; None if it has none, or nobody tells.

    The peak of PyTorch's own count, or what NVML counts now, where its Python module is installed:
    frameworks give no memory back while their process lives.
    """
    if not os.path.exists("/dev/nvidiactl"):
        return None
    found = []
    for ask in (_ask_torch, _ask_nvml):
        with contextlib.suppress(
            Exception
        ):  # versions differ; a trial may have left them in pieces
            found.append(ask())
    return max(filter(None, found), default=None)


def _ask_torch() -> float:
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    devices = range(torch.cuda.device_count())
    return float(sum(map(torch.cuda.max_memory_reserved, devices))) / 2**20


def _ask_nvml() -> float:
    fds = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    if not any(os.path.realpath(fd).startswith("/dev/nvidia") for fd in fds):
        return 0.0  # to start NVML takes long
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    mine = {os.getpid(), *iterate_descendants(os.getpid())}
    devices = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    running = (each for it in devices for each in nvml.nvmlDeviceGetComputeRunningProcesses(it))
    return float(sum(each.usedGpuMemory or 0 for each in running if each.pid in mine)) / 2**20


# --- a step's memory ------------------------------------------------------------------------------


class StepMemory:
    """The peak of all processes of a job step, as its cgroup has it, if it has one of its own."""

    def __init__(self) -> None:
        files = find_cgroup_files("memory.peak", "memory.max_usage_in_bytes")
        self._file = next((file for file in files if "/step_" in str(file)), None)
        self._peak = _read_number(self._file)

    def read_rise(self) -> float | None:
        """Return the peak in MiB, if it is of after the last call; the kernel keeps but the one."""
        before, self._peak = self._peak, _read_number(self._file)
        return self._peak / 2**20 if self._peak > before else None


def _read_number(file: Path | None) -> int:
    with contextlib.suppress(OSError, ValueError):
        return 0 if file is None else int(file.read_text())
    return 0


# --- out of memory --------------------------------------------------------------------------------

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


# --- in the driver --------------------------------------------------------------------------------


def sum_usage(ends: Iterable[Record]) -> dict[str, Any]:
    """Add up what an attempt's ranks used: `FIELDS`, as far as they are known, and `is_alone`."""
    ends = list(ends)
    told: list[Mapping[str, Any]] = [end for end in ends if "memory_mb" in end]
    used = {
        name: sum(end.get(name, 0.0) for end in told)
        for name in FIELDS
        if any(name in end for end in told)
    }
    return {**used, "is_alone": len(told) == len(ends) and all(e.get("is_alone") for e in told)}


class Gauge:
    """Compares what trials used with the share that each has, for one word in the end."""

    def __init__(self) -> None:
        self._n = 0
        self._most = {"memory": (0.0, 0.0), "CPUs": (0.0, 0.0)}  # used, and of how much

    def note(
        self, used: Mapping[str, Any], runtime_s: float, cpus: int | None, mem_mb: int | None
    ) -> None:
        """Take note of a trial that is completed."""
        if runtime_s < LEAST_S or "cpu_s" not in used:
            return
        self._n += 1
        self._take("CPUs", used["cpu_s"] / runtime_s, cpus if cpus and cpus > 1 else None)
        # Of several processes only a cgroup knows the sum.
        self._take("memory", used["memory_mb"] / 1024, used["is_alone"] and (mem_mb or 0) / 1024)

    def _take(self, what: str, used: float, share: float | None) -> None:
        """Keep the largest part; a share that isn't known, or a use, is none to speak of."""
        if not share:
            used, share = 1.0, 1.0
        most, of = self._most[what]
        if not of or used / share > most / of:
            self._most[what] = (used, share)

    def describe(self) -> str | None:
        """Say which part of the share no trial has come near to; None if there is none."""
        idle = [
            f"{used:.1f} of {share:g} {'GiB of memory' if what == 'memory' else what}"
            for what, (used, share) in self._most.items()
            if self._n and used < FAR * share
        ]
        if not idle:
            return None
        return (
            f"no trial of a minute or more used more than {' and '.join(idle)} that it has: with a "
            "smaller share (mem, cpus_per_task of SlurmCfg; cpus of LocalCfg) more run at once"
        )
