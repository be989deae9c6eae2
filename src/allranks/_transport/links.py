"""Sockets between the members of a group, each to its parent in the tree: how they are made.

Over such a socket a message takes some 20 us and wakes one thread, where a collective of gloo's
wakes three on each rank. Members of one host meet at a unix socket, others over TCP.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from allranks._rendezvous import ports
from allranks._system import host_sockets, sockets
from allranks._system.typed_json import parsed, written
from allranks._system.waiting import Deadline
from allranks._transport.header_tree import HeaderTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from allranks._transport.process_groups import Members

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""The variable with the interface over which other hosts are reached; ``setup`` sets it."""

ENTRY = struct.Struct("<16sI")
"""What a member sends first: the secret, and its rank in the group."""

PATIENCE = 5.0
"""Seconds in which all members connect, else they go on over gloo."""

LEAST = 1e-3
"""A time-out in seconds for what has no time left; 0 would be none."""


class Link(NamedTuple):
    """A connection to another member.

    Attributes:
        rank: the other one's global rank.
        socket: the connection.
        is_near: whether the other one is on this host.
    """

    rank: int
    socket: socket.socket
    is_near: bool


class Links(NamedTuple):
    """A member's connections.

    Attributes:
        parent: to whom it tells; None for the root.
        children: who tell it, in their order.
        order: all members, as the root hears of them.
    """

    parent: Link | None
    children: tuple[Link, ...]
    order: Sequence[int]

    def close(self) -> None:
        """Let go of the sockets."""
        for link in filter(None, [self.parent, *self.children]):
            link.socket.close()


class _Invitation(NamedTuple):
    """What members tell each other before they meet.

    Attributes:
        host: the host and network namespace in which the name is unique; "" where no socket can
            be had.
        name: the name of the unix socket on which the member listens, in hexadecimal digits.
        secret: what those who come must send, in hexadecimal digits.
    """

    host: str
    name: str
    secret: str


def linked(members: Members, exchange: Callable[[bytes], list[bytes]]) -> Links | None:
    """Connect each member to its parent in the tree. Collective.

    Args:
        members: of the group.
        exchange: tells all members some bytes, and hears theirs.

    Returns:
        This member's connections; None on all members where one of them cannot.
    """
    secret = secrets.token_bytes(16)
    with ExitStack() as doors:
        near = _near_door(doors)
        name = near.getsockname().hex() if near else ""
        mine = _Invitation(sockets.host_key() if near else "", name, secret.hex())
        told = [parsed(_Invitation, one) for one in exchange(written(mine).encode())]
        if not all(one.host for one in told):
            return None
        tree = HeaderTree.of([one.host for one in told])
        far = _far_door(doors) if _has_far(tree, told, members.rank) else None
        addresses = _addresses(told, far, exchange)
        links = _meet(members, tree, told, addresses, [near, far], secret)
        everybody = exchange(b"1" if links else b"")
    if all(everybody):
        return links
    if links:
        links.close()
    return None


def _near_door(doors: ExitStack) -> socket.socket | None:
    """Where members of this host come, under a name that the system chooses; else None."""
    if not host_sockets.allowed():
        return None
    with suppress(OSError, AttributeError):  # There are no such sockets, or none is left.
        made = doors.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        made.bind("")
        made.listen(socket.SOMAXCONN)
        return made
    return None


def _has_far(tree: HeaderTree, told: Sequence[_Invitation], rank: int) -> bool:
    return any(told[child].host != told[rank].host for child in tree.children[rank])


def _far_door(doors: ExitStack) -> socket.socket | None:
    """Where members of other hosts come, at the interface that gloo uses; else None."""
    interface = os.environ.get(GLOO_INTERFACE, "").partition(",")[0]
    addresses = (*sockets.addresses_of_interface(interface), *sockets.own_addresses())
    with suppress(OSError, ValueError):  # No port is free, or the address is gone.
        return doors.enter_context(ports.listen_on_any(addresses[0], ports.allowed(os.environ)))
    return None


def _addresses(
    told: Sequence[_Invitation],
    door: socket.socket | None,
    exchange: Callable[[bytes], list[bytes]],
) -> list[tuple[str, int]]:
    """Where members of other hosts come to each member: ("", 0) where none do."""
    if len({one.host for one in told}) == 1:
        return [("", 0)] * len(told)
    host, port = door.getsockname()[:2] if door else ("", 0)
    bodies = exchange(written((host, port)).encode())
    return [parsed(tuple[str, int], body) for body in bodies]


def _meet(
    members: Members,
    tree: HeaderTree,
    told: Sequence[_Invitation],
    addresses: Sequence[tuple[str, int]],
    doors: Sequence[socket.socket | None],
    secret: bytes,
) -> Links | None:
    """Connect to one's parent, and let one's children in; None if that is not done in time."""
    end = Deadline.after(PATIENCE)
    parent, children = tree.parents[members.rank], tree.children[members.rank]
    to_parent: Link | None = None
    if parent is not None:
        is_near = told[parent].host == told[members.rank].host
        made = _connect(told[parent], None if is_near else addresses[parent], members.rank, end)
        if made is None:
            return None
        to_parent = Link(members.ranks[parent], made, is_near)
    near = [child for child in children if told[child].host == told[members.rank].host]
    admitted = _admit_all([(doors[0], near), (doors[1], set(children) - {*near})], secret, end)
    if admitted is None:
        if to_parent:
            to_parent.socket.close()
        return None
    links = [Link(members.ranks[child], admitted[child], child in near) for child in children]
    return Links(to_parent, tuple(links), tree.order())


def _connect(
    invitation: _Invitation, address: tuple[str, int] | None, rank: int, end: Deadline
) -> socket.socket | None:
    """Connect to a member, at its address on another host; None where it cannot be reached."""
    made: socket.socket | None = None
    try:
        if address:
            made = sockets.connect(*address, end.left or LEAST)
            without_delay(made)
        else:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.settimeout(end.left or LEAST)
            made.connect(bytes.fromhex(invitation.name))
        made.sendall(ENTRY.pack(bytes.fromhex(invitation.secret), rank))
    except OSError:
        if made:
            made.close()
        return None
    return made


def without_delay(connection: socket.socket) -> None:
    """Send each message at once, and notice a host that is gone."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _admit_all(
    expected: Sequence[tuple[socket.socket | None, Iterable[int]]], secret: bytes, end: Deadline
) -> dict[int, socket.socket] | None:
    """At each door those who are expected there; None if they do not all come in time."""
    admitted: dict[int, socket.socket] = {}
    for door, ranks in expected:
        wanted = set(ranks)
        if wanted and door:
            admitted.update(admit(door, secret, wanted, end))
        if not wanted <= admitted.keys():
            for one in admitted.values():
                one.close()
            return None
    return admitted


def admit(
    door: socket.socket, secret: bytes, ranks: set[int], end: Deadline
) -> dict[int, socket.socket]:
    """Those of some members who come in time and know the secret."""
    admitted: dict[int, socket.socket] = {}
    with suppress(OSError):
        while admitted.keys() < ranks:
            door.settimeout(end.left or LEAST)
            connection, _ = door.accept()
            rank = _rank_of(connection, secret, end)
            if rank not in ranks - admitted.keys():
                connection.close()
                continue
            if connection.family != socket.AF_UNIX:
                without_delay(connection)
            admitted[rank] = connection
    return admitted


def _rank_of(connection: socket.socket, secret: bytes, end: Deadline) -> int:
    """The rank of the member that has connected; -1 if it is a stranger."""
    connection.settimeout(end.left or LEAST)
    said = b""
    try:
        while len(said) < ENTRY.size and (more := connection.recv(ENTRY.size - len(said))):
            said += more
        told, rank = ENTRY.unpack(said)
    except (OSError, struct.error):
        return -1
    return int(rank) if hmac.compare_digest(told, secret) else -1
