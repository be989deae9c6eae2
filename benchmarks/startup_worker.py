"""One rank of ``startup.py``: it notes when its first collective and first step were done.

startup_worker.py import      only imports torch, in a process of its own
startup_worker.py torch       brings its group up with torch.distributed (torchrun, mp.spawn)
startup_worker.py allranks    brings its group up with allranks.setup()
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(way: str) -> None:
    """Do what the first argument says, and stay until ``startup.py`` has measured the memory.

    Args:
        way: "import", "torch" or "allranks".
    """
    import torch

    if way == "import":
        stay(0, {"step": time.monotonic()})
        return
    torch.set_num_threads(1)
    bring_up(way)
    rank = torch.distributed.get_rank()
    first_collective()
    collective = time.monotonic()
    first_step()
    stay(rank, {"collective": collective, "step": time.monotonic()})
    take_down(way)


def bring_up(way: str) -> None:
    """Make the process group."""
    if way == "allranks":
        import allranks

        allranks.setup(cpu=True)
    else:
        import torch.distributed as dist

        dist.init_process_group("gloo")


def first_collective() -> None:
    """Sum a one from every rank.

    Raises:
        RuntimeError: the sum is not the number of ranks.
    """
    import torch
    import torch.distributed as dist

    ones = torch.ones(1)
    dist.all_reduce(ones)
    if ones.item() != dist.get_world_size():
        raise RuntimeError(f"{dist.get_world_size()} ranks sum to {ones.item()}")


def first_step() -> None:
    """Train a small network for one step."""
    import torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)))
    optimizer = torch.optim.AdamW(model.parameters())
    loss = nn.CrossEntropyLoss()(model(torch.randn(8, 64)), torch.arange(8))
    loss.backward()
    optimizer.step()


def stay(rank: int, times: dict[str, float]) -> None:
    """Tell the times, and wait for leave to go.

    Args:
        rank: this process's rank.
        times: what was done when, on the clock that all processes of this host share.
    """
    directory = Path(os.environ["STARTUP_DIRECTORY"])
    unfinished = directory / f"{rank}.unfinished"
    unfinished.write_text(json.dumps(times))
    unfinished.rename(directory / f"{rank}.json")
    while not (directory / "go").exists():
        time.sleep(0.02)


def take_down(way: str) -> None:
    """Destroy the process group."""
    if way == "allranks":
        import allranks

        allranks.cleanup()
    else:
        import torch.distributed as dist

        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
