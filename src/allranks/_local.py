"""A world on this host: the private directory where its ranks meet, and their variables."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from allranks import _sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of mode 0700 is made in it

YOUNG = 60.0
"""Seconds before which a directory may not have been locked yet."""


@contextmanager
def local_world(ranks: int) -> Iterator[list[dict[str, str]]]:
    """The variables of each rank of a new world on this host, and what they name.

    Yields:
        For each rank ours, and torchrun's for programs that know no others. The directory in
        which the ranks meet, and the port, are kept until the end of the block.
    """
    job = uuid.uuid4().hex
    with _private_directory() as directory, _sockets.reserve() as port:
        yield [
            {
                "ALLRANKS_RANK": str(rank),
                "ALLRANKS_WORLD_SIZE": str(ranks),
                "ALLRANKS_STORE": str(directory / "store"),
                "ALLRANKS_RUN_ID": job,
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": _sockets.LOOPBACK,
                "MASTER_PORT": str(_sockets.port_of(port)),
            }
            for rank in range(ranks)
        ]


@contextmanager
def _private_directory() -> Iterator[Path]:
    """A fresh directory of mode 0700 that goes with this process, in memory where possible."""
    base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(base)
    maker = os.getpid()
    directory = Path(tempfile.mkdtemp(prefix="allranks-", dir=base))
    lock = _lock(directory)
    try:
        yield directory
    finally:
        if os.getpid() == maker:  # A forked rank leaves through here too.
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)


def _lock(directory: Path) -> int:
    """Lock a directory for as long as this process, or a rank it has forked, is there.

    Raises:
        BlockingIOError: another process holds it.
    """
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    return lock


def _sweep(base: Path) -> None:
    """Remove what a killed parent of this user left behind: whatever nobody has locked."""
    for left in base.glob("allranks-*"):
        with suppress(OSError):
            facts = left.stat()
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > YOUNG:
                os.close(_lock(left))
                shutil.rmtree(left, ignore_errors=True)
