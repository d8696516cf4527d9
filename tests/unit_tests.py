"""Which tests are unit tests, `make test-unit`: those that start no process.

That is said by folder and file, and held: whoever starts a process in a unit test fails, whatever
the code in between makes of the error.
"""

from __future__ import annotations

from pathlib import Path

import pytest

#: Where unit tests are. One among them that does start processes has the marker `processes`, or a
#: fixture that starts them.
PLACES = [
    "rules",
    "search",
    "samplers",
    "sweep",
    "slurm",
    "storage",
    "views/test_formats.py",
    "views/test_pictures.py",
    "views/test_summary.py",
    "running/test_messages.py",
    "running/test_journal.py",
    "running/test_session.py",
    "running/test_processes.py",
    "programs/test_command.py",
    "programs/test_output.py",
    "programs/test_sweep_file.py",
    "cli/test_cli.py",
    "docs",
    "test_hand_in.py",
    "test_join.py",
    "test_result.py",
    "test_guards.py",
]
_STARTERS = {"scripts", "needs_slurm", "cluster", "browser"}

#: What Python tells its audit hooks when a process is about to be started. (Of multiprocessing's
#: "spawn" it tells nothing; nobody here uses that.)
_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}

#: The unit test that runs, if one does.
running: str | None = None


def is_place(path: Path) -> bool:
    """Whether there are unit tests in a file."""
    below = path.relative_to(Path(__file__).parent)
    return not {str(place) for place in (below, *below.parents)}.isdisjoint(PLACES)


def is_unit(item: pytest.Item) -> bool:
    """Whether a test is to start no process."""
    fixtures = getattr(item, "fixturenames", ())
    starts = item.get_closest_marker("processes") or _STARTERS.intersection(fixtures)
    return is_place(item.path) and not starts


def refuse_processes(event: str, _: object) -> None:
    """Fail the unit test that starts a process; an audit hook (`sys.addaudithook`)."""
    if running is not None and event in _STARTS:
        pytest.fail(
            f"{running} is a unit test and starts a process ({event}): mark it with "
            "@pytest.mark.processes, see tests/unit_tests.py"
        )
