"""Chaos: at random, processes of a running sweep are killed, or stopped and continued.

What is struck, how and when is drawn from a seed; how far the machine has come by then is not.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reliable_sweeps import WAIT_S, Script, read_parent

from cluster_tools.processes import (
    ProcessInfo,
    leftover_processes,
    read_process,
    send_signal,
    wait_until,
)

#: The recipe of docs/reliability.md, and what `check_sweep` wants to know. Where it has no
#: checkpoints every attempt begins anew.
SOURCE = """
import os, time
import slurm_sweeps as ss
from slurm_sweeps import samplers
from slurm_sweeps.running import slots

slots.ASK_AFTER_S, slots.SILENT_S = 3.0, 5.0  # for a slurmstepd that is killed; else minutes

N, T = int(os.environ["N_TRIALS"]), int(os.environ["ITERATIONS"])
PAUSE_S, CHECKPOINTS = float(os.environ.get("PAUSE_S", "0.03")), os.environ["CHECKPOINTS"] == "True"

def train(cfg):
    file, first = ss.checkpoint_dir() / "last", 1
    if CHECKPOINTS and file.exists():
        first = int(file.read_text()) + 1
    for iteration in range(first, T + 1):
        time.sleep(PAUSE_S)
        tell("asks", iteration)
        file.with_suffix(".new").write_text(str(iteration))
        file.with_suffix(".new").rename(file)
        try:
            ss.log({"loss": cfg["x"] + 1 / iteration}, iteration)
        except (ss.TrialPruned, ss.TrialInterrupted):
            tell("answered", iteration)
            raise
        tell("answered", iteration)
    tell("ended", T)

def tell(what, iteration):
    line = f"{what} {ss.attempt()} {os.getpid()} {iteration}\\n"
    with open("told", "ab", buffering=0) as file:
        file.write(line.encode())

if __name__ == "__main__":
    ss.Experiment(
        train, {"x": ss.Uniform(0, 1), "point": ss.Grid(range(N))}, "sweep", "out",
        restore="auto", seed=int(os.environ["SEED"]),
        pruner=eval(os.environ["PRUNER"]), sampler=eval(os.environ["SAMPLER"]),
    ).run(N, int(os.environ["SLOTS"]), summary_interval_in_sec=1, grace_period_in_sec=5)
"""

#: Who is struck on this machine, and in a job.
LOCAL = ("driver", "host", "worker", "trial")
SLURM = ("driver", "srun", "slurmstepd", "host", "trial")

#: KILL comes most often.
FAULTS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGSTOP)

#: Whoever is killed so often in one job is let alone. In Slurm's eyes the step of a slurmstepd that
#: is killed keeps its CPU as long as the job runs (22.05; scancel changes nothing), so two of them
#: would leave a job of two slots no room for another step.
MOST_KILLS = {"slurmstepd": 1}

#: From one fault to the next, and from STOP to CONT; seconds.
PAUSE_S, STOPPED_S = (0.0, 0.4), (0.05, 1.0)

#: How often something is struck before the first trial runs, else let alone.
EARLY = 0.06

#: How a driver may end: done; what chaos brings about, with an error; told to stop; killed.
ENDS = {0, 1, 75, -signal.SIGKILL, -signal.SIGTERM}
ERRORS = ("no slot is left: on every node", "no worker could be started")


@dataclass(frozen=True)
class Setting:
    """A kind of sweep. Pruner and sampler are expressions of `SOURCE`."""

    pruner: str
    sampler: str
    checkpoints: bool
    slots: int = 2
    roles: Sequence[str] = LOCAL

    def __str__(self) -> str:
        rule = f"{self.pruner.partition('(')[0]}{' promoting' if 'promote' in self.pruner else ''}"
        what = f"{rule.removeprefix('ss.')}, {self.sampler.partition('(')[0].partition('.')[2]}"
        kept = "checkpoints" if self.checkpoints else "anew"
        return f"{what}, {kept}, {self.slots} slots"

    @property
    def variables(self) -> dict[str, object]:
        """What `SOURCE` reads from its environment."""
        return {
            "PRUNER": self.pruner,
            "SAMPLER": self.sampler,
            "CHECKPOINTS": self.checkpoints,
            "SLOTS": self.slots,
        }

    @property
    def statuses(self) -> frozenset[str]:
        """What its trials may be in the end; none fails by itself."""
        if "promote" in self.pruner:
            return frozenset({"completed", "pruned", "paused"})
        return frozenset({"completed"} if self.pruner == "None" else {"completed", "pruned"})


@dataclass
class Chaos:
    """Strikes the processes of one script.

    Args:
        script: Whose.
        roles: Who is struck.
        randomness: What it is drawn from.
        wanted: How many kills (KILL or TERM) are enough.
        struck: How often who was struck by what.
        history: The same in order, for messages.
    """

    script: Script
    roles: Sequence[str]
    randomness: random.Random
    wanted: int
    struck: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    _stopped: list[tuple[float, ProcessInfo]] = field(default_factory=list)
    _struck_at: float = 0.0

    @property
    def kills(self) -> int:
        """How many there were."""
        return self._count_kills()

    def _count_kills(self, role: str = "") -> int:
        kills = [what for what in self.struck if what.startswith(role) and "STOP" not in what]
        return sum(self.struck[what] for what in kills)

    def strike_until(self, is_over: Callable[[], bool]) -> None:
        """Strike until that is enough, or there is nothing to strike any more."""
        self._struck_at = time.monotonic()
        while self.kills < self.wanted and not is_over():
            if time.monotonic() - self._struck_at > WAIT_S:
                raise TimeoutError(f"there is nothing to strike\n{self.describe()}")
            time.sleep(self.randomness.uniform(*PAUSE_S))  # the moments are what is random
            self._continue(time.monotonic())
            self._strike()

    def wait(self, is_over: Callable[[], bool], what: str) -> None:
        """Strike no more; wait for what must come once all is continued."""

        def look() -> bool:
            self._continue(time.monotonic())
            return is_over()

        wait_until(look, WAIT_S, lambda: f"{what}\n{self.describe()}")

    def describe(self) -> str:
        """Tell what was done, what is there, and what the script has printed."""
        there = "\n".join(str(process) for process in leftover_processes(self.script.mark))
        done = "\n".join(self.history)
        return f"{done}\n--- is there:\n{there}\n--- was printed:\n{self.script.printed()[-6000:]}"

    def _strike(self) -> None:
        role, fault = self.randomness.choice(self.roles), self.randomness.choice(FAULTS)
        which, stopped_s = self.randomness.random(), self.randomness.uniform(*STOPPED_S)
        roles = find_by_role(self.script)
        found = roles.get(role, [])
        if not found or (which > EARLY and "trial" not in roles):
            return
        if self._count_kills(role) >= MOST_KILLS.get(role, self.wanted):
            return
        victim = found[int(which * len(found))]
        send_signal(victim, fault)
        self._struck_at = time.monotonic()
        if fault == signal.SIGSTOP:
            self._stopped.append((time.monotonic() + stopped_s, victim))
        self.struck[f"{role} {fault.name}"] += 1
        self.history.append(f"{time.time():.3f} {fault.name} to the {role} {victim.pid}")

    def _continue(self, now: float) -> None:
        for due, process in list(self._stopped):
            if due <= now:
                send_signal(process, signal.SIGCONT)
                self._stopped.remove((due, process))


def find_by_role(script: Script) -> Mapping[str, list[ProcessInfo]]:
    """Sort a sweep's processes by what they are; a trial's may be one that waits for its trial."""
    roles: dict[str, list[ProcessInfo]] = defaultdict(list)
    marked = sorted(leftover_processes(script.mark), key=lambda process: process.start_ticks)
    ours = {p.pid for p in marked if "running.host import main" in p.command and not _is_srun(p)}
    parents = {pid: read_parent(pid) for pid in ours}
    for process in marked:
        parent = parents.get(process.pid)
        if _is_srun(process):
            roles["srun"].append(process)
        elif process.pid not in ours:
            if str(script.path) in process.command and "driver" not in roles:  # else its child
                roles["driver"].append(process)
        elif parent not in ours:
            roles["host"].append(process)
            step = None if parent is None else read_process(parent)
            if step is not None and "slurmstepd" in step.command:
                roles["slurmstepd"].append(step)
        else:
            roles["worker" if process.pid in parents.values() else "trial"].append(process)
    return roles


def _is_srun(process: ProcessInfo) -> bool:
    return Path(process.command.partition(" ")[0]).name == "srun"


def play(chaos: Chaos) -> None:
    """Start a script again and again, and strike, until there were enough kills or it is done.

    Then let it finish, and see that nothing of it is left.
    """
    code = -1
    while code != 0 and chaos.kills < chaos.wanted:
        code = _run(chaos)
    chaos.wanted = chaos.kills
    assert _run(chaos) == 0, f"it is not done\n{chaos.describe()}"


def _run(chaos: Chaos) -> int:
    """Start it once, and strike unless that is enough; return how it ended."""
    before = len(chaos.script.printed())
    with chaos.script.start() as driver:
        chaos.strike_until(lambda: driver.poll() is not None)
        chaos.wait(lambda: driver.poll() is not None, "the driver does not end")
        code = driver.wait()
    chaos.wait(lambda: not leftover_processes(chaos.script.mark), "something is left of it")
    check_end(chaos, code, chaos.script.printed()[before:])
    return code


def check_end(chaos: Chaos, code: int, said: str) -> None:
    """See that a driver ended in a way that chaos explains."""
    assert "this is a bug" not in said, f"a bug\n{chaos.describe()}"
    assert code in ENDS, f"a driver ended with exit code {code}\n{chaos.describe()}"
    assert code != 1 or any(error in said for error in ERRORS), f"an error\n{chaos.describe()}"
