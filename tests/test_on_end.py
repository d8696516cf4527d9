"""What is run when a sweep is over: real sweeps, and real commands."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from slurm_sweeps.experiment import on_end
from sweep_scripts import Scripts

TELL = "env | grep ^SLURM_SWEEPS_ | sort > told"


def train(cfg: dict[str, Any]) -> None:
    """One value, or one failure."""
    if cfg["x"] > 1:
        raise ValueError("too large")
    ss.log({"loss": cfg["x"]}, 1)


def run(tmp_path: Path, command: Any, x: Any = None, **kwargs: Any) -> ss.Result:
    cfg = {"x": ss.Uniform(0, 1) if x is None else x}
    experiment = ss.Experiment(
        *(train, cfg), name="e", local_dir=tmp_path, metric="loss", mode="min", restore="auto"
    )
    return experiment.run(3, 2, summary_interval_in_sec=60, on_end=command, **kwargs)


def read_told(folder: Path) -> dict[str, str]:
    lines = (folder / "told").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_it_hears_how_the_sweep_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tmp_path, TELL)
    best = result.best_trial()
    assert read_told(tmp_path) == {
        "SLURM_SWEEPS_BEST_TRIAL": best.trial_id,
        "SLURM_SWEEPS_BEST_VALUE": repr(best.value),
        "SLURM_SWEEPS_DIR": str(tmp_path),
        "SLURM_SWEEPS_ENDED_BY": "",
        "SLURM_SWEEPS_FOLDER": str(tmp_path / "e"),
        "SLURM_SWEEPS_NAME": "e",
        "SLURM_SWEEPS_STATE": "completed",
    }
    (tmp_path / "told").unlink()
    run(tmp_path, TELL)  # nothing is left to run, so nothing has ended
    assert not (tmp_path / "told").exists()


def test_it_hears_of_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ss.SweepFailedError, match="the first 3 trials have all failed"):
        run(tmp_path, TELL, x=2)
    told = read_told(tmp_path)
    assert (told["SLURM_SWEEPS_STATE"], told["SLURM_SWEEPS_BEST_VALUE"]) == ("failed", "")


def test_it_hears_of_a_stop(scripts: Scripts) -> None:
    sweep = f"""
        import time
        import slurm_sweeps as ss

        def train(cfg):
            for epoch in range(10**6):
                ss.log({{"loss": 1.0}}, epoch)
                time.sleep(0.01)

        if __name__ == "__main__":
            ss.Experiment(train, {{}}, name="e").run(1, on_end={TELL!r})
        """
    with scripts.start(sweep) as driver:
        scripts.wait_for_file("slurm-sweeps/e/*/cfg.yml")
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 75
    told = read_told(scripts.folder)
    assert (told["SLURM_SWEEPS_STATE"], told["SLURM_SWEEPS_ENDED_BY"]) == ("stopped", "SIGTERM")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("exit 3", "on_end: 'exit 3' ended with code 3"),
        ("sleep 600 & wait", "on_end: 'sleep 600 & wait' took more than 1 s and was ended"),
    ],
)
def test_its_failure_is_only_told(
    command: str,
    said: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(on_end, "LIMIT_S", 1.0)
    assert len(run(tmp_path, command).trials) == 3
    assert said in capfd.readouterr().out


@pytest.mark.parametrize("command", [["echo"], "", 3])
def test_what_is_no_command(command: Any, tmp_path: Path) -> None:
    with pytest.raises(ss.UsageTypeError, match="on_end must be a command"):
        run(tmp_path, command)
