"""Search with torch in a space with branches and steps; the best is trained once more, on all data.

    pip install 'slurm-sweeps[model]' torch
    python examples/torch_conditional.py

Each optimizer has settings of its own, each number of layers its own widths; widths, dropout and
batch size go in steps. The model proposes what to try. The digits ship with scikit-learn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import slurm_sweeps as ss

EPOCHS = 27
torch.set_num_threads(1)  # networks as small as these are slower with more

DIGITS = load_digits()
X = torch.tensor(DIGITS.data, dtype=torch.float32) / 16
Y = torch.tensor(DIGITS.target)
TRAIN, VALID, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)

WIDTH = ss.Quantized(ss.Integer(16, 128), 16)
SPACE = {
    "widths": ss.Choice([[WIDTH], [WIDTH, WIDTH], [WIDTH, WIDTH, WIDTH]]),
    "dropout": ss.Quantized(ss.Uniform(0.0, 0.5), 0.05),
    "batch_size": ss.Quantized(ss.Integer(16, 128), 16),
    "optimizer": ss.Choice(
        [
            {
                "name": "SGD",
                "lr": ss.LogUniform(1e-3, 1.0),
                "momentum": ss.Uniform(0.0, 0.99),
                "nesterov": ss.Choice([True, False]),
            },
            {
                "name": "AdamW",
                "lr": ss.LogUniform(1e-4, 1e-1),
                "weight_decay": ss.LogUniform(1e-4, 1.0),
            },
        ]
    ),
}


def build(cfg: dict) -> torch.nn.Sequential:
    """Build the network of a configuration."""
    layers: list[torch.nn.Module] = []
    for n_in, n_out in zip([64, *cfg["widths"]], cfg["widths"], strict=False):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU(), torch.nn.Dropout(cfg["dropout"])]
    return torch.nn.Sequential(*layers, torch.nn.Linear(cfg["widths"][-1], 10))


def fit(network: torch.nn.Module, cfg: dict, data: slice, epochs: int) -> Iterator[int]:
    """Train, and yield the number of each epoch when it is over."""
    settings = {name: value for name, value in cfg["optimizer"].items() if name != "name"}
    optimizer = getattr(torch.optim, cfg["optimizer"]["name"])(network.parameters(), **settings)
    x, y = X[data], Y[data]
    for epoch in range(1, epochs + 1):
        network.train()
        for batch in torch.randperm(len(x)).split(cfg["batch_size"]):
            optimizer.zero_grad()
            cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
        yield epoch


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: slice) -> dict:
    """Return loss and accuracy."""
    network.eval()
    logits = network(X[data])
    accuracy = (logits.argmax(dim=1) == Y[data]).float().mean()
    return {"loss": cross_entropy(logits, Y[data]), "accuracy": accuracy}


def train(cfg: dict) -> None:
    """Train one network, and report after each epoch."""
    torch.manual_seed(0)
    network = build(cfg)
    for epoch in fit(network, cfg, TRAIN, EPOCHS):
        ss.log(evaluate(network, VALID), epoch)


def retrain(trial: ss.Trial, data: slice) -> torch.nn.Module:
    """Train the network of a trial once more, for as many epochs as were best."""
    torch.manual_seed(0)
    network = build(trial.cfg)
    for _ in fit(network, trial.cfg, data, trial.best_iteration):
        pass
    return network


def main(n_trials: int) -> None:
    """Run the sweep, then train the best configuration on all but the test data."""
    experiment = ss.Experiment(
        train,
        SPACE,
        name="torch-conditional",
        asha=ss.ASHA("loss", "min", max_t=EPOCHS),
        sampler=ss.samplers.Model(),
        points_to_evaluate=[{"optimizer": {"name": "AdamW", "lr": 1e-3}}],
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    again = evaluate(retrain(best, TRAIN), VALID)
    print(f"validation loss {best.value:.4f}, again {again['loss']:.4f}")
    final = evaluate(retrain(best, slice(0, VALID.stop)), TEST)
    print(f"test accuracy {final['accuracy']:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
