"""A driver that is told to stop: everything kept, nothing left, and an exit code that says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from reliable_sweeps import TRAIN, Script, read_attempts, read_curves, read_trials

from slurm_sweeps.trial import Status
from sweep_scripts import choose

MakeScript = Callable[..., Script]

#: Signals by which a driver is told to stop, and how it ends. At one moment or another `make test`
#: has each of them, `make chaos` all at each.
SIGNALS = {"SIGTERM": 75, "SIGUSR1": 75, "SIGHUP": 75, "SIGINT": 130, "SIGINT SIGINT": 130}


@pytest.mark.parametrize("name", choose(list(SIGNALS)[:-1], {"SIGHUP", "SIGINT"}))
def test_trials_end_at_their_next_report(make_script: MakeScript, name: str) -> None:
    number, code = signal.Signals[name], SIGNALS[name]
    script = make_script("sweep", TRAIN, TRAIN="log_until_told")
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/last", 2)
        driver.send_signal(number)
        assert driver.wait(60) == code, script.printed()
    script.wait_until_gone()
    hint = " (Ctrl-C again ends them at once)" if number == signal.SIGINT else ""
    assert (
        f"{number.name}: starting nothing new; 2 running trials have 60 s to reach their next "
        f"report{hint}" in script.printed()
    )
    assert "Traceback" not in script.printed()
    trials = read_trials(script.database)
    assert [trial.status for trial in trials] == [Status.INTERRUPTED] * 2
    curves = read_curves(script.database)
    for trial in trials:  # the report that raised is stored, and so are all before
        folder = script.folder / "out" / "sweep" / trial.trial_id
        assert (folder / "interrupted").exists()
        last = int((folder / "last").read_text())
        assert sorted(curves[trial.number]) == list(range(1, last + 2))

    script.run()
    trials = read_trials(script.database)
    assert [trial.status for trial in trials] == [Status.COMPLETED] * 2
    assert [trial.attempt for trial in trials] == [2, 2]


NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does\n"


def test_nohup_lets_a_sweep_outlive_its_terminal(make_script: MakeScript) -> None:
    script = make_script("sweep", NOHUP + TRAIN, TRAIN="log_until_told")
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/last", 2)
        driver.send_signal(signal.SIGHUP)
        driver.send_signal(signal.SIGTERM)  # of two signals that wait the lower number comes first
        assert driver.wait(60) == 75, script.printed()
    assert "SIGTERM: starting nothing new" in script.printed()
    assert "SIGHUP" not in script.printed()


def test_a_trial_that_asks_is_told_and_may_save_and_return(make_script: MakeScript) -> None:
    script = make_script("sweep", TRAIN, TRAIN="look_at_should_stop")
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/began1", 2)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 75
    assert len(script.wait_for_files("out/sweep/*/checkpoints/saved", 2)) == 2
    assert {a.status for a in read_attempts(script.database)} == {Status.INTERRUPTED}
    script.run()
    assert {trial.status for trial in read_trials(script.database)} == {Status.COMPLETED}


def test_a_trial_that_does_not_listen_is_ended_after_the_grace(make_script: MakeScript) -> None:
    script = make_script("sweep", TRAIN, TRAIN="never_listen", GRACE_S=0.5)
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/began1", 2)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 75
    script.wait_until_gone()
    assert {a.status for a in read_attempts(script.database)} == {Status.INTERRUPTED}
    script.run()
    assert {trial.status for trial in read_trials(script.database)} == {Status.COMPLETED}


def test_a_second_ctrl_c_ends_it_at_once(make_script: MakeScript) -> None:
    """The first leaves the trials an hour, which the second takes away."""
    script = make_script("sweep", TRAIN, TRAIN="never_listen", GRACE_S=3600)
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/daemon", 2)
        driver.send_signal(signal.SIGINT)
        script.wait_for_print("SIGINT: starting nothing new")
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130
    script.wait_until_gone()
    assert {trial.status for trial in read_trials(script.database)} == {Status.INTERRUPTED}
    assert "Traceback" not in script.printed()


BEGIN = """
import os, signal
import slurm_sweeps as ss

class Train:
    def __call__(self, cfg):
        ss.log({"loss": cfg["x"]}, 1)
    def __reduce__(self):  # before the first worker
        for name in os.environ.get("SIGNALS", "").split():
            os.kill(os.getpid(), getattr(signal, name))
        return Train, ()

if __name__ == "__main__":
    ss.Experiment(Train(), {"x": ss.Uniform(0, 1)}, "sweep", "out", restore="auto").run(3)
    print("went on")
"""


@pytest.mark.parametrize("signals", choose(SIGNALS, {"SIGUSR1", "SIGINT SIGINT"}))
def test_a_signal_before_the_first_worker(make_script: MakeScript, signals: str) -> None:
    script = make_script("sweep", BEGIN)
    said = script.run(SIGNALS[signals], SIGNALS=signals)
    assert "Traceback" not in said
    assert (f"{signals}: starting nothing new; no trial is running" in said) == (" " not in signals)
    assert read_trials(script.database) == []
    assert "went on" in script.run()
    assert [trial.status for trial in read_trials(script.database)] == [Status.COMPLETED] * 3


END = """
import os, signal
import slurm_sweeps as ss
from slurm_sweeps.storage.writer import Writer

flush = Writer.flush
def flush_when_told(self):
    for name in os.environ.get("SIGNALS", "").split():
        os.kill(os.getpid(), getattr(signal, name))
    flush(self)
Writer.flush = flush_when_told

def train(cfg):
    ss.log({"loss": cfg["x"]}, 1)

if __name__ == "__main__":
    ss.Experiment(train, {"x": ss.Uniform(0, 1)}, "sweep", "out", restore="auto").run(3)
    print("went on")
"""


@pytest.mark.parametrize("signals", choose(SIGNALS, {"SIGTERM", "SIGINT SIGINT"}))
def test_a_signal_during_the_last_flush(make_script: MakeScript, signals: str) -> None:
    """All is kept, the script ends as it was told, and goes on from there."""
    script = make_script("sweep", END)
    said = script.run(SIGNALS[signals], SIGNALS=signals)
    assert "Traceback" not in said
    assert "went on" not in said
    assert (f"{signals}: the sweep was over already" in said) == (" " not in signals)
    trials = read_trials(script.database)
    assert [trial.status for trial in trials] == [Status.COMPLETED] * 3
    assert [len(curve) for curve in read_curves(script.database).values()] == [1] * 3
    assert "went on" in script.run()
    assert read_trials(script.database) == trials


def test_a_term_to_a_trial_that_nobody_told_to_stop(make_script: MakeScript) -> None:
    """As Slurm's, which reaches trials before the driver can say anything: not lost, run again."""
    script = make_script("sweep", TRAIN, TRAIN="log_until_told")
    with script.start() as driver:
        script.wait_for_files("out/sweep/*/last", 2)
        for pid in (*script.find_workers(), *script.find_trials()):
            os.kill(pid, signal.SIGTERM)
        assert driver.wait(60) == 0, script.printed()
    attempts = read_attempts(script.database)
    assert [a.status for a in attempts if a.attempt == 1] == [Status.INTERRUPTED] * 2
    assert {trial.status for trial in read_trials(script.database)} == {Status.COMPLETED}
