"""A real Slurm of several nodes on this one machine, with the commands to use it.

Own munged with its own key and socket, own slurmctld, one slurmd per node; everything they write
lies under one folder, their ports are looked up at the start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster_tools.config import (
    ClusterSpec,
    Layout,
    SlurmInstall,
    build_munged_options,
    parse_version,
)
from cluster_tools.daemons import ClusterError, Daemons, make_base
from cluster_tools.environment import clean_environ, find_free_ports
from cluster_tools.files import make_folders, write_conf
from cluster_tools.jobs import FINAL_STATES, JobEnd, parse_records
from cluster_tools.processes import job_processes, send_signal

#: How long what slurmctld has logged is news, in seconds.
NEWS_S = 1.0


class SlurmCluster:
    """A real Slurm on this machine; also a context manager that starts and stops it.

    Args:
        spec: What the cluster looks like.
        base: The folder for everything it writes, removed by `stop`; None makes a new one in the
            temporary folder. Keep it short: a socket's path may have 107 characters.
        install: Whose programs to run; `base` must lie in its root.
        owner: The pid after whose end the cluster is an orphan that `stop_orphans` ends; None for
            a cluster that outlives its starter.
        label: What it is for, written to its record.
    """

    def __init__(
        self,
        spec: ClusterSpec | None = None,
        base: Path | None = None,
        install: SlurmInstall | None = None,
        *,
        owner: int | None = None,
        label: str = "",
    ) -> None:
        self.spec = spec or ClusterSpec()
        self.install = install or SlurmInstall()
        temporary = self.install.root / tempfile.gettempdir().lstrip("/")
        self.layout = Layout(base or make_base(temporary))
        self.daemons = Daemons(self.layout, self.exports["SLURM_CONF"], owner, label)
        self._ports: list[int] = []

    @property
    def base(self) -> Path:
        """The folder that holds everything of this cluster."""
        return self.layout.base

    @property
    def exports(self) -> dict[str, str]:
        """The variables that point Slurm's commands at this cluster."""
        exports = {"SLURM_CONF": self.install.inside(self.layout.slurm_conf)}
        if self.install.plugins is not None:  # its programs are not where they are looked for
            folders = os.pathsep.join(self.install.path)
            exports["PATH"] = f"{folders}{os.pathsep}{os.environ['PATH']}"
        return exports

    @property
    def env(self) -> dict[str, str]:
        """A whole environment for a command: this process's, without leaks, with `exports`."""
        return {**clean_environ(os.environ), **self.exports}

    @property
    def pids(self) -> dict[str, int]:
        """The running daemons' pids by name: munged, slurmctld, n1, n2, …"""
        return self.daemons.pids

    def __enter__(self) -> SlurmCluster:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # Life.

    def start(self, timeout_s: float = 60.0) -> SlurmCluster:
        """Bring it up and wait until all nodes are idle; when that fails nothing stays behind.

        Raises:
            ClusterError: A daemon ended, or the nodes are not idle in time; with the logs' tails.
        """
        try:
            make_folders(self.layout, self.spec)
            self._ports = find_free_ports(1 + self.spec.nodes)
            self._write_conf()
            self._start_munged(timeout_s)
            self._start_controller("-c")
            for name in self.spec.node_names:
                self.start_node(name)
            self.wait_idle(timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every process of this cluster, its jobs' included, and remove its folder."""
        self.daemons.stop()

    def start_node(self, name: str) -> None:
        """Start a node's slurmd, again after `kill_node`; does not wait for it to be idle."""
        stepd = []
        if self.install.plugins is not None:
            stepd = ["-d", self.install.find("slurmstepd") or "slurmstepd"]
        self._start_daemon(name, "slurmd", "-D", "-N", name, *stepd)

    def kill_node(self, name: str, signum: int = signal.SIGKILL) -> None:
        """End a node's slurmd (its slurmstepds and their tasks live on) and wait for its end."""
        self.daemons.kill(name, signum)

    @contextlib.contextmanager
    def without(self, daemon: str, timeout_s: float = 60.0) -> Iterator[None]:
        """Run the block without slurmctld, or without munged; its jobs go on, and are known after.

        Both end as at a restart: slurmctld saves its state.
        """
        self.daemons.kill(daemon, signal.SIGTERM)
        try:
            yield
        finally:
            if daemon == "munged":
                self._start_munged(timeout_s)
            else:
                self._start_controller()

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        """Wait until every node is idle, that is up and free of jobs."""
        expected = dict.fromkeys(self.spec.node_names, "idle")
        what = f"not all of {', '.join(expected)} are idle"
        self.daemons.wait(lambda: self.node_states() == expected, timeout_s, what)

    @contextlib.contextmanager
    def changed(self, **changes: object) -> Iterator[None]:
        """Run the block with other behaviour, for example `changed(kill_wait_s=5)`.

        Only what `scontrol reconfigure` takes up: kill_wait_s, over_time_limit_min, preemption,
        slurmd_timeout_s, extra. Not the nodes.
        """
        before = self.spec
        self._reconfigure(dataclasses.replace(before, **changes))  # type: ignore[arg-type] # by name
        try:
            yield
        finally:
            self._reconfigure(before)

    def _reconfigure(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self._write_conf()
        self.run(["scontrol", "reconfigure"])

    def _write_conf(self) -> None:
        version = parse_version(self.run(["slurmd", "-V"]).stdout)
        write_conf(self.layout, self.spec, self.install, self._ports, version)

    def _start_controller(self, *options: str) -> None:
        self._start_daemon("slurmctld", "slurmctld", "-D", *options)

    def _start_munged(self, timeout_s: float) -> None:
        options = build_munged_options(self.layout, self.install)
        # --force: it would refuse a folder whose parents not every user may enter.
        self._start_daemon("munged", "munged", "--foreground", "--force", *options)
        self.daemons.wait(self.layout.munge_socket.is_socket, timeout_s, "munged has no socket yet")

    def _start_daemon(self, name: str, program: str, *args: str) -> None:
        self.daemons.start(name, self.install.argv(program, *args), self.env)

    # Use.

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60.0,
        check: bool = True,
        cwd: Path | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a Slurm command of this install against this cluster, and capture what it prints.

        Args:
            argv: The command's name and arguments.
            timeout_s: Seconds after which it is killed.
            check: Whether a non-zero exit is an error.
            cwd: The folder to run it in.
            stdin: What to give it on its standard input.

        Raises:
            ClusterError: It failed or took too long; with the end of its stderr.
        """
        try:
            done = subprocess.run(
                self.install.argv(*argv),
                input=stdin or "",
                capture_output=True,
                text=True,
                timeout=timeout_s,
                cwd=cwd,
                env=self.env,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            queue = self._show_queue() if argv[0] != "squeue" else ""
            message = f"{list(argv)!r} took more than {timeout_s:g} s: {error.stderr!r}\n{queue}"
            raise ClusterError(message) from None
        if check and done.returncode:
            tail = "\n".join(done.stderr.splitlines()[-12:])
            raise ClusterError(f"{list(argv)!r} exited with {done.returncode}:\n{tail}")
        return done

    def node_states(self) -> dict[str, str]:
        """Return each node's state as `sinfo` says it, for example {"n1": "idle", "n2": "mix"}."""
        done = self.run(["sinfo", "-h", "-N", "-o", "%N %t"], check=False)
        return dict(line.split() for line in done.stdout.splitlines())

    def sbatch(self, script: str, *args: str, cwd: Path) -> int:
        """Submit a batch script's text from the folder `cwd`, and return the job's id."""
        text = script if script.startswith("#!") else f"#!/bin/bash\n{script}"
        done = self.run(["sbatch", "--parsable", *args], cwd=cwd, stdin=text)
        return int(done.stdout.split(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """Return what `scontrol show job` says, for example {"JobState": "RUNNING", …}."""
        return parse_records(self.run(["scontrol", "-o", "show", "job", str(job_id)]).stdout)[0]

    def steps(self, job_id: int) -> list[dict[str, str]]:
        """Return what `scontrol show step` says of the job's steps that run now, batch included."""
        shown = self.run(["scontrol", "-o", "show", "step", str(job_id)], check=False).stdout
        return [step for step in parse_records(shown) if "StepId" in step]

    def job_output(self, job_id: int) -> str:
        """Read what the job has written to its standard output file so far."""
        path = Path(self.job(job_id)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_state(self, job_id: int, states: Sequence[str], timeout_s: float) -> str:
        """Wait until the job is in one of `states`, and return which.

        Raises:
            ClusterError: It is not in time; with the queue, its output and the controller's log.
        """
        try:
            self.daemons.wait(
                self._at_news(lambda: self.job(job_id)["JobState"] in states),
                timeout_s,
                f"job {job_id} is not yet {' or '.join(states)}",
            )
        except ClusterError as error:
            output = self.job_output(job_id)[-2000:]
            message = f"{error}\n{self._show_queue()}\n--- its output\n{output}"
            raise ClusterError(message) from None
        return self.job(job_id)["JobState"]

    def _at_news(self, check: Callable[[], object]) -> Callable[[], bool]:
        """Ask Slurm for `NEWS_S` after slurmctld has logged something, else once in that time.

        Each question is a process of its own, and no job begins or ends without a word in the log.
        """
        log, size, told_at, asked_at = self.layout.log("slurmctld"), -1, 0.0, 0.0

        def ask() -> bool:
            nonlocal size, told_at, asked_at
            now, before = time.monotonic(), size
            size = log.stat().st_size
            if size != before:
                told_at = now
            if now - max(told_at, asked_at) < NEWS_S <= now - told_at:
                return False
            asked_at = now
            return bool(check())

        return ask

    def wait_job(self, job_id: int, timeout_s: float) -> JobEnd:
        """Wait until the job has ended, requeues included.

        Raises:
            ClusterError: As `wait_state`.
        """
        state = self.wait_state(job_id, sorted(FINAL_STATES), timeout_s)
        code, _, signum = self.job(job_id)["ExitCode"].partition(":")
        return JobEnd(job_id, state, int(code), int(signum))

    def cancel(self, job_id: int, *args: str) -> None:
        """`scancel` a job; `args` go before its id (`--signal=TERM`)."""
        self.run(["scancel", *args, str(job_id)])

    def clear(self, timeout_s: float = 60.0) -> None:
        """End all jobs at once, without waiting for KillWait, until the nodes are idle.

        Even `scancel --signal=KILL` gives the tasks a TERM first and waits (seen on 22.05), so the
        tasks are killed from here; their slurmstepd then finishes as after any end of a task.
        """
        jobs = self.run(["squeue", "-a", "-h", "-o", "%A"]).stdout.split()
        if jobs:
            # A job that ends in between makes scancel fail; what counts is seen below.
            self.run(["scancel", *jobs], check=False)
        expected = dict.fromkeys(self.spec.node_names, "idle")

        def are_idle() -> bool:
            states = self.node_states()
            if states != expected:
                self._kill_tasks()
            return states == expected

        self.daemons.wait(are_idle, timeout_s, f"jobs {jobs} are still there")

    def _kill_tasks(self) -> None:
        for process in job_processes(self.exports["SLURM_CONF"], self.base):
            if "slurmstepd" not in process.command:
                send_signal(process, signal.SIGKILL)

    def _show_queue(self) -> str:
        return self.run(["squeue", "-a", "-o", "%i %P %T %r %M %N %j"], check=False).stdout
