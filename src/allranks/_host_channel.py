"""Headers between ranks of one host, over sockets of the system from each member to the first.

A message over such a socket takes some 20 us and wakes one thread, where a collective of gloo's
wakes three on each rank: at four ranks on two cores, an exchange takes a fifth of the time. Data
still travel as they did; only what the ranks tell each other of a call comes this way.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from allranks import _alarm, _flight, _groups, _sockets
from allranks._messages import brief, give_up
from allranks._told import FRAME, HEAD, ROOM, Told
from allranks._waiting import SLICE, Deadline, StillRunning
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist

    from allranks._groups import Members
    from allranks._told import Answer

T = TypeVar("T")

SWITCH = "ALLRANKS_HOST_SOCKETS"
"""The variable that turns it off, on any one rank or on all: 0."""

PIECE = 65536
"""Bytes of a message after the first; a socket holds some."""

ENTRY = struct.Struct("<16sI")
"""What a member says at the door: the secret, and its rank in the group."""

PATIENCE = 1.0
"""Seconds in which all members come to the door, else they go on over gloo."""


class HostChannel:
    """The way of headers over one group, all of whose members are on this host."""

    def __init__(
        self, members: Members, group: dist.ProcessGroup, lines: Sequence[socket.socket]
    ) -> None:
        """Take over the sockets.

        Args:
            members: of the group.
            group: which is given up when a wait ends early.
            lines: on the first member to each other one, in order; on the others to the first.
        """
        self._rank = members.rank
        self._ranks = members.ranks
        self._group = group
        self._name = _groups.name_of(group)
        self._lines = lines
        self._view = memoryview(bytearray(FRAME))
        self._made = 0
        self._what = self._whom = ""
        for line in lines:
            line.settimeout(SLICE.total_seconds())

    def close(self) -> None:
        """Let go of the sockets."""
        for line in self._lines:
            line.close()

    def ask(
        self, mine: Told, answer: Answer, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Tell one's header, and hear the answer to all of them."""
        self._made += 1
        self._what = what
        noted = _flight.begin(self._name, self._made, what)
        try:
            return self._asked(mine, answer, meanwhile)
        except BaseException as error:
            self.close()  # Else a peer could take what was sent for a call that goes on.
            give_up(self._group, what, error, self._whom)
            raise
        finally:
            noted.over = True
            _alarm.leave()

    def _asked(
        self, mine: Told, answer: Answer, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        if len(self._ranks) == 2:
            return answer(self._swapped(mine, meanwhile))
        if self._rank:
            self._send(0, mine)
            meanwhile()
            heard = self._receive(0)
            return heard.kind, heard.body
        meanwhile()
        others = range(len(self._lines))
        kind, body = answer([mine, *map(self._receive, others)])
        for line in others:
            self._send(line, Told(kind, b"", body))
        return kind, body

    def _swapped(self, mine: Told, meanwhile: Callable[[], None]) -> list[Told]:
        """Both headers. Of two long ones, which no socket holds, the first member's comes later."""
        is_first = self._rank == 0
        later = is_first and len(mine.body) > ROOM
        if not later:
            self._send(0, mine)
        meanwhile()
        theirs = self._receive(0)
        if later:
            self._send(0, mine)
        return [mine, theirs] if is_first else [theirs, mine]

    def _send(self, line: int, told: Told) -> None:
        send = self._lines[line].send
        head = HEAD.pack(len(told.body), told.kind, told.mark)
        self._patiently(line, send, head + told.body[:ROOM])
        for start in range(ROOM, len(told.body), PIECE):
            self._patiently(line, send, told.body[start : start + PIECE])

    def _receive(self, line: int) -> Told:
        size = self._patiently(line, self._lines[line].recv_into, self._view)
        length, kind, mark = HEAD.unpack_from(self._view)
        body = bytes(self._view[HEAD.size : size])
        while len(body) < length:
            body += self._patiently(line, self._lines[line].recv, PIECE)
        return Told(kind, mark, body)

    def _patiently(self, line: int, do: Callable[[Any], T], with_: Any) -> T:
        """What a socket does within a slice of time, tried again and again."""
        self._whom = f"rank {self._ranks[0 if self._rank else line + 1]}"
        try:
            done = self._in_slices(partial(do, with_))
        except ConnectionError as error:
            raise self._lost() from error
        if not done:
            raise self._lost()
        return done

    def _in_slices(self, call: Callable[[], T]) -> T:
        with suppress(TimeoutError):
            return call()
        _alarm.enter(brief(self._what), self._name, SLICE.total_seconds())
        end = Deadline.after((_groups.timeout(self._group) - SLICE).total_seconds())
        while not end.passed:
            _alarm.look()
            with suppress(TimeoutError):
                return call()
        raise StillRunning

    def _lost(self) -> CollectiveError:
        return CollectiveError(f"{brief(self._what)}: {self._whom} {_alarm.HOST_LOST}")


class _Card(NamedTuple):
    """What members tell each other before they meet.

    Attributes:
        where: within what the name of a socket means one socket; "" where there are none.
        door: the name of the socket on which the first member listens, in hexadecimal digits.
        secret: what is said there, in hexadecimal digits.
    """

    where: str
    door: str
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
    where, secret, lines = _where(), secrets.token_bytes(16), None
    with ExitStack() as stack:
        door = stack.enter_context(_door(members.size)) if where and not members.rank else None
        name = door.getsockname().hex() if door else ""
        mine = json.dumps([where, name, secret.hex()]).encode()
        cards = [_Card(*json.loads(one)) for one in exchange(mine)]
        if where and len({card.where for card in cards}) == 1:
            count = members.size - 1
            lines = _admitted(door, secret, count) if door else _entered(cards[0], members.rank)
        everybody = exchange(b"1" if lines else b"")
    if all(everybody):
        return lines
    for line in lines or ():
        line.close()
    return None


def _where() -> str:
    off = os.environ.get(SWITCH, "").lower() in ("0", "false")
    return "" if off or sys.platform != "linux" else _sockets.host_key()


def _door(size: int) -> socket.socket:
    """Where the first member listens, under a name that the system chooses."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.bind("")
    door.listen(size)
    door.settimeout(PATIENCE)
    return door


def _entered(card: _Card, rank: int) -> Sequence[socket.socket] | None:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        line.connect(bytes.fromhex(card.door))
        line.send(ENTRY.pack(bytes.fromhex(card.secret), rank))
    except OSError:
        line.close()
        return None
    return [line]


def _admitted(door: socket.socket, secret: bytes, count: int) -> Sequence[socket.socket] | None:
    """Those who know the secret; None if they do not all come."""
    lines: dict[int, socket.socket] = {}
    with suppress(TimeoutError):
        while len(lines) < count:
            line, _ = door.accept()
            rank = _said_by(line, secret)
            if rank is None:
                line.close()
            else:
                lines[rank] = line
    if len(lines) == count:
        return [lines[rank] for rank in sorted(lines)]
    for line in lines.values():
        line.close()
    return None


def _said_by(line: socket.socket, secret: bytes) -> int | None:
    """The rank of the member that has entered; None if it is a stranger."""
    line.settimeout(PATIENCE)
    try:
        said, rank = ENTRY.unpack(line.recv(ENTRY.size))
    except (OSError, struct.error):
        return None
    return int(rank) if hmac.compare_digest(said, secret) else None
