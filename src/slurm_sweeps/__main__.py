"""The command `slurm-sweeps`, also as `python -m slurm_sweeps`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a verb; `log`, which programs call while they run, without loading the others."""
    if sys.argv[1:2] == ["log"]:
        from .programs.log_line import log_line

        sys.exit(log_line(sys.argv[2:]))
    from .cli import main as run_verb

    run_verb(prog_name="slurm-sweeps")


if __name__ == "__main__":
    main()
