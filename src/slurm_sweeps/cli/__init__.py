"""The command `slurm-sweeps`: what people ask of a sweep, from any host that sees its database.

Each verb is a function, in the module that has its name; what they share is in `common`. Heavy
libraries are imported where they are used, so that `slurm-sweeps list` answers at once.
"""

from __future__ import annotations

from pathlib import Path

import click

from .. import __version__
from .common import Commands, completion, early_local_dir_option
from .doctor import doctor
from .export_report import export, report
from .join_jobs import jobs, join
from .list_show_watch_best import best, list_experiments, show, watch
from .run_file import log_metrics, run_file
from .stop_retry_rm import add, remove, retry, stop
from .trial_logs import logs, show_trial
from .verify_whatif import compare, forecast, sensitivity, verify, whatif


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurm-sweeps")
@early_local_dir_option
def main(local_dir: Path | None) -> None:
    """Look at sweeps, while they run or afterwards, and steer them.

    Everything is read from the database in the sweep's folder: --local-dir, or the environment
    variable SLURM_SWEEPS_DIR, or ./slurm-sweeps. The exit code is 0 when all is well, 1 when
    something could not be done, and 2 when the command was called wrongly or what it names is not
    there.
    """


for command in (
    run_file,
    list_experiments,
    show,
    watch,
    best,
    compare,
    show_trial,
    logs,
    export,
    report,
    whatif,
    verify,
    sensitivity,
    forecast,
    join,
    jobs,
    stop,
    retry,
    add,
    remove,
    log_metrics,
    doctor,
    completion,
):
    main.add_command(command)
