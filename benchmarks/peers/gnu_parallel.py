"""GNU parallel: runs a command many times, two at a time; no store, no reports, no ASHA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common


def program(task: common.Task) -> None:
    numbers = "\n".join(map(str, range(task.n)))
    with common.trivial_trials(task.n):
        subprocess.run(
            ["parallel", "-j", str(common.SLOTS), common.PROGRAM],
            input=numbers,
            text=True,
            check=True,
        )


if __name__ == "__main__":
    common.main({"program": program})
