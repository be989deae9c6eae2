"""Headers: what ranks tell each other of a call before its data travel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from allranks._system import stacks
from allranks._system.bounded_cache import remembered
from allranks._system.typed_json import parsed, written
from allranks._system.words import named
from allranks._transport import process_groups
from allranks._transport.bundle import bundled, unbundled
from allranks._transport.frame import ERROR, NO_DIGEST, OK, SEND_DETAILS, Answer, Frame, differ
from allranks._transport.gloo_channel import GlooChannel
from allranks._transport.group_operations import SAID, brief, nothing
from allranks._transport.links import linked
from allranks._transport.socket_channel import SocketChannel
from allranks._watch import torch_groups, waits
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch.distributed as dist

    from allranks._transport.process_groups import Members

Combine = Callable[[list[bytes]], bytes]
"""Makes one result of the bodies of all ranks: the same, whichever rank makes it."""

Fold = Callable[[list[bytes]], list[bytes]]
"""Makes fewer bodies of several, of which ``Combine`` makes the same result."""

INLINE = 65536
"""How many bytes of each rank may travel in headers; larger data travel separately."""

ALL_INLINE = 2 << 20
"""How many bytes of all ranks together may, where all ranks get them all: more take as long by
gloo (measured at 64 ranks)."""

GROUPS = 8
"""How many groups of ranks an error shows, each of which says another thing."""

AFTERWARDS = "after an exchange"
"""What is to be done after each exchange of a group, in its members' cache."""

CHECK = "ALLRANKS_CHECK"
"""The variable that holds the mode of verification; ``setup(check=...)`` sets it."""
CHECK_KEY = os.environ.encodekey(CHECK)


@remembered(len)
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
    line = stacks.caller()
    return f" at {line.file}:{line.number}" if line else ""


def fits_inline(size: int) -> bool:
    """Whether so many bytes from each rank may travel in headers, where they are folded."""
    return size <= INLINE


def all_fit_inline(members: Members, size: int) -> bool:
    """Whether so many bytes from each rank may travel in headers, where all ranks get them all."""
    return fits_inline(size) and size * members.size <= ALL_INLINE


def exchange(members: Members, header: Header) -> list[bytes]:
    """Tell each other of a call, and agree on it. Collective over the members.

    Returns:
        The bodies of all members, in the group's order.

    Raises:
        MismatchError: the ranks made different calls.
        CollectiveError: a rank cannot make the call; the same error on every rank.
    """
    return unbundled(exchange_and_combine(members, header, bundled))


def exchange_and_combine(
    members: Members,
    header: Header,
    combine: Combine = lambda _: b"",
    meanwhile: Callable[[], None] = nothing,
    fold: Fold | None = None,
) -> bytes:
    """Exchange headers, check that all make the same call, and combine the bodies. Collective.

    Args:
        members: who takes part.
        header: this rank's.
        combine: makes the result, on any or all of the members; it may raise CollectiveError.
            Without, there is none.
        meanwhile: is done while the headers are under way; not in a world of one.
        fold: makes the bodies of some ranks fewer on their way. Without, ``combine`` gets those of
            all, in the group's order; with it, in any order, and perhaps fewer.

    Raises:
        MismatchError: the ranks made different calls.
        CollectiveError: a rank cannot make the call, or ``combine`` raised; the same on every rank.
    """
    call = header.call + _at_line()  # The same object, which is hashed once, where no line is told.
    kind = OK if header.error is None else ERROR
    told = Frame(kind, digest(call), header.body)
    kind, answer = _ask(members, told, _answer(combine, fold), header.call, meanwhile)
    if kind == SEND_DETAILS:
        body = written([call, header.error]).encode()

        def verdict(texts: list[bytes]) -> bytes:
            return written(_verdict(members, texts)).encode()

        _, answer = _ask(members, Frame(OK, NO_DIGEST, body), _answer(verdict), header.call)
        _raise(*parsed(tuple[str, str], answer))
    if kind == ERROR:
        raise CollectiveError(answer.decode())
    if afterwards := members.cache.get(AFTERWARDS):
        afterwards()
    return answer


def _ask(
    members: Members,
    mine: Frame,
    answer: Answer,
    what: str,
    meanwhile: Callable[[], None] = nothing,
) -> tuple[int, bytes]:
    if members.group is None or members.size == 1:
        return answer.finish([mine])
    channel: GlooChannel | SocketChannel | None = members.cache.get("channel")
    if channel is None:
        channel = members.cache["channel"] = _opened(members, members.group, what)
    return channel.ask(mine, answer, what, meanwhile)


def _opened(members: Members, over: dist.ProcessGroup, what: str) -> GlooChannel | SocketChannel:
    """Open a group's channel: sockets of ours where all can be linked, else gloo. Collective."""
    group = process_groups.cpu_group(over)
    noted = waits.of_group(torch_groups.name_of(over))
    gloo = GlooChannel(members, group, noted)

    def exchange(body: bytes) -> list[bytes]:
        told = Frame(OK, NO_DIGEST, body)
        return unbundled(gloo.ask(told, _answer(bundled), what, nothing)[1])

    links = linked(members, exchange)
    noted.restart()
    if links is None:
        return gloo
    channel = SocketChannel(members, group, links, noted)
    members.on_destroy.callback(channel.close)
    return channel


def _answer(combine: Combine, fold: Fold | None = None) -> Answer:
    """How the headers of a call are answered."""
    return Answer(partial(_finished, combine), fold)


def _finished(combine: Combine, told: Sequence[Frame]) -> tuple[int, bytes]:
    """The answer to all headers: the same, whichever rank makes it."""
    if differ(told):
        return SEND_DETAILS, b""
    try:
        return OK, combine([one.body for one in told])
    except CollectiveError as error:
        return ERROR, str(error).encode()
    except Exception as error:  # noqa: BLE001 - the others wait for an answer, whatever happened
        return ERROR, f"{type(error).__name__}: {error}".encode()


def _verdict(members: Members, texts: Sequence[bytes]) -> tuple[str, str]:
    """The error that all ranks raise: its class, and its message."""
    told = [parsed(tuple[str, str | None], text) for text in texts]
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
        f"{named(ranks)}: {brief(text, limit)}" for text, ranks in list(by_text.items())[:GROUPS]
    ]
    more = len(by_text) - len(parts)
    return "; ".join([*parts, f"and {more} more"] if more else parts)
