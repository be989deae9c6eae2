"""A sweep by Hydra, each point of it a job of several ranks that submitit starts: see config.yaml.

    python train.py --multirun lr=0.01,0.03
    python train.py --multirun lr=0.01,0.03 hydra/launcher=submitit_slurm hydra.launcher.nodes=2

No line knows submitit: `allranks run -n 2 train.py` and `srun -n 2 python train.py` start it, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import allranks


def train(lr: float, steps: int) -> float:
    """Fit a small network to rows that all ranks share; the last loss over all of them."""
    torch.manual_seed(0)
    rows = torch.randn(256, 8)
    targets = torch.sin(rows.sum(1, keepdim=True))
    mine, goals = allranks.shard(rows), allranks.shard(targets)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(mine), goals)
        loss.backward()
        optimizer.step()
    return allranks.all_reduce(loss.item(), average=True)


@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config: DictConfig) -> float:
    """One point of the sweep, on each rank of its job; a sweeper gets the loss."""
    with allranks.session(config.allranks) as world:
        loss = train(config.lr, config.steps)
        if allranks.is_master():  # Hydra's directory is one for all ranks of the job.
            found = {"lr": config.lr, "loss": loss, "ranks": world.world_size}
            file = Path(HydraConfig.get().runtime.output_dir) / "result.json"
            file.write_text(json.dumps({**found, "launcher": world.launcher}))
    return loss


if __name__ == "__main__":
    main()
