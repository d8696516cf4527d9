"""The files of a cluster that must stand before its daemons start."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Sequence

from cluster_tools.config import (
    ClusterSpec,
    Layout,
    SlurmInstall,
    build_cgroup_conf,
    build_gres_conf,
    build_slurm_conf,
)
from cluster_tools.environment import make_device


def make_folders(layout: Layout, spec: ClusterSpec) -> None:
    """Make the cluster's folders, its munge key and its fake GPUs."""
    for folder in layout.folders():
        folder.mkdir(parents=True, exist_ok=True)
    layout.munge_key.touch(mode=0o600)
    layout.munge_key.write_bytes(secrets.token_bytes(128))
    for number in range(spec.gpus):
        make_device(layout.devices / f"nvidia{number}", number)


def write_conf(
    layout: Layout,
    spec: ClusterSpec,
    install: SlurmInstall,
    ports: Sequence[int],
    version: tuple[int, ...],
) -> None:
    """Write slurm.conf and the two files that Slurm expects beside it."""
    layout.slurm_conf.write_text(
        build_slurm_conf(
            spec,
            socket.gethostname().split(".")[0],
            ports,
            install.inside(layout.base),
            install.inside(layout.munge_socket),
        )
        + ("" if install.plugins is None else f"PluginDir={install.plugins}\n")
    )
    etc = layout.slurm_conf.parent
    (etc / "gres.conf").write_text(build_gres_conf(spec, install.inside(layout.devices)))
    (etc / "cgroup.conf").write_text(build_cgroup_conf(version))
