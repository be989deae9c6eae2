"""Headers over gloo, from whatever host to whatever host.

Two or three ranks tell each other; more tell the first, which answers: 2(N - 1) messages, where
gloo's all_gather and all_reduce send some N(N - 1) one after the other, which took ten times as
long at four ranks on two cores. Every header starts as one message of one size and one kind, so
that a header never meets one of another size, whatever calls the ranks have made; what is more
follows in a second message.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from allranks._system import stacks
from allranks._transport.frame import FIRST_BODY, FIRST_MESSAGE, HEAD, Frame
from allranks._transport.group_operations import (
    all_to_all_single,
    broadcast_from_first,
    gather_to_first,
    nothing,
    send_and_receive,
    wait_for_collective,
)
from allranks._transport.tensor_bytes import flat_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    import torch.distributed as dist

    from allranks._transport.frame import Answer
    from allranks._transport.process_groups import Members
    from allranks._watch.waits import Waits

SWAPPING = 3
"""The largest group in which all-to-all is faster than through its first member (measured)."""


class GlooChannel:
    """The way of headers over one group, through memory that each call uses again."""

    def __init__(self, members: Members, group: dist.ProcessGroup, waits: Waits) -> None:
        self._group = group
        self._waits = waits
        self._ranks = members.ranks
        self._rank = members.rank
        self._swaps = members.size <= SWAPPING
        self._hears = self._swaps or members.rank == 0
        copies = members.size if self._swaps else 1
        self._mine, self._view = _memory(FIRST_MESSAGE * copies)
        self._copies = range(FIRST_MESSAGE, FIRST_MESSAGE * copies, FIRST_MESSAGE)
        self._answer, self._answered = _memory(FIRST_MESSAGE)
        self._all, self._heard = _memory(FIRST_MESSAGE * members.size * self._hears)
        self._frames = list(self._all.view(-1, FIRST_MESSAGE))

    def ask(
        self, mine: Frame, answer: Answer, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Tell one's header, and hear the answer to all of them."""
        began = time.time()
        answered = self._asked(mine, answer, what, meanwhile)
        self._waits.note(began, time.time(), stacks.caller())
        return answered

    def _asked(
        self, mine: Frame, answer: Answer, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        end = _write(self._view, mine)
        if self._swaps:
            for start in self._copies:
                self._view[start : start + end] = self._view[:end]
            all_to_all_single(self._group, self._mine, self._all, what, meanwhile)
            return answer.finish(self._read_all(mine, what))
        gathering = gather_to_first(self._group, self._mine, self._frames)
        if self._hears:
            wait_for_collective(self._group, gathering, self._mine, what, meanwhile)
            return self._spread(answer.finish(self._read_all(mine, what)), what)
        self._pass_on([mine.body[FIRST_BODY:]], self._ranks[:1], what)
        heard = self._spread(None, what, meanwhile)
        wait_for_collective(self._group, gathering, self._mine, what)
        return heard

    def _read_all(self, mine: Frame, what: str) -> list[Frame]:
        """All headers, after the second messages of those that are longer than the first."""
        heads = [HEAD.unpack_from(self._heard, FIRST_MESSAGE * i) for i in range(len(self._ranks))]
        bodies = [_body_of(self._heard, FIRST_MESSAGE * i, head[0]) for i, head in enumerate(heads)]
        if any(length > FIRST_BODY for length, _, _ in heads):
            peers = [i for i in range(len(self._ranks)) if i != self._rank]
            rests = [_memory(max(0, heads[i][0] - FIRST_BODY)) for i in peers]
            to = [self._ranks[i] for i in peers]
            sent = [mine.body[FIRST_BODY:]] * (len(peers) * self._swaps)
            self._pass_on(sent, to, what, [rest for rest, _ in rests])
            for i, (_, rest) in zip(peers, rests, strict=True):
                bodies[i] += rest
            bodies[self._rank] = mine.body
        return [Frame(kind, mark, b) for (_, kind, mark), b in zip(heads, bodies, strict=True)]

    def _pass_on(
        self,
        bodies: Sequence[bytes],
        ranks: Sequence[int],
        what: str,
        into: Sequence[torch.Tensor] = (),
    ) -> None:
        send = [(flat_bytes(body), rank) for body, rank in zip(bodies, ranks, strict=False)]
        send_and_receive(self._group, send, list(zip(into, ranks, strict=False)), what)

    def _spread(
        self,
        answer: tuple[int, bytes] | None,
        what: str,
        meanwhile: Callable[[], None] = nothing,
    ) -> tuple[int, bytes]:
        """The first member's answer, on all."""
        if answer:
            _write(self._answered, Frame(answer[0], b"", answer[1]))
        broadcast_from_first(self._group, self._answer, what, meanwhile)
        length, kind, _ = HEAD.unpack_from(self._answered)
        body = answer[1] if answer else _body_of(self._answered, 0, length)
        if length > FIRST_BODY:
            rest, view = _memory(length - FIRST_BODY)
            if answer:
                view[:] = body[FIRST_BODY:]
            broadcast_from_first(self._group, rest, what)
            body = body if answer else body + view
        return kind, body


def _memory(size: int) -> tuple[torch.Tensor, memoryview]:
    """A flat tensor of bytes, and its memory."""
    import torch

    flat = torch.zeros(size, dtype=torch.uint8)
    array: Any = flat.numpy()
    return flat, memoryview(array)


def _write(memory: memoryview, told: Frame) -> int:
    """A header's first message; where it ends."""
    HEAD.pack_into(memory, 0, len(told.body), told.kind, told.digest)
    start = told.body[:FIRST_BODY]
    end = HEAD.size + len(start)
    memory[HEAD.size : end] = start
    return end


def _body_of(memory: memoryview, start: int, length: int) -> bytes:
    """The beginning of a body, in a header's first message."""
    return bytes(memory[start + HEAD.size : start + HEAD.size + min(length, FIRST_BODY)])
