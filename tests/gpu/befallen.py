"""One of two ranks in a call on its device that the other never makes: KIND FAULT.

The tests start it twice, with the variables of ``env://``, so that no launcher ends it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import timedelta

import torch

import allranks
from gpus import world_on


def befall(fault: str) -> None:
    """What happens to rank 1."""
    if fault == "exception":
        raise LookupError("no shard 7")
    if fault == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elsewhere()


def elsewhere() -> None:
    """In no call, for longer than the test waits."""
    time.sleep(600)


def main(kind: str, fault: str) -> None:
    """Set up, make one call, and have the other rank not come to the next."""
    settings = {"timeout": timedelta(seconds=300), "stall_after": timedelta(seconds=3)}
    with world_on(kind, None, devices=2, **settings) as device:
        tensor = torch.ones(300_000, device=device)
        allranks.all_reduce(tensor)
        torch.accelerator.synchronize()
        if allranks.get_rank() == 1:
            befall(fault)
        allranks.all_reduce(tensor)
        torch.accelerator.synchronize()


main(*sys.argv[1:])
