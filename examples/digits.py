"""Train a small network on scikit-learn's handwritten digits, on any number of ranks.

No line of it knows its launcher::

    python examples/digits.py
    allranks run -n 4 examples/digits.py
    torchrun --nproc-per-node 4 examples/digits.py
    srun -n 4 python examples/digits.py
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import allranks


def load() -> tuple[TensorDataset, Tensor, Tensor]:
    """The training set, and the test set's images and labels."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=450, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.asarray(part)) for part in parts)
    return TensorDataset(train_x.float(), train_y), test_x.float(), test_y


def train(model: nn.Module, data: TensorDataset, epochs: int) -> float:
    """Train on this rank's share of the data; the last epoch's mean loss over all ranks."""
    sampler: DistributedSampler[Any] = DistributedSampler(data)
    loader = DataLoader(data, batch_size=32 // allranks.get_world_size() or 1, sampler=sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loss_of = nn.CrossEntropyLoss()
    mean = float("nan")
    show = Console(stderr=True)
    quiet = not (allranks.is_master() and show.is_terminal)
    for epoch in track(range(epochs), "training", console=show, disable=quiet):
        sampler.set_epoch(epoch)
        losses = []
        for images, labels in loader:
            optimizer.zero_grad()
            loss = loss_of(model(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = allranks.all_reduce(sum(losses) / len(losses), average=True)
    return mean


def test(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, list[Any] | None]:
    """All predictions, in order, and on rank 0 the misclassified samples."""
    share = torch.arange(len(labels)).tensor_split(allranks.get_world_size())[allranks.get_rank()]
    with torch.no_grad():
        predicted = model(images[share]).argmax(dim=1)
    wrong = [
        {"sample": int(i), "is": int(labels[i]), "taken for": int(p)}
        for i, p in zip(share, predicted, strict=True)
        if labels[i] != p
    ]
    # The shares differ in size: 450 samples do not divide by 4.
    return torch.cat(allranks.all_gather(predicted)), allranks.gather_objects(wrong)


def checksum(model: nn.Module) -> str:
    """The same on two runs only if every parameter is the same to the last bit."""
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(weights).hexdigest()[:16]


def draw(labels: Tensor, predicted: Tensor, path: Path) -> None:
    """Draw the confusion matrix."""
    import matplotlib as mpl

    mpl.use("Agg")
    from sklearn.metrics import ConfusionMatrixDisplay

    display = ConfusionMatrixDisplay.from_predictions(labels, predicted, cmap="Blues")
    display.ax_.set_title(f"Digits, {len(labels)} test samples")
    display.figure_.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Train, test and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--picture", type=Path, default=Path("confusion.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # So that sums are made in one order, wherever it runs.
    torch.manual_seed(0)

    with allranks.session(cpu=True) as world:
        data, images, labels = load()
        network = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        model = DistributedDataParallel(network)
        loss = train(model, data, options.epochs)
        predicted, wrong = test(network, images, labels)
        if allranks.is_master():
            accuracy = (predicted == labels).double().mean().item()
            mistakes = [one for some in wrong or [] for one in some]
            draw(labels, predicted, options.picture)
            print(f"{world.world_size} ranks, started by {world.launcher}")
            print(f"loss {loss:.12f}, parameters {checksum(network)}")
            print(f"accuracy {accuracy:.2%}, {len(mistakes)} of {len(labels)} misclassified")
            print(f"confusion matrix: {options.picture.resolve()}")


if __name__ == "__main__":
    main()
