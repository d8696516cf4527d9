"""Search for a good neural network for handwritten digits. About a minute on two cores.

    python examples/digits.py

The digits (1,797 images of 8 x 8 pixels) ship with scikit-learn, nothing is downloaded. Each trial
trains one network, epoch by epoch; ASHA stops those that fall behind. The same script runs inside
a Slurm allocation.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import slurm_sweeps as ss

EPOCHS = 64


def train(cfg: dict) -> None:
    """Train one network and report its validation accuracy and loss after each epoch."""
    x, y = load_digits(return_X_y=True)
    x_train, x_val, y_train, y_val = train_test_split(
        x / 16, y, test_size=0.33, random_state=0, stratify=y
    )
    network = MLPClassifier(
        hidden_layer_sizes=[cfg["width"]] * cfg["depth"],
        activation=cfg["activation"],
        alpha=cfg["weight_decay"],
        batch_size=cfg["batch_size"],
        learning_rate_init=cfg["learning_rate"],
        beta_1=cfg["momentum"],
        random_state=0,
    )
    for epoch in range(1, EPOCHS + 1):
        network.partial_fit(x_train, y_train, classes=np.arange(10))
        probabilities = network.predict_proba(x_val)
        ss.log(
            {
                "accuracy": np.mean(probabilities.argmax(axis=1) == y_val),
                "loss": log_loss(y_val, probabilities),
            },
            epoch,
        )


def main() -> None:
    """Run the sweep and print the best configuration."""
    experiment = ss.Experiment(
        train,
        cfg={
            "width": ss.LogInteger(8, 256),
            "depth": ss.Integer(1, 3),
            "activation": ss.Choice(["relu", "tanh", "logistic"]),
            "learning_rate": ss.LogUniform(1e-5, 1e-1),
            "momentum": ss.Uniform(0.5, 0.99),
            "weight_decay": ss.LogUniform(1e-6, 1.0),
            "batch_size": ss.Choice([16, 32, 64, 128]),
        },
        name="digits",
        asha=ss.ASHA("accuracy", "max", reduction_factor=4, min_t=1, max_t=EPOCHS),
        restore="auto",
        seed=1,
    )
    result = experiment.run(n_trials=200)

    best = result.best_trial()
    print(f"\nThe best of {len(result.trials)} configurations, trial {best.trial_id}:")
    for name, value in best.cfg.items():
        print(f"  {name:14} {value}")
    print(f"Its best validation accuracy: {best.value:.1%}")


if __name__ == "__main__":
    main()
