"""The driver's loop waits for no disk, no terminal and no fit; what goes wrong there is said."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import slurm_sweeps as ss
from cluster_tools.processes import wait_until
from slurm_sweeps.errors import StorageError, SweepFailedError
from slurm_sweeps.running import driver
from slurm_sweeps.running.background import Background, StopSignals
from slurm_sweeps.samplers import Observation, Problem
from sweep_scripts import Scripts

TIMEOUT_S = 60.0


def test_who_waits_for_signals_is_woken_for_a_request_too() -> None:
    with StopSignals() as signals:
        threading.Thread(target=signals.wake).start()
        assert select.select([signals.fd], [], [], TIMEOUT_S)[0]
        assert signals.take() == []
        assert not select.select([signals.fd], [], [], 0)[0]


def test_a_folder_that_hangs_holds_up_no_report(scripts: Scripts) -> None:
    """The third trial's cfg.yml is a pipe: to open it takes until somebody reads it."""
    done = scripts.run(
        """
        import os, time
        import slurm_sweeps as ss

        SPACE = {"x": ss.Grid([0, 1, 2])}
        HANGS = ss.Trial({"x": 2}).trial_id

        def train(cfg):
            pipe = f"../{HANGS}/cfg.yml"
            if cfg["x"] == 0:
                os.mkdir(f"../{HANGS}")
                os.mkfifo(pipe)
                open("../go", "w").close()
                slowest, iteration = 0.0, 0
                while iteration < 100 or not os.path.exists("../third"):
                    iteration += 1
                    began = time.monotonic()
                    ss.log({"loss": 1.0}, iteration)
                    slowest = max(slowest, time.monotonic() - began)
                    time.sleep(0.01)
                for _ in range(50):
                    iteration += 1
                    began = time.monotonic()
                    ss.log({"loss": 1.0}, iteration)
                    slowest = max(slowest, time.monotonic() - began)
                    time.sleep(0.01)
                with open(pipe) as file:
                    ss.log({"slowest": slowest, "is_right": float(file.read() == "x: 2\\n")}, 1)
            elif cfg["x"] == 1:
                while not os.path.exists("../go"):
                    time.sleep(0.01)
                open("../third", "w").close()  # which takes this one's place

        if __name__ == "__main__":
            result = ss.Experiment(train, SPACE, "hangs", "out").run(3, 2)
            first = result.trials[0].metrics
            print("found", first["slowest"][1], first["is_right"][1])
        """
    )
    slowest, is_right = map(float, done.stdout.rpartition("found ")[2].split())
    assert slowest < 0.5
    assert is_right == 1.0


def test_a_trial_whose_cfg_can_not_be_written_ends_the_sweep(tmp_path: Path) -> None:
    second = ss.Trial({"x": 2}).trial_id

    def train(cfg: dict[str, Any]) -> None:
        if cfg["x"] == 1:
            Path(f"../{second}").touch()  # a file where the next trial's folder is to be

    experiment = ss.Experiment(train, {"x": ss.Grid([1, 2])}, "no-room", tmp_path)
    match = rf"can't write into .*/no-room/{second}: .*exists.* Make room or mend the permissions"
    with pytest.raises(StorageError, match=match):
        experiment.run(2, 1)


def test_a_folder_that_is_removed_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import itertools
        import shutil

        shutil.rmtree(tmp_path / "gone")
        for iteration in itertools.count():
            ss.log({"loss": 1.0}, iteration)
            time.sleep(0.01)

    monkeypatch.setattr(driver, "FOLDER_S", 0.1)
    experiment = ss.Experiment(train, {}, "gone", tmp_path)
    with pytest.raises(
        StorageError, match=r"/gone/train\.pkl is gone: someone has removed the exp"
    ):
        experiment.run(1, 1)
    assert ss.Result("gone", tmp_path).trials[0].metrics


NOBODY_READS = """
import itertools, os, sys, time
import slurm_sweeps as ss
from slurm_sweeps.views import screens

screens.TERMINAL_S = 0.2

def train(cfg):
    for iteration in itertools.count(1) if cfg["is_endless"] else range(1, 11):
        ss.log({"loss": 1.0}, iteration)
        time.sleep(0.01)

if __name__ == "__main__":
    cfg = {"is_endless": sys.argv[1] == "endless"}
    asha = ss.ASHA("loss", "min", max_t=100_000)
    experiment = ss.Experiment(train, cfg, "quiet", "out", asha=asha)
    experiment.run(4, 2, summary_interval_in_sec=0.05, grace_period_in_sec=30)
"""


@pytest.mark.parametrize(("how", "code"), [("by itself", 0), ("endless", 75)])
def test_a_pipe_that_nobody_reads_stops_no_sweep(scripts: Scripts, how: str, code: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    argv = [sys.executable, scripts.write(NOBODY_READS), how]
    try:
        with subprocess.Popen(argv, cwd=scripts.folder, stdout=writer) as process:
            if code:
                scripts.wait_for_file("out/quiet/*/stdout.log", 2)
                process.terminate()
            try:
                assert process.wait(TIMEOUT_S) == code
            finally:
                process.kill()
    finally:
        os.close(reader)
        os.close(writer)
    trials = ss.Result("quiet", scripts.folder / "out").trials
    statuses = {trial.status for trial in trials}
    assert statuses == ({"interrupted"} if code else {"completed"})
    assert [len(trial.metrics["loss"]) for trial in trials] == [10] * 4 or code


class Learner:
    """Draws numbers; what it has to compute goes wrong."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.studies_apart = self.awaits_study = False

    def bind(self, problem: Problem) -> Learner:
        self.space, self.number, self.n_planned = problem.space, 0, 0
        return self

    def ask(self, _now: float) -> dict[str, Any]:
        return self.space.build(lambda _leaf: (self.number % 100) / 100)

    def tell(self, trial: Observation) -> None:
        self.number = max(self.number, trial.number + 1)

    def plan_study(self) -> Callable[[], Any]:
        self.n_planned += 1
        return self.compute

    def compute(self) -> str:
        if self.where == "compute":
            raise ValueError("singular matrix")
        return "found"

    def learn(self, result: Any) -> None:
        assert result == "found"
        raise ValueError("singular matrix")


class Drawer(Learner):
    """One that can also draw at random."""

    def draw_at_random(self) -> None:
        self.space = self.space


def train_twice(cfg: dict[str, Any]) -> None:
    for iteration in (1, 2):
        ss.log({"loss": cfg["x"]}, iteration)


SAYS = "could not learn: ValueError: singular matrix"


@pytest.mark.parametrize("where", ["compute", "learn"])
def test_a_sampler_that_can_not_learn_is_told_of_and_draws_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    sampler = Drawer(where)
    space = {"x": ss.Uniform(0, 1)}
    result = ss.Experiment(train_twice, space, "draws", tmp_path, sampler=sampler).run(8, 2)
    assert len(result.trials) == 8
    printed = " ".join(capfd.readouterr().out.split())
    assert printed.count(f"the sampler Drawer {SAYS}; it draws at random from now on") == 1
    assert sampler.n_planned == 1  # it is not asked again


def test_a_sampler_that_can_only_learn_ends_the_sweep_which_can_go_on(tmp_path: Path) -> None:
    def build(sampler: Any) -> ss.Experiment:
        space = {"x": ss.Uniform(0, 1)}
        return ss.Experiment(train_twice, space, "ends", tmp_path, sampler=sampler, restore="auto")

    with pytest.raises(SweepFailedError, match=f"the sampler Learner {SAYS}"):
        build(Learner("compute")).run(5000, 2)
    result = build(None).run(8, 2)
    assert len([trial for trial in result.trials if trial.metrics]) >= 8


def test_jobs_are_done_in_order_and_the_first_error_is_kept() -> None:
    background, done = Background("test", max_waiting=3), []
    gate = threading.Event()

    def fail(text: str) -> None:
        done.append(text)
        raise ValueError(text)

    assert background.put(lambda: gate.wait(TIMEOUT_S))
    deadline = time.monotonic() + TIMEOUT_S
    while not background._jobs.empty():  # it has begun with the first one
        assert time.monotonic() < deadline
        time.sleep(0.001)
    for text in ("a", "b", "c"):
        assert background.put(lambda text=text: fail(text))
    assert not background.put(lambda: done.append("one too many"))
    background.check()
    assert not background.close(0.01)
    gate.set()
    assert background.close(TIMEOUT_S)
    assert done == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"^a$"):
        background.check()


def test_nothing_to_do_takes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither before the first job nor after the last; and no job is lost as a thread goes."""
    monkeypatch.setattr("slurm_sweeps.running.background.REST_S", 0.0)
    background, done = Background("test-rests"), list[int]()
    threads = lambda: [t for t in threading.enumerate() if t.name == "test-rests"]  # noqa: E731
    assert background.close(0.0)
    assert not threads()
    for number in range(500):
        assert background.put(partial(done.append, number))
    wait_until(lambda: not threads(), TIMEOUT_S, lambda: f"{threads()} stays")
    assert done == list(range(500))
    assert background.close(0.0)
