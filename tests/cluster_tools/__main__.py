"""`make cluster` and `make cluster-stop`: a Slurm to play with, which outlives this process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cluster_tools.cluster import SlurmCluster
from cluster_tools.daemons import end_cluster, is_whole, list_clusters, read_record, stop_orphans
from cluster_tools.environment import reason_unavailable

#: One playground for each checkout.
LABEL = f"make cluster in {Path.cwd()}"

HINT = """\
# A Slurm of four nodes (n1 to n4), each with 128 CPUs, 250 GB and 4 GPUs that are none. Use it with
export SLURM_CONF={conf}
# and then, for example:  sinfo;  srun -N2 -n8 hostname;  sbatch -p urgent job.slurm
# End it with `make cluster-stop`; the daemons' logs are in {logs}
"""


def find_playgrounds() -> list[Path]:
    """Find the clusters that `make cluster` has started in this checkout, dead ones included."""
    return [base for base in list_clusters() if read_record(base).get("label") == LABEL]


def start() -> int:
    """Start the playground, or find the one that runs, and print what to export."""
    running = []
    for base in find_playgrounds():
        if is_whole(base):
            running.append(base)
        else:
            end_cluster(base)
    if not running:
        reason = reason_unavailable()
        if reason is not None:
            print(f"No cluster: {reason}", file=sys.stderr)
            return 1
        running = [SlurmCluster(label=LABEL).start().base]
    print(HINT.format(conf=read_record(running[0])["slurm_conf"], logs=running[0] / "log"), end="")
    return 0


def stop() -> int:
    """End this checkout's playground and the clusters whose test run is gone."""
    ended = find_playgrounds()
    for base in ended:
        end_cluster(base)
    ended += stop_orphans()
    print("\n".join(f"ended {base}" for base in ended) or "no cluster is running")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="cluster_tools", description=__doc__)
    parser.add_argument("action", choices=["start", "stop"])
    sys.exit({"start": start, "stop": stop}[parser.parse_args().action]())
