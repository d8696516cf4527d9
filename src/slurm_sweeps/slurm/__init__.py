"""All that knows Slurm: its text, its variables, a job's shares, its commands."""
