"""MPI's own broadcast as a notice board, for MPI launchers that tell no address of rank 0."""

from __future__ import annotations

import atexit
import importlib.util
import json
import socket
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from allranks import _sockets
from allranks._board import Notice, notice_in
from allranks._waiting import Abandonable, Deadline, StillRunning
from allranks.errors import ConfigError, RendezvousError

if TYPE_CHECKING:
    from allranks._rollcall import Record

LONGEST = 4096
"""Bytes of a notice: all ranks must give a broadcast's size."""


def has_mpi4py() -> bool:
    """Whether mpi4py is there; it is not imported, since that initialises MPI."""
    return importlib.util.find_spec("mpi4py") is not None


def _initialised() -> Any:
    """mpi4py's MPI. Where this import initialises it, this process finalises it if all is well.

    A process that failed must not: finalising waits for ranks that may never come.
    """
    first = "mpi4py.MPI" not in sys.modules
    if first:
        import mpi4py

        mpi4py.rc.finalize = False
    from mpi4py import MPI

    if first:
        atexit.register(lambda: None if hasattr(sys, "last_value") else MPI.Finalize())
    return MPI


class MpiBoard:
    """One broadcast of rank 0's notice over all ranks that MPI has started."""

    place = "mpi4py's broadcast"

    def __init__(self, me: Record, deadline: Deadline) -> None:
        """Join MPI's world. Collective.

        Raises:
            RendezvousError: not all ranks came into MPI by the deadline.
            ConfigError: mpi4py cannot be used, or its world is not the launcher's.
        """
        try:
            mpi = Abandonable(_initialised).result(deadline.left)
        except StillRunning:
            raise RendezvousError(
                f"{me}: MPI did not come up within {deadline.seconds:g} s: MPI_Init, which mpi4py "
                "calls, waits for all ranks. Did all of them reach setup()?"
            ) from None
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"mpi4py, which was to carry rank 0's address, cannot be used ({error}). Set "
                "MASTER_ADDR and MASTER_PORT instead, or install mpi4py for this MPI."
            ) from error
        self._world = mpi.COMM_WORLD
        self._deadline = deadline
        self._letter = bytearray(LONGEST)
        self._request: Any = None
        size, rank = self._world.Get_size(), self._world.Get_rank()
        if (rank, size) != (me.rank, me.world_size):
            raise ConfigError(
                f"{me}: {me.launcher} says rank {me.rank} of {me.world_size}, mpi4py says rank "
                f"{rank} of {size}. Was mpi4py built for another MPI than the one that started "
                "this process? Set MASTER_ADDR and MASTER_PORT, or install mpi4py for this MPI."
            )

    def own_addresses(self) -> tuple[str, ...]:
        """This host's addresses that the other ranks may reach."""
        return _sockets.own_addresses() or (socket.gethostname(),)

    def post(self, notice: Notice) -> None:
        """Send the notice to all ranks."""
        text = json.dumps(asdict(notice)).encode()
        self._letter[: len(text)] = text
        self._request = self._world.Ibcast(self._letter, root=0)
        while not self._request.Test() and not self._deadline.passed:
            time.sleep(0.001)

    def read(self) -> Notice | None:
        """The notice, once it has come."""
        if self._request is None:
            self._request = self._world.Ibcast(self._letter, root=0)
        return notice_in(self._letter.rstrip(b"\0")) if self._request.Test() else None

    def take_down(self) -> None:
        """Nothing to do: it was said once."""
