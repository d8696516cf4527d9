"""One run of all tests by several processes: each takes the files that no other has taken yet.

`tools/run-tests` starts them. A file is run by one process, so that what its tests share is made
once. Tests that use the cluster wait more than they work: each process but the first leaves them
for last, so that one has them while others work, and all end at about the same time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest


def run_shared(session: pytest.Session, folder: Path, cluster_first: bool) -> None:
    """Run as many of a session's tests as this process gets, as pytest's own loop does.

    Args:
        session: What was collected, by all processes alike.
        folder: Of this run alone, where a taken file is noted.
        cluster_first: Whether to begin with tests that use the cluster.
    """
    for file in _order(session.items, cluster_first):
        if not _is_mine(file, folder):
            continue
        # Nobody knows which file comes next: what belongs to the session alone is kept for it.
        for item, following in zip(file, [*file[1:], session], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)


def _order(items: Iterable[pytest.Item], cluster_first: bool) -> list[list[pytest.Item]]:
    """Part them into files, those of unit tests last: they are short, and fill what is left.

    The others begin at the end, where ranks and reliability are, whose files take longest.
    """
    files = [list(own) for _, own in itertools.groupby(items, lambda item: item.path)]

    def rank(file: list[pytest.Item]) -> tuple[bool, bool]:
        marks = {mark.name for item in file for mark in item.iter_markers()}
        return "unit" in marks, ("cluster" in marks) != cluster_first

    files.reverse()
    return sorted(files, key=rank)


def _is_mine(file: list[pytest.Item], folder: Path) -> bool:
    """Take a file, unless another process has."""
    name = file[0].nodeid.partition("::")[0]
    try:
        (folder / name.replace("/", "+")).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
