"""Search for a classifier with scikit-learn: `train` returns a score, and uses all its CPUs.

    python examples/sklearn_score.py

There is nothing to stop early, so there is no pruner: what `train` returns is what counts. With
`n_jobs=-1` a trial uses the CPUs that it has, not those of the whole machine. The data ship with
scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import slurm_sweeps as ss

X, Y = load_breast_cancer(return_X_y=True)
X_TRAIN, X_TEST, Y_TRAIN, Y_TEST = train_test_split(X, Y, random_state=0, stratify=Y)


def build(cfg: dict):
    """Build the model of a configuration."""
    settings = {name: value for name, value in cfg["model"].items() if name != "kind"}
    if cfg["model"]["kind"] == "svc":
        return make_pipeline(StandardScaler(), SVC(**settings))
    return RandomForestClassifier(**settings, n_jobs=-1, random_state=0)


def train(cfg: dict) -> float:
    """Return the mean accuracy of a cross-validation."""
    return cross_val_score(build(cfg), X_TRAIN, Y_TRAIN, cv=5, n_jobs=-1).mean()


def main(n_trials: int) -> None:
    """Run the sweep, then fit the best on all but the test data."""
    experiment = ss.Experiment(
        train,
        cfg={
            "model": ss.Choice(
                [
                    {
                        "kind": "svc",
                        "C": ss.LogUniform(1e-2, 1e3),
                        "gamma": ss.LogUniform(1e-4, 1.0),
                    },
                    {
                        "kind": "forest",
                        "n_estimators": ss.LogInteger(5, 50),
                        "max_features": ss.Uniform(0.05, 1.0),
                        "min_samples_leaf": ss.LogInteger(1, 20),
                    },
                ]
            )
        },
        name="sklearn-score",
        metric="accuracy",
        mode="max",
        sampler=ss.samplers.Model(),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    print(f"The best: {best.cfg['model']}")
    print(f"cross-validation {best.value:.4f}, again {train(best.cfg):.4f}")
    print(f"test accuracy {build(best.cfg).fit(X_TRAIN, Y_TRAIN).score(X_TEST, Y_TEST):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
