"""`slurm-sweeps log`: what a program calls, in any language, to report to the sweep that runs it.

It stands apart from the other verbs, as it must answer in a moment and needs nothing of theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import SlurmSweepsError, TrialInterrupted, TrialPruned, UsageError
from ..running.session import log

#: Exit code that asks the program to end: the trial is pruned, or the sweep is being stopped.
EXIT_LEAVE = 3


def log_line(words: Sequence[str]) -> int:
    """Report `NAME=VALUE …` of the trial that called this; return the exit code."""
    parser = argparse.ArgumentParser(
        "slurm-sweeps log",
        description="Report metrics of the trial in which this is called. Prints nothing. The exit "
        f"code is 0 to go on and {EXIT_LEAVE} to end: the trial is not among the best, or the "
        "sweep is being stopped. Outside a trial it prints the metrics and says to go on.",
    )
    parser.add_argument("metrics", metavar="NAME=VALUE", nargs="+", help="A metric, a number.")
    parser.add_argument(
        "--iteration", type=int, required=True, help="Epoch, step: counts the progress, from 0."
    )
    asked = parser.parse_args(words)
    try:
        log(dict(map(_read_metric, asked.metrics)), asked.iteration)
    except (TrialPruned, TrialInterrupted):
        return EXIT_LEAVE
    except SlurmSweepsError as error:
        print(f"slurm-sweeps log: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _read_metric(word: str) -> tuple[str, float]:
    name, sign, value = word.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = None
    if not sign or number is None:
        raise UsageError(f"{word!r} is no metric: write NAME=NUMBER, like loss=0.31")
    return name, number
