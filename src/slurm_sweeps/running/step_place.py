"""What a worker in a job step makes of its surroundings for the trials it runs.

Slurm describes the job in the environment of a step; a trial is to find itself described there
(`step.build_trial_environment`). And a distributed trial needs a port on its first node that no
other trial has: rank 0's worker, which is on that node, looks for a free one in its slot's part of
the range and tells the driver, which passes it on to all ranks of the trial. With it goes its
address, under a name that can be looked up: not every name of a node in Slurm is one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import Mapping
from itertools import islice
from typing import Any

from ..slurm.step import build_trial_environment, choose_gpus, iterate_master_ports
from .channel import Record

#: How many ports in a row may be taken before the worker gives up looking.
MAX_TRIES = 1_000


class StepPlace:
    """The surroundings of a worker in a job step.

    Args:
        described: The driver's `step` entry of the `init` record: `port_range`, `slot`, `slots`,
            `salt`, `cpus_per_task`, `mem_mb` and `visible_gpus`.
    """

    def __init__(self, described: Mapping[str, Any]) -> None:
        first, last = described["port_range"]
        self._described = described
        self._ports = iterate_master_ports(
            (first, last), described["slot"], described["slots"], described["salt"]
        )

    def bind(self) -> None:
        """Keep this process, once, to the slot's GPUs of a step that sees more.

        What is imported after this finds no more than a trial does.
        """
        os.environ.update(choose_gpus(os.environ, self._described["visible_gpus"]))

    def describe_next(self) -> Record:
        """Return the address that other nodes reach this one by, and a port that is free here."""
        for port in islice(self._ports, MAX_TRIES):
            if _is_free(port):
                break
        return {"address": find_address(), "port": port}

    def build_environment(self, port: int, address: str | None) -> dict[str, str | None]:
        """Return what to set or unset for a trial with this MASTER_PORT and MASTER_ADDR."""
        return build_trial_environment(
            os.environ,
            master_port=port,
            master_addr=address,
            cpus_per_task=self._described["cpus_per_task"],
            mem_mb=self._described["mem_mb"],
        )


def sees_more_gpus(described: Mapping[str, Any]) -> bool:
    """Whether this process, which imports for all slots of a step, sees others than a slot will."""
    chosen = choose_gpus(os.environ, described["visible_gpus"])
    return any(os.environ.get(name) != gpus for name, gpus in chosen.items())


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("", port))
        return True
    return False


@functools.cache
def find_address() -> str:
    """Return what other nodes of the step can reach this one by; to look for it may take seconds.

    The node's name as Slurm has it, if that can be looked up; else this host's name; else the
    number of the interface that faces the host of srun.
    """
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()):
        with contextlib.suppress(OSError):
            if name and socket.getaddrinfo(name, None):
                return name
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect((os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"), 9))  # sends nothing
        return str(probe.getsockname()[0])
    return "127.0.0.1"
