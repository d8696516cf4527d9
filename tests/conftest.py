"""Fixtures for all tests: a clean environment, and a real Slurm for those that use `cluster`.

Unit tests are marked here, and held to start no process: see `unit_tests`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import settings

import unit_tests
from browser import Browser, reason_no_browser
from cluster_tools import (
    SlurmCluster,
    SlurmInstall,
    is_leaking,
    reason_unavailable,
    stop_orphans,
)
from cluster_tools.processes import end_processes, leftover_processes
from cluster_tools.requirement import require
from sharing import Share
from sweep_scripts import IS_CHAOS, Scripts

# No test asserts on time: a busy machine must not make one fail. In continuous integration all
# examples are the same in every run, so that a change fails for what it changes. `make test-unit`
# is content with half of them, `make chaos` has four times as many.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    max_examples=200 if IS_CHAOS else 50,
)
settings.register_profile("quick", settings.get_profile("steady"), max_examples=25)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    """Have each start of a process pass by where unit tests are told to leave it.

    What is started hears of a closed terminal, even if the tests themselves run under nohup.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.addaudithook(unit_tests.refuse_processes)
    folder: Path | None = config.getoption("--share")
    if folder is not None:
        share = Share(folder, config.getoption("--cluster-first"), unit_tests.is_place)
        config.pluginmanager.register(share)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    unit_tests.running = item.nodeid if item.get_closest_marker("unit") else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Let fixtures of the whole session, a cluster for instance, end what they have started."""
    unit_tests.running = None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `tools/run-tests` share the tests out."""
    parser.addoption("--share", type=Path, metavar="FOLDER", help="with others that are given it")
    parser.addoption("--cluster-first", action="store_true", help="of what is shared")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no files without a test that is asked for: one that has them says the word."""
    asked = config.getoption("-m")
    if asked not in ("unit", "cluster", "heavy") or not collection_path.is_file():
        return None
    if asked == "unit":
        return None if unit_tests.is_place(collection_path) else True
    return None if asked.encode() in collection_path.read_bytes() else True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark unit tests and those that use the cluster, and leave out what was not asked for.

    That is, tests that need a GPU or heavy libraries, or take long, unless `-m` speaks of them.
    """
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
        if unit_tests.is_unit(item):
            item.add_marker(pytest.mark.unit)
    config.hook.pytest_deselected(items=[i for i in items if not _is_chosen(i, config)])
    items[:] = [item for item in items if _is_chosen(item, config)]
    # What a test's sweep runs goes by value: no host has to import that file, and pytest with it.
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        cloudpickle.register_pickle_by_value(module)


def _is_chosen(item: pytest.Item, config: pytest.Config) -> bool:
    for marker in ("gpu", "heavy", "chaos"):
        if item.get_closest_marker(marker) and marker not in config.getoption("-m"):
            return False
    return True


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the allocation that the tests themselves may run in."""
    for name in filter(is_leaking, list(os.environ)):
        monkeypatch.delenv(name)


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    """A folder for scripts; afterwards, no process of theirs may be left."""
    scripts = Scripts(tmp_path)
    yield scripts
    left = leftover_processes(scripts.mark)
    end_processes(left, grace_s=0.0)
    assert not left, f"processes were left: {left}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real browser; in continuous integration (`CI=true`) its absence is a failure."""
    require(reason_no_browser(), os.environ, "browser")
    with Browser() as running:
        yield running


@pytest.fixture(scope="session")
def install() -> SlurmInstall:
    """This machine's Slurm, or that of the folder in SLURM_SWEEPS_SLURM (`make test-slurm24`)."""
    folder = os.environ.get("SLURM_SWEEPS_SLURM")
    return SlurmInstall.in_folder(Path(folder)) if folder else SlurmInstall()


@pytest.fixture(scope="session")
def needs_slurm(install: SlurmInstall) -> None:
    """Skip where no cluster can be started; in continuous integration (`CI=true`), fail."""
    require(reason_unavailable(install), os.environ)


@pytest.fixture(scope="session")
def cluster(
    needs_slurm: None,  # noqa: ARG001 # skips
    install: SlurmInstall,
) -> Iterator[SlurmCluster]:
    """The real Slurm of four nodes with four fake GPUs each, started at first use."""
    stop_orphans()
    with SlurmCluster(install=install, owner=os.getpid(), label="tests") as running:
        yield running


@pytest.fixture(autouse=True)
def no_jobs_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the jobs that a test has left, so that the next one finds idle nodes."""
    yield
    for name in {"cluster", "other_cluster"} & set(request.fixturenames):
        request.getfixturevalue(name).clear()
