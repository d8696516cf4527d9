"""Search with plain torch DDP: each trial trains one network on several ranks.

    python examples/pytorch_ddp.py                                   # here, one process a trial
    sbatch -N2 --ntasks-per-node=4 --wrap "exec python examples/pytorch_ddp.py --nodes 2 --tasks 4"

`init_process_group("env://")` finds ranks, address and port in the trial's environment. The digits
ship with scikit-learn.
"""

import argparse
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel

import slurm_sweeps as ss

EPOCHS = 16


def train(cfg: dict) -> None:
    """Train one network; every rank calls `ss.log`, rank 0's metrics count."""
    distributed = "WORLD_SIZE" in os.environ
    if distributed:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

    device = pick_device()
    x_train, y_train, x_val, y_val = (part.to(device) for part in load_data())
    x_train, y_train = x_train[rank::world_size], y_train[rank::world_size]
    network = torch.nn.Sequential(
        torch.nn.Linear(64, cfg["width"]), torch.nn.ReLU(), torch.nn.Linear(cfg["width"], 10)
    ).to(device)
    model = DistributedDataParallel(network) if distributed else network
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg["learning_rate"], momentum=0.9)

    try:
        for epoch in range(load_checkpoint(network, optimizer) + 1, EPOCHS + 1):
            for batch in torch.randperm(len(x_train), device=device).split(64):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(network(x_val), y_val)
            if rank == 0:
                save_checkpoint(network, optimizer, epoch)
            ss.log({"val_loss": loss.item(), "world_size": world_size}, epoch)
    finally:
        if distributed:
            dist.destroy_process_group()


def pick_device() -> torch.device:
    """Return this rank's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def load_data() -> tuple[torch.Tensor, ...]:
    """Return images and labels for training, then for validation."""
    digits = load_digits()
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]


def load_checkpoint(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go back to the last checkpoint of this trial; return its epoch, 0 if there is none."""
    path = ss.checkpoint_dir() / "last.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


def save_checkpoint(network: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Write a checkpoint under another name first, so that there is always a whole one."""
    path = ss.checkpoint_dir() / "last.pt"
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def main() -> None:
    """Run the sweep and print the best trial."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=2, help="tasks a trial, inside Slurm")
    parser.add_argument("--nodes", type=int, default=1, help="nodes a trial, inside Slurm")
    parser.add_argument("--trials", type=int, default=16)
    options = parser.parse_args()
    experiment = ss.Experiment(
        train,
        cfg={"width": ss.LogInteger(8, 256), "learning_rate": ss.LogUniform(1e-4, 1.0)},
        name="pytorch-ddp",
        asha=ss.ASHA("val_loss", "min", reduction_factor=2, max_t=EPOCHS),
        slurm_cfg=ss.SlurmCfg(nodes=options.nodes, ntasks=options.tasks),
        restore="auto",
        seed=1,
    )
    print(experiment.run(n_trials=options.trials).best_trial())


if __name__ == "__main__":
    main()
