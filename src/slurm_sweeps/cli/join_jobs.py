"""The verbs about a sweep's Slurm jobs: `join`, by which one lends its nodes, and `jobs`."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from ..errors import UsageError
from ..experiment.claim import check_owned
from ..experiment.join import WAIT_S, Lender, Step
from ..running.background import StopSignals
from ..slurm.allocation import check_not_inside_a_step
from ..slurm.client import read_allocation
from ..storage.database import Database
from ..storage.jobs import read_jobs
from ..storage.layout import Layout
from ..storage.records import ExperimentRecord, JobRecord, JobState
from ..storage.rows import read_attempts
from ..trial import Status
from ..views.formats import format_age, format_span
from ..views.sight import look_at_driver
from .common import json_option, on_experiment, open_store, print_columns, print_json, print_lines


@click.command()
@on_experiment
@click.option(
    "--wait-in-sec",
    type=click.FloatRange(min=0.0),
    default=WAIT_S,
    show_default=True,
    help="How long to stay while no driver is heard of.",
)
def join(name: str, local_dir: Path, wait_in_sec: float) -> None:
    """Lend the nodes of this Slurm job to a sweep, as long as it can use them.

    For a batch script, or sbatch --wrap "slurm-sweeps join NAME". The driver of the sweep starts
    its trials here, with the share that its SlurmCfg gives each. Ends with 0 when nothing is left
    to do, and with 75 when the job was told to end, or a person has stopped the sweep.
    """
    check_not_inside_a_step(os.environ)
    check_owned(Layout(local_dir, name))
    with open_store(local_dir, name):  # says what is wrong before Slurm is asked
        pass
    allocation = read_allocation(os.environ)
    if allocation is None:
        raise UsageError(
            "join lends the nodes of a Slurm job, and this process is in none: say "
            f"sbatch … --wrap 'slurm-sweeps join {name}'"
        )
    lender = Lender(Layout(local_dir, name), allocation, False, click.echo, wait_in_sec)
    with StopSignals() as signals:
        step = lender.lend(signals)
    sys.exit(0 if step is Step.END else 75)


@click.command()
@on_experiment
@json_option
def jobs(name: str, local_dir: Path, as_json: bool) -> None:
    """Show a sweep's Slurm jobs: who lends what, since when, until when, and what ran there."""
    with open_store(local_dir, name) as store:
        now = time.time()
        found = read_job_rows(store.database, store.experiment, now)
    if as_json:
        print_json([each.describe() for each in found])
        return
    if look_at_driver(store.experiment, now).is_at_work and (lease := store.experiment.lease):
        click.echo(f"the driver is process {lease.owner.pid} on {lease.owner.host}")
    if found:
        print_columns(format_job_rows(found, now))
        print_lines(f"{each.name}: {note}" for each in found if (note := each.note))
    else:
        click.echo(f"no Slurm job has lent its nodes to {name!r}; squeue --me shows what waits")


class JobRow(NamedTuple):
    """A job, how many attempts run there now, and how many have ended there, for whatever reason.

    A job of a driver that is gone has gone too.
    """

    job: JobRecord
    running: int
    ended: int

    @property
    def name(self) -> str:
        """Its id; of an array's task what squeue shows, as the array's number is the id of one."""
        found: str | None = json.loads(self.job.offer).get("array_task")
        return found or self.job.job_id

    @property
    def note(self) -> str:
        """What else is to be said of it: why it has gone, say."""
        restart = f"restart {self.job.restarts}" if self.job.restarts else ""
        return "; ".join(filter(None, (restart, self.job.note)))

    def describe(self) -> dict[str, Any]:
        """Describe it, JSON-able; times in seconds since 1970."""
        told = dataclasses.asdict(self.job) | {"running": self.running, "ended": self.ended}
        del told["can_drive"], told["offer"]
        return told


def read_job_rows(database: Database, experiment: ExperimentRecord, now: float) -> list[JobRow]:
    """Read the jobs of an experiment, in the order in which they came."""
    with database.reading():
        jobs = read_jobs(database, experiment.id)
        attempts = read_attempts(database, experiment.id) if jobs else []
    is_at_work = look_at_driver(experiment, now).is_at_work
    counts = Counter(
        (each.job_id, _find_stay(jobs, each.job_id, each.start_time), each.status is Status.RUNNING)
        for each in attempts
    )
    rows = []
    for job in jobs:
        running, ended = (counts[job.job_id, job.restarts, runs] for runs in (True, False))
        if not is_at_work and job.state is JobState.DRIVING:
            job = dataclasses.replace(job, state=JobState.GONE)
        rows.append(JobRow(job, running if is_at_work else 0, ended))
    return rows


def _find_stay(jobs: Sequence[JobRecord], job_id: str | None, at: float | None) -> int | None:
    """Return in which of a job's stays something began."""
    stays = [job for job in jobs if job.job_id == job_id and job.since <= (at or 0.0)]
    return max((job.restarts for job in stays), default=None)


def format_job_rows(rows: Sequence[JobRow], now: float) -> Iterator[tuple[str, ...]]:
    """Write jobs as cells of a table, with the titles first; it is to fit into 80 columns."""
    yield ("job", "state", "nodes", "slots", "came", "ends", "runs", "ended")
    for each in rows:
        row, running, ended = each
        first, *others = row.nodes.split(",")
        nodes = f"{first} +{len(others)}" if others else first
        left = "-" if row.ends_at is None else f"in {format_span(row.ends_at - now)}"
        if row.state.is_over:
            left = "-" if row.ended_at is None else f"{format_age(now - row.ended_at)} ago"
        slots = "-" if row.slots is None else str(row.slots)
        came, counts = f"{format_age(now - row.since)} ago", (str(running), str(ended))
        yield (each.name, row.state.value, nodes, slots, came, left, *counts)
