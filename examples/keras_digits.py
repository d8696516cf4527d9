"""Search with Keras: early stopping, trials that go on, and the best model loaded and tested.

    pip install slurm-sweeps keras tensorflow scikit-learn      # or another backend
    python examples/keras_digits.py

The digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys

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


def train(cfg: dict) -> None:
    """Train one network, from where an earlier attempt has left it."""
    keras.utils.set_random_seed(ss.trial_seed())
    folder = ss.checkpoint_dir()
    build(cfg).fit(
        *TRAIN,
        validation_data=VALID,
        epochs=EPOCHS,
        batch_size=cfg["batch_size"],
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=3),
            keras.callbacks.ModelCheckpoint(folder / "best.keras", save_best_only=True),
            keras.callbacks.BackupAndRestore(folder / "backup", double_checkpoint=True),
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
