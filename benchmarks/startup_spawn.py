"""Starts N ranks of ``startup_worker.py`` with ``torch.multiprocessing.spawn``."""

from __future__ import annotations

import os
import socket
import sys

from torch.multiprocessing.spawn import spawn

import startup_worker


def rank(number: int, ranks: int) -> None:
    """One rank.

    Args:
        number: its rank.
        ranks: how many there are.
    """
    os.environ.update(RANK=str(number), WORLD_SIZE=str(ranks))
    startup_worker.main("torch")


def main() -> None:
    """Start them all, to meet at a free port."""
    ranks = int(sys.argv[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    spawn(rank, (ranks,), nprocs=ranks)  # type: ignore[no-untyped-call]  # torch leaves it so


if __name__ == "__main__":
    main()
