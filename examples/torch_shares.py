"""Search with a net that has BatchNorm, several trials to a GPU, or each with a CPU of its own.

    python examples/torch_shares.py

`LocalCfg` says what a trial gets on this machine: a quarter of a GPU where there is one, so that
four share it, and so many CPUs, which are also the threads that torch starts. In a Slurm job the
share follows from what the job asks for. The digits ship with scikit-learn, nothing is downloaded.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits

import slurm_sweeps as ss

EPOCHS = 16

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32).unsqueeze(1) / 16
Y = torch.tensor(DIGITS.target)
TRAIN, VALID, TEST = slice(0, 1000), slice(1000, 1400), slice(1400, None)


def build(cfg: dict) -> torch.nn.Module:
    """Build the network of a configuration."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, cfg["channels"], 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(cfg["channels"], momentum=cfg["bn_momentum"]),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * cfg["channels"], 10),
    )


def train(cfg: dict) -> None:
    """Train one network, and keep its best epoch: weights, and the running means of BatchNorm."""
    torch.manual_seed(ss.trial_seed())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build(cfg).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=cfg["lr"], momentum=0.9)
    x, y = X[TRAIN].to(device), Y[TRAIN].to(device)
    best = 0.0
    for epoch in range(1, EPOCHS + 1):
        network.train()
        for batch in torch.randperm(len(x), device=device).split(cfg["batch_size"]):
            if len(batch) > 1:  # one image has no variance, which BatchNorm needs
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
                optimizer.step()
        accuracy = evaluate(network, VALID, device)
        if accuracy > best:
            best = accuracy
            torch.save(network.state_dict(), ss.checkpoint_dir() / "best.pt")
        ss.log({"accuracy": accuracy, "threads": torch.get_num_threads()}, epoch)


@torch.no_grad()
def evaluate(network: torch.nn.Module, data: slice, device: str) -> float:
    """Return the share of images that are told right."""
    network.eval()
    told = network(X[data].to(device)).argmax(dim=1).cpu()
    return (told == Y[data]).float().mean().item()


def main() -> None:
    """Run the sweep, then test the best network at its best epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--cpus", type=int, default=1, help="for each trial")
    options = parser.parse_args()
    experiment = ss.Experiment(
        train,
        cfg={
            "channels": ss.LogInteger(4, 32),
            "bn_momentum": ss.LogUniform(0.01, 0.5),
            "lr": ss.LogUniform(1e-3, 1.0),
            "batch_size": ss.Choice([16, 32, 64]),
        },
        name="torch-shares",
        asha=ss.ASHA("accuracy", "max", max_t=EPOCHS),
        local_cfg=ss.LocalCfg(cpus=options.cpus, gpus=0.25 if torch.cuda.is_available() else 0),
        restore="auto",
        seed=1,
    )
    best = experiment.run(options.trials).best_trial()
    print(f"The best: {best.cfg}, in epoch {best.best_iteration}")
    network = build(best.cfg)
    network.load_state_dict(torch.load(best.checkpoint_dir / "best.pt", map_location="cpu"))
    print(f"validation accuracy {best.value:.4f}, again {evaluate(network, VALID, 'cpu'):.4f}")
    print(f"test accuracy {evaluate(network, TEST, 'cpu'):.4f}")


if __name__ == "__main__":
    main()
