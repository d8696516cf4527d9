"""Sweeps of every kind under chaos, and an independent look at what has become of them.

`SLURM_SWEEPS_CHAOS_SEED` repeats what a failure has printed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import secrets
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from chaos import SLURM, SOURCE, Chaos, Setting, check_end, play
from check_sweep import Expected, find_faults, read_trials
from reliable_sweeps import IS_CHAOS, Script
from test_on_slurm import SlurmSweep

import slurm_sweeps as ss
from cluster_tools import SlurmCluster
from cluster_tools.jobs import FINAL_STATES
from cluster_tools.processes import leftover_processes
from sweep_scripts import choose

Undisturbed = Callable[[Setting], Script]

#: In continuous integration the same each time, so that a change fails for what it changes.
SEED = int(
    os.environ.get("SLURM_SWEEPS_CHAOS_SEED")
    or (1 if os.environ.get("CI") == "true" else secrets.randbits(32))
)

N_TRIALS, ITERATIONS = 24, 6

PRUNERS = (
    "None",
    f'ss.ASHA("loss", "min", max_t={ITERATIONS}, reduction_factor=2)',
    f'ss.ASHA("loss", "min", max_t={ITERATIONS}, reduction_factor=2, promote=True)',
    f'ss.Hyperband("loss", "min", max_t={ITERATIONS}, reduction_factor=2)',
    'ss.MedianStopping("loss", "min", min_trials=3)',
)
RANDOM, GRID, MODEL, OPTUNA = (
    "samplers.Random()",
    "samplers.Grid()",
    "samplers.Model(n_startup=4)",
    "samplers.Optuna()",
)
#: Those whose proposals depend on nothing that happens.
STEADY = (RANDOM, GRID)

#: Each kind of pruner, of sampler, with checkpoints and without, at least once; and their kills.
FEW = {
    Setting(PRUNERS[3], MODEL, checkpoints=False): 2,  # starts slowest
    Setting(PRUNERS[2], OPTUNA, checkpoints=True): 3,
    Setting(PRUNERS[0], GRID, checkpoints=False): 5,
    Setting(PRUNERS[1], RANDOM, checkpoints=True): 5,
    Setting(PRUNERS[4], RANDOM, checkpoints=True): 5,
}
#: All that go together; Model and Optuna learn from the pruner's metric.
ALL = tuple(
    Setting(pruner, sampler, checkpoints)
    for pruner, sampler, checkpoints in itertools.product(
        PRUNERS, (RANDOM, GRID, MODEL, OPTUNA), (True, False)
    )
    if pruner != "None" or sampler in STEADY
)
#: One slot, so that all events come in the same order; who loses a trial too often changes it.
ORDERLY = Setting(PRUNERS[1], RANDOM, checkpoints=False, slots=1, roles=("driver",))

#: A slurmstepd that is killed keeps its CPUs in Slurm's eyes until the job ends: with one of them a
#: job of two slots goes on with the other, which takes its time.
IN_JOB = SLURM if IS_CHAOS else tuple(role for role in SLURM if role != "slurmstepd")

JOBS = (
    Setting(PRUNERS[2], GRID, checkpoints=True, roles=IN_JOB),
    Setting(PRUNERS[0], RANDOM, checkpoints=True, roles=IN_JOB),
    Setting(PRUNERS[1], OPTUNA, checkpoints=False, roles=IN_JOB),
    Setting(PRUNERS[3], RANDOM, checkpoints=False, roles=IN_JOB),
    Setting(PRUNERS[4], MODEL, checkpoints=True, roles=IN_JOB),
)

#: How many kills each gets: 30 in `make test`, 1,000 in `make chaos`, which has all settings.
SOME = {**FEW, ORDERLY: 4, JOBS[0]: 6}
LOCAL = {**dict.fromkeys([*FEW, *ALL], 20), ORDERLY: 50}
IN_JOBS = dict.fromkeys(JOBS, 46)
KILLS = {**LOCAL, **IN_JOBS, **({} if IS_CHAOS else SOME)}

#: So many sweeps are played at once: most of their time is waiting.
AT_ONCE = 3


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Run a sweep that nothing happens to, as fast as it goes; once where that gives the same."""

    @functools.cache
    def run(setting: Setting) -> Script:
        folder = tmp_path_factory.mktemp("undisturbed")
        script = Script(folder, SOURCE, **build_variables(setting), PAUSE_S=0)
        script.run()
        return script

    return run


def build_variables(setting: Setting) -> dict[str, object]:
    sizes = {"N_TRIALS": N_TRIALS, "ITERATIONS": ITERATIONS}
    return {**setting.variables, **sizes, "SEED": SEED}


@dataclass
class Played:
    """Sweeps of one setting, until there were enough kills."""

    setting: Setting
    scripts: list[Script] = field(default_factory=list)
    struck: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        what = dict(sorted(self.struck.items()))
        return (
            f"SLURM_SWEEPS_CHAOS_SEED={SEED} {self.setting}: {what} in {len(self.scripts)} sweeps"
        )


def play_often(
    setting: Setting, wanted: int, make: Callable[[str], Script], play: Callable[[Chaos], None]
) -> Played:
    """Play sweeps until there were enough kills; each must be as it should in the end."""
    played, randomness, left = Played(setting), random.Random(f"{SEED} {setting}"), wanted
    expected = Expected(N_TRIALS, ITERATIONS, setting.statuses, setting.checkpoints)
    while left > 0:
        # On a busy machine whoever strikes is late, and a sweep may end before.
        assert len(played.scripts) < wanted + 10, f"the sweeps are too short to be struck: {played}"
        chaos = Chaos(make(f"sweep{len(played.scripts)}"), setting.roles, randomness, left)
        played.scripts.append(chaos.script)
        try:
            play(chaos)
            faults = find_faults(chaos.script.folder / "out", expected)
            verdict = ss.Result("sweep", chaos.script.folder / "out").verify()
            faults += verdict.differences
            assert not faults, "\n".join([*faults, chaos.describe()])
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{played}: {error}") from error
        finally:
            chaos.script.kill_all()
        played.struck += chaos.struck
        left -= chaos.kills
    return played


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Setting, Future[Played]]]:
    """All local settings that were asked for, a few at once; each test waits for its own."""
    folder = tmp_path_factory.mktemp("chaos")  # by one thread
    asked = [getattr(item, "callspec", None) for item in request.session.items]
    settings = [each.params["setting"] for each in asked if each and "setting" in each.params]

    def start(setting: Setting) -> Played:
        def make(name: str) -> Script:
            return Script(folder / str(setting) / name, SOURCE, **build_variables(setting))

        return play_often(setting, KILLS[setting], make, play)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {each: pool.submit(start, each) for each in settings if each in LOCAL}
        pool.shutdown(cancel_futures=True)


def assert_same_cfgs(played: Played, undisturbed: Undisturbed) -> None:
    """What is tried depends on the seed alone, where the sampler does not learn."""
    if played.setting.sampler in STEADY:
        quiet = undisturbed(Setting("None", played.setting.sampler, checkpoints=False))
        cfgs = [trial.cfg for trial in read_trials(quiet.database)]
        for script in played.scripts:
            assert [trial.cfg for trial in read_trials(script.database)] == cfgs


@pytest.mark.parametrize("setting", choose(LOCAL, SOME), ids=str)
def test_chaos_on_this_machine(
    setting: Setting, plays: dict[Setting, Future[Played]], undisturbed: Undisturbed
) -> None:
    print(played := plays[setting].result())
    assert_same_cfgs(played, undisturbed)
    if setting is ORDERLY:
        quiet = read_courses(undisturbed(setting))
        assert {status for status, _ in quiet} == {"completed", "pruned"}
        for script in played.scripts:
            assert read_courses(script) == quiet


def read_courses(script: Script) -> list[tuple[str, dict[int, float]]]:
    """How each trial ended, and what it logged."""
    return [
        (trial.status, {iteration: loss for iteration, (loss, _) in trial.reports.items()})
        for trial in read_trials(script.database)
    ]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM metrics WHERE number = 3 AND iteration = 6", "was answered and is missing"),
        ("DELETE FROM metrics WHERE number = 3 AND iteration = 6", "iteration 6 is missing, and"),
        ("DELETE FROM metrics WHERE number = 3 AND iteration = 6", "an aggregate is not what"),
        ("UPDATE metrics SET value = 0 WHERE number = 3", "the loss of iteration 1 is wrong"),
        ("UPDATE metrics SET attempt = 2 WHERE number = 3", "attempt 2 never logged iteration 1"),
        ("UPDATE trials SET status = 'lost' WHERE number = 3", "trial 3 is left as 'lost'"),
        ("UPDATE trials SET number = 24 WHERE number = 3", "the trials are [0, 1, 2, 4, "),
        ("UPDATE trials SET trial_id = 'x' WHERE number = 3", "attempt 1 never logged iteration"),
        ("UPDATE attempts SET attempt = 2 WHERE number = 3", "attempts are missing"),
        ("UPDATE attempts SET status = 'failed'", "is called failed, and train reached its end"),
        ("UPDATE attempts SET status = 'lost'", "its last attempt ended in another way"),
        ("UPDATE experiments SET lease_pid = 1", "the experiment is left as"),
        ("UPDATE experiments SET state = 'running'", "the experiment is left as"),
    ],
)
def test_what_is_wrong_is_found(
    undisturbed: Undisturbed, tmp_path: Path, damage: str, found: str
) -> None:
    """Each in a copy of a sweep in which nothing is."""
    setting = Setting("None", GRID, checkpoints=False)
    expected = Expected(N_TRIALS, ITERATIONS, setting.statuses, has_checkpoints=False)
    copy = shutil.copytree(undisturbed(setting).folder / "out", tmp_path / "out")
    assert find_faults(copy, expected) == []
    with contextlib.closing(sqlite3.connect(copy / "slurm-sweeps.db")) as database, database:
        assert database.execute(damage).rowcount
    assert any(found in fault for fault in find_faults(copy, expected))


#: Starts the driver until it is done, and once more when nothing is struck any more.
LOOP = "until {0}; do echo exit $?; done; touch over; until [ -e calm ]; do sleep 0.1; done; {0}"


@pytest.mark.parametrize("setting", choose(IN_JOBS, SOME), ids=str)
def test_chaos_in_a_job(
    setting: Setting, cluster: SlurmCluster, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    def make(name: str) -> SlurmSweep:
        variables = build_variables(setting)
        return SlurmSweep(cluster, tmp_path / name, "-N1", source=SOURCE, **variables)

    print(played := play_often(setting, KILLS[setting], make, play_job))
    assert_same_cfgs(played, undisturbed)


def play_job(chaos: Chaos) -> None:
    """As `play`, all in one job."""
    sweep = chaos.script
    assert isinstance(sweep, SlurmSweep)
    sweep.submit(LOOP.format(f"{sys.executable} -u {sweep.path}"))
    chaos.strike_until((sweep.folder / "over").exists)
    (sweep.folder / "calm").touch()
    chaos.wait(
        lambda: sweep.cluster.job(sweep.job)["JobState"] in FINAL_STATES, "the job does not end"
    )
    chaos.wait(lambda: not leftover_processes(sweep.mark), "something is left of it")
    assert sweep.wait().exit_code == 0, chaos.describe()
    before, *parts = sweep.printed().split("\nexit ")
    for part in parts:
        code = int(part.partition("\n")[0])
        check_end(chaos, code if code < 128 else 128 - code, before)
        before = part
