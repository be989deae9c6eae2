"""A world on this host: the private directory where its ranks meet, and their variables."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from allranks._system import sockets
from allranks._system.private_directory import STORE, private_directory

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def local_world(ranks: int) -> Iterator[list[dict[str, str]]]:
    """The variables of each rank of a new world on this host, and what they name.

    Yields:
        For each rank ours, and torchrun's for programs that know no others. The directory in
        which the ranks meet, and the port, are kept until the end of the block.
    """
    job = uuid.uuid4().hex
    with private_directory() as directory, sockets.reserve() as port:
        yield [
            {
                "ALLRANKS_RANK": str(rank),
                "ALLRANKS_WORLD_SIZE": str(ranks),
                "ALLRANKS_STORE": str(directory / STORE),
                "ALLRANKS_RUN_ID": job,
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": sockets.LOOPBACK,
                "MASTER_PORT": str(sockets.port_of(port)),
            }
            for rank in range(ranks)
        ]
