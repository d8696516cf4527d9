"""`slurm-sweeps log`: what a program calls, in any language, to report to the sweep that runs it.

It stands apart from the other verbs, as it must answer in a moment and needs nothing of theirs: its
words are few, and read here, since argparse alone takes a quarter of the time of all the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ..errors import SlurmSweepsError, TrialInterrupted, TrialPruned, UsageError
from ..running.session import log

#: Exit code that asks the program to end: the trial is pruned, or the sweep is being stopped.
EXIT_LEAVE = 3

HELP = f"""\
usage: slurm-sweeps log NAME=VALUE [NAME=VALUE …] --iteration N

Report metrics of the trial in which this is called. Prints nothing. The exit code is 0 to go on
and {EXIT_LEAVE} to end: the trial is not among the best, or the sweep is being stopped. Outside a
trial it prints the metrics and says to go on.

  NAME=VALUE     A metric, a number.
  --iteration N  Epoch, step: counts the progress, from 0.
"""


def log_line(words: Sequence[str]) -> int:
    """Report `NAME=VALUE …` of the trial that called this; return the exit code."""
    if {"-h", "--help"} & {*words}:
        print(HELP, end="")
        return 0
    try:
        log(*_read_words(words))
    except (TrialPruned, TrialInterrupted):
        return EXIT_LEAVE
    except SlurmSweepsError as error:
        print(f"slurm-sweeps log: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _read_words(words: Sequence[str]) -> tuple[dict[str, float], int]:
    metrics, iteration = {}, None
    rest = iter(words)
    for word in rest:
        name, sign, value = word.partition("=")
        if len(name) > 2 and "--iteration".startswith(name):
            iteration = _read(int, "--iteration", value if sign else next(rest, ""))
        elif name.startswith("-") or not sign:
            raise UsageError(f"{word!r} is no metric: write NAME=NUMBER, like loss=0.31")
        else:
            metrics[name] = _read(float, name, value)
    if not metrics or iteration is None:
        raise UsageError("write NAME=NUMBER, once or more often, and --iteration N")
    return metrics, iteration


def _read(kind: type[Any], name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        wanted = "whole number" if kind is int else "number"
        raise UsageError(
            f"{name}={value} is no {wanted}: write NAME=NUMBER, like loss=0.31, and --iteration N"
        ) from None
