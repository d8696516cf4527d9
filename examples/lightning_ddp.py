"""Search with Lightning: a small network for handwritten digits, each trial on several ranks.

    python examples/lightning_ddp.py                      # here, one process a trial
    python examples/lightning_ddp.py --accelerator gpu    # several trials share a GPU
    sbatch examples/lightning_ddp.slurm                   # DDP over 2 tasks a trial

In a job step Lightning finds the ranks, the address and the port of the trial by itself. A trial
that is started again goes on from its last checkpoint. The digits ship with scikit-learn.
"""

import argparse
import functools
import os

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import slurm_sweeps as ss
from slurm_sweeps.integrations.lightning import SlurmSweepsCallback


class DigitsNet(lightning.LightningModule):
    """A convolution and two dense layers."""

    def __init__(self, width: int, dropout: float, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.network = torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(16 * width, 64),
            torch.nn.ReLU(),
            torch.nn.Linear(64, 10),
        )

    def training_step(self, batch, _index):
        """Return the loss of a batch."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, _index):
        """Log loss and accuracy of a batch; `sync_dist`: over all ranks."""
        images, labels = batch
        logits = self.network(images)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, sync_dist=True)

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


def load_data(batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Return the digits for training and for validation, the same split on every rank."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    data = TensorDataset(images, torch.tensor(digits.target))
    train_part, val_part = random_split(data, [0.7, 0.3], torch.Generator().manual_seed(0))
    return (
        DataLoader(train_part, batch_size, shuffle=True),
        DataLoader(val_part, batch_size=256),
    )


def train(cfg: dict, accelerator: str, epochs: int) -> None:
    """Train one network; the callback reports after each epoch."""
    lightning.seed_everything(0, verbose=False)
    # The checkpoint of an epoch must be there when its report is made, hence at validation end.
    checkpoint = ModelCheckpoint(ss.checkpoint_dir(), save_last=True, save_on_train_epoch_end=False)
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")),
        num_nodes=int(os.environ.get("SLURM_NNODES", "1")),
        max_epochs=epochs,
        callbacks=[checkpoint, SlurmSweepsCallback(["val_loss", "val_accuracy"])],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = DigitsNet(cfg["width"], cfg["dropout"], cfg["learning_rate"])
    last = ss.checkpoint_dir() / "last.ckpt"
    trainer.fit(model, *load_data(cfg["batch_size"]), ckpt_path=last if last.exists() else None)


def main() -> None:
    """Run the sweep and print the best configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accelerator", default="cpu", help='"cpu", "gpu" or what Lightning knows')
    parser.add_argument("--tasks", type=int, default=2, help="tasks a trial, inside Slurm")
    parser.add_argument("--nodes", type=int, default=1, help="nodes a trial, inside Slurm")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--concurrent", type=int, help="trials at once; default: what fits")
    options = parser.parse_args()
    experiment = ss.Experiment(
        functools.partial(train, accelerator=options.accelerator, epochs=options.epochs),
        cfg={
            "width": ss.LogInteger(4, 64),
            "dropout": ss.Uniform(0.0, 0.5),
            "learning_rate": ss.LogUniform(1e-5, 1e-1),
            "batch_size": ss.Choice([32, 64, 128]),
        },
        name="lightning-ddp",
        asha=ss.ASHA("val_loss", "min", reduction_factor=2, max_t=options.epochs),
        slurm_cfg=ss.SlurmCfg(nodes=options.nodes, ntasks=options.tasks),
        restore="auto",
        seed=1,
    )
    result = experiment.run(n_trials=options.trials, max_concurrent_trials=options.concurrent)
    best = result.best_trial()
    print(f"The best of {len(result.trials)} configurations, trial {best.trial_id}: {best.cfg}")
    print(f"Its best accuracy: {best.value:.1%}")


if __name__ == "__main__":
    main()
