"""`doctor`: what a trial would get here, and whether file system and database are sound.

Nothing is started and nothing is changed, but for an empty file that is locked, and removed again,
to see whether the file system locks; and, in a job, a step that looks at the folder.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from .. import __version__
from ..errors import SlurmSweepsError, say_count
from ..running.host import build_host_argv
from ..running.launchers import find_gpus
from ..running.processes import count_cpus
from ..slurm.allocation import check_not_inside_a_step
from ..slurm.client import read_allocation
from ..slurm.config import SlurmCfg
from ..slurm.share import plan_slots
from ..slurm.step import Slot, build_srun_argv, build_step_environment, build_submission_environment
from ..storage.database import Database
from ..storage.faults import find_lock_refusal
from ..storage.layout import build_database_path
from .common import json_option, local_dir_option, print_json

#: What is good to have beside the core: module, and what it is for.
_EXTRAS = {
    "plotly": "the report and Result.plot_…: pip install 'slurm-sweeps[report]'",
    "jinja2": "the report: pip install 'slurm-sweeps[report]'",
    "sklearn": "what mattered, in the report: pip install 'slurm-sweeps[report]'",
    "pyarrow": "export to parquet: pip install 'slurm-sweeps[parquet]'",
}

#: A share of one trial at once with so many CPUs, or a share with less memory, is seldom meant.
_MANY_CPUS = 4
_LITTLE_MB = 100

_MARKS = {"ok": "ok  ", "note": "note", "bad": "BAD "}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str  # what
    verdict: str  # "ok", "note" (worth knowing) or "bad" (a sweep would not run, or not well)
    text: str  # what was found, and the remedy
    short: str = ""  # what people are shown of a long text


@click.command()
@local_dir_option
@json_option
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Per trial.")
@click.option("--ntasks", type=click.IntRange(1), default=1, show_default=True, help="Per trial.")
@click.option("--args", default="", help="Further srun options, as in SlurmCfg(args=…).")
def doctor(local_dir: Path, as_json: bool, nodes: int, ntasks: int, args: str) -> None:
    """Look whether sweeps can run here, and what an allocation gives a trial.

    Run it where the sweep will run: within the job, it prints the exact srun line and the share of
    each trial. Ends with 1 if something is bad.
    """
    cfg = SlurmCfg(nodes=nodes, ntasks=ntasks, args=args)
    findings = [
        *_look_at_programs(),
        *_look_at_allocation(cfg, local_dir),
        *_try_to_submit(),
        *_look_at_folder(local_dir),
        *_look_at_database(build_database_path(local_dir)),
        *_look_at_extras(),
    ]
    if as_json:
        print_json([{k: v for k, v in asdict(each).items() if k != "short"} for each in findings])
    else:
        for finding in findings:
            text = finding.short or finding.text
            click.echo(f"{_MARKS[finding.verdict]}  {finding.topic}: {text}")
    if any(finding.verdict == "bad" for finding in findings):
        sys.exit(1)


def _look_at_programs() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "version", "ok", f"slurm-sweeps {__version__}, Python {python} ({sys.executable})"
    )
    srun = shutil.which("srun")
    if srun is None:
        yield Finding("Slurm", "note", "no srun on PATH: trials run as processes of this machine")
        return
    verdict = "bad" if "SLURM_JOB_ID" in os.environ else "note"
    done = _run([srun, "--version"], os.environ)
    if done.returncode == 0:
        yield Finding("Slurm", "ok", f"{done.stdout.strip()} ({srun})")
    else:
        yield Finding("Slurm", verdict, f"{srun} is there and fails: {done.stderr.strip()}")


def _look_at_allocation(cfg: SlurmCfg, local_dir: Path) -> Iterator[Finding]:
    try:
        check_not_inside_a_step(os.environ)
        allocation = read_allocation(os.environ)
        if allocation is None:
            yield Finding(
                "allocation",
                "note",
                f"not inside a Slurm job: a sweep runs {say_count(count_cpus(), 'trial')} at once "
                f"here, one a CPU; of GPUs {len(find_gpus())} can be seen, which LocalCfg(gpus=…) "
                "deals out",
            )
            return
        plan = plan_slots(allocation, cfg)
    except SlurmSweepsError as error:
        yield Finding("allocation", "bad", str(error))
        return
    nodes = ", ".join(node.name for node in allocation.nodes)
    trials = say_count(len(plan.slots), "trial")
    job = allocation.array_task or allocation.job_id
    yield Finding("allocation", "ok", f"job {job} on {nodes}: {trials} at once")
    yield Finding("share of a trial", "ok", _format_share(plan.slots[0]))
    yield from _doubt_share(plan.slots)
    host = build_host_argv(world_size=cfg.ntasks)
    argv = build_srun_argv(plan.slots[0], cfg, host)
    short = f"{shlex.join(argv[: -len(host)])} {Path(host[0]).name} … (--json has all of it)"
    yield Finding("srun line of the first slot", "ok", shlex.join(argv), short)
    for notice in plan.notices:
        yield Finding("allocation", "note", notice)
    yield from _try_to_enter(allocation.job_id, len(allocation.nodes), local_dir)


def _try_to_enter(job_id: str, n_nodes: int, local_dir: Path) -> Iterator[Finding]:
    """Start a step, as a driver in another job would in this one: it looks at the folder."""
    folder = _find_existing(local_dir)
    nodes = (f"-N{n_nodes}", f"-n{n_nodes}")
    argv = ["srun", f"--jobid={job_id}", "--overlap", *nodes, "stat", "-Lc%i", str(folder)]
    done = _run(argv, build_step_environment(os.environ))
    said = done.stderr.strip()
    if done.returncode and "stat: " not in said:
        text = f"`{shlex.join(argv)}` fails, so jobs can't lend their nodes to a sweep: {said}"
        yield Finding("entering jobs", "note", text)
        return
    text = "srun --jobid is allowed here: jobs can lend their nodes (join)"
    yield Finding("entering jobs", "ok", text)
    if done.stdout.split() == [str(folder.stat().st_ino)] * n_nodes:
        yield Finding("shared folder", "ok", f"{folder} is the same on all nodes of the job")
        return
    text = (
        f"{folder} has to be on all nodes of the job, and seems not to be: {said or 'others are'}"
    )
    yield Finding("shared folder", "bad" if done.returncode else "note", text)


def _try_to_submit() -> Iterator[Finding]:
    """See whether Slurm takes a job from here, without submitting it."""
    argv = ["sbatch", "--test-only", "-n1", "--wrap=true"]
    if shutil.which("sbatch") is None:
        return
    done = _run(argv, build_submission_environment(os.environ))
    text = "sbatch takes jobs from here, so a driver can submit them (ss.Jobs)"
    if done.returncode:
        text = f"`{shlex.join(argv)}` fails, so ss.Jobs may not work here: {done.stderr.strip()}"
    yield Finding("submitting jobs", "note" if done.returncode else "ok", text)


def _run(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(argv, 1, "", str(error))


def _format_share(slot: Slot) -> str:
    memory = f"{slot.mem_mb} MB" if slot.mem_mb else "memory as the job has it"
    gpus = f"{slot.gpus} GPUs" if slot.gpus != 1 else "1 GPU"
    share = f"{slot.cpus_per_task} CPUs; {memory} and {gpus} on each node"
    if slot.ntasks == 1:
        return share
    return f"{slot.ntasks} tasks on {len(slot.nodes)} nodes, each task with {share}"


def _doubt_share(slots: Sequence[Slot]) -> Iterator[Finding]:
    """Say what works but is seldom meant."""
    slot, topic = slots[0], "share of a trial"
    if len(slots) == 1 and slot.ntasks == 1 and slot.cpus_per_task >= _MANY_CPUS:
        text = (
            f"1 trial at once, with {slot.cpus_per_task} CPUs: for more at once ask for more tasks "
            "of fewer CPUs (--ntasks-per-node, --cpus-per-task)"
        )
        yield Finding(topic, "note", text)
    if slot.mem_mb and slot.mem_mb < _LITTLE_MB * slot.ntasks / len(slot.nodes):
        text = (
            f"{slot.mem_mb} MB is little memory, Python with NumPy alone takes about {_LITTLE_MB} "
            "MB: ask for more (--mem-per-cpu)"
        )
        yield Finding(topic, "note", text)


def _find_existing(local_dir: Path) -> Path:
    """Return a folder, or the next above it that is there: it is made by the first sweep."""
    folder = local_dir.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())


def _look_at_folder(local_dir: Path) -> Iterator[Finding]:
    folder = _find_existing(local_dir)
    what = f"{local_dir} is there" if folder == local_dir.absolute() else f"{local_dir} can be made"
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Finding("folder", "bad", f"{folder} can't be written; choose another --local-dir")
        return
    free_gb = shutil.disk_usage(folder).free / 1e9
    yield Finding(
        "folder", "ok" if free_gb > 1 else "bad", f"{what}, {free_gb:.1f} GB are free there"
    )
    refusal = find_lock_refusal(folder)
    if refusal is None:
        yield Finding("locks", "ok", "the file system locks files")
    else:
        what = f"the file system refuses locks ({refusal}); choose another local_dir"
        yield Finding("locks", "bad", what)


def _look_at_database(path: Path) -> Iterator[Finding]:
    version = f"SQLite {sqlite3.sqlite_version}"
    if not path.exists():
        yield Finding("database", "note", f"none yet at {path} ({version})")
        return
    try:
        with Database.open(path, read_only=True) as database:
            problems = database.find_damage()
            names = [experiment.name for experiment in database.experiments()]
    except SlurmSweepsError as error:
        yield Finding("database", "bad", str(error))
        return
    if problems:
        yield Finding("database", "bad", f"{path} is damaged: {'; '.join(problems)}")
    else:
        size_mb = path.stat().st_size / 1e6
        text = f"{path} is sound: {len(names)} experiments, {size_mb:.1f} MB ({version})"
        yield Finding("database", "ok", text)


def _look_at_extras() -> Iterator[Finding]:
    for module, use in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            yield Finding(module, "note", f"not installed; it is for {use}")
