"""The Hugging Face callback, called by a real trainer; outside of a trial `log` prints."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from frameworks import require_module
from slurm_sweeps import UsageError

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def integration() -> ModuleType:
    require_module("torch")
    require_module("transformers")
    return importlib.import_module("slurm_sweeps.integrations.transformers")


def train(folder: Path, callback: Any, *more: Any, evaluate: bool = False, **kwargs: Any) -> None:
    """Train a tiny model four steps an epoch, for two epochs."""
    import torch
    import transformers

    config = transformers.BertConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=4,
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"eval_strategy": "epoch", "save_strategy": "no", **kwargs},
    )
    data = [{"input_ids": torch.tensor([1, 2, 3]), "labels": torch.tensor(i % 2)} for i in range(8)]
    trainer = transformers.Trainer(
        transformers.BertForSequenceClassification(config),
        arguments,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[callback, *more],
    )
    trainer.train()
    if evaluate:
        trainer.evaluate()


def read_iterations(capsys: pytest.CaptureFixture[str]) -> list[int]:
    """Read the iterations that `log` has printed."""
    found = re.findall(r"^iteration (\d+): eval_loss=", capsys.readouterr().out, re.MULTILINE)
    return [int(iteration) for iteration in found]


def test_it_reports_each_epoch_of_training(
    integration: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path, integration.SlurmSweepsCallback("eval_loss"), evaluate=True)
    assert read_iterations(capsys) == [1, 2]


def test_evaluations_by_steps_are_counted(
    integration: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callback = integration.SlurmSweepsCallback(["eval_loss"])
    train(tmp_path, callback, eval_strategy="steps", eval_steps=2)
    assert read_iterations(capsys) == [1, 2, 3, 4]


def test_it_reports_when_the_checkpoint_is_written(
    integration: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        integration.session,
        "log",
        lambda _values, _iteration: seen.append(sorted(p.name for p in tmp_path.glob("check*"))),
    )
    train(tmp_path, integration.SlurmSweepsCallback("eval_loss"), save_strategy="epoch")
    assert seen == [["checkpoint-4"], ["checkpoint-4", "checkpoint-8"]]


def test_a_missing_metric_is_named_with_those_there_are(
    integration: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"'f1' is not among those computed .*'eval_loss'"):
        train(tmp_path, integration.SlurmSweepsCallback("f1"))


@pytest.mark.usefixtures("integration")
def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "slurm_sweeps.integrations.transformers")
    with pytest.raises(ImportError, match=r"pip install 'transformers\[torch\]'"):
        importlib.import_module("slurm_sweeps.integrations.transformers")
