"""Why a rank that has answered the roll call does not come up: in words, and who is to blame."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from allranks._rendezvous import bind_hook, ports
from allranks._watch import failures
from allranks._watch.diagnosis import ALL_WAIT
from allranks._watch.failures import CONNECTING
from allranks.errors import RendezvousError

if TYPE_CHECKING:
    from allranks._system.waiting import Deadline

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

NOT_CONNECTED = "gloo did not connect them"


def lost(rank: int, what: object, deadline: Deadline) -> RendezvousError:
    """The error for a rank that was lost between the roll call and the end of the set-up.

    One that has given up on gloo a moment sooner is not to blame for what holds both up.
    """
    if NOT_CONNECTED in str(what):
        return RendezvousError(_unconnected(rank, deadline))
    return RendezvousError(
        f"rank {rank}: all ranks answered the roll call, but one was lost {CONNECTING}: {what}"
    )


def what_gloo_lacked(
    error: Exception, rank: int, deadline: Deadline, *, timed_out: bool
) -> str | None:
    """Why gloo did not connect the ranks, as far as an error tells; None if it does not.

    Args:
        error: what was raised.
        rank: this rank.
        deadline: of the set-up.
        timed_out: whether time has run out.
    """
    if isinstance(error, RuntimeError) and failures.is_lost(error):
        return (
            f"rank {rank}: all ranks answered the roll call, but one of them left "
            f"{CONNECTING}; its own log says why."
        )
    if "bind: Address already in use" in str(error) and bind_hook.range_of_gloo():
        return (
            f"rank {rank} on {socket.gethostname()}: gloo found no free port to listen on. "
            f"{ports.PORT_RANGE} must have one for each rank of a host and each gloo group, and "
            "one for rank 0's store."
        )
    connecting = timed_out or "connectFullMesh" in str(error)
    return _unconnected(rank, deadline) if connecting else None


def _unconnected(rank: int, deadline: Deadline) -> str:
    found = failures.verdict()
    told = (
        f"rank {rank} on {socket.gethostname()}: all ranks answered the roll call, but "
        f"{NOT_CONNECTED} within {deadline.elapsed:.3g} s."
    )
    return f"{told} {_of_the_network() if not found or ALL_WAIT in found else found}"


def _of_the_network() -> str:
    interface = os.environ.get(GLOO_INTERFACE)
    known = bind_hook.range_of_gloo() or ports.of_the_kernel()
    where = f"ports {known[0]}-{known[-1]}" if known else "any port"
    return (
        f"gloo listens on {where}; does a firewall let the hosts reach each other there? Is "
        f"{GLOO_INTERFACE}={interface!r} the interface that leads to the other hosts?"
    )
