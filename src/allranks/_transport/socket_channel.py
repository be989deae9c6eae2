"""Headers over sockets of our own, up and down a tree of the group's members.

Data still travel as they did; only what the ranks tell each other of a call comes this way, so
that no rank handles more messages than it has neighbours in the tree.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from allranks._system.waiting import SLICE, Deadline, StillRunning
from allranks._transport import process_groups
from allranks._transport.bundle import bundled, unbundled
from allranks._transport.frame import (
    BUNDLE,
    ERROR,
    FIRST_BODY,
    FIRST_MESSAGE,
    HEAD,
    NO_DIGEST,
    OK,
    Frame,
    differ,
)
from allranks._transport.group_operations import brief, fail_wait
from allranks._watch import failures, flight_recorder, torch_groups
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch.distributed as dist

    from allranks._transport.frame import Answer
    from allranks._transport.links import Link, Links
    from allranks._transport.process_groups import Members
    from allranks._watch.waits import Waits

T = TypeVar("T")

PIECE = 16384
"""Bytes of a message after the first; a socket holds some, however its buffers are set."""


class SocketChannel:
    """The way of headers over one group whose members are linked to each other."""

    def __init__(
        self, members: Members, group: dist.ProcessGroup, links: Links, waits: Waits
    ) -> None:
        """Take over the sockets.

        Args:
            members: of the group.
            group: which is given up when a wait ends early.
            links: this member's.
            waits: where each call notes itself.
        """
        self._rank = members.rank
        self._size = members.size
        self._group = group
        self._name = torch_groups.name_of(group)
        self._links = links
        self._waits = waits
        # Over TCP the peer's next frame could come in one piece with this one.
        self._swaps = members.size == 2 and (links.parent or links.children[0]).is_near
        self._view = memoryview(bytearray(FIRST_MESSAGE))
        self._made = 0
        self._what = self._whom = ""
        self._end: Deadline | None = None
        for link in filter(None, [links.parent, *links.children]):
            link.socket.settimeout(SLICE.total_seconds())

    def close(self) -> None:
        """Let go of the sockets."""
        self._links.close()

    def ask(
        self, mine: Frame, answer: Answer, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Tell one's header, and hear the answer to all of them."""
        self._made += 1
        self._what, self._end, noted = brief(what), None, None
        try:
            noted = flight_recorder.begin(self._name, self._made, self._what)
            answered = self._asked(mine, answer, meanwhile)
        except BaseException as error:
            try:
                fail_wait(self._group, what, error, self._whom)
            finally:
                self.close()  # Else a peer could take what was sent for a call that goes on.
            raise
        else:
            noted.ended = time.time()
            self._waits.note(noted.at, noted.ended, noted.line)
            return answered
        finally:
            if noted:
                noted.over = True
            failures.end_wait()

    def _asked(
        self, mine: Frame, answer: Answer, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Two ranks of a host swap frames and both answer; of more, the root answers all."""
        parent, children = self._links.parent, self._links.children
        if self._swaps:
            return answer.finish(self._swapped(mine, meanwhile))
        if parent is None:
            meanwhile()
            return self._passed_on(*answer.finish(self._all_told(mine)))
        told = [mine, *map(self._receive, children)]
        self._send(parent, _folded(told, answer) if children else mine)
        meanwhile()
        heard = self._receive(parent)
        return self._passed_on(heard.kind, heard.body)

    def _all_told(self, mine: Frame) -> list[Frame]:
        """At the root: all headers, in the group's order; fewer, in any, where some are folded."""
        told = [mine, *map(self._receive, self._links.children)]
        if len(told) == self._size:
            return told
        frames = [frame for one in told for frame in _taken_apart(one)]
        if len(frames) < self._size:
            return frames
        by_member = dict(zip(self._links.order, frames, strict=True))
        return [by_member[member] for member in range(self._size)]

    def _passed_on(self, kind: int, body: bytes) -> tuple[int, bytes]:
        for child in self._links.children:
            self._send(child, Frame(kind, NO_DIGEST, body))
        return kind, body

    def _swapped(self, mine: Frame, meanwhile: Callable[[], None]) -> list[Frame]:
        """Exchange frames of two ranks.

        If both are longer than a message, the first member sends second, else two full buffers
        would block each other.
        """
        peer = self._links.parent or self._links.children[0]
        is_first = self._rank == 0
        later = is_first and len(mine.body) > FIRST_BODY
        if not later:
            self._send(peer, mine)
        meanwhile()
        theirs = self._receive(peer)
        if later:
            self._send(peer, mine)
        return [mine, theirs] if is_first else [theirs, mine]

    def _send(self, to: Link, told: Frame) -> None:
        head = HEAD.pack(len(told.body), told.kind, told.digest)
        self._send_message(to, head + told.body[:FIRST_BODY])
        for start in range(FIRST_BODY, len(told.body), PIECE):
            self._send_message(to, told.body[start : start + PIECE])

    def _send_message(self, to: Link, message: bytes) -> None:
        """Over TCP a part of a message may be taken, between ranks of a host all of it is."""
        sent = self._patiently(to, to.socket.send, message)
        while sent < len(message):
            sent += self._patiently(to, to.socket.send, message[sent:])

    def _receive(self, of: Link) -> Frame:
        size = self._patiently(of, of.socket.recv_into, self._view)
        while size < HEAD.size:
            size += self._patiently(of, of.socket.recv_into, self._view[size:])
        length, kind, mark = HEAD.unpack_from(self._view)
        body = bytes(self._view[HEAD.size : size])
        return Frame(kind, mark, body if len(body) == length else self._rest(of, body, length))

    def _rest(self, of: Link, start: bytes, length: int) -> bytes:
        """All of a body that began so."""
        parts, missing = [start], length - len(start)
        while missing:
            parts.append(self._patiently(of, of.socket.recv, min(PIECE, missing)))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _patiently(self, link: Link, do: Callable[[Any], T], with_: Any) -> T:
        """Send or receive in slices of time, until the group's timeout."""
        # A parent may itself wait for another one.
        is_parent = link is self._links.parent and self._size > 2
        self._whom = "at least one rank" if is_parent else f"rank {link.rank}"
        try:
            if done := self._in_slices(partial(do, with_)):
                return done
            lost: OSError | None = None  # The end of what a peer sends.
        except StillRunning:
            raise
        except OSError as error:
            lost = error
        gone = lost is None or isinstance(lost, ConnectionError)
        told = failures.LINK_LOST if gone else f"is not reached: {lost}"
        where = ", on this host" if gone and link.is_near else ""
        raise CollectiveError(f"{self._what}: rank {link.rank} {told}{where}") from lost

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


def _folded(told: Sequence[Frame], answer: Answer) -> Frame:
    """What an inner member passes on: one frame for its own and for those of its children."""
    if differ(told):
        return Frame(ERROR, NO_DIGEST, b"")
    bodies = [frame.body for one in told for frame in _taken_apart(one)]
    if answer.fold:
        with suppress(Exception):  # The root will meet it too, and tell it to all.
            bodies = answer.fold(bodies)
    return Frame(BUNDLE, told[0].digest, bundled(bodies))


def _taken_apart(told: Frame) -> list[Frame]:
    """The frames that a bundle stands for."""
    if told.kind != BUNDLE:
        return [told]
    return [Frame(OK, told.digest, body) for body in unbundled(told.body)]
