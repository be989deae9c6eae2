"""Where rank 0 runs, asked of MPI: for MPI launchers whose environment does not tell it."""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from allranks._rendezvous import mpi_worker
from allranks._rendezvous.address_board import ADVICE
from allranks._system import interpreter, sockets
from allranks._system.typed_json import RANKS, MalformedError, must_be_in, parsed, written
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks.errors import ConfigError, RendezvousError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from allranks._launchers.world import World
    from allranks._system.waiting import Deadline

FAREWELL = 5.0
"""Seconds that MPI may take to finalise; what it has told is told."""

_told: list[MpiMessage] = []
"""Rank 0's message, for the further worlds of this process."""


@dataclass(frozen=True)
class MpiMessage:
    """What rank 0 tells all ranks.

    Attributes:
        addresses: of its host, to be tried in turn.
        nonce: no other job has it.
    """

    addresses: tuple[str, ...]
    nonce: str


@dataclass(frozen=True)
class MpiAnswer:
    """What MPI answers, as ``mpi_worker`` writes it.

    Attributes:
        message: rank 0's.
        rank: this process's rank, by MPI.
        size: how many ranks MPI knows.
        error: why there is none of these; else None.
    """

    message: str = ""
    rank: int = -1
    size: int = -1
    error: str | None = None

    def __post_init__(self) -> None:
        if self.error is None:
            must_be_in(RANKS, rank=self.rank, size=self.size)


def has_mpi4py() -> bool:
    """Whether mpi4py is there on this host; importing it would initialise MPI."""
    try:
        return importlib.util.find_spec("mpi4py") is not None
    except ValueError:
        return False  # Another module has taken its name.


def completed(world: World, deadline: Deadline) -> World:
    """The world with rank 0's addresses, and with an identity that no other job has. Collective.

    Raises:
        RendezvousError: not all ranks came into MPI by the deadline.
        ConfigError: mpi4py cannot be used, or its world is not the launcher's.
    """
    if not _told:
        _told.append(_received(world, deadline))
    (message,) = _told
    return replace(world, hosts=message.addresses, job=f"{world.job}:{message.nonce}")


def _received(world: World, deadline: Deadline) -> MpiMessage:
    """Rank 0's message, by an MPI that agrees with the launcher about who this is."""
    me = f"rank {world.rank} of {world.world_size}"
    answer = _asked_of_mpi(me, _letter(), deadline)
    if answer.error is not None:
        raise ConfigError(
            f"{me}: nothing says where rank 0 runs, and mpi4py, which could carry its address, "
            f"cannot be used ({answer.error}): {ADVICE}."
        )
    if (answer.rank, answer.size) != (world.rank, world.world_size):
        raise ConfigError(
            f"{world.launcher} says {me}, mpi4py says rank {answer.rank} of {answer.size}. mpi4py "
            "was built for another MPI than the one that started this process, so that nothing "
            f"says where rank 0 runs: {ADVICE}."
        )
    try:
        return parsed(MpiMessage, answer.message)
    except MalformedError as error:
        raise RendezvousError(
            f"{me}: what rank 0 told through MPI is no address of allranks: {error}. Do all ranks "
            "run one release?"
        ) from error


def _letter() -> str:
    return written(MpiMessage(sockets.own_addresses(), uuid.uuid4().hex))


def _asked_of_mpi(me: str, message: str, deadline: Deadline) -> MpiAnswer:
    """Through an MPI that is up already, else in a process of its own: MPI_Init may end it."""
    try:
        if _is_up():
            asking = BackgroundCall(lambda: mpi_worker.exchanged(message))
            return parsed(MpiAnswer, written(asking.result(deadline.left)))
        return _asked_by_worker(message, deadline)
    except StillRunning:
        raise RendezvousError(
            f"{me}: MPI did not answer within {deadline.seconds:g} s: MPI_Init, which mpi4py "
            "calls, waits for all ranks. Did all of them reach setup(), and do all have mpi4py?"
        ) from None
    except ValueError as error:
        raise RendezvousError(
            f"{me}: asked where rank 0 runs, MPI ended the process that asked, or answered in its "
            f"place ({error}); what it wrote above says why. Without asking: {ADVICE}."
        ) from None


def _is_up() -> bool:
    """Whether the program has initialised MPI itself, and not finalised it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return bool(mpi and mpi.Is_initialized() and not mpi.Is_finalized())


def _asked_by_worker(message: str, deadline: Deadline) -> MpiAnswer:
    """The worker inherits what the launcher left open for MPI; one that lingers is killed."""
    import subprocess

    script = ascii(mpi_worker.__file__)
    with subprocess.Popen(  # noqa: S603 - it is this interpreter
        interpreter.command(f"import runpy; runpy.run_path({script}, run_name='__main__')"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=tuple(_inherited()),
    ) as worker:
        try:
            line = BackgroundCall(lambda: _answer(worker, message)).result(deadline.left)
            answer = parsed(MpiAnswer, line)
            with suppress(subprocess.TimeoutExpired):
                worker.wait(FAREWELL)
            return answer
        finally:
            worker.kill()


def _answer(worker: subprocess.Popen[str], message: str) -> str:
    with suppress(BrokenPipeError):  # Its silence says enough.
        print(message, file=worker.stdin, flush=True)
    return next(iter(worker.stdout or ()), "")


def _inherited() -> Iterator[int]:
    """The connection to MPICH's process manager, which a child is not given unasked."""
    with suppress(KeyError, ValueError, OSError):
        connection = int(os.environ["PMI_FD"])
        os.fstat(connection)  # A wrapper around the rank may have closed it.
        yield connection
