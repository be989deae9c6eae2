"""Ray Train: its workers are the ranks, and each finds its place by itself.

    python examples/ray_train.py --workers 4

RAY_ADDRESS names a cluster; without it, Ray starts on this host.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import allranks


def train_loop(config: dict[str, Any]) -> None:
    """What each worker runs: the loop of any other launcher, and at its end a report to Ray."""
    # Ray Train has made a process group, which setup() adopts; Ray takes it down.
    allranks.setup(cpu=not config["use_gpu"])
    device = torch.device(allranks.get_device_for_local_rank())
    torch.manual_seed(0)
    rows = torch.randn(256, 8)
    targets = torch.sin(rows.sum(1, keepdim=True))
    mine, goals = (allranks.shard(part).to(device) for part in (rows, targets))
    network = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1)).to(device)
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters(), config["lr"])
    loss = torch.zeros(())
    for _ in range(config["epochs"]):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(mine), goals)
        loss.backward()
        optimizer.step()
    # Ray keeps rank 0's numbers alone, so that they have to be those of all ranks.
    mean = allranks.all_reduce(loss.item(), average=True)
    report({"loss": mean, "ranks": allranks.get_world_size()}, network)


def report(metrics: dict[str, Any], network: nn.Module) -> None:
    """Give Ray the numbers, and the model from rank 0. Each worker has to call it."""
    with TemporaryDirectory() as directory:
        if allranks.is_master():
            torch.save(network.state_dict(), Path(directory) / "model.pt")
        kept = Checkpoint.from_directory(directory) if allranks.is_master() else None
        ray.train.report(metrics, checkpoint=kept)


def main() -> None:
    """Start the workers, and print what they have come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--storage", type=Path, default=Path("ray_train"))
    options = parser.parse_args()
    result = TorchTrainer(
        train_loop,
        train_loop_config={"lr": 0.03, "epochs": options.epochs, "use_gpu": options.gpu},
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpu),
        run_config=RunConfig(storage_path=str(options.storage.resolve())),
    ).fit()
    print(f"{result.metrics}, the model in {result.checkpoint}")


if __name__ == "__main__":
    main()
