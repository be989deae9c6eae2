"""What each rank runs for `launchers.py`: a peer comes up as its page says, with no configuration.

python launchers_worker.py torch|fabric|accelerate
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed as dist


def by_torch() -> tuple[int, int]:
    """Come up by ``env://``."""
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def by_fabric() -> tuple[int, int]:
    """Come up by Lightning Fabric."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", strategy="ddp")
    fabric.launch()
    return fabric.global_rank, fabric.world_size


def by_accelerate() -> tuple[int, int]:
    """Come up by Accelerate."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    return accelerator.process_index, accelerator.num_processes


PEERS = {"torch": by_torch, "fabric": by_fabric, "accelerate": by_accelerate}


def main() -> None:
    """Come up, make one collective, and report in one line."""
    rank, world_size = PEERS[sys.argv[1]]()
    total = torch.tensor(rank + 1)
    if dist.is_initialized():
        dist.all_reduce(total)
    told = {"rank": rank, "world_size": world_size, "total": int(total), "at": time.time()}
    os.write(1, f"REPORT {json.dumps(told)}\n".encode())
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
