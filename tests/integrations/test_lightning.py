"""The Lightning callback, called by real trainers; outside of a trial `log` prints."""

from __future__ import annotations

import importlib
import re
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from frameworks import require_module
from slurm_sweeps import UsageError, UsageTypeError
from slurm_sweeps.running import session

# What frameworks warn of in their own code is not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

PACKAGES = ["lightning.pytorch", "pytorch_lightning"]


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> ModuleType:
    found: ModuleType = require_module(request.param)
    return found


@pytest.fixture
def integration() -> ModuleType:
    for name in PACKAGES:
        require_module(name)
    return importlib.import_module("slurm_sweeps.integrations.lightning")


def build_module(package: ModuleType, names: tuple[str, ...] = ("val_loss",)) -> Any:
    """A module whose metrics are the numbers of its validations, over all."""
    import torch

    class Module(package.LightningModule):  # type: ignore[misc,name-defined] # chosen at run time
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, _index: int) -> Any:
            return self.layer(batch[0]).sum()

        def validation_step(self, _batch: Any, _index: int) -> None:
            for name in names:
                self.log(name, torch.tensor(float(self.global_step)))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def test_the_plugin_of_version_0_1(integration: ModuleType) -> None:
    assert integration.SlurmSweepsCallback
    with pytest.raises(ImportError, match="leave it out, Lightning finds a trial's ranks by"):
        exec("from slurm_sweeps.integrations.lightning import ParallelSlurmEnvironment")


def fit(package: ModuleType, callbacks: list[Any], ckpt: Path | None = None, **kwargs: Any) -> Any:
    """Train four batches an epoch."""
    import torch

    trainer = package.Trainer(
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, "enable_checkpointing": False, **kwargs},
    )
    data = torch.utils.data.TensorDataset(torch.ones(4, 1))
    loader = torch.utils.data.DataLoader(data)
    trainer.fit(build_module(package), loader, loader, ckpt_path=ckpt)
    return trainer


def read_reports(capsys: pytest.CaptureFixture[str]) -> list[tuple[int, float]]:
    """Read iterations and values that `log` has printed."""
    found = re.findall(r"^iteration (\d+): val_loss=(\S+)$", capsys.readouterr().out, re.MULTILINE)
    return [(int(iteration), float(value)) for iteration, value in found]


def test_it_reports_each_validation_but_no_sanity_check(
    package: ModuleType, integration: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = fit(package, [integration.SlurmSweepsCallback("val_loss")])
    assert read_reports(capsys) == [(1, 4.0), (2, 8.0)]
    trainer.validate(build_module(package), trainer.val_dataloaders)
    assert read_reports(capsys) == []


def test_epochs_without_validation_count(
    package: ModuleType, integration: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = integration.SlurmSweepsCallback(["val_loss"])
    fit(package, [callback], max_epochs=4, check_val_every_n_epoch=2)
    assert read_reports(capsys) == [(2, 8.0), (4, 16.0)]


@pytest.mark.parametrize(
    "how", [{"val_check_interval": 0.5}, {"val_check_interval": 2, "check_val_every_n_epoch": None}]
)
def test_several_validations_in_an_epoch_are_counted(
    package: ModuleType,
    integration: ModuleType,
    capsys: pytest.CaptureFixture[str],
    how: dict[str, Any],
) -> None:
    fit(package, [integration.SlurmSweepsCallback("val_loss")], **how)
    assert read_reports(capsys) == [(1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0)]


def test_counting_goes_on_after_a_checkpoint(
    package: ModuleType, integration: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    how = {"val_check_interval": 0.5, "enable_checkpointing": True}
    checkpoint = package.callbacks.ModelCheckpoint(
        tmp_path, save_last=True, save_on_train_epoch_end=False
    )
    fit(package, [integration.SlurmSweepsCallback("val_loss"), checkpoint], max_epochs=1, **how)
    assert [iteration for iteration, _ in read_reports(capsys)] == [1, 2]
    callbacks = [integration.SlurmSweepsCallback("val_loss"), checkpoint]
    fit(package, callbacks, tmp_path / "last.ckpt", **how)
    assert [iteration for iteration, _ in read_reports(capsys)][-1] == 4


def test_it_acts_after_the_checkpoint_is_written(
    package: ModuleType, integration: ModuleType, tmp_path: Path
) -> None:
    seen = []

    class Callback(integration.SlurmSweepsCallback):  # type: ignore[misc,name-defined] # see above
        def on_validation_end(self, trainer: Any, _pl_module: Any) -> None:
            if not trainer.sanity_checking:
                seen.append((tmp_path / "last.ckpt").exists())

    checkpoint = package.callbacks.ModelCheckpoint(
        tmp_path, save_last=True, save_on_train_epoch_end=False
    )
    fit(package, [Callback("val_loss"), checkpoint], enable_checkpointing=True)
    assert seen == [True, True]


def test_it_is_a_callback_of_both_packages(integration: ModuleType) -> None:
    callback = integration.SlurmSweepsCallback("val_loss")
    assert all(isinstance(callback, require_module(name).Callback) for name in PACKAGES)


def test_a_missing_metric_is_named_with_those_there_are(
    package: ModuleType, integration: ModuleType
) -> None:
    said = r"metric 'accuracy' is not among those logged .*: \['val_loss'\]"
    with pytest.raises(UsageError, match=said):
        fit(package, [integration.SlurmSweepsCallback(["val_loss", "accuracy"])])


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"metrics": 3}, UsageTypeError, "must be a name or a list of names; got 3"),
        ({"metrics": []}, UsageError, r"metrics=\[\]: name at least one metric"),
        ({"metrics": "a", "log_to_wandb": "yes"}, UsageError, "True, False or None; got 'yes'"),
        (
            {"metrics": "a", "wandb_init_kwargs": {"mode": "offline"}},
            UsageError,
            "{'mode': 'offline'} has no effect without log_to_wandb=True",
        ),
    ],
)
def test_bad_arguments(
    integration: ModuleType, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        integration.SlurmSweepsCallback(**arguments)


def test_what_to_install_is_said(integration: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in integration.PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="needs Lightning 2: pip install lightning"):
        integration.find_bases()


def test_in_a_trial_term_stays_with_the_sweep(
    package: ModuleType, integration: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own handler ends training by an exception, wherever it is."""
    monkeypatch.setattr(session, "is_in_trial", lambda: True)
    mine = signal.signal(signal.SIGTERM, handle_term)
    handlers = []

    class Look(package.Callback):  # type: ignore[misc,name-defined] # chosen at run time
        def on_train_batch_start(self, *_args: Any) -> None:
            handlers.append(signal.getsignal(signal.SIGTERM))

    try:
        fit(package, [integration.SlurmSweepsCallback("val_loss"), Look()], max_epochs=1)
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert handlers == [handle_term] * 4


def handle_term(*_: object) -> None:
    """Do nothing."""
