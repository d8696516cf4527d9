"""The verbs that show many trials: `list`, `show`, `watch`, `best`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..storage.database import Database
from ..storage.layout import Layout, build_database_path
from ..storage.rows import read_driver_runs, read_metric_ids
from ..trial import Status
from ..views.formats import format_age, format_number, format_provenance, format_yaml
from ..views.ranking import SCOPES, choose_goal, read_ranking
from ..views.sight import look_at_driver
from ..views.summary import (
    Row,
    Summary,
    check_columns,
    format_share,
    format_state,
    read_first_rows,
    read_rows,
    read_summary,
    sort_rows,
)
from .common import (
    json_option,
    local_dir_option,
    on_experiment,
    open_store,
    print_columns,
    print_json,
    print_lines,
)

#: The width of a line where nobody looks at a terminal: all columns of a table.
_ENDLESS = 100_000

_STATUSES = click.Choice([status.value for status in Status])


#: `--columns`: the names that were said, True where none were.
columns_option = click.option(
    "--columns",
    metavar="A,B,…",
    help="Names of cfg keys and metrics, host, error, ….",
    callback=lambda _ctx, _param, said: said is None or [name.strip() for name in said.split(",")],
)


@click.command("list")
@local_dir_option
@json_option
def list_experiments(local_dir: Path, as_json: bool) -> None:
    """List the experiments: state, counts, best value, age."""
    now = time.time()
    with Database.open(build_database_path(local_dir), read_only=True) as database:
        records = database.experiments()
        found = [read_summary(database, Layout(local_dir, each.name), 0, now) for each in records]
    if as_json:
        print_json([_describe(summary, now) for summary in found])
        return
    lines = [
        (
            summary.name,
            format_state(summary),
            format_share(summary),
            _format_best(summary),
            f"{format_age(now - record.created_at)} ago",
        )
        for summary, record in zip(found, records, strict=True)
    ]
    print_columns([("experiment", "state", "trials", "best", "begun"), *lines])


def _format_best(summary: Summary) -> str:
    best = summary.best
    if summary.front:
        return f"front of {len(summary.front)}"
    return "-" if best is None else f"{summary.metric} {format_number(best.value)}"


def _describe(summary: Summary, now: float) -> dict[str, Any]:
    best = summary.best
    names = ("name", "state", "ended_by", "silent_s", "done", "n_trials", "slots", "metric", "mode")
    return {
        **{name: getattr(summary, name) for name in names},
        "counts": {status.value: count for status, count in summary.counts.items()},
        "out_of_memory": sum(summary.out_of_memory.values()),
        "elapsed_s": summary.compute_elapsed_s(now),
        "left_s": summary.compute_left_s(now),
        "best": None if best is None else asdict(best),
        "objectives": [list(goal) for goal in summary.objectives],
        "front": [{"number": n, "values": list(v)} for n, v in summary.front.items()],
    }


def _describe_row(row: Row) -> dict[str, Any]:
    return {
        "trial_id": row.trial_id,
        "status": row.status.value,
        "iteration": row.iteration,
        "runtime_s": row.runtime_s,
        "best": row.best,
        **row.more,
        "cfg": dict(row.cfg),
        "last": dict(row.metrics),
    }


@click.command()
@on_experiment
@json_option
@click.option(
    "--sort", metavar="COLUMN", help="Sort by this column; by default the best come first."
)
@click.option("--reverse", is_flag=True, help="Sort the other way round.")
@click.option("--status", "statuses", type=_STATUSES, multiple=True, help="Only these; repeatable.")
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Rows.")
@columns_option
def show(
    name: str,
    local_dir: Path,
    as_json: bool,
    sort: str | None,
    reverse: bool,
    statuses: tuple[str, ...],
    limit: int,
    columns: bool | list[str],
) -> None:
    """Show an experiment: a summary, and a table of its trials; with --status failed, why.

    Columns that don't fit the terminal are left out; all are there when the output is piped.
    """
    now = time.time()
    chosen = [Status(status) for status in statuses] or None
    with open_store(local_dir, name) as store:
        database, experiment = store.database, store.experiment
        summary = read_summary(database, store.layout, 0, now)
        runs = read_driver_runs(database, experiment.id)
        if columns is True and chosen and all(status.is_broken for status in chosen):
            columns = ["error"]
        if sort is None:
            shown, count = read_first_rows(database, experiment, chosen, now, limit, reverse)
        else:
            found = read_rows(database, experiment, chosen, now)
            shown, count = sort_rows(found, sort, reverse, summary.mode)[:limit], len(found)
        asked = [] if isinstance(columns, bool) else columns
        if not {*asked} <= {name for row in shown for name in row.columns}:  # others may have it
            check_columns(asked, read_rows(database, experiment, chosen, now))
    if as_json:
        described = _describe(summary, now)
        provenance = dict(runs[-1].told) if runs else None
        trials = [_describe_row(row) for row in shown]
        print_json({**described, "provenance": provenance, "trials": trials})
        return
    _print_summary(replace(summary, rows=shown), columns, now)
    print_lines(f"code: {format_provenance(run.told)}" for run in runs[-1:])
    if count > len(shown):
        click.echo(f"{len(shown)} of {count} trials; --limit shows more")


def _print_summary(summary: Summary, columns: bool | Sequence[str], now: float) -> None:
    from rich.console import Console

    from ..views.table import draw_summary, format_summary

    if not sys.stdout.isatty():
        print_lines(format_summary(summary, columns, _ENDLESS, now))
        return
    console = Console(highlight=False)
    console.print(draw_summary(summary, columns, console.size.width, now))


@click.command()
@on_experiment
@click.option("--interval", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--rows", type=click.IntRange(0), help="By default as many as there is room for.")
@columns_option
@click.option("--no-wait", is_flag=True, help="End where no driver is at work.")
def watch(
    name: str,
    local_dir: Path,
    interval: float,
    rows: int | None,
    columns: bool | list[str],
    no_wait: bool,
) -> None:
    """Show the live table of an experiment until it is over; wait for its driver where none runs.

    It is over when it is completed, by time or target too: then this ends with 0. It ends with 1
    when the driver has failed meanwhile, or a person has stopped it.
    """
    from ..views.screens import LiveView

    path = build_database_path(local_dir)
    view = LiveView(path, name, interval_s=interval, rows=rows, columns=columns)
    try:
        summary = view.watch(waits=not no_wait)
    except KeyboardInterrupt:
        sys.exit(130)
    is_completed = summary.state == "completed"
    said = f"{name!r} is over" if is_completed else f"no driver is at work on {name!r}"
    click.echo(f"{said}: {format_state(summary)}, {format_share(summary)}")
    sys.exit(0 if is_completed else 1)


@click.command()
@on_experiment
@json_option
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--metric", help="By default the experiment's.")
@click.option("--mode", type=click.Choice(["min", "max"]), help="By default the experiment's.")
@click.option(
    "--scope", type=click.Choice(SCOPES), default="best", show_default=True, help="Which value."
)
@click.option("--completed", is_flag=True, help="No trial that was pruned, failed or runs.")
def best(
    name: str,
    local_dir: Path,
    as_json: bool,
    top: int,
    metric: str | None,
    mode: str | None,
    scope: str,
    completed: bool,
) -> None:
    """Print the best configuration as YAML, ready to paste.

    It is that of the trial with the best value at any iteration, or at its last one (--scope last).
    """
    with open_store(local_dir, name) as store:
        database, experiment = store.database, store.experiment
        names = read_metric_ids(database, experiment.id)
        logged = ", ".join(map(repr, names)) or "nothing yet"
        if metric is not None and metric not in names:
            raise UsageError(f"no trial has logged {metric!r}; logged: {logged}")
        goal = choose_goal(experiment, metric, mode)
        sight = look_at_driver(experiment, time.time())
        ranking = read_ranking(database, experiment, goal, top, scope, completed)
    if not ranking:
        raise UsageError(f"no trial has logged a finite value of {goal.metric!r}; logged: {logged}")
    found = [
        {
            **asdict(best),
            "status": sight.settle(trial).status.value,
            "metric": goal.metric,
            "cfg": json.loads(trial.cfg_json),
        }
        for trial, best in ranking
    ]
    if as_json:
        print_json(found)
        return
    for number, each in enumerate(found):
        click.echo("---\n" if number else "", nl=False)
        value = f"{goal.metric} {format_number(each['value'])} at iteration {each['iteration']}"
        value += f", mean of {each['runs']} runs" if each["runs"] > 1 else ""
        print_lines([f"# trial {each['trial_id']} ({each['status']}): {value}"])
        click.echo(format_yaml(each["cfg"]))
