"""How many files of ours who follows a trial has to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: A limit that is raised says why here. 22 in the house as it was put in order; one more since what
#: is held against a node is judged in a pure file, one since trials have journals with names. Four
#: are new doors: jobs that lend (lent), time that is left (timing), what attempts use (usage), and
#: what may be tried (search_space). Three were parts of larger ones: what the state machine works
#: on (sweep_types), whether going on makes sense (prospects), and what the driver makes of an
#: attempt (attempts). Two are no more: what is asked of jobs and leases is asked beside.
MOST_FILES = 29

COUNT = Path(__file__).parents[2] / "tools/count-rooms"


def count_rooms(most: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(COUNT), "--most", str(most)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_a_trial_with_one_report_leads_through_few_files() -> None:
    done = count_rooms(MOST_FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    for file in ("running/driver.py", "sweep.py", "storage/writer.py"):  # those it can't do without
        assert f"  {file}\n" in done.stdout.partition("the driver's loop: ")[2]
    assert count_rooms(10).returncode == 1
