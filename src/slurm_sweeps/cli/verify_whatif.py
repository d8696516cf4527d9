"""The verbs that ask what is stored: `verify`, `whatif`, `compare`, `sensitivity`, `forecast`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from ..errors import UsageError
from ..replay.story import RULES, build_plan
from ..result import Result
from ..rules.protocol import PrunerPlan
from .common import json_option, on_experiment, open_store, print_answer

if TYPE_CHECKING:
    from ..replay.forecast import Forecast


@click.command()
@on_experiment
@json_option
def verify(name: str, local_dir: Path, as_json: bool) -> None:
    """Derive every decision again from the stored reports, and say where they differ.

    Ids, aggregates, and configurations where the sampler learns nothing, are derived again too.
    What differs was stored by another version, or edited, or shows a bug. Ends with 1 then.
    """
    verdict = Result(name, local_dir).verify()
    print_answer(verdict, as_json, dataclasses.asdict)
    sys.exit(0 if verdict else 1)


@click.command()
@on_experiment
@click.option("--metric", help="By default the experiment's, else the first that was logged.")
@json_option
def sensitivity(name: str, local_dir: Path, metric: str | None, as_json: bool) -> None:
    """Say how far a metric depends on each parameter: first-order and total indices.

    For sweeps of samplers.Saltelli; for those of Sobol, LatinHypercube and Random the first-order
    indices alone. With 95 % intervals.
    """
    print_answer(Result(name, local_dir).sensitivity(metric), as_json, _describe_sensitivity)


def _describe_sensitivity(found: Any) -> dict[str, Any]:
    pairs = [{"names": names, "index": s, "conf": c} for names, (s, c) in found.pairs.items()]
    return {**dataclasses.asdict(found), "pairs": pairs}


@click.command()
@on_experiment
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@json_option
def compare(name: str, local_dir: Path, top: int, as_json: bool) -> None:
    """Compare the best configurations of a sweep with a Repeat, by all of their runs.

    Mean, spread and interval of each, and its paired difference to the best.
    """
    comparison = Result(name, local_dir).compare(top)
    print_answer(comparison, as_json, dataclasses.asdict)


#: An option for a rule; without a value its defaults are meant.
_RULE: dict[str, Any] = {"metavar": "[ARGUMENTS]", "is_flag": False, "flag_value": ""}


@click.command()
@on_experiment
@click.option("--asha", **_RULE, help='As in Python: "reduction_factor=3, min_t=2".')
@click.option("--hyperband", **_RULE, help="Likewise; its defaults where nothing is said.")
@click.option("--median", **_RULE, help="Likewise: MedianStopping.")
@json_option
def whatif(name: str, local_dir: Path, as_json: bool, **rules: str | None) -> None:
    """Say what another rule would have stopped, when, and what that had saved or cost.

    The stored reports are judged by it in the order in which they came. Metric and mode are the
    experiment's unless they are among the ARGUMENTS.
    """
    with open_store(local_dir, name) as store:
        settings = store.experiment.settings
    said = {rule: text for rule, text in rules.items() if text is not None}
    if len(said) != 1:
        raise UsageError('say one rule, such as --asha "reduction_factor=3, min_t=2"')
    ((rule, text),) = said.items()
    plan = _read_rule(rule, text, settings)
    answer = Result(name, local_dir).what_if(plan)
    print_answer(answer, as_json, _describe)


#: The rules by their options.
_NAMES = {"asha": "ASHA", "hyperband": "Hyperband", "median": "MedianStopping"}


def _read_rule(rule: str, text: str, settings: Mapping[str, Any]) -> PrunerPlan:
    """Build a rule of `name=value, …`; what isn't said is the experiment's, or its default."""
    judged = settings.get("asha") or settings
    known: dict[str, Any] = {key: judged.get(key) for key in ("metric", "mode")}
    for part in filter(None, map(str.strip, text.split(","))):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"--{rule}: {part!r} is none of name=value, name=value")
        known[key.strip()] = yaml.safe_load(value)
    missing = [key for key in ("metric", "mode") if known[key] is None]
    if missing:
        raise UsageError(f"--{rule}: the experiment has no {missing[0]}: say {missing[0]}=…")
    names = [each.name for each in dataclasses.fields(RULES[_NAMES[rule]])]  # type: ignore[arg-type] # all are dataclasses
    unknown = next((key for key in known if key not in names), None)
    if unknown is not None:
        raise UsageError(f"--{rule} has no {unknown!r}; there are {', '.join(names)}")
    return build_plan({"rule": _NAMES[rule], **known})


def _describe(answer: Any) -> dict[str, Any]:
    """Describe what a rule would have done, trials by their ids."""
    described = {each.name: getattr(answer, each.name) for each in dataclasses.fields(answer)}
    lost = answer.winner_stopped
    return described | {
        "plan": repr(answer.plan),
        "stopped": [
            {"trial": each.trial.trial_id, "iteration": each.iteration} for each in answer.stopped
        ],
        "unknown": [trial.trial_id for trial in answer.unknown],
        "winner": answer.winner and answer.winner.trial_id,
        "winner_stopped": lost and lost.iteration,
    }


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
    print_answer(answer, as_json, _describe_forecast)


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
