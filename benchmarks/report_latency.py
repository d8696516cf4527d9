"""Measure how long `ss.log` takes in a trial on this machine, with an empty and a full database.

The way of a report: trial, driver, and the decision back. One JSON line for each figure.

    python benchmarks/report_latency.py [--rows 1000000] [--reports 5000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import slurm_sweeps as ss
from slurm_sweeps.storage.database import Database
from slurm_sweeps.storage.records import ReportRecord
from slurm_sweeps.storage.writer import Writer

METRICS_A_REPORT = 4


def main() -> None:
    """Measure with no rows, fill the database, measure again."""
    options = parse_options()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(folder, 1, options.reports, rows=0)
        fill(Path(folder), options.rows)
        measure(folder, 2, options.reports, rows=options.rows)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that are there already")
    parser.add_argument("--reports", type=int, default=5000, help="calls of log to measure")
    parser.add_argument("--folder", default=None, help="where to write; default: /tmp")
    return parser.parse_args()


def measure(folder: str, n_trials: int, reports: int, rows: int) -> None:
    """Run one trial (more) that measures its own calls of `log`."""

    def train(_cfg: dict[str, Any]) -> None:
        spans = []
        for iteration in range(reports):
            begin = time.perf_counter()
            ss.log({"loss": 0.5, "accuracy": 0.5, "val/loss": 0.5, "val/accuracy": 0.5}, iteration)
            spans.append(time.perf_counter() - begin)
        (ss.trial_dir() / "spans.json").write_text(json.dumps(spans))

    experiment = ss.Experiment(train, {}, name="bench", local_dir=folder, restore="auto")
    with contextlib.redirect_stdout(sys.stderr):  # the summary; figures go to standard output
        result = experiment.run(n_trials, max_concurrent_trials=1, summary_interval_in_sec=3600)
    trial_id = result.to_dataframe()["trial_id"].iloc[-1]
    spans = json.loads((Path(folder) / "bench" / trial_id / "spans.json").read_text())
    for percent in (50, 99):
        value = statistics.quantiles(spans, n=100)[percent - 1] * 1e6
        print(
            json.dumps(
                {
                    "figure": "log",
                    "value": float(f"{value:.4g}"),
                    "unit": "µs",
                    "percentile": percent,
                    "rows": rows,
                    "reports": reports,
                },
                ensure_ascii=False,
            ),
            flush=True,
        )


def fill(folder: Path, rows: int) -> None:
    """Add rows to the first trial's metrics."""
    metrics = {f"metric {index}": 0.5 for index in range(METRICS_A_REPORT)}
    with Database.open(folder / "slurm-sweeps.db") as database:
        key = database.experiment("bench").id
        with Writer(database.path, key) as writer:
            for iteration in range(rows // METRICS_A_REPORT):
                writer.put(ReportRecord(0, 1, iteration, metrics, time.time()))


if __name__ == "__main__":
    main()
