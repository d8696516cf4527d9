"""Search with plain torch: trials go on from checkpoints, and the best is tested in the end.

    python examples/torch_checkpoints.py        # or inside a Slurm job

Each trial keeps two files: where it is, to go on from there after a pause, a time limit or a crash,
and the weights of its best epoch. The best of all is tested on images that no trial has seen. The
digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import slurm_sweeps as ss

EPOCHS = 27

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32).unsqueeze(1) / 16
Y = torch.tensor(DIGITS.target)
TRAIN, VALID, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)


def build(cfg: dict) -> torch.nn.Module:
    """Build the network of a configuration."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, cfg["channels"], 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Dropout(cfg["dropout"]),
        torch.nn.Linear(16 * cfg["channels"], 10),
    )


def train(cfg: dict) -> None:
    """Train one network, from where an earlier attempt has left it."""
    torch.manual_seed(ss.trial_seed())
    network = build(cfg)
    optimizer = torch.optim.Adam(network.parameters(), lr=cfg["lr"])
    done, best = 0, 0.0

    folder = ss.checkpoint_dir()
    if (folder / "last.pt").exists():
        state = torch.load(folder / "last.pt")
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done, best = state["epoch"], state["best"]
        print(f"goes on after epoch {done}")

    for epoch in range(done + 1, EPOCHS + 1):
        network.train()
        for batch in torch.randperm(len(X[TRAIN])).split(cfg["batch_size"]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(X[batch]), Y[batch]).backward()
            optimizer.step()
        accuracy = evaluate(network, VALID)
        if accuracy > best:
            best = accuracy
            save(network.state_dict(), folder / "best.pt")
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save({**state, "epoch": epoch, "best": best}, folder / "last.pt")
        ss.log({"accuracy": accuracy}, epoch)


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: slice) -> float:
    """Return the share of images that are told right."""
    network.eval()
    return (network(X[data]).argmax(dim=1) == Y[data]).float().mean().item()


def save(state: dict, file: Path) -> None:
    """Write under another name first, so that there is always a whole file."""
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").rename(file)


def main(n_trials: int) -> None:
    """Run the sweep, then test the best network at its best epoch."""
    experiment = ss.Experiment(
        train,
        cfg={
            "channels": ss.LogInteger(4, 32),
            "dropout": ss.Uniform(0.0, 0.5),
            "lr": ss.LogUniform(1e-4, 1e-1),
            "batch_size": ss.Choice([32, 64, 128]),
        },
        name="torch-checkpoints",
        asha=ss.ASHA("accuracy", "max", max_t=EPOCHS, promote=True),
        restore="auto",
        seed=1,
    )
    best = experiment.run(n_trials).best_trial()
    network = build(best.cfg)
    network.load_state_dict(torch.load(best.checkpoint_dir / "best.pt"))
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    print(f"validation accuracy {best.value:.4f}, again {evaluate(network, VALID):.4f}")
    print(f"test accuracy {evaluate(network, TEST):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
