"""News from rank to rank of one host, over sockets whose names the system chooses (Linux).

One rank of a host hears the news from the store; the others connect to it, and hear them from
there. A message is how many entries of the event log its sender has read, and mostly the last of
them. So each message also mends what was lost before: who has read fewer asks the store.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from allranks._system import host_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from allranks._rendezvous.record import RankRecord
    from allranks._watch.local_peers import LocalPeers

HEAD = struct.Struct("<I?")
"""What a message begins with: how many entries its sender has read; whether the store is lost."""

LONGEST = 65536
"""Bytes of an entry that travels this way; longer ones are left to the store."""

PATIENCE = 1.0
"""Seconds to connect; a busy rank need not do anything for it."""


class Message(NamedTuple):
    """What one rank hands on to another.

    Attributes:
        read: how many entries of the log the sender has read.
        lost: whether the store is gone; then the body says how.
        body: the last of these entries; empty where nothing is new, or where it is too long.
    """

    read: int
    lost: bool
    body: bytes


def listening() -> socket.socket | None:
    """Where other ranks of this host may connect; None where there are no such sockets."""
    if not host_sockets.allowed():
        return None
    with suppress(OSError, AttributeError):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        listener.bind("")
        listener.listen(socket.SOMAXCONN)
        return listener
    return None


def name_of(listener: socket.socket | None) -> str:
    """The name of a listening socket, as it stands in a record; "" of none."""
    return listener.getsockname().hex() if listener else ""


def connected(record: RankRecord) -> socket.socket | None:
    """A connection to a rank of this host; None where it does not listen, or another one does."""
    connection: socket.socket | None = None
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(PATIENCE)
        connection.connect(bytes.fromhex(record.socket))
        if host_sockets.process_at(connection) != record.pid:
            raise ConnectionError
    except (OSError, ValueError):
        if connection:
            connection.close()
        return None
    connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return connection


def received(connection: socket.socket) -> Iterator[Message]:
    """The messages that have come.

    Raises:
        ConnectionError: the sender is gone, or leaves.
    """
    while True:
        try:
            told = connection.recv(HEAD.size + LONGEST)
        except BlockingIOError:
            return
        if len(told) < HEAD.size:
            raise ConnectionError
        read, lost = HEAD.unpack_from(told)
        yield Message(read, lost, told[HEAD.size :])


class Followers:
    """The ranks of this host that hear the news from this one."""

    def __init__(
        self, listener: socket.socket | None, records: Sequence[RankRecord], peers: LocalPeers
    ) -> None:
        """Accept nobody yet.

        Args:
            listener: where they connect; None where they cannot.
            records: of those that may.
            peers: wakes this rank's watch when one connects.
        """
        self._listener = listener
        self._ranks: Mapping[int, int] = {record.pid: record.rank for record in records}
        self._peers = peers
        self._connections: dict[socket.socket, int] = {}
        self._gone: set[int] = set()
        if listener:
            peers.hear(listener)

    def accept(self, greeting: Message) -> None:
        """Accept those that have connected, and tell them how far this rank has read."""
        while self._listener:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # Nobody, or no descriptor left.
                return
            connection.setblocking(False)  # noqa: FBT003 - the standard library's signature
            rank = self._ranks.get(host_sockets.process_at(connection) or 0)
            if rank is None:
                connection.close()
            else:
                self._connections[connection] = rank
                self._gone.discard(rank)
                self._send(connection, greeting)

    def tell(self, message: Message) -> list[int]:
        """Hand a message on; the ranks that have it, and those that followed and have left."""
        told = [
            rank
            for connection, rank in list(self._connections.items())
            if self._send(connection, message)
        ]
        return [*told, *self._gone]

    def _send(self, connection: socket.socket, message: Message) -> bool:
        body = message.body if len(message.body) <= LONGEST else b""
        try:
            connection.send(HEAD.pack(message.read, message.lost) + body)
        except BlockingIOError:
            return False  # It is stopped; the next message that it takes tells what it missed.
        except OSError:
            self._gone.add(self._connections.pop(connection))
            connection.close()
            return False
        return True

    def close(self) -> None:
        """Let go of all; those that hear from this rank look for another one."""
        for connection in self._connections:
            with suppress(OSError):  # A child of this process may hold it, too.
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()
        if self._listener:
            self._peers.unhear(self._listener)
            self._listener.close()
            self._listener = None
