"""One Lightning trial with Lightning's own plugin for Slurm, whose requeueing is on by default."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment

import slurm_sweeps as ss
from slurm_sweeps.integrations.lightning import SlurmSweepsCallback


class Module(lightning.LightningModule):
    """Waits in its first step until the signal was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _index):
        Path("training").touch()
        while not Path("sent").exists():
            time.sleep(0.05)
        return self.layer(batch[0]).sum()

    def validation_step(self, _batch, _index):
        self.log("val_loss", 1.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(_cfg: dict, unprotected: bool) -> None:
    """Train two epochs."""
    if unprotected:
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


def main(unprotected: bool) -> None:
    """Run the sweep."""
    import functools

    ss.Experiment(
        functools.partial(train, unprotected=unprotected), {}, name="requeue", restore="auto"
    ).run()


if __name__ == "__main__":
    main(sys.argv[1] == "unprotected")
