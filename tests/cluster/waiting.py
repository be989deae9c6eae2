"""A job that waits for its last rank: that sleeps, is stopped, or is deep in other code."""

from __future__ import annotations

import os
import re
import signal
import sys
import time

import torch

import allranks


def multiply_for_ever() -> None:
    """Stay in operations of torch."""
    square = torch.ones(1500, 1500)
    while True:
        torch.ops.aten.mm(square, square)


FAULTS = {
    "sleep": lambda: time.sleep(500),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "deep": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
    "torch": multiply_for_ever,
}
"""What the last rank does. "deep" holds the interpreter's lock for longer than anybody waits."""


def train(world: allranks.World) -> None:
    """A step of DDP, for which the last rank has no batch."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    if world.rank == world.world_size - 1:
        time.sleep(500)
    model(torch.ones(2, 4)).sum().backward()


def main() -> None:
    """Wait, or be waited for."""
    torch.set_num_threads(1)
    with allranks.session(cpu=True, rendezvous_timeout=60, stall_after=500) as world:
        allranks.all_reduce(1)
        if sys.argv[1] == "batches":
            train(world)
        elif world.rank == world.world_size - 1:
            FAULTS[sys.argv[1]]()
        allranks.all_reduce({"loss": 1.0})


if __name__ == "__main__":
    main()
