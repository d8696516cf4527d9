"""Search with JAX alone: jitted steps, reports of JAX's own scalars, and the best in the end.

    pip install slurm-sweeps jax scikit-learn
    python examples/jax_digits.py

The digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import slurm_sweeps as ss

EPOCHS = 27

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
TRAIN, VALID, TEST = (X[:1024], Y[:1024]), (X[1024:1400], Y[1024:1400]), (X[1400:], Y[1400:])


def init(key: jax.Array, width: int) -> dict:
    """Return the weights of a network with one hidden layer."""
    one, two = jax.random.split(key)
    return {
        "w1": jax.random.normal(one, (64, width)) / 8,
        "b1": jnp.zeros(width),
        "w2": jax.random.normal(two, (width, 10)) / jnp.sqrt(width),
        "b2": jnp.zeros(10),
    }


def apply(params: dict, x: jax.Array) -> jax.Array:
    """Return the logits."""
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def compute_loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean cross entropy."""
    return -jnp.mean(jax.nn.log_softmax(apply(params, x))[jnp.arange(len(y)), y])


@jax.jit
def evaluate(params: dict, x: jax.Array, y: jax.Array) -> dict:
    """Return loss and accuracy."""
    accuracy = jnp.mean(apply(params, x).argmax(axis=1) == y)
    return {"loss": compute_loss(params, x, y), "accuracy": accuracy}


@jax.jit
def step(params: dict, velocity: dict, batch: tuple, lr: float, momentum: float) -> tuple:
    """Make a step of gradient descent with momentum."""
    grads = jax.grad(compute_loss)(params, *batch)
    velocity = jax.tree.map(lambda v, g: momentum * v - lr * g, velocity, grads)
    return jax.tree.map(jnp.add, params, velocity), velocity


def train(cfg: dict) -> None:
    """Train one network, and keep the weights of its best epoch."""
    params = init(jax.random.key(ss.trial_seed()), cfg["width"])
    velocity = jax.tree.map(jnp.zeros_like, params)
    rng = np.random.default_rng(ss.trial_seed())
    best = jnp.inf
    for epoch in range(1, EPOCHS + 1):
        for rows in rng.permutation(len(TRAIN[0])).reshape(-1, cfg["batch_size"]):
            batch = TRAIN[0][rows], TRAIN[1][rows]
            params, velocity = step(params, velocity, batch, cfg["lr"], cfg["momentum"])
        metrics = evaluate(params, *VALID)
        if metrics["loss"] < best:
            best = metrics["loss"]
            np.savez(ss.checkpoint_dir() / "best.npz", **params)
        ss.log(metrics, epoch)


def main(n_trials: int) -> None:
    """Run the sweep, then test the best network at its best epoch."""
    experiment = ss.Experiment(
        train,
        cfg={
            "width": ss.Choice([16, 32, 64, 128]),
            "lr": ss.LogUniform(1e-3, 1.0),
            "momentum": ss.Uniform(0.0, 0.99),
            "batch_size": ss.Choice([32, 64, 128]),
        },
        name="jax-digits",
        asha=ss.ASHA("loss", "min", max_t=EPOCHS),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    params = dict(np.load(best.checkpoint_dir / "best.npz"))
    print(f"validation loss {best.value:.4f}, again {evaluate(params, *VALID)['loss']:.4f}")
    print(f"test accuracy {evaluate(params, *TEST)['accuracy']:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
