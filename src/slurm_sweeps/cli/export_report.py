"""The verbs that write files: `export` and `report`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import StorageError, UsageError
from ..result import Result
from .common import on_experiment, open_store

if TYPE_CHECKING:
    import pandas as pd

_FILE = click.Path(path_type=Path, dir_okay=False)
_SUFFIXES = (".csv", ".parquet", ".json")


@click.command()
@on_experiment
@click.option(
    "--output", "-o", type=_FILE, help="A .csv, .parquet or .json; CSV is printed by default."
)
@click.option("--metrics", is_flag=True, help="All that was logged, instead of one row a trial.")
def export(name: str, local_dir: Path, output: Path | None, metrics: bool) -> None:
    """Write the trials, or all that they have logged, as a table.

    In CSV, an apostrophe is put before texts that a spreadsheet would run as a formula.
    """
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
