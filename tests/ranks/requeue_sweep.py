"""Lightning trials with Lightning's own plugin for Slurm, whose requeueing is on by default."""

from __future__ import annotations

import signal
import subprocess
import sys

import lightning
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

import slurm_sweeps as ss
from slurm_sweeps.integrations.lightning import SlurmSweepsCallback

#: Who gets each signal that the trial gets, and doesn't ignore it as that does.
WITNESS = """
import pathlib, signal
signal.signal(signal.SIGUSR1, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
pathlib.Path("training").touch()
signal.sigwait([signal.SIGUSR1])
"""


class Module(lightning.LightningModule):
    """Waits in its first step until the signal has come."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _index):
        if self.global_step == 0:
            subprocess.run([sys.executable, "-c", WITNESS], check=True)
        return self.layer(batch[0]).sum()

    def validation_step(self, _batch, _index):
        self.log("val_loss", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(cfg: dict) -> None:
    """Train two epochs."""
    if cfg["unprotected"]:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        plugins=[SLURMEnvironment()],
        callbacks=[SlurmSweepsCallback("val_loss")],
        enable_checkpointing=False,
        logger=False,
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1)))
    trainer.fit(Module(), loader, loader)


if __name__ == "__main__":
    ss.Experiment(train, {"unprotected": ss.Grid([False, True])}, name="requeue").run()
