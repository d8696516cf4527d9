"""Search with Lightning: early stopping, trials that go on, and `Trainer.test` of the best.

    python examples/lightning_early_stopping.py

ASHA stops trials that fall behind others; Lightning's EarlyStopping ends one that no longer gets
better, and that trial is completed. The digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split

import slurm_sweeps as ss
from slurm_sweeps.integrations.lightning import SlurmSweepsCallback

EPOCHS = 27

DIGITS = load_digits()
TRAIN, VALID, TEST = random_split(
    TensorDataset(torch.tensor(DIGITS.data, dtype=torch.float32) / 16, torch.tensor(DIGITS.target)),
    [0.6, 0.2, 0.2],
    torch.Generator().manual_seed(0),
)


class DigitsNet(lightning.LightningModule):
    """Two dense layers."""

    def __init__(self, cfg: dict) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = cfg["lr"]
        self.network = torch.nn.Sequential(
            torch.nn.Linear(64, cfg["width"]),
            torch.nn.ReLU(),
            torch.nn.Dropout(cfg["dropout"]),
            torch.nn.Linear(cfg["width"], 10),
        )

    def training_step(self, batch):
        """Return the loss of a batch."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch):
        """Log loss and accuracy."""
        self._log_all(batch, "val")

    def test_step(self, batch):
        """Log loss and accuracy."""
        self._log_all(batch, "test")

    def _log_all(self, batch, part):
        images, labels = batch
        logits = self.network(images)
        self.log(f"{part}_loss", torch.nn.functional.cross_entropy(logits, labels))
        self.log(f"{part}_accuracy", (logits.argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def train(cfg: dict) -> None:
    """Train one network, from its last checkpoint if it has one."""
    lightning.seed_everything(ss.trial_seed(), verbose=False)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            # By default it checks at the end of an epoch, where a trial that goes on would fail:
            # Lightning ends the epoch of the checkpoint without its validation.
            EarlyStopping("val_loss", patience=3, check_on_train_epoch_end=False),
            ModelCheckpoint(
                ss.checkpoint_dir(),
                filename="best",
                monitor="val_loss",
                save_last=True,
                save_on_train_epoch_end=False,  # but before its report
                enable_version_counter=False,  # a second attempt writes no best-v1.ckpt
            ),
            SlurmSweepsCallback(["val_loss", "val_accuracy"]),
        ],
    )
    last = ss.checkpoint_dir() / "last.ckpt"
    trainer.fit(
        DigitsNet(cfg),
        DataLoader(TRAIN, cfg["batch_size"], shuffle=True),
        DataLoader(VALID, len(VALID)),
        ckpt_path=last if last.exists() else None,
    )


def main(n_trials: int) -> None:
    """Run the sweep, then test the best network at its best epoch."""
    experiment = ss.Experiment(
        train,
        cfg={
            "width": ss.LogInteger(8, 128),
            "dropout": ss.Uniform(0.0, 0.5),
            "lr": ss.LogUniform(1e-4, 1e-1),
            "batch_size": ss.Choice([32, 64, 128]),
        },
        name="lightning-early-stopping",
        asha=ss.ASHA("val_loss", "min", max_t=EPOCHS),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    model = DigitsNet.load_from_checkpoint(best.checkpoint_dir / "best.ckpt")
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (again,) = trainer.validate(model, DataLoader(VALID, len(VALID)), verbose=False)
    print(f"validation loss {best.value:.4f}, again {again['val_loss']:.4f}")
    (test,) = trainer.test(model, DataLoader(TEST, len(TEST)), verbose=False)
    print(f"test accuracy {test['test_accuracy']:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
