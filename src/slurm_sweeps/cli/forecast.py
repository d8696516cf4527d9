"""The verb that plays a sweep on: `forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..result import Result
from .common import json_option, on_experiment, print_json, print_lines

if TYPE_CHECKING:
    from ..replay.forecast import Forecast


class _Numbers(click.Command):
    """A verb whose options may be followed by several numbers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write an option's name before each of its numbers, as click has it."""
        spread: list[str] = []
        for word in args:
            after = spread[-2] if len(spread) > 1 else ""
            if after in ("--slots", "--hours") and word.replace(".", "", 1).isdigit():
                spread.append(after)
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_Numbers)
@on_experiment
@click.option("--slots", type=int, multiple=True, metavar="N...", help="So many trials at once.")
@click.option("--hours", type=float, multiple=True, metavar="H...", help="So long from now on.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@json_option
def forecast(
    name: str,
    local_dir: Path,
    slots: tuple[int, ...],
    hours: tuple[float, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Say what more time and more slots will bring: the best value, and what it costs.

    The sweep is played on in simulated time, with its own curves and paces, drawn again. Without
    --hours only until it is done; without --slots with as many as it has.
    """
    answer = Result(name, local_dir).forecast(slots, hours, seed=seed)
    if as_json:
        print_json(_describe_forecast(answer))
    else:
        print_lines(str(answer).splitlines())


def _describe_forecast(answer: Forecast) -> dict[str, Any]:
    """Describe a forecast, each span by its names."""
    from ..replay.forecast import Span

    outlooks = [
        {
            key: value._asdict() if isinstance(value, Span) else value
            for key, value in vars(outlook).items()
        }
        for outlook in answer.outlooks
    ]
    return {**vars(answer), "outlooks": outlooks}
