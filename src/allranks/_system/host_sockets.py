"""Sockets between processes of one host: whether they may be used, and who is at the other end."""

from __future__ import annotations

import os
import socket
import struct
import sys

from allranks._system import variables

SWITCH = "ALLRANKS_HOST_SOCKETS"
"""The variable that turns their use off, on any one rank or on all: 0."""

CREDENTIALS = struct.Struct("3i")
"""What Linux tells of the other end, unix(7): its process id, user id and group id."""


def allowed() -> bool:
    """Whether ranks of a host may talk over them: on Linux, unless the user forbids it."""
    return sys.platform == "linux" and not variables.is_off(SWITCH)


def process_at(connection: socket.socket) -> int | None:
    """The process at the other end, by its id; None unless it is this user's.

    The id is 0 where the process is in a container that this one cannot see into.
    """
    if sys.platform != "linux":
        return None
    pid, user = _credentials(connection)
    return pid if user == os.getuid() else None


def user_at(connection: socket.socket) -> int | None:
    """The user at the other end, by its id; None where that cannot be seen."""
    return _credentials(connection)[1] if sys.platform == "linux" else None


def listener_at(connection: socket.socket) -> int:
    """The process that listens at the other end of what this one has connected, by its id."""
    return _credentials(connection)[0]


def _credentials(connection: socket.socket) -> tuple[int, int]:
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(told)
    return pid, user
