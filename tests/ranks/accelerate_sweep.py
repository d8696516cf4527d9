"""Trials of four ranks over two nodes that Accelerate sets up by itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator

import slurm_sweeps as ss


def train(cfg: dict) -> None:
    """Train a network of one layer on data of which every rank gets its part."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 64)[:, None])
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg["learning_rate"])
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(1, 5):
        losses = []
        for (x,) in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), 3 * x)
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.detach())
        mean = accelerator.gather(torch.stack(losses)).mean().item()
        ss.log({"loss": mean, "batches": len(losses)}, epoch)
    world = {
        "world_size": accelerator.num_processes,
        "rank": accelerator.process_index,
        "local_rank": accelerator.local_process_index,
        "weight": accelerator.unwrap_model(model).weight.item(),
    }
    Path(f"world.{accelerator.process_index}.json").write_text(json.dumps(world))
    accelerator.end_training()


def main() -> None:
    """Run the sweep."""
    ss.Experiment(
        train,
        {"learning_rate": ss.Grid([0.01, 0.1])},
        name="accelerate",
        slurm_cfg=ss.SlurmCfg(nodes=2, ntasks=4),
    ).run()


if __name__ == "__main__":
    main()
