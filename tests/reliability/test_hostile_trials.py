"""Trials that behave badly, without meaning it: the sweep goes on, and nothing of them stays."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import reliable_trains as trains
from reliable_sweeps import IS_CHAOS, TRAIN, Runs, Script, read_curves, read_trials

import slurm_sweeps as ss
from slurm_sweeps.errors import UsageError
from slurm_sweeps.trial import Status

MakeScript = Callable[..., Script]


def test_a_flood_on_standard_output_and_records_in_it(runs: Runs) -> None:
    """100 MB, noise, and what could be taken for reports: all of it is in the trial's own log."""
    (trial,) = runs.run(trains.write_a_lot, 1).trials
    assert trial.status is Status.COMPLETED
    assert trial.metrics == {"loss": {i: float(i) for i in range(0, 1000, 100)} | {1000: 0.5}}
    log = runs.folder / "sweep" / trial.trial_id / "stdout.log"
    assert log.stat().st_size > 100_000_000
    log.unlink()


def test_processes_that_a_trial_leaves_are_ended_with_it(make_script: MakeScript) -> None:
    script = make_script("sweep", TRAIN, TRAIN="leave_processes", N_TRIALS=4)
    script.run()
    script.wait_until_gone()
    assert {trial.status for trial in read_trials(script.database)} == {Status.COMPLETED}


def test_a_trial_that_closes_all_files(runs: Runs) -> None:
    """It fails with a message that says why; what it then opens is not written into."""
    result = runs.run(
        trains.close_all_files, 1, slots=1, space={"odd": ss.Grid([True, False]), "x": 0.5}
    )
    odd, even = result.trials
    assert (odd.status, even.status) == (Status.FAILED, Status.COMPLETED)
    said = (runs.folder / "sweep" / odd.trial_id / "stderr.log").read_text()
    assert "the connection from this trial to its worker is gone" in said
    assert "train closed file descriptors that it did not open" in said
    assert (runs.folder / "sweep" / odd.trial_id / "mine").read_bytes() == b"mine"


def test_records_that_are_cut_short_or_edited_are_ignored_and_counted(
    runs: Runs, capfd: pytest.CaptureFixture[str]
) -> None:
    (trial,) = runs.run(trains.write_into_the_channel, 1, slots=1).trials
    assert trial.status is Status.COMPLETED
    assert trial.metrics is not None
    assert list(trial.metrics["loss"]) == [1, 3]
    n_lacking = len(trains.list_lacking_records())
    assert n_lacking > 8
    said = f"{4 + n_lacking} records from workers were cut short or made no sense, and were left"
    assert said in capfd.readouterr().out
    assert b'"att' in (runs.folder / "sweep" / "slots" / "slot-0.log").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused_before_anything_is_unpickled(runs: Runs) -> None:
    runs.run(trains.succeed, 1)
    os.chown(runs.folder / "sweep", 4711, -1)
    with pytest.raises(UsageError, match="belongs to user 4711, not to you"):
        runs.run(trains.succeed, 2)
    assert runs.statuses() == [Status.COMPLETED]


CLOCK = """
import os, time
from pathlib import Path

now = time.time
time.time = lambda: now() - 3600 * Path("jumped").exists()

""" + TRAIN.replace("import os", "import os, time")


def test_a_clock_that_jumps_back_an_hour(make_script: MakeScript) -> None:
    script = make_script("sweep", CLOCK, TRAIN="log_when_told", N_TRIALS=4)
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/began", 2)
        (script.folder / "jumped").touch()
        (script.folder / "out" / "sweep" / "go").touch()
        assert driver.wait(60) == 0, script.printed()
    trials = read_trials(script.database)
    assert [trial.status for trial in trials] == [Status.COMPLETED] * 4
    durations = [(trial.end_time or 0) - (trial.start_time or 0) for trial in trials]
    assert all(0 <= duration < 3600 for duration in durations)
    assert {len(curve) for curve in read_curves(script.database).values()} == {501}


def test_many_slots_that_log_as_fast_as_they_can(make_script: MakeScript) -> None:
    """Not one report is lost, and the driver's memory stays what it is."""
    seconds = 20 if IS_CHAOS else 2
    script = make_script(
        "sweep",
        TRAIN,
        TRAIN="log_as_fast_as_it_can",
        N_TRIALS=64,
        SLOTS=64,
        SPACE={"seconds": seconds},
    )
    script.run()
    curves = read_curves(script.database, "other")
    sent = {
        trial.number: int((script.folder / "out/sweep" / trial.trial_id / "sent").read_text())
        for trial in read_trials(script.database)
    }
    assert len(sent) == 64
    assert {number: len(curve) for number, curve in curves.items()} == sent
    peak_kb = int(script.printed().split("peak_kb ")[1].split()[0])
    assert peak_kb < 600_000
