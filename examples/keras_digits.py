"""Search with Keras: early stopping, trials that go on, and the best model loaded and tested.

    pip install slurm-sweeps keras tensorflow scikit-learn      # or another backend
    python examples/keras_digits.py

The digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import keras
from sklearn.datasets import load_digits

import slurm_sweeps as ss
from slurm_sweeps.integrations.keras import SlurmSweepsCallback

EPOCHS = 27

X, Y = load_digits(return_X_y=True)
X = X.astype("float32") / 16
TRAIN, VALID, TEST = (X[:1000], Y[:1000]), (X[1000:1400], Y[1000:1400]), (X[1400:], Y[1400:])


def build(cfg: dict) -> keras.Model:
    """Build the network of a configuration."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(cfg["width"], activation=cfg["activation"]),
            keras.layers.Dropout(cfg["dropout"]),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(cfg["lr"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class Keep(keras.callbacks.Callback):
    """Keeps the network of the best epoch, and that of the last one with its optimizer.

    A file is renamed once it is written, so that a kill at any time leaves a whole one.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.best, self.last = folder / "best.keras", folder / "last.keras"
        self.least = get_loss(self.best) if self.best.exists() else math.inf

    def on_epoch_end(self, _epoch: int, logs: dict | None = None) -> None:
        """Write them."""
        loss = (logs or {})["val_loss"]
        for file in [self.best, self.last] if loss < self.least else [self.last]:
            self.model.save(file.with_stem("new"))
            file.with_stem("new").replace(file)
        self.least = min(self.least, loss)


def get_loss(file: Path) -> float:
    """Return the validation loss of a network that was kept."""
    return keras.saving.load_model(file).evaluate(*VALID, verbose=0)[0]


def train(cfg: dict) -> None:
    """Train one network, from where an earlier attempt has left it."""
    keras.utils.set_random_seed(ss.trial_seed())
    keep = Keep(ss.checkpoint_dir())
    model = keras.saving.load_model(keep.last) if keep.last.exists() else build(cfg)
    steps = math.ceil(len(TRAIN[0]) / cfg["batch_size"])
    model.fit(
        *TRAIN,
        validation_data=VALID,
        initial_epoch=int(model.optimizer.iterations) // steps,
        epochs=EPOCHS,
        batch_size=cfg["batch_size"],
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=3),
            keep,
            SlurmSweepsCallback(["val_loss", "val_accuracy"]),
        ],
    )


def main(n_trials: int) -> None:
    """Run the sweep, then test the best network at its best epoch."""
    experiment = ss.Experiment(
        train,
        cfg={
            "width": ss.LogInteger(8, 128),
            "activation": ss.Choice(["relu", "tanh", "gelu"]),
            "dropout": ss.Uniform(0.0, 0.5),
            "lr": ss.LogUniform(1e-4, 1e-1),
            "batch_size": ss.Choice([32, 64, 128]),
        },
        name="keras-digits",
        asha=ss.ASHA("val_loss", "min", max_t=EPOCHS),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    model = keras.saving.load_model(best.checkpoint_dir / "best.keras")
    print(f"validation loss {best.value:.4f}, again {model.evaluate(*VALID, verbose=0)[0]:.4f}")
    print(f"test accuracy {model.evaluate(*TEST, verbose=0)[1]:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
