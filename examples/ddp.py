"""DDP with evaluation, checkpoints, resumption and early stopping, on any number of ranks.

    allranks run -n 4 examples/ddp.py
    torchrun --nproc-per-node 4 examples/ddp.py
    srun -n 4 python examples/ddp.py

When any rank gets SIGTERM, all save and leave; the same line, started again, goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import allranks


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Rows to train on and to test, with the classes that a fixed network gives them."""
    draw = torch.Generator().manual_seed(1)
    rows, weights = torch.randn(2601, 16, generator=draw), torch.randn(16, 4, generator=draw)
    labels = (rows @ weights).argmax(1)
    return TensorDataset(rows[:2000], labels[:2000]), TensorDataset(rows[2000:], labels[2000:])


@torch.no_grad()
def evaluate(network: nn.Module, data: TensorDataset, device: torch.device) -> float | None:
    """The share of right answers over all ranks' samples, each counted once; on rank 0 alone."""
    sampler = allranks.ShardSampler(data)  # 601 samples on 4 ranks: 151, 150, 150, 150.
    network.eval()
    right: list[Tensor] = []
    for rows, labels in DataLoader(data, 100, sampler=sampler):
        right += [network(rows.to(device)).argmax(1) == labels.to(device)]
    network.train()
    answers = allranks.gather_shards(torch.cat(right), sampler.indices, dst=0)
    return None if answers is None else answers.double().mean().item()


def save(path: Path, parts: dict[str, Any], history: list[float]) -> None:
    """Write all that the training goes on from, the random numbers of each rank too."""
    random = allranks.gather_objects(allranks.get_rng_state())
    states = {name: part.state_dict() for name, part in parts.items()}
    allranks.save({**states, "random": random, "history": history}, path)


def load(path: Path, parts: dict[str, Any]) -> list[float]:
    """Put it back, on every rank; the history of the accuracy."""
    saved = torch.load(path, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    if len(saved["random"]) == allranks.get_world_size():  # Other numbers of ranks are welcome.
        allranks.set_rng_state(saved["random"][allranks.get_rank()])
    history: list[float] = saved["history"]
    return history


def train(epochs: int, patience: int, checkpoint: Path) -> bool:
    """Train until the epochs are over or bring nothing more; False if it was asked to stop."""
    allranks.seed_all(0, per_rank=True)  # Of the dropout; DDP copies rank 0's parameters to all.
    device = torch.device(allranks.get_device_for_local_rank())
    train_data, test_data = load_data()
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    model = DistributedDataParallel(network.to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    sampler = allranks.ShardSampler(train_data, shuffle=True, drop_last=True)
    # With a generator of its own the loader takes no numbers from that of the dropout.
    loader = DataLoader(train_data, 20, sampler=sampler, generator=torch.Generator())
    parts = {"network": network, "optimizer": optimizer, "sampler": sampler}
    history = load(checkpoint, parts) if allranks.on_master(checkpoint.exists) else []

    allranks.should_stop()  # From here on, SIGTERM ends no rank: it is heard by all, in the loop.
    while sampler.epoch < epochs and not is_over(history, patience):
        for rows, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(rows.to(device)), labels.to(device)).backward()
            optimizer.step()
            if allranks.should_stop():  # The sampler's state tells how far this epoch has come.
                save(checkpoint, parts, history)
                return False
        accuracy = evaluate(network, test_data, device)
        if accuracy is not None:
            history.append(accuracy)
            print(f"epoch {sampler.epoch}: {accuracy:.2%} right", flush=True)
        sampler.set_epoch(sampler.epoch + 1)
        save(checkpoint, parts, history)
    return True


def is_over(history: list[float], patience: int) -> bool:
    """Whether so many epochs brought nothing better: rank 0 alone knows, and tells all."""
    stale = len(history) - 1 - history.index(max(history)) if history else 0
    return allranks.agree(allranks.is_master() and stale >= patience)


def main() -> None:
    """Train; the exit code says whether there is more to do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, default=Path("ddp.pt"))
    options = parser.parse_args()
    with allranks.session():
        finished = train(options.epochs, options.patience, options.checkpoint)
    sys.exit(0 if finished else "stopped, and saved: start it again to go on")


if __name__ == "__main__":
    main()
