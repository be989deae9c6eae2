"""A contrastive loss as CLIP's: each pair is told from the pairs of all ranks, with gradients.

    allranks run -n 4 examples/clip_loss.py
    torchrun --nproc-per-node 4 examples/clip_loss.py
    srun -n 4 python examples/clip_loss.py

It comes to the same model on any number of ranks, up to rounding.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

import allranks


class TwoTowers(nn.Module):
    """Puts images and texts into one space."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))
        self.text = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of both, of length 1, and the scale of their products."""
        image, text = normalize(self.image(images)), normalize(self.text(texts))
        return image, text, self.log_scale.exp()


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The loss of this rank's pairs, however many, among those of all ranks.

    The mean of all ranks' losses is that of one process with all pairs, and so are the gradients,
    of which DDP takes the mean.
    """
    images = allranks.autograd.all_gather(image)
    texts = allranks.autograd.all_gather(text, cat=True)
    before = sum(len(part) for part in images[: allranks.get_rank()])
    mine = before + torch.arange(len(image), device=image.device)
    by_image = cross_entropy(scale * image @ texts.T, mine, reduction="sum")
    by_text = cross_entropy(scale * text @ torch.cat(images).T, mine, reduction="sum")
    return (by_image + by_text) / 2 / len(texts) * allranks.get_world_size()


def draw_pairs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs whose halves show the same thing in two ways; each seed draws others."""
    fixed, draw = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    things = torch.randn(count, 4, generator=draw)
    views = (torch.randn(4, size, generator=fixed) for size in (12, 6))
    image, text = (torch.tanh(things @ view) for view in views)
    return image, text


def main() -> None:
    """Train on new pairs in each step, each rank on its share of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    with allranks.session():
        device = torch.device(allranks.get_device_for_local_rank())
        torch.manual_seed(0)
        model = DistributedDataParallel(TwoTowers().to(device))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(steps):
            image, text = (allranks.shard(part).to(device) for part in draw_pairs(64, step))
            optimizer.zero_grad()
            loss = clip_loss(*model(image, text))
            loss.backward()
            optimizer.step()
            mean = allranks.all_reduce(loss.item(), average=True)
            if allranks.is_master() and (step + 1) % 50 == 0:
                print(f"step {step + 1}: loss {mean:.3f}")


if __name__ == "__main__":
    main()
