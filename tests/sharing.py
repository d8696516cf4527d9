"""One run of all tests by several processes: each takes the files that no other has taken yet.

`tools/run-tests` starts them. A file is run by one process, so that what its tests share is made
once; and imported by that one alone. Files with tests of the cluster wait more than they work: half
of the processes begin with these, so that there is always one who waits beside one who works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

#: Files that take longest, the longest first: begun last, one of them would keep all waiting.
LONGEST = (
    "ranks/test_examples.py",
    "reliability/test_slurm_away.py",
    "reliability/test_on_slurm.py",
    "reliability/test_joined_jobs.py",
    "docs/test_pages.py",
    "reliability/test_chaos.py",
    "ranks/test_rank_faults.py",
    "running/test_fork_libraries.py",
    "reliability/test_told_to_stop.py",
    "programs/test_program.py",
    "cluster/test_other_clusters.py",
    "cluster/test_shares.py",
    "test_cluster_itself.py",
    "views/test_report.py",
    "running/test_user_scripts.py",
    "track/test_track.py",
)


class Turn(pytest.Module):
    """A file whose tests are collected when it is its turn; until then it has none."""

    has_come = False

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Collect the tests, as any file does, or none."""
        return super().collect() if self.has_come else []


class Share:
    """Has pytest run as many files as this process gets; a plugin.

    Args:
        folder: Of this run alone, where a taken file is noted.
        cluster_first: Whether to begin with tests that use the cluster.
        is_short: Whether a file is so quick that it fills what is left at the end.
    """

    def __init__(self, folder: Path, cluster_first: bool, is_short: Callable[[Path], bool]) -> None:
        self._folder = folder
        self._cluster_first = cluster_first
        self._is_short = is_short
        self._files: list[Turn] = []

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> Turn:
        """Leave each file for later."""
        self._files.append(Turn.from_parent(parent, path=module_path))
        return self._files[-1]

    def pytest_report_collectionfinish(self) -> str:
        """Say why none was collected."""
        return f"{len(self._files)} files, shared with others and collected one by one"

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Collect and run file after file, as pytest's own loop does at once."""
        if session.testsfailed:  # a conftest.py is broken, which pytest says
            return None
        # What is being collected is shown in a terminal's last line, over what was said of tests.
        session.config.pluginmanager.get_plugin("terminalreporter").isatty = lambda: False
        self._files.sort(key=self._rank)
        for file in self._files:
            if self._is_mine(file):
                _collect(file, session)
                _run(session)
        return True

    def _rank(self, file: Turn) -> tuple[bool, bool, int]:
        """Say when it is a file's turn. Who uses the cluster has its fixture, or a mark."""
        name, text = file.nodeid.removeprefix("tests/"), file.path.read_text(encoding="utf-8")
        place = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        is_of_cluster = "SlurmCluster" in text or "mark.cluster" in text
        is_last = place == len(LONGEST) and self._is_short(file.path)
        return is_last, is_of_cluster != self._cluster_first, place

    def _is_mine(self, file: Turn) -> bool:
        """Take a file, unless another process has."""
        try:
            (self._folder / file.nodeid.replace("/", "+")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def _collect(file: Turn, session: pytest.Session) -> None:
    """Make a file's tests the session's, as far as they were asked for."""
    file.has_come = True
    session.items = list(session.genitems(file))
    session.config.hook.pytest_collection_modifyitems(
        session=session, config=session.config, items=session.items
    )
    session.testscollected += len(session.items)


def _run(session: pytest.Session) -> None:
    """Run a file's tests."""
    # Nobody knows which file comes next: what belongs to the session alone is kept for it.
    for item, following in zip(session.items, [*session.items[1:], session], strict=False):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
