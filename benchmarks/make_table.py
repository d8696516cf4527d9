"""Make a table of learning curves for `replay.py`: a sweep that stops nobody, kept as one file.

    python benchmarks/make_table.py digits.npz
    python benchmarks/make_table.py noisy.npz --data noisy-digits --configurations 500 --epochs 81
    python benchmarks/make_table.py seeds.npz --data noisy-digits --repeats 5

Each of the configurations, drawn at random, trains a small neural network with scikit-learn to the
end; so a thousand take some ten minutes on two cores. It is an ordinary sweep: inside a Slurm
allocation it takes all of that, and one that was interrupted goes on where it stopped.

With `--repeats` each configuration is trained with so many seeds, which `replay_seeds.py` needs:
beside `loss`, that of seed 0, the table then has `losses`, [n, repeats, epochs].
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import slurm_sweeps as ss
from slurm_sweeps.search.search_space import SearchSpace

Array = np.ndarray[Any, Any]

#: The hyper-parameters: those that make up a table's axes, in this order.
CFG = {
    "learning_rate": ss.LogUniform(1e-5, 1e-1),
    "beta_1": ss.Uniform(0.5, 0.99),
    "weight_decay": ss.LogUniform(1e-6, 1.0),
    "width": ss.LogInteger(4, 128),
    "depth": ss.Integer(1, 4),
    "batch_size": ss.LogInteger(16, 256),
}


def load_digits() -> tuple[Array, Array]:
    """Return 1,797 images of digits, [n, 64], and which they are."""
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return x / 16, y


def load_noisy_digits() -> tuple[Array, Array]:
    """Return the digits with 15 % of the labels drawn anew: noisy curves, and overfitting."""
    x, y = load_digits()
    rng = np.random.default_rng(0)
    return x, np.where(rng.random(len(y)) < 0.15, rng.integers(0, 10, len(y)), y)


def load_clusters() -> tuple[Array, Array]:
    """Return 2,000 points of 20 made-up classes, [n, 24], each class of two clusters."""
    from sklearn import datasets

    x, y = datasets.make_classification(
        2_000, 24, n_informative=10, n_redundant=6, n_classes=20, class_sep=1.2, random_state=0
    )
    return (x - x.mean(axis=0)) / x.std(axis=0), y


DATA: dict[str, Callable[[], tuple[Array, Array]]] = {
    "digits": load_digits,
    "noisy-digits": load_noisy_digits,
    "clusters": load_clusters,
}


def train(cfg: dict[str, Any], data: str, epochs: int, repeats: int) -> None:
    """Train a network for each seed; log validation losses, and an epoch's mean time in seconds."""
    curves = [list(train_network(cfg, data, epochs, seed)) for seed in range(repeats)]
    for epoch, of_seeds in enumerate(zip(*curves, strict=True), start=1):
        losses = {name_loss(seed): loss for seed, (loss, _) in enumerate(of_seeds)}
        ss.log({**losses, "seconds": float(np.mean([taken for _, taken in of_seeds]))}, epoch)


def name_loss(seed: int) -> str:
    """Name the metric of a seed's network."""
    return f"loss-{seed}" if seed else "loss"


def train_network(
    cfg: dict[str, Any], data: str, epochs: int, seed: int
) -> Iterator[tuple[float, float]]:
    """Yield a network's validation loss after each epoch, and what that has taken, in seconds."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # overflows of the networks that diverge
    x, y = DATA[data]()
    x_train, x_val, y_train, y_val = train_test_split(x, y, test_size=0.33, random_state=0)
    network = MLPClassifier(
        hidden_layer_sizes=[cfg["width"]] * cfg["depth"],
        learning_rate_init=cfg["learning_rate"],
        beta_1=cfg["beta_1"],
        alpha=cfg["weight_decay"],
        batch_size=cfg["batch_size"],
        random_state=seed,
    )
    loss = 0.0
    for _ in range(epochs):
        began = time.thread_time()
        try:
            if np.isfinite(loss):
                network.partial_fit(x_train, y_train, classes=np.unique(y))
                loss = log_loss(y_val, network.predict_proba(x_val), labels=network.classes_)
        except ValueError:  # it has diverged: all that follows is the same
            loss = np.nan
        yield loss, time.thread_time() - began


def read_table(result: ss.Result, epochs: int, repeats: int) -> dict[str, Array]:
    """Read the arrays of a table from a sweep; see `replay_table.Table`.

    Trials that have not reported every epoch, as one that is still to run, are left out.
    """
    space = SearchSpace(CFG)
    trials = [t for t in result.trials if len(t.metrics.get("loss", {})) == epochs]
    curves, seconds, units = [], [], []
    for trial in trials:
        of_seeds = [trial.metrics[name_loss(seed)] for seed in range(repeats)]
        curves.append([[curve[at] for at in range(1, epochs + 1)] for curve in of_seeds])
        taken = [trial.metrics["seconds"][epoch] for epoch in range(1, epochs + 1)]
        seconds.append(np.median(taken[: np.isfinite(curves[-1][0]).sum() or 1]))
        unit = space.to_units(trial.cfg)
        units.append([unit[leaf] for leaf in space.leaves])
    losses = np.array(curves, np.float32)
    return {
        "loss": losses[:, 0],
        **({"losses": losses} if repeats > 1 else {}),
        "seconds_per_epoch": np.array(seconds, np.float32),
        "unit": np.array(units, np.float32),
        "names": np.array([leaf.path for leaf in space.leaves]),
    }


def main() -> None:
    """Run the sweep, or go on with it, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, metavar="TABLE.npz")
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--configurations", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=1, help="seeds of each configuration")
    options = parser.parse_args()
    if options.table.suffix != ".npz" or not options.table.parent.is_dir():
        parser.error(f"{options.table} must end in .npz, in a folder that is there")
    sweep = ss.Experiment(
        functools.partial(train, data=options.data, epochs=options.epochs, repeats=options.repeats),
        CFG,
        f"table-{options.table.stem}-{options.data}-{options.epochs}",
        restore="auto",
        seed=0,
    )
    result = sweep.run(n_trials=options.configurations, summary_interval_in_sec=30)
    arrays = read_table(result, options.epochs, options.repeats)
    n, n_all = len(arrays["loss"]), len(result.trials)
    if not n:
        parser.exit(1, f"{options.table} was not written: no trial has reported every epoch\n")
    np.savez(options.table, **arrays)
    left_out = f"; {n_all - n} trials that have not reported all are left out" if n < n_all else ""
    print(f"{options.table}: {n} learning curves of {options.epochs} epochs{left_out}")


if __name__ == "__main__":
    main()
