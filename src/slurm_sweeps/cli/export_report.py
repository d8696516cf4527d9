"""The verbs that write files: `export` and `report`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import SlurmSweepsError, StorageError, UsageError, say_count
from ..result import Result
from .common import on_experiment, open_store

if TYPE_CHECKING:
    import pandas as pd

_FILE = click.Path(path_type=Path, dir_okay=False)
_KINDS = click.Choice(["tensorboard", "mlflow", "wandb", "optuna"])
_SUFFIXES = (".csv", ".parquet", ".json")


@click.command()
@on_experiment
@click.option(
    "--output",
    "-o",
    "target",
    help="A .csv, .parquet or .json (CSV is printed by default); with --to a folder (tensorboard), "
    "a tracking URI (mlflow), a project (wandb), a storage or .db file (optuna).",
)
@click.option("--metrics", is_flag=True, help="All that was logged, instead of one row a trial.")
@click.option("--to", "kind", type=_KINDS, help="Send the trials to this tool.")
def export(name: str, local_dir: Path, target: str | None, metrics: bool, kind: str | None) -> None:
    """Write the trials, or all that they have logged, as a table, or send them to another tool.

    What a tool was sent before, while the sweep ran for instance, is not sent again. In CSV, an
    apostrophe is put before texts that a spreadsheet would run as a formula.
    """
    if kind is not None:
        _send(name, local_dir, kind, target, metrics)
        return
    output = None if target is None else Path(target)
    if output is not None and output.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"the suffix of {str(output)!r} says no known format; there are {', '.join(_SUFFIXES)}"
        )
    with open_store(local_dir, name):
        pass  # says at once what is wrong with name or folder
    result = Result(name, local_dir)
    frame = result.metrics_dataframe() if metrics else result.to_dataframe()
    if output is None:
        _disarm(frame).to_csv(sys.stdout, index=False)
        return
    try:
        _write(frame, output)
    except OSError as error:
        raise StorageError(f"{output} can't be written: {error}") from error
    except ImportError as error:
        raise UsageError(
            "parquet needs pyarrow: pip install 'slurm-sweeps[parquet]', or write csv or json"
        ) from error
    click.echo(f"wrote {len(frame)} rows to {output}", err=True)


def _send(name: str, local_dir: Path, kind: str, target: str | None, metrics: bool) -> None:
    from ..track.follow import build_tracker, send_once

    if metrics:
        raise click.UsageError("--metrics goes with a table; --to sends all metrics")
    with open_store(local_dir, name) as store:
        layout = store.layout
    tracker = build_tracker(kind, target)
    try:
        count = send_once(layout, tracker)
    except SlurmSweepsError:
        raise
    except Exception as error:  # of any library, or a network
        what = f"{type(error).__name__}: {error}"
        raise StorageError(f"{name!r} can't be sent to {tracker!r}: {what}") from error
    click.echo(f"sent news of {say_count(count, 'trial')} to {tracker!r}", err=True)


def _write(frame: pd.DataFrame, output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix == ".csv":
        _disarm(frame).to_csv(output, index=False)
    elif suffix == ".json":
        frame.to_json(output, orient="records", date_format="iso", date_unit="us", indent=1)
    else:
        frame.to_parquet(output, index=False)


def _disarm(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before texts that begin like a formula (a CSV file can't tell the two)."""
    texts = [name for name, dtype in frame.dtypes.items() if dtype.kind == "O"]
    return frame.assign(**{str(name): frame[name].map(_disarm_cell) for name in texts})


def _disarm_cell(value: Any) -> Any:
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r"):
        return value
    with contextlib.suppress(ValueError):
        float(value)
        return value  # a number harms nobody
    return f"'{value}"


@click.command()
@on_experiment
@click.option("--output", "-o", type=_FILE, default="report.html", show_default=True)
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
def report(name: str, local_dir: Path, output: Path, open_it: bool) -> None:
    """Write one HTML file that shows the whole sweep and opens anywhere, offline too."""
    with open_store(local_dir, name):
        pass
    path = Result(name, local_dir).report(output)
    click.echo(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)", err=True)
    if open_it:
        click.launch(str(path))
