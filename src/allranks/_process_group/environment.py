"""The environment variables that allranks sets, and their restoration at ``cleanup``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from allranks._system import sockets
from allranks._system.graph_breaks import outside_graphs
from allranks.errors import DetectionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_before: dict[str, str | None] = {}


def put(name: str, value: str) -> None:
    """Set a variable, and remember what it was before allranks first set it."""
    _before.setdefault(name, os.environ.get(name))
    os.environ[name] = value


def complete(variables: Mapping[str, str]) -> None:
    """Set those variables that nobody has set."""
    for name, value in variables.items():
        if not os.environ.get(name):
            put(name, value)


def described_rank() -> int | None:
    """The rank that ``setup_env_local_multi_gpu`` has described; None where it has not."""
    return int(os.environ["RANK"]) if "RANK" in _before and os.environ.get("RANK") else None


def restore() -> None:
    """Put back every variable that ``put`` has set."""
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()


@outside_graphs
def os_environ_get_or_throw(x: str) -> str:
    """The value of an environment variable that must be set. Not collective.

    Args:
        x: the variable's name.

    Returns:
        Its value, which may be the empty string.

    Raises:
        DetectionError: (a RuntimeError) it is not set.
    """
    if x not in os.environ:
        raise DetectionError(
            f"Could not find {x} in ENV variables: set it, or start the script with its launcher",
            {x: None},
        )
    return os.environ[x]


@outside_graphs
def setup_env_local() -> None:
    """Describe a world of one in the environment, as torchrun would. Not collective.

    ``cleanup`` puts the variables back.
    """
    setup_env_local_multi_gpu(0, sockets.free_port(), world_size=1)


@outside_graphs
def setup_env_local_multi_gpu(
    rank: int, port: int, address: str = "localhost", *, world_size: int | None = None
) -> None:
    """Describe this process's place among the ranks of one host. Not collective.

    ``cleanup`` puts the variables back.

    Args:
        rank: this process's rank, which is its local rank too.
        port: rank 0's port.
        address: rank 0's address.
        world_size: the number of ranks; where it is left out, give it to ``setup``.
    """
    put("MASTER_ADDR", address)
    put("MASTER_PORT", str(port))
    put("RANK", str(rank))
    put("LOCAL_RANK", str(rank))
    if world_size is not None:
        put("WORLD_SIZE", str(world_size))
        put("LOCAL_WORLD_SIZE", str(world_size))
