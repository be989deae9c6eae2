"""Sockets between processes of one host: whether they may be used, and who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
import sys

SWITCH = "ALLRANKS_HOST_SOCKETS"
"""The variable that turns their use off, on any one rank or on all: 0."""

CREDENTIALS = struct.Struct("3i")
"""What Linux tells of the other end, unix(7): its process id, user id and group id."""


def allowed() -> bool:
    """Whether ranks of a host may talk over them: on Linux, unless the user forbids it."""
    off = os.environ.get(SWITCH, "").lower() in ("0", "false")
    return sys.platform == "linux" and not off


def process_at(connection: socket.socket) -> int | None:
    """The process at the other end, by its id; None unless it is this user's.

    The id is 0 where the process is in a container that this one cannot see into.
    """
    if sys.platform != "linux":
        return None
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(told)
    return int(pid) if user == os.getuid() else None
