"""FSDP2 on a mesh of all ranks, and a checkpoint of the whole model, which needs no FSDP to load.

    allranks run -n 4 examples/fsdp2.py
    torchrun --nproc-per-node 4 examples/fsdp2.py
    srun -n 4 python examples/fsdp2.py

It comes to the same model on any number of ranks that divides 480, up to rounding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

import allranks


def load_data() -> tuple[Tensor, Tensor]:
    """The same on all ranks: rows, and what a fixed network makes of them."""
    draw = torch.Generator().manual_seed(1)
    rows, weights = torch.randn(480, 16, generator=draw), torch.randn(16, 4, generator=draw)
    return rows, torch.tanh(rows @ weights)


def build_model() -> nn.Sequential:
    """Three blocks: a large model has hundreds of them."""
    return nn.Sequential(
        nn.Sequential(nn.Linear(16, 64), nn.GELU()),
        nn.Sequential(nn.Linear(64, 64), nn.GELU()),
        nn.Linear(64, 4),
    )


def train(model: nn.Module, steps: int) -> float:
    """Train on this rank's share of each batch; the last loss over all ranks."""
    device = torch.device(allranks.get_device_for_local_rank())
    rows, targets = (allranks.shard(part).to(device) for part in load_data())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(rows), targets)
        loss.backward()
        optimizer.step()
    return allranks.all_reduce(loss.item(), average=True)


def main() -> None:
    """Train, and write the whole model into one file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--model", type=Path, default=Path("fsdp2.pt"))
    options = parser.parse_args()
    with allranks.session():
        torch.manual_seed(0)  # The parameters are the same on all ranks, as FSDP wants them.
        model = build_model().to(allranks.get_device_for_local_rank())
        mesh = allranks.mesh({"shard": -1})  # {"replicate": 2, "shard": -1} makes it HSDP
        for block in model:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        loss = train(model, options.steps)
        whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
        allranks.save(get_model_state_dict(model, options=whole), options.model)
        if allranks.is_master():
            print(f"loss {loss:.6f} on {allranks.get_world_size()} ranks")


if __name__ == "__main__":
    main()
