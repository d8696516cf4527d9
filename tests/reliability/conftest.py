"""Scripts for the tests of this folder: no process may be left, and `verify` finds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reliable_sweeps import Runs, Script, assert_derived

from cluster_tools.processes import leftover_processes


@pytest.fixture
def make_script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Make scripts: `make_script(folder, source, **settings)`; they are ended with the test."""
    scripts: list[Script] = []

    def make(folder: str, *source: str, **settings: object) -> Script:
        scripts.append(Script(tmp_path / folder, *source, **settings))
        return scripts[-1]

    yield make
    left = [process for script in scripts for process in leftover_processes(script.mark)]
    for script in scripts:
        script.kill_all()
    assert not left, f"processes were left: {left}"
    for script in scripts:
        assert_derived(script.database)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """Sweeps in this process."""
    runs = Runs(tmp_path / "out")
    yield runs
    assert_derived(runs.database)
