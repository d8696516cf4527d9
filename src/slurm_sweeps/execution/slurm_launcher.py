"""Workers as job steps: one srun for each slot, its standard streams the channel.

With `SlurmCfg(share_imports=True)` it is one srun for each node, the channel of all slots there.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

from ..errors import LaunchError
from ..running.channel import Record
from ..slurm.allocation import Allocation, Node
from ..slurm.client import cancel_step
from ..slurm.config import SlurmCfg
from ..slurm.share import Plan
from ..slurm.step import (
    build_srun_argv,
    build_step_environment,
    is_step_waiting,
    parse_step_error,
)
from ..storage.layout import Layout
from .demand import count_step_cpus
from .link import Link, start_process
from .shares import Slot, merge_slots
from .spawning import build_argv


class SlurmLauncher:
    """Starts each slot's worker as a job step with the slot's share of the allocation.

    Args:
        allocation: The job.
        plan: Its slots.
        cfg: What the user asked for each trial.
        layout: Where files go.
    """

    def __init__(self, allocation: Allocation, plan: Plan, cfg: SlurmCfg, layout: Layout) -> None:
        self.notices = plan.notices
        self.world_size = cfg.ntasks
        self.fresh_workers = bool(cfg.fresh_step)
        self._allocation = allocation
        self._slots = plan.slots
        self._cfg = cfg
        self._layout = layout
        self._shared: dict[str, Link] = {}  # by node

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def get_nodes(self, slot: int) -> tuple[str, ...]:
        """Name the nodes that a slot is on."""
        return self._slots[slot].nodes

    def prepare(self, count: int | None) -> AbstractContextManager[None]:
        """Nothing: a step is only asked for when it is needed."""
        return nullcontext()

    def start(self, slot: int) -> Link:
        """Start a slot's step, unless it shares one that runs; srun speaks over its streams."""
        share = self._slots[slot]
        if not self._cfg.share_imports:
            return self._launch(share, share, "main")
        (node,) = share.nodes
        link = self._shared.get(node)
        if link is None or link.has_ended or not link.slots:
            whole = merge_slots(self._find_neighbours(share), self._find_node(node))
            link = self._shared[node] = self._launch(whole, share, "zygote_main")
        return link

    def _launch(self, step: Slot, slot: Slot, main: str) -> Link:
        command = build_argv(main, world_size=self.world_size)
        argv = build_srun_argv(step, self._cfg, command, job_name=f"slot-{slot.index}")
        env = build_step_environment(os.environ)
        env.setdefault("OMP_NUM_THREADS", str(slot.cpus_per_task))
        try:
            process = start_process(argv, env)
        except OSError as error:
            raise LaunchError(f"can't start srun: {error}; is Slurm's client on PATH?") from error
        return Link(process, self._layout.slot_log(slot.index))

    def _find_neighbours(self, slot: Slot) -> list[Slot]:
        """Return the slots that share a step with this one, itself included."""
        return [other for other in self._slots if other.nodes == slot.nodes]

    def _find_node(self, name: str) -> Node:
        return next(node for node in self._allocation.nodes if node.name == name)

    def describe_slot(self, slot: int) -> Record:
        """Tell a slot's worker what it needs to describe trials in their environment."""
        share = self._slots[slot]
        shared = self._describe_sharing(share) if self._cfg.share_imports else {}
        digits = "".join(filter(str.isdigit, self._allocation.job_id))
        return {
            "port_range": list(self._cfg.master_port_range),
            "slot": slot,
            "slots": len(self._slots),
            "salt": int(digits or 0),
            "cpus_per_task": share.cpus_per_task,
            "mem_mb": share.mem_mb,
            "visible_gpus": share.visible_gpus,
            **shared,
        }

    def _describe_sharing(self, slot: Slot) -> Record:
        """Say which of the CPUs and GPUs of a shared step are a slot's own."""
        if not slot.exclusive:
            return {}
        neighbours = self._find_neighbours(slot)
        at, gpus = neighbours.index(slot), slot.gpus
        threads = self._find_node(slot.nodes[0]).threads_per_core
        cpus = count_step_cpus(1, slot.cpus_per_task, threads)
        return {
            "bound_to": [at * cpus, cpus, len(neighbours) * cpus],
            "visible_gpus": list(range(at * gpus, (at + 1) * gpus)) if gpus else None,
        }

    def build_environment(self, slot: int) -> dict[str, str]:
        """Nothing from here: the worker, inside the step, knows better."""
        return {}

    def clean_up(self, slot: int, step: str | None, trial_pid: int | None) -> None:
        """Have Slurm end the step of a worker that was given up, wherever its tasks are."""
        if step is not None:
            cancel_step(f"{self._allocation.job_id}.{step}")

    def explain(self, said: str) -> str | None:
        """Pick out of a worker's output why its step could not be started."""
        return parse_step_error(said)

    def find_stall(self, said: str) -> str | None:
        """Say so if srun waits for resources that the ledger believed free."""
        if any(is_step_waiting(line) for line in said.splitlines()):
            return (
                "Slurm has no room for a step that should fit (srun is waiting). Is another step "
                f"of job {self._allocation.job_id} running? If not, please report it with the "
                "output of `scontrol show job -d`"
            )
        return None
