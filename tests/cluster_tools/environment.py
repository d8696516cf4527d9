"""What this machine offers to a cluster, and which variables must not reach a Slurm command."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster_tools.config import SlurmInstall

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "sinfo")
#: What the Slurm commands read as options (srun alone knows about 60), or a rank as its place.
LEAKING = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SCONTROL|SINFO|SQUEUE)_|PMI")
LEAKING_NAMES = frozenset(
    {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    | {"NODE_RANK", "GROUP_RANK"}
)


def is_leaking(name: str) -> bool:
    """Whether a variable of this name would steer a Slurm command or a rank."""
    return bool(LEAKING.match(name)) or name in LEAKING_NAMES


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Copy an environment without the variables that would steer a Slurm command or a rank."""
    return {name: value for name, value in environ.items() if not is_leaking(name)}


def reason_unavailable(install: SlurmInstall | None = None) -> str | None:
    """Say why a cluster can't be started here; None if it can."""
    install = install or SlurmInstall()
    if not sys.platform.startswith("linux"):
        return f"Slurm's daemons run on Linux only, this is {sys.platform}"
    if os.geteuid() != 0:
        return "the Slurm daemons of the test cluster need root"
    missing = [program for program in PROGRAMS if install.find(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
    return _reason_no_device()


def _reason_no_device() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_device(Path(folder) / "nvidia0", 0)
        except OSError as error:
            return f"can't make the device files of the fake GPUs in {folder}: {error}"
    return None


def make_device(path: Path, number: int) -> None:
    """Make the character device that stands for GPU `number`; nobody ever opens it."""
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(195, number))


def find_free_ports(count: int) -> list[int]:
    """Find TCP ports that nobody listens on, below the range that the kernel hands out itself.

    Raises:
        OSError: There are fewer than `count`.
    """
    free: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                free.append(port)
            if len(free) == count:
                return free
    raise OSError(f"tried 500 ports between 20000 and 32000, only {len(free)} of {count} are free")
