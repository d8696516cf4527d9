"""A driver that is killed again and again, and a sweep that is complete in the end all the same."""

from __future__ import annotations

import json
from collections.abc import Callable

from reliable_sweeps import (
    IS_CHAOS,
    Script,
    assert_complete,
    kill_at_random_moments,
    read_curves,
    read_trials,
)

from slurm_sweeps.trial import Status

MakeScript = Callable[..., Script]


def read_cfgs(script: Script) -> list[object]:
    return [json.loads(trial.cfg_json) for trial in read_trials(script.database)]


def test_a_driver_killed_at_random_moments(make_script: MakeScript) -> None:
    n_trials, rounds = (1000, 50) if IS_CHAOS else (40, 4)
    script = make_script("killed", N_TRIALS=n_trials, ITERATIONS=4)
    killed = kill_at_random_moments(script, rounds, seed=n_trials)
    assert killed == rounds or not IS_CHAOS
    script.run()
    script.wait_until_gone()
    assert_complete(script.database, n_trials, 4)

    undisturbed = make_script("undisturbed", N_TRIALS=n_trials, ITERATIONS=1, PAUSE_S=0)
    undisturbed.run()
    assert read_cfgs(script) == read_cfgs(undisturbed)


def test_the_decisions_of_a_killed_sweep_are_those_of_an_undisturbed_one(
    make_script: MakeScript,
) -> None:
    """One slot, so that the reports come in the same order."""
    settings = {"N_TRIALS": 40, "ITERATIONS": 16, "ASHA": 1, "SLOTS": 1}
    script = make_script("killed", **settings, PAUSE_S=0.01)
    kill_at_random_moments(script, 12 if IS_CHAOS else 3, seed=1)
    script.run()
    undisturbed = make_script("undisturbed", **settings, PAUSE_S=0)
    undisturbed.run()
    ends = [(t.trial_id, t.status) for t in read_trials(script.database)]
    assert ends == [(t.trial_id, t.status) for t in read_trials(undisturbed.database)]
    assert {status for _, status in ends} == {Status.COMPLETED, Status.PRUNED}
    assert read_curves(script.database) == read_curves(undisturbed.database)
