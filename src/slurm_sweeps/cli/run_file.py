"""`run`, a sweep that a YAML file tells of; and `log`, for the programs that it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SlurmSweepsError, SweepFailedError, UsageError
from .common import prefer_own

if TYPE_CHECKING:
    from ..experiment.experiment import Experiment

EXAMPLE = """\
name: lr-search
command: python train.py --lr {lr} --width {net.width} --out {checkpoint_dir}
metrics: 'epoch (?P<iteration>\\d+).*val_loss=(?P<loss>\\S+)'
cfg:
  lr: {loguniform: [1e-5, 1e-1]}
  net:
    width: {integer: [8, 256]}
    activation: {choice: [relu, gelu]}
  epochs: 20
asha: {metric: loss, mode: min}
n_trials: 200
slurm: {ntasks: 1}
"""

_HELP = f"""Run the sweep of a program that the YAML file PATH tells of.

Its keys are the arguments of ss.Program (command, metrics, result, files, cwd, env, …), of
ss.Experiment (name, cfg, local_dir, seed, …) and of run (n_trials, max_concurrent_trials, …); asha,
hyperband or median_stopping; slurm (ss.SlurmCfg) and local (ss.LocalCfg); random, model or optuna
for the sampler. Spaces are written {{loguniform: [1e-5, 1e-1]}}. The program, its script and
templates are looked for beside the file. What was begun under the name goes on, unless the file
says overwrite: true. It runs on this machine, or inside of a Slurm job on that one's nodes.

\b
{EXAMPLE}"""


@click.command("run", help=_HELP)
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--local-dir",
    type=click.Path(path_type=Path, file_okay=False),
    callback=prefer_own,
    help="The folder of the database, whatever the file says.",
)
@click.option("--try", "is_try", is_flag=True, help="Run one trial by hand, here, and show it.")
def run_file(path: Path, local_dir: Path | None, is_try: bool) -> None:
    from ..experiment.sweep_file import read_sweep_file, say_as_in_file, told_with_line, try_once

    try:
        experiment, arguments = read_sweep_file(path, local_dir)
        with told_with_line(path):
            said = try_once(experiment) if is_try else _run(experiment, arguments)
    except SlurmSweepsError as error:
        error.args = (say_as_in_file(path, str(error)),)
        raise
    click.echo(said, nl=bool(said))


def _run(experiment: Experiment, arguments: dict[str, Any]) -> str:
    """Run a sweep; say what is the best trial, of several objectives the front, or why none is."""
    result, goals = experiment.run(**arguments), len(experiment._search.goals)
    if goals != 1:
        return "\n".join(map(str, result.front())) if goals else ""
    try:
        return str(result.best_trial())
    except UsageError as error:  # not the file's fault
        raise SweepFailedError(str(error)) from None


@click.command("log", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def log_metrics(words: tuple[str, ...]) -> None:
    """Report metrics of the trial in which this is called: NAME=VALUE … --iteration N."""
    from ..programs.log_line import log_line

    sys.exit(log_line(words))
