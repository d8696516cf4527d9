"""What callbacks share: Weights & Biases without a network, and libraries that aren't there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from frameworks import require_module
from slurm_sweeps.integrations._callbacks import WandbLog, find_class

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return require_module("wandb")


def log_once(log: WandbLog, framework_logs: bool = False) -> None:
    log.open()
    log.log({"loss": 0.5}, 3, framework_logs)


def test_it_opens_and_closes_a_run_when_asked(wandb: Any, tmp_path: Path) -> None:
    log = WandbLog(True, {"mode": "offline", "project": "sweeps"})
    log_once(log)
    run = wandb.run
    assert (run.name, run.group, run.project) == (tmp_path.name, tmp_path.parent.name, "sweeps")
    assert dict(run.summary)["loss"] == 0.5
    assert dict(run.summary)["iteration"] == 3
    log.close()
    assert wandb.run is None
    assert list(tmp_path.glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    ("wanted", "framework_logs", "logged"),
    [(None, False, True), (None, True, False), (False, False, False), (True, True, True)],
)
def test_a_run_that_is_open_already(
    wandb: Any, wanted: bool | None, framework_logs: bool, logged: bool
) -> None:
    with wandb.init(mode="offline") as run:
        log = WandbLog(wanted, None)
        log_once(log, framework_logs)
        log.close()
        assert wandb.run is run
        assert ("loss" in dict(run.summary)) is logged


def test_no_run_is_opened_unasked(wandb: Any) -> None:
    log_once(WandbLog(None, None))
    assert wandb.run is None


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"log_to_wandb=True needs .* pip install wandb"):
        WandbLog(True, None).open()


def test_a_library_that_is_not_there_is_told_from_one_that_is_broken() -> None:
    with pytest.raises(ImportError, match=r"integrations\.nowhere needs it: pip install it$"):
        find_class("nowhere.callbacks.Callback", "it: pip install it")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'json\.nowhere'"):
        find_class("json.nowhere.Callback", "it: pip install it")
