"""Torch's TCPStore at an address: how it is reached, and why it is not."""

from __future__ import annotations

import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._system import sockets
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks._system.words import tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch.distributed as dist

    from allranks._rendezvous.address_board import PostedAddress
    from allranks._system.waiting import Deadline

PATIENCE = 1.0
"""Seconds that one address may take to answer before the next one is tried."""

SLOW_NAMES = 3.0
"""Seconds for one connection from which on the name server is suspected."""


class Route(NamedTuple):
    """The way from a rank to the host of rank 0's store, by the numeric addresses of its ends."""

    here: str
    there: str


@dataclass(frozen=True)
class StoreAddress:
    """An address where rank 0's store may be.

    Attributes:
        host: a name or a numeric address.
        port: the port.
        notice: the notice that named the address, or None.
    """

    host: str
    port: int
    notice: PostedAddress | None = None

    def __str__(self) -> str:
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{place} ({self.notice})" if self.notice else place


def connect(host: str, port: int, deadline: Deadline) -> tuple[dist.Store, Route]:
    """Connect to a store. Blocks for longer than the deadline where a port is silent.

    A plain connection comes first: torch's own client takes most of a second to find that nothing
    listens, and writes its stack to the standard error stream. Who knows that a store is there
    calls ``connected``.
    """
    with sockets.connect(host, port, max(deadline.left, 0.1)) as probe:
        route = Route(probe.getsockname()[0], probe.getpeername()[0])
    return connected(route.there, port, deadline), route


def connected(host: str, port: int, deadline: Deadline) -> dist.Store:
    """A connection to a store that is known to be there."""
    began = time.monotonic()
    store = tcp_store(host, port, deadline, is_master=False)
    _complain_of_names(time.monotonic() - began, host)
    return store


def reconnected(host: str, port: int, deadline: Deadline) -> dist.Store:
    """Another connection to a store that was there a moment ago.

    torch would go on trying until the deadline where rank 0 has ended since.

    Raises:
        OSError: nothing listens there any more.
        StillRunning: it does not answer in time.
        RuntimeError: torch found something else.
    """
    call = BackgroundCall(lambda: connected(host, port, deadline))
    while True:
        try:
            return call.result(min(PATIENCE, deadline.left))
        except StillRunning:
            if deadline.passed:
                raise
        with suppress(TimeoutError):
            sockets.connect(host, port, PATIENCE).close()


def tcp_store(host: str, port: int, deadline: Deadline, **more: Any) -> dist.Store:
    import torch.distributed as dist

    return dist.TCPStore(
        host,
        port,
        wait_for_workers=False,
        timeout=timedelta(seconds=deadline.left + PATIENCE),
        use_libuv=_has_libuv_for(more),
        **more,
    )


def _has_libuv_for(options: Mapping[str, Any]) -> bool:
    """Whether torch's newer server can be had: before 2.8 it takes no socket that listens already.

    The older one serves each store as well, on the same protocol (torch's pull request 150215).
    """
    import torch

    given_a_socket = "master_listen_fd" in options
    return sys.platform != "win32" and (not given_a_socket or torch.__version__ >= "2.8")


def _complain_of_names(seconds: float, address: str) -> None:
    if seconds > SLOW_NAMES:
        tell(
            f"warning: connecting to the store at {address} took {seconds:.1f} s. torch looks up "
            "every peer's name; a slow name server is the likely cause (list the addresses, IPv6 "
            "forms such as ::ffff:127.0.0.1 too, in /etc/hosts)."
        )


def reason(error: Exception) -> str:
    if isinstance(error, StillRunning):
        return "something accepts connections there but does not answer as a store"
    if isinstance(error, socket.gaierror):
        return f"the name is unknown on this host ({error.strerror})"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, OSError):
        return error.strerror or "no answer"
    return f"what answers is no store of torch's ({error})".replace("\n", " ")[:300]
