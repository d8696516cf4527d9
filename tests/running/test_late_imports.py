"""What trials import late, and what their worker makes of it: real workers, libraries and forks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_process import start_worker

import slurm_sweeps as ss

#: A library that loads thirty modules at first use, in turn.
LIBRARY = """
import importlib
is_in_use = False

def use():
    global is_in_use
    is_in_use = True
    for n in range(30):
        importlib.import_module(f"lazylib.part{n}")
"""


def train(cfg: dict[str, Any]) -> None:
    import os
    import random  # noqa: F401 - as any library would have
    import sys

    import lazylib  # type: ignore[import-not-found] # written by the test

    import slurm_sweeps as ss

    before = sum(name.startswith("lazylib.part") for name in sys.modules)
    is_fork = int("slurm_sweeps.running.worker" in sys.modules)
    if "set" in cfg:
        os.environ["LAZYLIB_MODE"] = cfg["set"]
    lazylib.use()
    ss.log({"before": before, "is_fork": is_fork}, 1)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    (folder / "lazylib").mkdir(parents=True)
    (folder / "lazylib" / "__init__.py").write_text(LIBRARY)
    for n in range(30):
        (folder / "lazylib" / f"part{n}.py").write_text("")
    monkeypatch.syspath_prepend(folder)
    return folder / "lazylib"


def run_trials(
    folder: Path, count: int, train: Callable[[dict[str, Any]], Any] = train, **cfg: Any
) -> tuple[list[float], list[str]]:
    """Run trials one after another; return what each found loaded, and the notices."""
    seen, notices = [], []
    with start_worker(folder, train) as worker:
        worker.wait_for("ready")
        for number in range(count):
            place = {"trial_id": "t", "number": number, "attempt": 1, "dir": str(folder / "t")}
            worker.send({"kind": "run", **place, "env": {}, "cfg": cfg})
            record = worker.wait_for_any()
            if record["kind"] == "notice":
                notices.append(record["text"])
                record = worker.wait_for("started")
            assert record["kind"] == "started"
            report = worker.wait_for("report")["metrics"]
            assert report["is_fork"]
            seen.append(report["before"])
            worker.decide("go_on", 1, number)
            assert worker.wait_for("ended")["how"] == "completed"
        assert worker.stderr == b""
    return seen, notices


NOTICE = (
    "trials load about 30 modules more than their worker (of lazylib): each worker imports them "
    "once from now on (import_ahead=False: none does)"
)


@pytest.mark.usefixtures("library")
def test_the_second_trial_finds_what_the_first_has_imported(tmp_path: Path) -> None:
    assert run_trials(tmp_path, 3) == ([0, 30, 30], [NOTICE])


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("import_ahead", [True, False])
def test_a_sweep_says_so_once_and_can_do_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], import_ahead: bool
) -> None:
    cfg = ss.LocalCfg(import_ahead=import_ahead)
    experiment = ss.Experiment(train, {"x": ss.Uniform(0, 1)}, local_dir=tmp_path, local_cfg=cfg)
    result = experiment.run(n_trials=3, max_concurrent_trials=1)
    seen = [trial.metrics["before"][1] for trial in result.trials]
    assert sorted(seen) == ([0, 30, 30] if import_ahead else [0, 0, 0])
    assert capsys.readouterr().out.count(NOTICE) == import_ahead


def test_pytorch_loads_its_compiler_once(tmp_path: Path) -> None:
    def train(_cfg: dict[str, Any]) -> None:
        import sys

        import torch

        import slurm_sweeps as ss

        before = int("torch._dynamo" in sys.modules)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(8, 2)).sum().backward()
        optimizer.step()
        ss.log({"before": before, "is_fork": 1}, 1)

    seen, (notice,) = run_trials(tmp_path, 2, train)
    assert seen == [0, 1]
    assert "00 modules more than their worker (of numpy, torch): each worker imports" in notice


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
         "importing what train needs has started threads (Thread-1 (wait))"),
        ("import random\nrandom.seed(1)", "importing them draws or seeds random numbers"),
        ("import subprocess\nsubprocess.Popen(['sleep', '60'])", "importing them starts processes"),
        ("import os, lazylib\nlazylib.is_in_use or os._exit(3)",
         "a process that imports them crashes"),
        ("import lazylib\nif not lazylib.is_in_use: import otherlib",
         "importing them by themselves loads otherlib, which the trial has not"),
    ],
)  # fmt: skip
def test_what_a_trial_could_tell_is_left_to_it(
    tmp_path: Path, library: Path, code: str, reason: str
) -> None:
    (library.parent / "otherlib.py").write_text("")
    (library / "part7.py").write_text(code)
    seen, (notice,) = run_trials(tmp_path, 3)
    assert seen == [0, 0, 0]
    assert notice.endswith(f" {reason}; each trial goes on to import them by itself")


def test_a_module_that_cannot_be_imported_by_itself_is_left_alone(
    tmp_path: Path, library: Path
) -> None:
    (library / "part7.py").write_text("import lazylib\nassert lazylib.is_in_use")
    assert run_trials(tmp_path, 3)[0] == [0, 29, 29]


def test_what_may_read_a_variable_that_train_sets_is_left_to_it(
    tmp_path: Path, library: Path
) -> None:
    (library / "part7.py").write_text("import os\nmode = os.environ.get('LAZYLIB_MODE')")
    seen, (notice,) = run_trials(tmp_path, 3, set="fast")
    assert seen == [0, 0, 0]
    assert "train sets LAZYLIB_MODE, which lazylib.part7 may read" in notice


def test_what_importing_sets_itself_is_no_hindrance(tmp_path: Path, library: Path) -> None:
    (library / "part7.py").write_text("import os\nos.environ['LAZYLIB_MODE'] = 'fast'")
    assert run_trials(tmp_path, 2)[0] == [0, 30]


@pytest.mark.parametrize("installed", [True, False])
def test_what_only_train_imports_and_what_is_the_users_own_is_left_to_trials(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    if not installed:
        library.rename(tmp_path / "lazylib")
        monkeypatch.syspath_prepend(tmp_path)

    def train(_cfg: dict[str, Any]) -> None:
        import slurm_sweeps as ss

        if installed:
            ss.trial_id()
        import sys

        import lazylib

        before = int("lazylib.part3" in sys.modules)
        lazylib.use()
        ss.log({"before": before, "is_fork": 1}, 1)

    assert run_trials(tmp_path, 3, train) == ([0, 0, 0], [])
