"""What attempts used: measured in real processes, added up, and compared with their share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import slurm_sweeps as ss
from slurm_sweeps.cli import main
from slurm_sweeps.result import Trial
from slurm_sweeps.running import usage
from slurm_sweeps.running.usage import Gauge, StepMemory, sum_usage
from slurm_sweeps.trial import Status

MEBIBYTES = 150


def compute(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def hold(mebibytes: int) -> bytes:
    return os.urandom(1) * (mebibytes << 20)


def train(cfg: dict[str, Any]) -> float:
    """Take memory and time, here or in children, and end in one way or another."""
    if cfg["how"] == "in a child":
        if os.fork() == 0:
            held = hold(MEBIBYTES)
            compute(0.5)
            os._exit(len(held) == 0)
        os.wait()
        return 1.0
    held = hold(MEBIBYTES)
    compute(0.5)
    if cfg["how"] == "killed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if cfg["how"] == "failed":
        raise ValueError(len(held))
    return 1.0


ENDS = {
    "completed": Status.COMPLETED,
    "in a child": Status.COMPLETED,
    "killed": Status.FAILED,
    "failed": Status.FAILED,
}


def test_a_trial_is_measured_however_it_ends(tmp_path: Path) -> None:
    trials = run(tmp_path, train, {"how": ss.Grid([*ENDS])})
    assert {trial.cfg["how"]: trial.status for trial in trials} == ENDS
    for trial in trials:
        assert trial.cpu_sec is not None
        assert trial.memory_mb is not None
        assert MEBIBYTES < trial.memory_mb < 8 * MEBIBYTES
        assert 0.5 <= trial.cpu_sec < 20
        assert trial.gpu_memory_mb is None
    argv = ["trial", "used", trials[0].trial_id, "--local-dir", str(tmp_path)]
    assert f"{trials[0].memory_mb:,.0f} MiB, 0:0" in CliRunner().invoke(main, argv).stdout


def run(tmp_path: Path, what: Any, cfg: dict[str, Any]) -> list[Trial]:
    experiment = ss.Experiment(what, cfg, "used", tmp_path)
    return experiment.run(1, 1, fail_fast=False).trials


def test_of_programs_each_is_measured_by_itself(tmp_path: Path) -> None:
    """Their trials' process is the same one."""
    held = ss.Grid([MEBIBYTES, 1])
    program = ss.Program(["python3", "-c", "print(len(b'x' * ({held} << 20)))"])
    first, second = run(tmp_path, program, {"held": held})
    assert first.memory_mb is not None
    assert second.memory_mb is not None
    assert second.memory_mb < MEBIBYTES < first.memory_mb
    assert second.cpu_sec is not None
    assert first.cpu_sec is not None
    assert 0 < second.cpu_sec < 20


def test_the_memory_of_a_step_is_that_of_its_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = tmp_path / "step_0" / "memory.peak"
    peak.parent.mkdir()
    peak.write_text(f"{100 << 20}\n")
    monkeypatch.setattr(usage, "find_cgroup_files", lambda *_: [peak])
    memory = StepMemory()
    assert memory.read_rise() is None  # by those before
    peak.write_text(f"{300 << 20}\n")
    assert memory.read_rise() == 300
    assert memory.read_rise() is None
    peak.unlink()
    assert memory.read_rise() is None


def test_the_cgroup_of_a_whole_job_or_of_no_job_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = tmp_path / "memory.peak"
    peak.write_text("100\n")
    monkeypatch.setattr(usage, "find_cgroup_files", lambda *_: [peak])
    memory = StepMemory()
    peak.write_text("200\n")
    assert memory.read_rise() is None
    assert all(file.exists() for file in usage.find_cgroup_files("a", "b"))


def test_ranks_are_added_up() -> None:
    one: Any = {"memory_mb": 10.0, "cpu_s": 1.0, "is_alone": True}
    assert sum_usage([one]) == one
    assert sum_usage([one, {**one, "gpu_memory_mb": 7.0}]) == {
        **{"memory_mb": 20.0, "cpu_s": 2.0, "gpu_memory_mb": 7.0, "is_alone": True}
    }
    assert sum_usage([one, {"how": "lost"}])["is_alone"] is False
    assert sum_usage([]) == {"is_alone": True}


def gauge(*trials: tuple[float, float, bool, float]) -> str | None:
    """Note trials that have 8 CPUs and 16 GiB: their memory, CPUs, is_alone, and runtime."""
    found = Gauge()
    for memory_mb, cpus, is_alone, runtime_s in trials:
        used = {"memory_mb": memory_mb, "cpu_s": cpus * runtime_s, "is_alone": is_alone}
        found.note(used, runtime_s, 8, 16384)
    return found.describe()


def test_a_share_that_is_far_too_large_is_told() -> None:
    assert gauge((1024, 1.0, True, 100.0), (2048, 1.5, True, 60.0)) == (
        "no trial of a minute or more used more than 2.0 of 16 GiB of memory and 1.5 of 8 CPUs "
        "that it has: with a smaller share (mem, cpus_per_task of SlurmCfg; cpus of LocalCfg) more "
        "run at once"
    )
    assert "CPUs" not in (gauge((1024, 2.5, True, 60.0)) or "")


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [(1024, 1.0, True, 59.0)],  # too short to tell
        [(5000, 3.0, True, 60.0)],
        [(1024, 1.0, True, 60.0), (5000, 3.0, True, 60.0)],  # one that needs it
        [(1024, 3.0, False, 60.0)],  # its other processes may have taken more
        [(1024, 3.0, True, 60.0), (1024, 1.0, False, 60.0)],
    ],
)
def test_a_share_that_is_needed_is_not(trials: list[tuple[float, float, bool, float]]) -> None:
    assert gauge(*trials) is None


def test_where_no_share_is_known_nothing_is_told() -> None:
    found = Gauge()
    found.note({"memory_mb": 1.0, "cpu_s": 1.0, "is_alone": True}, 100.0, None, None)
    found.note({"is_alone": True}, 100.0, 8, 16384)
    assert found.describe() is None


def test_the_driver_tells_it_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(usage, "LEAST_S", 0.0)
    cpus = len(os.sched_getaffinity(0))
    if cpus < 2:
        pytest.skip("a share of one CPU is never too large")
    cfg = ss.LocalCfg(cpus=cpus)
    ss.Experiment(lambda _: time.sleep(2.0), {}, "idle", tmp_path, local_cfg=cfg).run(1)
    said = f"of {cpus} CPUs that it has: with a smaller share"
    assert said in capsys.readouterr().out
