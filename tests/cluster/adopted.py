"""A group that another library has made, adopted by ``allranks.setup``.

python adopted.py torch|accelerate|fabric
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

import allranks


def torchs() -> None:
    dist.init_process_group("gloo")


def accelerate() -> None:
    from accelerate import Accelerator

    Accelerator(cpu=True)


def fabric() -> None:
    from lightning_fabric import Fabric

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    hosts = int(os.environ["WORLD_SIZE"]) // here
    Fabric(accelerator="cpu", strategy="ddp", devices=here, num_nodes=hosts).launch()


def main() -> None:
    """Let the other library make the group, and use it."""
    {"torch": torchs, "accelerate": accelerate, "fabric": fabric}[sys.argv[1]]()
    theirs = dist.group.WORLD
    allranks.setup(cpu=True)
    assert dist.group.WORLD is theirs
    rank, size = allranks.get_rank(), allranks.get_world_size()
    assert (rank, size) == (dist.get_rank(), dist.get_world_size())
    assert allranks.all_reduce({"rank": rank, "ones": torch.ones(2)})["rank"] == sum(range(size))
    assert len(allranks.all_gather(torch.zeros(rank))) == size
    allranks.cleanup()
    assert not dist.is_initialized()
    os.write(1, f"ADOPTED {rank}\n".encode())


if __name__ == "__main__":
    main()
