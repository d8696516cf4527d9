"""`slurm-sweeps add`: real sweeps that run, and the command beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from sweep_scripts import Scripts, kill

SWEEP = """
import time
from pathlib import Path

import slurm_sweeps as ss

def train(cfg):
    Path(__file__).with_name(f"began-{ss.trial_id()}").touch()
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)
    ss.log({"loss": cfg["lr"]}, 1)

if __name__ == "__main__":
    cfg = {"lr": ss.LogUniform(1e-5, 1), "net": {"width": ss.Integer(1, 512), "kind": "mlp"}}
    experiment = ss.Experiment(
        train, cfg, name="e", restore="auto", metric="loss", mode="min", seed=0
    )
    experiment.run(3, 1)
"""


def call(scripts: Scripts, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(Path(sys.executable).with_name("slurm-sweeps")), "add", "e", *arguments]
    return subprocess.run(
        argv, cwd=scripts.folder, env=scripts.env, capture_output=True, text=True, timeout=60
    )


def list_trials(scripts: Scripts) -> list[ss.Trial]:
    return ss.Result("e", scripts.folder / "slurm-sweeps").trials


def test_a_configuration_is_tried_next(scripts: Scripts) -> None:
    """It is there at once, also for the next driver, and begins before all that are drawn."""
    with scripts.start(SWEEP) as driver:
        scripts.wait_for_file("began-*")
        done = call(scripts, "lr=3e-4", "net.width=128")
        assert done.returncode == 0, done.stderr
        assert '{"lr": 0.0003, "net": {"width": 128}} is to be tried next' in done.stdout
        assert call(scripts, "net.width=7").returncode == 0
        assert call(scripts, "net.width=1000").returncode == 0  # which the driver finds out
        wait_until(lambda: len(list_trials(scripts)) == 3, 30, lambda: str(list_trials(scripts)))
        wrong = call(scripts, "widht=3")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert "has no 'widht'" in wrong.stderr
        assert "is not of the form NAME=VALUE" in call(scripts, "lr").stderr
        kill(driver)
    scripts.wait_until_gone(60)
    left = list_trials(scripts)
    assert [trial.status for trial in left[1:]] == [ss.Status.SCHEDULED] * 2
    assert "no driver is at work on experiment 'e'" in call(scripts, "lr=1e-3").stderr
    (scripts.folder / "go").touch()
    scripts.run(SWEEP)
    trials = list_trials(scripts)
    assert [trial.status for trial in trials] == [ss.Status.COMPLETED] * 3
    assert trials[1].cfg == {"lr": 3e-4, "net": {"width": 128, "kind": "mlp"}}
    assert trials[2].cfg["net"]["width"] == 7
    assert [trial.cfg for trial in trials] == [trial.cfg for trial in left]


def test_the_driver_says_what_it_makes_of_it(scripts: Scripts) -> None:
    with scripts.start(SWEEP.replace("run(3", "run(1")) as driver:
        scripts.wait_for_file("began-*")
        assert call(scripts, "net.width=1000").returncode == 0
        assert call(scripts, "net.width=9").returncode == 0
        wait_until(lambda: len(list_trials(scripts)) == 2, 30, lambda: str(list_trials(scripts)))
        (scripts.folder / "go").touch()
        said, _ = driver.communicate(timeout=60)
    assert 'what someone asked to add is left out ({"net": {"width": 1000}}): the cfg = ' in said
    assert "is added as someone asked" in said
    assert [trial.status for trial in list_trials(scripts)] == [ss.Status.COMPLETED] * 2
