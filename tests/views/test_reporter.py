"""The report that a running sweep keeps up to date: real children, a clock that is handed in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster_tools.processes import wait_until
from slurm_sweeps.storage.layout import Layout
from slurm_sweeps.trial import Status
from slurm_sweeps.views.reporter import FIRST_S, PAUSE_S, Reporter
from views_samples import write_sample

pytest.importorskip("plotly")


def test_only_a_report_loads_what_a_report_is_made_with() -> None:
    code = "import slurm_sweeps.experiment.experiment, slurm_sweeps.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "slurm_sweeps.views.screens" in loaded
    for name in ("jinja2", "plotly", "pandas", "sklearn", "slurm_sweeps.views.report"):
        assert name not in loaded


def test_it_is_written_soon_then_now_and_then(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    reporter = Reporter(write_sample(tmp_path, statuses=[Status.COMPLETED]), page)
    reporter.keep_up(100.0)
    assert reporter._process is None

    reporter.keep_up(100.0 + FIRST_S)
    process = reporter._process
    assert process is not None
    wait_until(lambda: process.poll() is not None, 60, lambda: "the first report")
    assert page.exists()

    reporter.keep_up(200.0)  # takes note that it is done
    reporter.keep_up(199.0 + PAUSE_S)
    assert reporter._process is None
    page.unlink()
    reporter.keep_up(200.0 + PAUSE_S)
    assert reporter._process is not None
    assert reporter.finish(in_a_hurry=False) is None  # ends that one, and writes the last
    assert page.exists()
    assert [path.name for path in tmp_path.glob(".report*")] == []


def test_a_job_that_ends_is_not_kept_waiting(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    reporter = Reporter(write_sample(tmp_path, statuses=[Status.COMPLETED]), page)
    assert reporter.finish(in_a_hurry=True) is None
    wait_until(page.exists, 60, lambda: "the report, written by a process that is left to itself")


def test_why_it_failed_is_told(tmp_path: Path) -> None:
    reporter = Reporter(Layout(tmp_path, "nothing"), tmp_path / "report.html")
    problem = reporter.finish(in_a_hurry=False)
    assert problem is not None
    assert problem.startswith("the report could not be written: slurm-sweeps: there is no database")
