"""`python -m slurm_sweeps` is the command `slurm-sweeps`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="slurm-sweeps")
