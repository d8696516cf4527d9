"""Sweeps of every kind under chaos, and an independent look at what has become of them.

`SLURM_SWEEPS_CHAOS_SEED` repeats what a failure has printed.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import SLURM, SOURCE, Chaos, Setting, check_end, play
from check_sweep import Expected, Stored, find_faults, read_trials
from reliable_sweeps import IS_CHAOS, Script
from test_on_slurm import SlurmSweep

from cluster_tools import SlurmCluster
from cluster_tools.jobs import FINAL_STATES
from cluster_tools.processes import leftover_processes

MakeScript = Callable[..., Script]
Undisturbed = Callable[[Setting], list[Stored]]

#: In continuous integration the same each time, so that a change fails for what it changes.
SEED = int(
    os.environ.get("SLURM_SWEEPS_CHAOS_SEED")
    or (1 if os.environ.get("CI") == "true" else secrets.randbits(32))
)

N_TRIALS, ITERATIONS = 24, 6

PRUNERS = (
    "None",
    f"ss.ASHA('loss', 'min', max_t={ITERATIONS}, reduction_factor=2)",
    f"ss.ASHA('loss', 'min', max_t={ITERATIONS}, reduction_factor=2, promote=True)",
    f"ss.Hyperband('loss', 'min', max_t={ITERATIONS}, reduction_factor=2)",
    "ss.MedianStopping('loss', 'min', min_trials=3)",
)
RANDOM, GRID, MODEL, OPTUNA = (
    "samplers.Random()",
    "samplers.Grid()",
    "samplers.Model(n_startup=4)",
    "samplers.Optuna()",
)
#: Those whose proposals depend on nothing that happens.
STEADY = (RANDOM, GRID)

#: Each kind of pruner, of sampler, with checkpoints and without, at least once.
FEW = (
    Setting(PRUNERS[0], GRID, checkpoints=False),
    Setting(PRUNERS[1], RANDOM, checkpoints=True),
    Setting(PRUNERS[2], OPTUNA, checkpoints=True),
    Setting(PRUNERS[3], MODEL, checkpoints=False),
    Setting(PRUNERS[4], RANDOM, checkpoints=True),
)
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

IN_JOBS = (
    Setting(PRUNERS[2], GRID, checkpoints=True, roles=SLURM),
    Setting(PRUNERS[0], RANDOM, checkpoints=True, roles=SLURM),
    Setting(PRUNERS[1], OPTUNA, checkpoints=False, roles=SLURM),
    Setting(PRUNERS[3], RANDOM, checkpoints=False, roles=SLURM),
    Setting(PRUNERS[4], MODEL, checkpoints=True, roles=SLURM),
)

#: 50 kills in `make test`, 1,000 in `make chaos`.
LOCAL_SETTINGS, KILLS = (ALL, 20) if IS_CHAOS else (FEW, 7)
ORDERLY_KILLS = 50 if IS_CHAOS else 5
JOB_SETTINGS, JOB_KILLS = (IN_JOBS, 46) if IS_CHAOS else (IN_JOBS[:1], 10)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Run a sweep that nothing happens to, as fast as it goes; once where that gives the same."""
    found: dict[Setting, list[Stored]] = {}

    def run(setting: Setting) -> list[Stored]:
        if setting not in found:
            folder = tmp_path_factory.mktemp("undisturbed")
            script = Script(folder, SOURCE, **build_variables(setting), PAUSE_S=0)
            script.run()
            found[setting] = read_trials(script.database)
        return found[setting]

    return run


def build_variables(setting: Setting) -> dict[str, object]:
    sizes = {"N_TRIALS": N_TRIALS, "ITERATIONS": ITERATIONS}
    return {**setting.variables, **sizes, "SEED": SEED}


def play_often(
    setting: Setting, wanted: int, make: Callable[[str], Script], play: Callable[[Chaos], None]
) -> list[Script]:
    """Play sweeps until there were enough kills; each must be as it should in the end."""
    repeat = f"SLURM_SWEEPS_CHAOS_SEED={SEED} repeats it ({setting})"
    randomness, scripts = random.Random(f"{SEED} {setting}"), []
    expected = Expected(N_TRIALS, ITERATIONS, setting.statuses, setting.checkpoints)
    struck: Counter[str] = Counter()
    print(repeat)
    while (kills := sum(n for name, n in struck.items() if "STOP" not in name)) < wanted:
        assert len(scripts) < wanted, f"the sweeps are too short to be struck; {repeat}"
        chaos = Chaos(make(f"sweep{len(scripts)}"), setting.roles, randomness, wanted - kills)
        scripts.append(chaos.script)
        try:
            play(chaos)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{repeat}: {error}") from error
        faults = find_faults(chaos.script.folder / "out", expected)
        assert not faults, "\n".join([repeat, *faults, chaos.describe()])
        struck += chaos.struck
    print(f"{setting}: {dict(sorted(struck.items()))} in {len(scripts)} sweeps")
    return scripts


def assert_same_cfgs(scripts: list[Script], setting: Setting, undisturbed: Undisturbed) -> None:
    """What is tried depends on the seed alone, where the sampler does not learn."""
    if setting.sampler not in STEADY:
        return
    quiet = undisturbed(Setting("None", setting.sampler, checkpoints=False))
    for script in scripts:
        assert [trial.cfg for trial in read_trials(script.database)] == [t.cfg for t in quiet]


@pytest.mark.parametrize("setting", LOCAL_SETTINGS, ids=str)
def test_chaos_on_this_machine(
    setting: Setting, make_script: MakeScript, undisturbed: Undisturbed
) -> None:
    def make(folder: str) -> Script:
        return make_script(folder, SOURCE, **build_variables(setting))

    assert_same_cfgs(play_often(setting, KILLS, make, play), setting, undisturbed)


def test_the_decisions_of_a_killed_sweep_are_those_of_an_undisturbed_one(
    make_script: MakeScript, undisturbed: Undisturbed
) -> None:
    """One slot, so that the reports come in the same order."""

    def make(folder: str) -> Script:
        return make_script(folder, SOURCE, **build_variables(ORDERLY))

    quiet = [(trial.status, losses(trial)) for trial in undisturbed(ORDERLY)]
    assert {status for status, _ in quiet} == {"completed", "pruned"}
    for script in play_often(ORDERLY, ORDERLY_KILLS, make, play):
        assert [(t.status, losses(t)) for t in read_trials(script.database)] == quiet


def losses(trial: Stored) -> dict[int, float]:
    return {iteration: loss for iteration, (loss, _) in trial.reports.items()}


@pytest.mark.parametrize("setting", JOB_SETTINGS, ids=str)
def test_chaos_in_a_job(
    setting: Setting, cluster: SlurmCluster, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    def make(folder: str) -> Script:
        return SlurmSweep(
            cluster, tmp_path / folder, "-N1", source=SOURCE, **build_variables(setting)
        )

    def play_in_job(chaos: Chaos) -> None:
        assert isinstance(chaos.script, SlurmSweep)
        play_job(chaos, chaos.script)

    assert_same_cfgs(play_often(setting, JOB_KILLS, make, play_in_job), setting, undisturbed)


#: Starts the driver until it is done, and once more when nothing is struck any more.
LOOP = "until {0}; do echo exit $?; done; touch over; until [ -e calm ]; do sleep 0.1; done; {0}"


def play_job(chaos: Chaos, sweep: SlurmSweep) -> None:
    """As `play`, all in one job."""
    sweep.submit(LOOP.format(f"{sys.executable} -u {sweep.path}"))
    chaos.strike_until((sweep.folder / "over").exists)
    (sweep.folder / "calm").touch()
    chaos.wait(
        lambda: sweep.cluster.job(sweep.job)["JobState"] in FINAL_STATES, "the job does not end"
    )
    chaos.wait(lambda: not leftover_processes(sweep.mark), "something is left of it")
    assert sweep.wait().exit_code == 0, chaos.describe()
    before = ""
    for part in sweep.printed().split("\nexit ")[1:]:
        code = int(part.partition("\n")[0])
        check_end(chaos, code if code < 128 else 128 - code, before)
        before = part
