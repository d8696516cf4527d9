"""PURE  What the test cluster looks like, and the text of its configuration files.

The nodes claim more than the machine has (`config_overrides`), the GPUs are character devices that
nobody opens, and everything that Slurm writes lies under one folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

#: Before 23.11 cgroup.conf knows no `CgroupPlugin=disabled`; after it, no `CgroupAutomount`.
FIRST_VERSION_WITH_CGROUP_DISABLED = (23, 11)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """What to ask of the cluster.

    Args:
        nodes: How many nodes, named n1, n2, …
        cpus: CPUs that each node claims; even.
        threads_per_core: CPUs of a core; with two, `cpus` are half as many cores of one socket.
        memory_mb: Memory that each node claims, in MB.
        gpus: Fake GPUs per node; 0 for a cluster without GRES.
        gpu_type: The type of the GPUs of the second half of the nodes; those of the first half
            have none.
        preemption: Two partitions, `main` (the default one, whose jobs are requeued) and `urgent`
            (which preempts it); else `main` alone.
        kill_wait_s: Seconds between TERM and KILL at a time limit, a preemption, a `scancel`.
        over_time_limit_min: Minutes that a job may exceed its time limit.
        slurmd_timeout_s: Seconds of silence after which a node is taken for down.
        extra: Further lines for slurm.conf, `Name=value`; one replaces the line of its name that
            would be there (SelectTypeParameters, MpiDefault, SchedulerParameters, …).
    """

    nodes: int = 4
    cpus: int = 128
    threads_per_core: int = 1
    memory_mb: int = 256_000
    gpus: int = 4
    gpu_type: str = "a100"
    preemption: bool = True
    kill_wait_s: int = 30
    over_time_limit_min: int = 0
    slurmd_timeout_s: int = 300
    extra: tuple[str, ...] = ()

    @property
    def node_names(self) -> tuple[str, ...]:
        """The nodes' names, in order."""
        return tuple(f"n{i}" for i in range(1, self.nodes + 1))

    def find_gpu_type(self, name: str) -> str | None:
        """The type of a node's GPUs, None where they have none."""
        return self.gpu_type if name in self.node_names[(self.nodes + 1) // 2 :] else None


@dataclass(frozen=True, slots=True)
class SlurmInstall:
    """Where a Slurm's programs are: on this machine, or in a folder of another release of Debian.

    Args:
        root: `/`, or the folder to change the root to. The cluster's own folder must lie in it.
        path: The folders inside of `root` that hold the programs, searched in order.
        plugins: The folder with Slurm's plugins; None for the one that the programs know.
    """

    root: Path = Path("/")
    path: tuple[str, ...] = field(
        default=("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/sbin", "/bin")
    )
    plugins: Path | None = None

    @staticmethod
    def in_folder(folder: Path) -> SlurmInstall:
        """Describe the Slurm that `tools/need-slurm24` has made in a folder."""
        (plugins,) = folder.glob("usr/lib/*/slurm-wlm")
        return SlurmInstall(path=(str(folder / "run-here"),), plugins=plugins)

    def find(self, program: str) -> str | None:
        """Return the program's path as seen from inside `root`, or None."""
        for folder in self.path:
            if (self.root / folder.lstrip("/") / program).is_file():
                return f"{folder}/{program}"
        return None

    def argv(self, program: str, *args: str) -> list[str]:
        """Build the command that runs a program of this install."""
        prefix = [] if self.root == Path("/") else ["chroot", str(self.root)]
        return [*prefix, self.find(program) or program, *args]

    def inside(self, path: Path) -> str:
        """Write a path of this machine as it is seen from inside `root`."""
        return f"/{path.relative_to(self.root)}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Every file of one cluster, all of them under `base`."""

    base: Path

    @property
    def slurm_conf(self) -> Path:
        return self.base / "etc" / "slurm.conf"

    @property
    def munge_key(self) -> Path:
        return self.base / "munge" / "key"

    @property
    def munge_socket(self) -> Path:
        return self.base / "munge" / "socket"

    @property
    def devices(self) -> Path:
        return self.base / "dev"

    @property
    def record(self) -> Path:
        return self.base / "cluster.json"

    def log(self, daemon: str) -> Path:
        return self.base / "log" / f"{daemon}.log"

    def folders(self) -> list[Path]:
        """The folders that must stand before the daemons start."""
        names = ("etc", "munge", "log", "run", "spool", "state", "dev")
        return [self.base / name for name in names]


def build_munged_options(layout: Layout, install: SlurmInstall) -> list[str]:
    """Build munged's options for a key, a socket and files of the cluster's own."""
    files = {
        "--key-file": layout.munge_key,
        "--socket": layout.munge_socket,
        "--pid-file": layout.base / "run" / "munged.pid",
        "--seed-file": layout.base / "munge" / "seed",
        "--log-file": layout.log("munged"),
    }
    return [f"{option}={install.inside(path)}" for option, path in files.items()]


def build_slurm_conf(
    spec: ClusterSpec, hostname: str, ports: Sequence[int], base: str, socket: str
) -> str:
    """Write slurm.conf.

    Args:
        spec: The cluster.
        hostname: This machine's name.
        ports: One for slurmctld, then one for each node.
        base: The cluster's folder, as the daemons see it.
        socket: munged's socket, as the daemons see it.
    """
    lines = [
        "ClusterName=slurm-sweeps-test",
        f"SlurmctldHost={hostname}(127.0.0.1)",
        f"SlurmctldPort={ports[0]}",
        "SlurmUser=root",
        "SlurmdUser=root",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        # What is named after jobs (ports, files in /tmp) must not meet that of another cluster, nor
        # what an earlier one has left: of MPI programs that were killed, memory under /dev/shm.
        f"FirstJobId={1 + crc32(base.encode()) % 60_000_000}",
        f"AuthInfo=socket={socket}",
        f"StateSaveLocation={base}/state",
        f"SlurmdSpoolDir={base}/spool/%n",
        f"SlurmctldPidFile={base}/run/slurmctld.pid",
        f"SlurmdPidFile={base}/run/%n.pid",
        f"SlurmctldLogFile={base}/log/slurmctld.log",
        f"SlurmdLogFile={base}/log/%n.log",
        *_behaviour_lines(spec),
        *_node_lines(spec, hostname, ports[1:]),
        *_partition_lines(spec),
    ]
    replaced = {line.partition("=")[0] for line in spec.extra}
    kept = [line for line in lines if line.partition("=")[0] not in replaced]
    return "\n".join([*kept, *spec.extra]) + "\n"


def _behaviour_lines(spec: ClusterSpec) -> list[str]:
    return [
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "MpiDefault=none",
        "JobAcctGatherType=jobacct_gather/linux",
        "ReturnToService=2",
        "SlurmdParameters=config_overrides",
        "SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5",
        "MailProg=/bin/true",
        # A busy two-core machine answers late, and a finished job must stay visible for its waiter.
        "MessageTimeout=60",
        "MinJobAge=86400",
        f"SlurmdTimeout={spec.slurmd_timeout_s}",
        f"KillWait={spec.kill_wait_s}",
        f"OverTimeLimit={spec.over_time_limit_min}",
    ]


def _node_lines(spec: ClusterSpec, hostname: str, ports: Sequence[int]) -> list[str]:
    threads = spec.threads_per_core
    sockets = 2 if threads == 1 else 1  # so that the cores may be odd in number
    shape = (
        f"CPUs={spec.cpus} Boards=1 SocketsPerBoard={sockets} "
        f"CoresPerSocket={spec.cpus // threads // sockets} ThreadsPerCore={threads} "
        f"RealMemory={spec.memory_mb}"
    )
    nodes = [
        f"NodeName={name} NodeHostname={hostname} NodeAddr=127.0.0.1 Port={port} {shape}"
        for name, port in zip(spec.node_names, ports, strict=True)
    ]
    if not spec.gpus:
        return nodes
    types = [spec.find_gpu_type(name) for name in spec.node_names]
    gres = [f"gpu:{type_}:{spec.gpus}" if type_ else f"gpu:{spec.gpus}" for type_ in types]
    return ["GresTypes=gpu", *map("{} Gres={}".format, nodes, gres)]


def _partition_lines(spec: ClusterSpec) -> list[str]:
    main = "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
    if not spec.preemption:
        return [main]
    return [
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        f"{main} PriorityTier=1 PreemptMode=REQUEUE",
        "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF",
    ]


def build_gres_conf(spec: ClusterSpec, devices: str) -> str:
    """Write gres.conf; `devices` is the folder of the fake devices as the daemons see it.

    A `Count=` without `File=` would leave the nodes INVALID (seen on 22.05).
    """
    if not spec.gpus:
        return ""
    last = spec.gpus - 1
    files = f"{devices}/nvidia{f'[0-{last}]' if last else '0'}"
    types = {name: spec.find_gpu_type(name) for name in spec.node_names}
    return "".join(
        f"NodeName={name} Name=gpu {f'Type={type_} ' if type_ else ''}File={files}\n"
        for name, type_ in types.items()
    )


def build_cgroup_conf(version: tuple[int, ...]) -> str:
    """Write cgroup.conf for a Slurm of this version: no cgroup is touched."""
    if version >= FIRST_VERSION_WITH_CGROUP_DISABLED:
        return "CgroupPlugin=disabled\n"
    return "CgroupAutomount=no\n"


def parse_version(text: str) -> tuple[int, ...]:
    """Read `slurmd -V` ("slurm-wlm 22.05.8") as numbers: (22, 5, 8)."""
    digits = text.split()[-1].split("-")[0]
    return tuple(int(part) for part in digits.split(".") if part.isdigit())
