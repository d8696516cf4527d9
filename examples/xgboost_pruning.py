"""Search with XGBoost: a callback reports each boosting round, so that bad trials are stopped.

    pip install slurm-sweeps xgboost scikit-learn
    python examples/xgboost_pruning.py

XGBoost's own early stopping ends a trial that no longer gets better; that trial is completed. The
data ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

import slurm_sweeps as ss
from slurm_sweeps.integrations.xgboost import SlurmSweepsCallback

ROUNDS = 64
METRIC = "validation_0-mlogloss"

X, Y = load_digits(return_X_y=True)
X_REST, X_TEST, Y_REST, Y_TEST = train_test_split(X, Y, test_size=0.2, random_state=0)
X_TRAIN, X_VALID, Y_TRAIN, Y_VALID = train_test_split(X_REST, Y_REST, random_state=0)


def train(cfg: dict) -> None:
    """Fit one model, and keep it."""
    model = XGBClassifier(
        **cfg,
        n_estimators=ROUNDS,
        early_stopping_rounds=5,
        callbacks=[SlurmSweepsCallback(METRIC)],
        random_state=0,
    )
    model.fit(X_TRAIN, Y_TRAIN, eval_set=[(X_VALID, Y_VALID)], verbose=False)
    model.save_model(ss.checkpoint_dir() / "model.json")


def main(n_trials: int) -> None:
    """Run the sweep; test the best model, and one that is fitted to all but the test data."""
    experiment = ss.Experiment(
        train,
        cfg={
            "learning_rate": ss.LogUniform(1e-2, 1.0),
            "max_depth": ss.Integer(1, 8),
            "subsample": ss.Uniform(0.5, 1.0),
            "colsample_bytree": ss.Uniform(0.3, 1.0),
            "reg_lambda": ss.LogUniform(1e-3, 1e2),
        },
        name="xgboost-pruning",
        asha=ss.ASHA(METRIC, "min", max_t=ROUNDS),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial(completed_only=True)
    print(f"The best: {best.cfg}, with {best.best_iteration} rounds")
    model = XGBClassifier()
    model.load_model(best.checkpoint_dir / "model.json")
    told = model.predict_proba(X_VALID)[np.arange(len(Y_VALID)), Y_VALID]
    print(f"validation loss {best.value:.4f}, again {-np.log(told).mean():.4f}")
    print(f"test accuracy {model.score(X_TEST, Y_TEST):.4f}")
    final = XGBClassifier(**best.cfg, n_estimators=best.best_iteration, random_state=0)
    final.fit(X_REST, Y_REST)
    print(f"test accuracy, with the validation data learned too {final.score(X_TEST, Y_TEST):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
