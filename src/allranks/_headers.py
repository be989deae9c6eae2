"""Headers: what ranks tell each other of a call before its data travel.

Two or three ranks tell each other; more tell the first, which answers: 2(N - 1) messages, where
gloo's all_gather and all_reduce send some N(N - 1) one after the other, which took ten times as
long at four ranks on two cores. Every header starts as one message of one size and one kind, so
that a header never meets one of another size, whatever calls the ranks have made; what is more
follows in a second message.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from allranks import _groups
from allranks._messages import (
    SAID,
    brief,
    broadcast_from_first,
    finish,
    gather_to_first,
    move,
    nothing,
    swap,
)
from allranks._rollcall import ranges
from allranks._tensors import flat_bytes
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import FrameType

    import torch
    import torch.distributed as dist

    from allranks._groups import Members

HEAD = struct.Struct("<II16s")
"""The length of the body, what it is, and the digest of the call."""

FRAME = 2048
"""Bytes of the first message: the head, and the body's beginning."""

ROOM = FRAME - HEAD.size

Combine = Callable[[list[bytes]], bytes]
"""Makes one result of the bodies of all ranks: the same, whichever rank makes it."""

FINE, FAILED, DIFFERENT = range(3)
"""What a body is: data of a call; an error's text; or the request to tell one's call."""

EQUAL, OTHER = b"=", b"*"
"""Whether all bodies are one, or follow each other."""

INLINE = 65536
"""Bytes that may travel with the headers of all ranks, in place of a collective of their own."""

SWAPPING = 3
"""Ranks that all tell each other sooner than by way of the first (measured on two cores)."""

GROUPS = 8
"""How many groups of ranks an error shows, each of which says another thing."""

CHECK = "ALLRANKS_CHECK"
"""The variable that holds the mode of verification; ``setup(check=...)`` sets it."""
CHECK_KEY = os.environ.encodekey(CHECK)


@lru_cache(maxsize=256)
def digest(text: str) -> bytes:
    """What stands for a text in a header."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Header:
    """What one rank tells of its call.

    Attributes:
        call: the call and what must be equal in it on all ranks.
        body: what may differ: sizes, numbers, small data.
        error: why this rank cannot make the call, or None.
    """

    call: str
    body: bytes = b""
    error: str | None = None


class Told(NamedTuple):
    """A header on its way.

    Attributes:
        kind: what the body is.
        mark: the digest of the call.
        body: as in Header.
    """

    kind: int
    mark: bytes
    body: bytes


def _is_unset(key: Any) -> bool:
    """Whether there is no such variable; os.environ takes longer to say so than a small call."""
    found = getattr(os.environ, "_data", None)
    return found is not None and key not in found


def checking() -> str | None:
    """Whether calls that carry no header are to carry one, and "lines" if with their lines."""
    if _is_unset(CHECK_KEY):
        return None
    asked = os.environ.get(CHECK)
    return asked.lower() if asked and asked.lower() not in ("0", "false") else None


def _at_line() -> str:
    """The line of the program that makes the call, where lines are checked."""
    if checking() != "lines":
        return ""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect would read the sources
    while frame and str(frame.f_globals.get("__name__")).partition(".")[0] == "allranks":
        frame = frame.f_back
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def fits_inline(members: Members, size: int) -> bool:
    """Whether so many bytes from each rank may travel in headers."""
    return size * members.size <= INLINE


def numbers(values: Iterable[int]) -> bytes:
    """Sizes as a body."""
    return array("q", values).tobytes()


def numbers_in(body: bytes) -> list[int]:
    """The sizes that a body holds."""
    return array("q", body).tolist()


def exchange(members: Members, header: Header) -> list[bytes]:
    """Tell each other of a call, and agree on it. Collective over the members.

    Returns:
        The bodies of all members, in the group's order.

    Raises:
        MismatchError: the ranks made different calls.
        CollectiveError: a rank cannot make the call; the same error on every rank.
    """
    return _unpacked(agree(members, header, _packed), members.size)


def agree(
    members: Members,
    header: Header,
    combine: Combine = lambda _: b"",
    meanwhile: Callable[[], None] = nothing,
) -> bytes:
    """Agree on a call, and on one result of all bodies. Collective over the members.

    Args:
        members: who takes part.
        header: this rank's.
        combine: makes the result, on any or all of the members; it may raise CollectiveError.
            Without, there is none.
        meanwhile: is done while the headers are under way; not in a world of one.

    Raises:
        MismatchError: the ranks made different calls.
        CollectiveError: a rank cannot make the call, or ``combine`` raised; the same on every rank.
    """
    call = header.call + _at_line()  # The same object, which is hashed once, where no line is told.
    kind = FINE if header.error is None else FAILED
    told = Told(kind, digest(call), header.body)
    kind, answer = _ask(members, told, combine, header.call, meanwhile)
    if kind == DIFFERENT:
        body = json.dumps([call, header.error]).encode()

        def verdict(texts: list[bytes]) -> bytes:
            return json.dumps(_verdict(members, texts)).encode()

        _, answer = _ask(members, Told(FINE, b"", body), verdict, header.call)
        _raise(*json.loads(answer))
    if kind == FAILED:
        raise CollectiveError(answer.decode())
    return answer


def _ask(
    members: Members,
    mine: Told,
    combine: Combine,
    what: str,
    meanwhile: Callable[[], None] = nothing,
) -> tuple[int, bytes]:
    if members.group is None or members.size == 1:
        return _answer([mine], combine)
    channel: _Channel | None = members.kept.get("channel")
    if channel is None:
        channel = _Channel(members, _groups.cpu_group(members.group))
        members.kept["channel"] = channel
    return channel.ask(mine, combine, what, meanwhile)


def _answer(told: Sequence[Told], combine: Combine) -> tuple[int, bytes]:
    """The answer to all headers: the same, whichever rank makes it."""
    first = told[0].mark
    for one in told:
        if one.mark != first or one.kind == FAILED:
            return DIFFERENT, b""
    try:
        return FINE, combine([one.body for one in told])
    except CollectiveError as error:
        return FAILED, str(error).encode()
    except Exception as error:  # noqa: BLE001 - the others wait for an answer, whatever happened
        return FAILED, f"{type(error).__name__}: {error}".encode()


class _Channel:
    """The way of headers over one group, through memory that each call uses again."""

    def __init__(self, members: Members, group: dist.ProcessGroup) -> None:
        self._group = group
        self._ranks = members.ranks
        self._rank = members.rank
        self._swaps = members.size <= SWAPPING
        self._hears = self._swaps or members.rank == 0
        copies = members.size if self._swaps else 1
        self._mine, self._view = _memory(FRAME * copies)
        self._copies = range(FRAME, FRAME * copies, FRAME)
        self._answer, self._answered = _memory(FRAME)
        self._all, self._heard = _memory(FRAME * members.size * self._hears)
        self._frames = list(self._all.view(-1, FRAME))

    def ask(
        self, mine: Told, combine: Combine, what: str, meanwhile: Callable[[], None]
    ) -> tuple[int, bytes]:
        """Tell one's header, and hear the answer to all of them."""
        end = _write(self._view, mine)
        if self._swaps:
            for start in self._copies:
                self._view[start : start + end] = self._view[:end]
            swap(self._group, self._mine, self._all, what, meanwhile)
            return _answer(self._read_all(mine, what), combine)
        gathering = gather_to_first(self._group, self._mine, self._frames)
        if self._hears:
            finish(self._group, gathering, self._mine, what, meanwhile)
            return self._spread(_answer(self._read_all(mine, what), combine), what)
        self._pass_on([mine.body[ROOM:]], self._ranks[:1], what)
        answer = self._spread(None, what, meanwhile)
        finish(self._group, gathering, self._mine, what)
        return answer

    def _read_all(self, mine: Told, what: str) -> list[Told]:
        """All headers, after the second messages of those that are longer than the first."""
        heads = [HEAD.unpack_from(self._heard, FRAME * i) for i in range(len(self._ranks))]
        bodies = [_body_of(self._heard, FRAME * i, head[0]) for i, head in enumerate(heads)]
        if any(length > ROOM for length, _, _ in heads):
            peers = [i for i in range(len(self._ranks)) if i != self._rank]
            rests = [_memory(max(0, heads[i][0] - ROOM)) for i in peers]
            to = [self._ranks[i] for i in peers]
            sent = [mine.body[ROOM:]] * (len(peers) * self._swaps)
            self._pass_on(sent, to, what, [rest for rest, _ in rests])
            for i, (_, rest) in zip(peers, rests, strict=True):
                bodies[i] += rest
            bodies[self._rank] = mine.body
        return [Told(kind, mark, b) for (_, kind, mark), b in zip(heads, bodies, strict=True)]

    def _pass_on(
        self,
        bodies: Sequence[bytes],
        ranks: Sequence[int],
        what: str,
        into: Sequence[torch.Tensor] = (),
    ) -> None:
        send = [(flat_bytes(body), rank) for body, rank in zip(bodies, ranks, strict=False)]
        move(self._group, send, list(zip(into, ranks, strict=False)), what)

    def _spread(
        self,
        answer: tuple[int, bytes] | None,
        what: str,
        meanwhile: Callable[[], None] = nothing,
    ) -> tuple[int, bytes]:
        """The first member's answer, on all."""
        if answer:
            _write(self._answered, Told(answer[0], b"", answer[1]))
        broadcast_from_first(self._group, self._answer, what, meanwhile)
        length, kind, _ = HEAD.unpack_from(self._answered)
        body = answer[1] if answer else _body_of(self._answered, 0, length)
        if length > ROOM:
            rest, view = _memory(length - ROOM)
            if answer:
                view[:] = body[ROOM:]
            broadcast_from_first(self._group, rest, what)
            body = body if answer else body + view
        return kind, body


def _memory(size: int) -> tuple[torch.Tensor, memoryview]:
    """A flat tensor of bytes, and its memory."""
    import torch

    flat = torch.zeros(size, dtype=torch.uint8)
    array: Any = flat.numpy()
    return flat, memoryview(array)


def _write(memory: memoryview, told: Told) -> int:
    """A header's first message; where it ends."""
    HEAD.pack_into(memory, 0, len(told.body), told.kind, told.mark)
    start = told.body[:ROOM]
    end = HEAD.size + len(start)
    memory[HEAD.size : end] = start
    return end


def _body_of(memory: memoryview, start: int, length: int) -> bytes:
    """The beginning of a body, in a header's first message."""
    return bytes(memory[start + HEAD.size : start + HEAD.size + min(length, ROOM)])


def _packed(bodies: Sequence[bytes]) -> bytes:
    """All bodies in one; once, where they are equal."""
    if len(set(bodies)) == 1:
        return EQUAL + bodies[0]
    return b"".join([OTHER, numbers(map(len, bodies)), *bodies])


def _unpacked(packed: bytes, count: int) -> list[bytes]:
    if packed.startswith(EQUAL):
        return [packed[1:]] * count
    begin = 1 + 8 * count
    ends = list(accumulate(numbers_in(packed[1:begin]), initial=begin))
    return [packed[start:end] for start, end in pairwise(ends)]


def _verdict(members: Members, texts: Sequence[bytes]) -> tuple[str, str]:
    """The error that all ranks raise: its class, and its message."""
    told = [json.loads(text) for text in texts]
    errors = _ranks_by_text(members, [error for _, error in told])
    if errors:
        return CollectiveError.__name__, _listed(errors, 4 * SAID)
    calls = _differing(_ranks_by_text(members, [call for call, _ in told]))
    return MismatchError.__name__, (
        f"the ranks made different calls: {_listed(calls)}. Every rank of the "
        "group must make the same call, with data that fit together."
    )


def _raise(kind: str, message: str) -> NoReturn:
    raise (MismatchError if kind == MismatchError.__name__ else CollectiveError)(message)


def _ranks_by_text(members: Members, texts: Sequence[str | None]) -> dict[str, list[int]]:
    by_text: dict[str, list[int]] = {}
    for rank, text in zip(members.ranks, texts, strict=True):
        if text is not None:
            by_text.setdefault(text, []).append(rank)
    return by_text


def _differing(by_text: dict[str, list[int]]) -> dict[str, list[int]]:
    """Long texts, cut to where they begin to differ."""
    columns = enumerate(zip(*by_text, strict=False))
    same = next((at for at, letters in columns if len(set(letters)) > 1), 0)
    start = same - SAID // 4 if same > SAID // 2 else 0
    return {("..." if start else "") + text[start:]: ranks for text, ranks in by_text.items()}


def _listed(by_text: dict[str, list[int]], limit: int = SAID) -> str:
    """What the ranks say, for people: ``ranks 0-2: this; rank 3: that``."""
    parts = [
        f"{'rank' if len(who) == 1 else 'ranks'} {ranges(who)}: {brief(text, limit)}"
        for text, who in list(by_text.items())[:GROUPS]
    ]
    more = len(by_text) - len(parts)
    return "; ".join([*parts, f"and {more} more"] if more else parts)
