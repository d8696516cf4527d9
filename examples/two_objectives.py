"""Two objectives: an error as low as can be had, by a network as small as can be.

No network is the best at both, so that there is a front: for each size the best that was found. A
trial is stopped when others of its epoch are better in one and as good in the other.

    pip install slurm-sweeps scikit-learn
    python two_objectives.py 60
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import slurm_sweeps as ss

X, Y = load_digits(return_X_y=True)
DATA = train_test_split(X / 16, Y, test_size=0.25, random_state=0)


def train(cfg: dict[str, Any]) -> None:
    """Report the error and the number of weights after each epoch."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    x_train, x_test, y_train, y_test = DATA
    layers = (cfg["width"],) * cfg["depth"]
    net = MLPClassifier(
        layers, learning_rate_init=cfg["lr"], max_iter=1, warm_start=True, random_state=0
    )
    for epoch in range(1, 28):
        net.fit(x_train, y_train)
        weights = sum(part.size for part in (*net.coefs_, *net.intercepts_))
        ss.log({"error": 1 - net.score(x_test, y_test), "weights": weights}, epoch)


def main(n_trials: int) -> None:
    """Run the sweep and print the front."""
    experiment = ss.Experiment(
        train,
        {
            "lr": ss.LogUniform(1e-4, 1e-1),
            "width": ss.LogInteger(2, 128),
            "depth": ss.Integer(1, 3),
        },
        name="two-objectives",
        restore="auto",
        asha=ss.ASHA(["error", "weights"], "min", max_t=27),
        sampler=ss.samplers.Model(),
        # The shape of a network is known before it is trained:
        where=lambda cfg: cfg["width"] * cfg["depth"] <= 256,
        # and so is what must not come out:
        feasible={"weights": ss.AtMost(20_000)},
    )
    result = experiment.run(n_trials)
    print("weights  error  cfg")
    for trial in result.front():
        last = trial.last_metrics
        print(f"{last['weights']:7.0f}  {last['error']:.3f}  {trial.cfg}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
