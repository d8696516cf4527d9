"""A real Slurm of several nodes on this one machine, for the tests and to play with."""

from cluster_tools.cluster import SlurmCluster
from cluster_tools.config import ClusterSpec, SlurmInstall
from cluster_tools.daemons import ClusterError, stop_orphans
from cluster_tools.environment import clean_environ, is_leaking, reason_unavailable
from cluster_tools.jobs import JobEnd
from cluster_tools.processes import ProcessInfo, leftover_processes, wait_until

__all__ = [
    "ClusterError",
    "ClusterSpec",
    "JobEnd",
    "ProcessInfo",
    "SlurmCluster",
    "SlurmInstall",
    "clean_environ",
    "is_leaking",
    "leftover_processes",
    "reason_unavailable",
    "stop_orphans",
    "wait_until",
]
