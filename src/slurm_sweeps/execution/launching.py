"""Which launcher a sweep gets: inside a Slurm allocation its nodes, else this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..running.launchers import Launcher, LocalLauncher, count_cpus
from ..slurm import client as slurm_client
from ..slurm.allocation import check_not_inside_a_step, read_allocation
from ..slurm.config import LocalCfg, SlurmCfg
from ..slurm.share import count_local_slots, plan_slots
from ..storage.layout import Layout
from .slurm_launcher import SlurmLauncher


def build_launcher(
    layout: Layout, slurm_cfg: SlurmCfg, local_cfg: LocalCfg, max_concurrent_trials: int | None
) -> Launcher:
    """Choose where trials run and see that they fit there.

    Raises:
        AllocationError: A trial can't fit.
        UsageError: This process is itself a job step.
    """
    check_not_inside_a_step(os.environ)
    allocation = read_allocation(os.environ)
    if allocation is None:
        return _build_local(layout, local_cfg, max_concurrent_trials)
    plan = plan_slots(allocation, slurm_cfg, max_concurrent_trials)
    return SlurmLauncher(allocation, plan, slurm_cfg, layout)


def _build_local(layout: Layout, cfg: LocalCfg, max_concurrent_trials: int | None) -> Launcher:
    gpus = find_gpus() if cfg.gpus else ()
    slots, notices = count_local_slots(count_cpus(), len(gpus), cfg, max_concurrent_trials)
    return LocalLauncher(slots, layout, cfg.gpus, gpus, notices)


@contextmanager
def watch_time_limit() -> Iterator[slurm_client.TimeLimit | None]:
    """Know when the job ends, if this process runs in one."""
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        yield None
        return
    with slurm_client.TimeLimit(job_id) as limit:
        yield limit


def requeue(job_id: str, notify: Callable[[str], None]) -> None:
    """Have this job queued again, unless somebody has cancelled it or Slurm does so by itself."""
    fate = slurm_client.read_fate(job_id)
    if fate is slurm_client.Fate.CANCELLED:
        notify(f"job {job_id} was cancelled: it is not queued again")
        return
    problem = None if fate is slurm_client.Fate.REQUEUED else slurm_client.requeue(job_id)
    if problem is None:
        notify(f"job {job_id} is queued again; it goes on where it stopped")
    else:
        notify(f"job {job_id} could not be queued again: {problem}")


def find_gpus() -> tuple[str, ...]:
    """Name the GPUs that this process may use, as CUDA_VISIBLE_DEVICES does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip())
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(found.stdout.split())
