"""Callbacks of Keras, XGBoost and LightGBM: whole sweeps, with the libraries themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slurm_sweeps as ss
from frameworks import require_module
from sweep_scripts import Scripts

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.heavy]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 4))
Y = X @ [1.0, -2.0, 0.5, 0.0] + RNG.normal(scale=0.1, size=300)
CFG = {"lr": ss.LogUniform(1e-3, 1)}


def train_xgboost(cfg: dict[str, Any]) -> None:
    """Ten rounds, in two goes, the second of which goes on with the model of the first."""
    import xgboost

    from slurm_sweeps.integrations.xgboost import SlurmSweepsCallback

    data = xgboost.DMatrix(X[:200], Y[:200])
    arguments = {
        "evals": [(xgboost.DMatrix(X[200:], Y[200:]), "valid")],
        "callbacks": [SlurmSweepsCallback("valid-rmse")],
        "num_boost_round": 5,
        "verbose_eval": False,
    }
    params = {"eta": cfg["lr"], "nthread": 1}
    model = xgboost.train(params, data, **arguments)
    xgboost.train(params, data, xgb_model=model, **arguments)


def train_lightgbm(cfg: dict[str, Any]) -> None:
    """The same with LightGBM, whose early stopping comes after the report."""
    import lightgbm

    from slurm_sweeps.integrations.lightgbm import SlurmSweepsCallback

    params = {"learning_rate": cfg["lr"], "num_threads": 1, "verbosity": -1, "metric": "rmse"}
    data = lightgbm.Dataset(X[:200], Y[:200], free_raw_data=False)
    arguments = {
        "valid_sets": [lightgbm.Dataset(X[200:], Y[200:], reference=data, free_raw_data=False)],
        "num_boost_round": 5,
        "callbacks": [SlurmSweepsCallback("valid_0-rmse"), lightgbm.early_stopping(3)],
    }
    model = lightgbm.train(params, data, **arguments)
    lightgbm.train(params, data, init_model=model, **arguments)


@pytest.mark.parametrize(
    ("library", "train", "metric"),
    [
        ("xgboost", train_xgboost, "valid-rmse"),
        ("lightgbm", train_lightgbm, "valid_0-rmse"),
    ],
)
def test_boosting(library: str, train: Any, metric: str, tmp_path: Path) -> None:
    require_module(library)
    pruner = ss.ASHA(metric, "min", reduction_factor=2, min_t=2)
    experiment = ss.Experiment(train, CFG, name="e", local_dir=tmp_path, asha=pruner, seed=0)
    trials = experiment.run(8, 2, summary_interval_in_sec=60).trials
    statuses = {trial.status for trial in trials}
    assert statuses == {ss.Status.COMPLETED, ss.Status.PRUNED}, [trial.error for trial in trials]
    for trial in trials:
        curve = trial.metrics[metric]
        assert [*curve] == list(range(1, max(curve) + 1))
        assert trial.status is ss.Status.PRUNED or max(curve) > 5  # the second go


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_cross_validation_and_a_name_that_is_none(
    library: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = require_module(library)
    callback = require_module(f"slurm_sweeps.integrations.{library}").SlurmSweepsCallback
    if library == "xgboost":
        arguments = {"params": {"nthread": 1}, "dtrain": module.DMatrix(X, Y)}
        name = "test-rmse"
    else:
        params = {"num_threads": 1, "verbosity": -1, "metric": "rmse"}
        arguments = {"params": params, "train_set": module.Dataset(X, Y), "stratified": False}
        name = "valid-rmse"
    module.cv(**arguments, num_boost_round=2, nfold=3, callbacks=[callback(name)])
    assert "iteration 2" in capsys.readouterr().out  # outside of a trial a report is printed
    if library == "lightgbm":
        arguments["train_set"] = module.Dataset(X, Y)
    with pytest.raises(ss.UsageError, match=r"metric 'no' is not among those evaluated.*rmse"):
        module.cv(**arguments, num_boost_round=2, nfold=3, callbacks=[callback("no")])


def test_keras(scripts: Scripts) -> None:
    """A model that goes on from its checkpoint; the callback comes behind the one that saves it."""
    require_module("keras")
    scripts.env |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    scripts.run(
        """
        import numpy as np
        import slurm_sweeps as ss

        x = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
        y = x @ np.array([1, -2, 0.5, 0], dtype="float32")

        def train(cfg):
            import keras
            from slurm_sweeps.integrations.keras import SlurmSweepsCallback

            keras.utils.set_random_seed(ss.trial_seed())
            file = ss.checkpoint_dir() / "model.keras"
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
            model.compile(optimizer=keras.optimizers.SGD(cfg["lr"]), loss="mse")
            callbacks = [
                keras.callbacks.ModelCheckpoint(file, save_best_only=False),
                SlurmSweepsCallback(["val_loss", "loss"]),
            ]
            model.fit(
                x[:150], y[:150], validation_data=(x[150:], y[150:]),
                epochs=4, verbose=0, callbacks=callbacks,
            )

        if __name__ == "__main__":
            asha = ss.ASHA("val_loss", "min", reduction_factor=2)
            cfg = {"lr": ss.LogUniform(1e-4, 1e-1)}
            ss.Experiment(train, cfg, name="e", asha=asha, seed=0).run(4, 1)
        """,
        timeout_s=300,
    )
    trials = ss.Result("e", scripts.folder / "slurm-sweeps").trials
    assert {trial.status for trial in trials} == {ss.Status.COMPLETED, ss.Status.PRUNED}
    for trial in trials:
        assert [*trial.metrics["val_loss"]] == list(range(1, max(trial.metrics["loss"]) + 1))
        assert (trial.checkpoint_dir / "model.keras").exists()
