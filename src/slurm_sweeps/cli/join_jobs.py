"""The verbs about a sweep's Slurm jobs: `join`, by which one lends its nodes, and `jobs`."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import click

from ..errors import UsageError
from ..experiment.claim import check_owned
from ..experiment.join import WAIT_S, Lender, Step
from ..running.background import StopSignals
from ..slurm.allocation import check_not_inside_a_step
from ..slurm.client import read_allocation
from ..storage.layout import Layout
from ..views.jobs import format_job_rows, read_job_rows
from .common import json_option, on_experiment, open_store, print_columns, print_json


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
    check_owned(local_dir)
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
        print_json([dataclasses.asdict(each) for each in found])
    elif not found:
        click.echo(f"no Slurm job has had a part in {name!r}")
    else:
        print_columns(format_job_rows(found, now))
