"""How many threads a trial may start, in every way that libraries read it. Pure.

Most libraries start a thread, or a process, for each CPU of the machine unless a variable tells
them otherwise, and each has its own. In a trial that has some of the CPUs they would all be in
each other's way.
"""

from __future__ import annotations

from collections.abc import Mapping

#: OpenMP's, which the libraries behind it read too where their own isn't set.
_OPENMP = "OMP_NUM_THREADS"
_HEED_OPENMP = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

#: Those of Rust's pools, of joblib, which starts a process for each CPU at `n_jobs=-1`, and of
#: TensorFlow.
_OTHERS = (
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def limit_threads(env: Mapping[str, str], cpus: int) -> dict[str, str]:
    """Say which variables to set so that libraries start no more threads than there are CPUs.

    Args:
        env: What is set by now, which stays. Who has set OpenMP's means what heeds it, too.
        cpus: How many a trial, or a task of it, may use; 1 or more.
    """
    names = _OTHERS if env.get(_OPENMP) else (_OPENMP, *_HEED_OPENMP, *_OTHERS)
    return {name: str(cpus) for name in names if not env.get(name)}
