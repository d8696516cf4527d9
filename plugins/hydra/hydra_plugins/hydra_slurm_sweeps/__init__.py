"""A Hydra sweeper whose jobs are trials of slurm_sweeps.

Hydra loads all modules of its plugins, in every app: those that it need not load begin with "_".
"""

__version__ = "1.0.0rc1"
