"""The command `slurm-sweeps`: what people ask of a sweep, from any host that sees its database.

Each verb is a function, in the module that has its name, which is loaded when it is called; what
they share is in `common`. Heavy libraries are imported where they are used.
"""

from __future__ import annotations

from pathlib import Path

import click

from .. import __version__
from .common import Commands, early_local_dir_option

#: Those of each module, in the order in which the help lists them, and their functions where these
#: have other names.
_VERBS = {
    "run_file": "run=run_file log=log_metrics",
    "list_show_watch_best": "list=list_experiments show watch best",
    "trial_logs": "trial=show_trial logs",
    "verify_whatif": "compare whatif verify sensitivity forecast",
    "export_report": "export report",
    "join_jobs": "join jobs",
    "stop_retry_rm": "stop retry add rm=remove",
    "doctor": "doctor",
    "common": "completion",
}


@click.group(cls=Commands, verbs=_VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurm-sweeps")
@early_local_dir_option
def main(local_dir: Path | None) -> None:
    """Look at sweeps, while they run or afterwards, and steer them.

    Everything is read from the database in the sweep's folder: --local-dir, or the environment
    variable SLURM_SWEEPS_DIR, or ./slurm-sweeps. The exit code is 0 when all is well, 1 when
    something could not be done, and 2 when the command was called wrongly or what it names is not
    there.
    """
