"""Where rank 0 runs, asked of MPI: for MPI launchers whose environment does not tell it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from allranks import _interpreter, _mpi_letter, _sockets
from allranks._board import ADVICE
from allranks._waiting import Abandonable, StillRunning
from allranks.errors import ConfigError, RendezvousError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from allranks._waiting import Deadline
    from allranks._world import World

FAREWELL = 5.0
"""Seconds that MPI may take to finalise; what it has told is told."""

_told: dict[str, Any] = {}
"""Rank 0's letter, for the further worlds of this process."""


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
        _told.update(_received(world, deadline))
    return replace(world, hosts=tuple(_told["addresses"]), job=f"{world.job}:{_told['nonce']}")


def _received(world: World, deadline: Deadline) -> dict[str, Any]:
    me = f"rank {world.rank} of {world.world_size}"
    answer = _asked_of_mpi(me, _letter(), deadline)
    if "error" in answer:
        raise ConfigError(
            f"{me}: nothing says where rank 0 runs, and mpi4py, which could carry its address, "
            f"cannot be used ({answer['error']}): {ADVICE}."
        )
    rank, size = answer["rank"], answer["size"]
    if (rank, size) != (world.rank, world.world_size):
        raise ConfigError(
            f"{world.launcher} says {me}, mpi4py says rank {rank} of {size}. mpi4py was built for "
            "another MPI than the one that started this process, so that nothing says where rank 0 "
            f"runs: {ADVICE}."
        )
    letter: dict[str, Any] = json.loads(answer["letter"])
    return letter


def _letter() -> str:
    return json.dumps({"addresses": _sockets.own_addresses(), "nonce": uuid.uuid4().hex})


def _asked_of_mpi(me: str, letter: str, deadline: Deadline) -> dict[str, Any]:
    try:
        if _is_up():
            return Abandonable(lambda: _mpi_letter.exchanged(letter)).result(deadline.left)
        return _asked_by_messenger(letter, deadline)
    except StillRunning:
        raise RendezvousError(
            f"{me}: MPI did not answer within {deadline.seconds:g} s: MPI_Init, which mpi4py "
            "calls, waits for all ranks. Did all of them reach setup(), and do all have mpi4py?"
        ) from None
    except ValueError:
        raise RendezvousError(
            f"{me}: asked where rank 0 runs, MPI ended the process that asked; what it wrote "
            f"above says why. Without asking: {ADVICE}."
        ) from None


def _is_up() -> bool:
    """Whether the program has initialised MPI itself, and not finalised it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return bool(mpi and mpi.Is_initialized() and not mpi.Is_finalized())


def _asked_by_messenger(letter: str, deadline: Deadline) -> dict[str, Any]:
    import subprocess

    script = ascii(_mpi_letter.__file__)
    with subprocess.Popen(  # noqa: S603 - it is this interpreter
        _interpreter.command(f"import runpy; runpy.run_path({script}, run_name='__main__')"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=tuple(_inherited()),
    ) as messenger:
        try:
            line = Abandonable(lambda: _answer(messenger, letter)).result(deadline.left)
            answer: dict[str, Any] = json.loads(line)
            with suppress(subprocess.TimeoutExpired):
                messenger.wait(FAREWELL)
            return answer
        finally:
            messenger.kill()


def _answer(messenger: subprocess.Popen[str], letter: str) -> str:
    with suppress(BrokenPipeError):  # Its silence says enough.
        print(letter, file=messenger.stdin, flush=True)
    return next(iter(messenger.stdout or ()), "")


def _inherited() -> Iterator[int]:
    """The connection to MPICH's process manager, which a child is not given unasked."""
    with suppress(KeyError, ValueError, OSError):
        connection = int(os.environ["PMI_FD"])
        os.fstat(connection)  # A wrapper around the rank may have closed it.
        yield connection
