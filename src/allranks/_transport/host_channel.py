"""Headers between ranks of one host, over sockets of the system from each member to the first.

A message over such a socket takes some 20 us and wakes one thread, where a collective of gloo's
wakes three on each rank: at four ranks on two cores, an exchange takes a fifth of the time. Data
still travel as they did; only what the ranks tell each other of a call comes this way.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from allranks._system import sockets
from allranks._system.typed_json import parsed, written
from allranks._system.waiting import SLICE, Deadline, StillRunning
from allranks._transport import process_groups
from allranks._transport.frame import FIRST_BODY, FIRST_MESSAGE, HEAD, Frame
from allranks._transport.group_operations import brief, fail_wait
from allranks._watch import failures, flight_recorder, torch_groups
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch.distributed as dist

    from allranks._transport.frame import Answer
    from allranks._transport.process_groups import Members

T = TypeVar("T")

SWITCH = "ALLRANKS_HOST_SOCKETS"
"""The variable that turns it off, on any one rank or on all: 0."""

PIECE = 16384
"""Bytes of a message after the first; a socket holds some, however its buffers are set."""

ENTRY = struct.Struct("<16sI")
"""What a member sends first: the secret, and its rank in the group."""

PATIENCE = 1.0
"""Seconds in which all members connect, else they go on over gloo."""

LEAST = 1e-3
"""A time-out in seconds for what has no time left; 0 would be none."""


class HostChannel:
    """The way of headers over one group, all of whose members are on this host."""

    def __init__(
        self, members: Members, group: dist.ProcessGroup, connections: Sequence[socket.socket]
    ) -> None:
        """Take over the sockets.

        Args:
            members: of the group.
            group: which is given up when a wait ends early.
            connections: of the first member to each other one, in order; of the others to it.
        """
        self._rank = members.rank
        self._ranks = members.ranks
        self._group = group
        self._name = torch_groups.name_of(group)
        self._connections = connections
        self._view = memoryview(bytearray(FIRST_MESSAGE))
        self._made = 0
        self._what = self._whom = ""
        self._end: Deadline | None = None
        for connection in connections:
            connection.settimeout(SLICE.total_seconds())

    def close(self) -> None:
        """Let go of the sockets."""
        _close(self._connections)

    def ask(
        self, mine: Frame, answer: Answer, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Tell one's header, and hear the answer to all of them."""
        self._made += 1
        self._what, self._end, noted = brief(what), None, None
        try:
            noted = flight_recorder.begin(self._name, self._made, self._what)
            return self._asked(mine, answer, meanwhile)
        except BaseException as error:
            try:
                fail_wait(self._group, what, error, self._whom)
            finally:
                self.close()  # Else a peer could take what was sent for a call that goes on.
            raise
        finally:
            if noted:
                noted.over = True
            failures.end_wait()

    def _asked(
        self, mine: Frame, answer: Answer, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Two ranks swap frames and both combine; of more, the first combines and answers."""
        if len(self._ranks) == 2:
            return answer(self._swapped(mine, meanwhile))
        if self._rank:
            self._send(0, mine)
            meanwhile()
            heard = self._receive(0)
            return heard.kind, heard.body
        meanwhile()
        others = range(len(self._connections))
        kind, body = answer([mine, *map(self._receive, others)])
        for index in others:
            self._send(index, Frame(kind, b"", body))
        return kind, body

    def _swapped(self, mine: Frame, meanwhile: Callable[[], None]) -> list[Frame]:
        """Exchange frames of two ranks.

        If both are longer than a message, the first member sends second, else two full buffers
        would block each other.
        """
        is_first = self._rank == 0
        later = is_first and len(mine.body) > FIRST_BODY
        if not later:
            self._send(0, mine)
        meanwhile()
        theirs = self._receive(0)
        if later:
            self._send(0, mine)
        return [mine, theirs] if is_first else [theirs, mine]

    def _send(self, index: int, told: Frame) -> None:
        send = self._connections[index].send
        head = HEAD.pack(len(told.body), told.kind, told.digest)
        self._patiently(index, send, head + told.body[:FIRST_BODY])
        for start in range(FIRST_BODY, len(told.body), PIECE):
            self._patiently(index, send, told.body[start : start + PIECE])

    def _receive(self, index: int) -> Frame:
        size = self._patiently(index, self._connections[index].recv_into, self._view)
        length, kind, mark = HEAD.unpack_from(self._view)
        body = bytes(self._view[HEAD.size : size])
        while len(body) < length:
            body += self._patiently(index, self._connections[index].recv, PIECE)
        return Frame(kind, mark, body)

    def _patiently(self, index: int, do: Callable[[Any], T], with_: Any) -> T:
        """Send or receive in slices of time, until the group's timeout."""
        peer = f"rank {self._ranks[0 if self._rank else index + 1]}"
        # The first member may itself wait for another one.
        self._whom = "at least one rank" if self._rank and len(self._ranks) > 2 else peer
        try:
            if done := self._in_slices(partial(do, with_)):
                return done
            lost: OSError | None = None  # The end of what a peer sends.
        except StillRunning:
            raise
        except OSError as error:
            lost = error
        gone = lost is None or isinstance(lost, ConnectionError)
        told = failures.HOST_LOST if gone else f"is not reached: {lost}"
        raise CollectiveError(f"{self._what}: {peer} {told}") from lost

    def _in_slices(self, call: Callable[[], T]) -> T:
        """Repeat a call that blocks for a slice, and hear of failures in between."""
        with suppress(TimeoutError):
            return call()
        if self._end is None:
            failures.begin_wait(self._what, self._name, SLICE.total_seconds())
            self._end = Deadline.after(
                (process_groups.timeout(self._group) - SLICE).total_seconds()
            )
        while not self._end.passed:
            failures.raise_if_failed()
            with suppress(TimeoutError):
                return call()
        raise StillRunning


class _SocketInvitation(NamedTuple):
    """What members tell each other before they meet.

    Attributes:
        where: the host and network namespace in which the name is unique; "" where there is none.
        listener: the name of the socket on which the first member listens, in hexadecimal digits.
        secret: what a member must send to it, in hexadecimal digits.
    """

    where: str
    listener: str
    secret: str


def connected(
    members: Members, exchange: Callable[[bytes], list[bytes]]
) -> Sequence[socket.socket] | None:
    """Sockets from each member to the first, if all of them are on one host. Collective.

    Args:
        members: of the group.
        exchange: tells all members some bytes, and hears theirs.

    Returns:
        As for ``HostChannel``; None on all members where one of them cannot.
    """
    secret = secrets.token_bytes(16)
    with _listener(members) as listener:
        where = _where() if members.rank or listener else ""
        name = listener.getsockname().hex() if listener else ""
        mine = written(_SocketInvitation(where, name, secret.hex())).encode()
        invitations = [parsed(_SocketInvitation, one) for one in exchange(mine)]
        if not where or len({invitation.where for invitation in invitations}) > 1:
            return None
        connections = (
            _accept_all(listener, secret, members.size - 1)
            if listener
            else _connect(invitations[0], members)
        )
        everybody = exchange(b"1" if connections else b"")
    if all(everybody):
        return connections
    _close(connections)
    return None


def _where() -> str:
    off = os.environ.get(SWITCH, "").lower() in ("0", "false")
    return "" if off or sys.platform != "linux" else sockets.host_key()


@contextmanager
def _listener(members: Members) -> Iterator[socket.socket | None]:
    """Where the first member listens, under a name that the system chooses; else None."""
    with ExitStack() as stack:
        listener = None
        if not members.rank:
            with suppress(OSError, AttributeError):  # There are no such sockets, or none is left.
                made = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                made.bind("")
                made.listen(members.size)
                listener = made
        yield listener


def _connect(invitation: _SocketInvitation, members: Members) -> Sequence[socket.socket] | None:
    """Connect to the first member; None where its socket cannot be reached from here."""
    connection: socket.socket | None = None
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(PATIENCE)
        connection.connect(bytes.fromhex(invitation.listener))
        connection.send(ENTRY.pack(bytes.fromhex(invitation.secret), members.rank))
    except OSError:
        _close([connection] if connection else None)
        return None
    return [connection]


def _accept_all(
    listener: socket.socket, secret: bytes, count: int
) -> Sequence[socket.socket] | None:
    """Those who know the secret; None if they do not all come in time."""
    end = Deadline.after(PATIENCE)
    connections: dict[int, socket.socket] = {}
    with suppress(OSError):
        while len(connections) < count:
            listener.settimeout(end.left or LEAST)
            connection, _ = listener.accept()
            rank = _rank_of(connection, secret, end)
            if rank is None:
                connection.close()
            else:
                connections[rank] = connection
    if len(connections) == count:
        return [connections[rank] for rank in sorted(connections)]
    _close(list(connections.values()))
    return None


def _rank_of(connection: socket.socket, secret: bytes, end: Deadline) -> int | None:
    """The rank of the member that has connected; None if it is a stranger."""
    connection.settimeout(end.left or LEAST)
    try:
        said, rank = ENTRY.unpack(connection.recv(ENTRY.size))
    except (OSError, struct.error):
        return None
    return int(rank) if hmac.compare_digest(said, secret) else None


def _close(connections: Sequence[socket.socket] | None) -> None:
    for connection in connections or ():
        connection.close()
