"""Headers: what ranks tell each other of a call before its data travel.

Every header starts as one message of one size and one kind, so that a header never meets one
of another size, whatever calls the ranks have made. Longer ones follow in a second message.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allranks import _groups
from allranks._rollcall import ranges
from allranks._waiting import Abandonable, StillRunning, wait
from allranks.errors import CollectiveError, MismatchError, StalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import timedelta
    from types import FrameType

    import torch
    import torch.distributed as dist

    from allranks._groups import Members

FRAME = 256
"""Bytes of the first message: four for the length, then the header's beginning."""

SAID = 240
"""How many characters an error shows of a call that a rank made."""

GROUPS = 8
"""How many groups of ranks an error shows, each of which says another thing."""

CHECK = "ALLRANKS_CHECK"
"""The variable that holds the mode of verification; ``setup(check=...)`` sets it."""

TAG = 7301
"""Keeps our point-to-point messages apart from the program's own."""


@dataclass(frozen=True)
class Header:
    """What one rank tells of its call.

    Attributes:
        call: the call and what must be equal in it on all ranks.
        data: what may differ: sizes, numbers; anything that JSON can hold.
        error: why this rank cannot make the call, or None.
    """

    call: str
    data: Any = None
    error: str | None = None


def checking() -> str | None:
    """Whether calls that carry no header are to carry one, and "lines" if with their lines."""
    asked = os.environ.get(CHECK, "").lower()
    return None if asked in ("", "0", "false") else asked


def _at_line() -> str:
    """The line of the program that makes the call, where lines are checked."""
    if checking() != "lines":
        return ""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect would read the sources
    while frame and str(frame.f_globals.get("__name__")).partition(".")[0] == "allranks":
        frame = frame.f_back
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def exchange(members: Members, header: Header) -> list[Header]:
    """Tell each other of a call, and agree on it. Collective over the members.

    Returns:
        The headers of all members, in the group's order.

    Raises:
        MismatchError: the ranks made different calls.
        CollectiveError: a rank cannot make the call; the same error on every rank.
    """
    call = f"{header.call}{_at_line()}"
    payload = json.dumps([call, header.data, header.error]).encode()
    texts = _all_gather_bytes(members, payload, header.call)
    headers = [Header(*json.loads(text)) for text in texts]
    errors = _ranks_by_text(members, [told.error for told in headers])
    if errors:
        raise CollectiveError(_listed(errors, 4 * SAID))
    calls = _ranks_by_text(members, [told.call for told in headers])
    if len(calls) > 1:
        raise MismatchError(
            f"the ranks made different calls: {_listed(_differing(calls))}. Every rank of the "
            "group must make the same call, with data that fit together."
        )
    return headers


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
        f"{'rank' if len(who) == 1 else 'ranks'} {ranges(who)}: {_brief(text, limit)}"
        for text, who in list(by_text.items())[:GROUPS]
    ]
    more = len(by_text) - len(parts)
    return "; ".join([*parts, f"and {more} more"] if more else parts)


def _brief(text: str, limit: int = SAID) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


def _all_gather_bytes(members: Members, payload: bytes, what: str) -> list[bytes]:
    if members.group is None or members.size == 1:
        return [payload]
    import torch

    group = _groups.cpu_group(members.group)
    frame = (struct.pack("<I", len(payload)) + payload)[:FRAME].ljust(FRAME, b"\0")
    frames = equal_all_gather(group, torch.frombuffer(bytearray(frame), dtype=torch.uint8), what)
    firsts = [one.numpy().tobytes() for one in frames]
    lengths = [struct.unpack_from("<I", first)[0] for first in firsts]
    rests = [max(0, length + 4 - FRAME) for length in lengths]
    if not any(rests):
        return [first[4 : 4 + length] for first, length in zip(firsts, lengths, strict=True)]
    rest = torch.frombuffer(bytearray(payload[FRAME - 4 :] or b"\0"), dtype=torch.uint8)
    seconds = ragged_all_gather(members, group, rest[: rests[members.rank]], rests, what)
    whole = (a[4:] + b.numpy().tobytes() for a, b in zip(firsts, seconds, strict=True))
    return [text[:length] for text, length in zip(whole, lengths, strict=True)]


def equal_all_gather(group: dist.ProcessGroup, mine: torch.Tensor, what: str) -> list[torch.Tensor]:
    """Flat tensors of one size from all ranks of a group; they share one allocation."""
    import torch
    import torch.distributed as dist

    size = dist.get_world_size(group)
    gathered = torch.empty(size * mine.numel(), dtype=mine.dtype, device=mine.device)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    work = gather(gathered, mine, group=group, async_op=True)
    finish(group, work, mine, what)
    return list(gathered.chunk(size)) if mine.numel() else [gathered[:0]] * size


def ragged_all_gather(
    members: Members,
    group: dist.ProcessGroup,
    mine: torch.Tensor,
    numels: Sequence[int],
    what: str,
) -> list[torch.Tensor]:
    """Flat tensors of known sizes from all ranks of a group: exact sizes, nothing padded."""
    import torch
    import torch.distributed as dist

    theirs = [
        mine if index == members.rank else torch.empty(n, dtype=mine.dtype, device=mine.device)
        for index, n in enumerate(numels)
    ]
    if mine.device.type != "cpu":
        for rank, tensor in zip(members.ranks, theirs, strict=True):
            if tensor.numel():
                dist.broadcast(tensor, rank, group=group)
        return theirs
    peers = [(i, rank) for i, rank in enumerate(members.ranks) if i != members.rank]
    receive = [(theirs[i], rank) for i, rank in peers]
    send = [(mine, rank) for _, rank in peers]
    move(group, send, receive, what)
    return theirs


def move(
    group: dist.ProcessGroup,
    send: Sequence[tuple[torch.Tensor, int]],
    receive: Sequence[tuple[torch.Tensor, int]],
    what: str,
) -> None:
    """Send and receive flat CPU tensors of known sizes, pairs of (tensor, global rank).

    Raises:
        StalledError: they did not arrive within the group's timeout.
    """
    import torch.distributed as dist

    works = [dist.irecv(t, rank, group=group, tag=TAG) for t, rank in receive if t.numel()]
    works += [dist.isend(t, rank, group=group, tag=TAG) for t, rank in send if t.numel()]
    if works:
        _finish_all([work.wait for work in works if work], _groups.timeout(group), what)


def _finish_all(waits: Sequence[Callable[[], object]], timeout: timedelta, what: str) -> None:
    """Wait in a thread: a point-to-point operation cannot be waited for in slices."""
    with _naming_the_stall(what, timeout):
        Abandonable(lambda: [wait() for wait in waits]).result(timeout.total_seconds() + 1)


def finish(group: dist.ProcessGroup, work: Any, tensor: torch.Tensor, what: str) -> None:
    """Wait for a collective: in slices on gloo, as torch does on a stream elsewhere."""
    if work is None:
        return
    if tensor.device.type == "cpu":
        timeout = _groups.timeout(group)
        with _naming_the_stall(what, timeout):
            wait(work, timeout, _brief(what))
    else:
        work.wait()


@contextmanager
def _naming_the_stall(what: str, timeout: timedelta) -> Iterator[None]:
    """Whichever clock ends the wait first, gloo's own or ours, the error is the same."""
    try:
        yield
    except (RuntimeError, StillRunning) as error:
        if not _is_timeout(error):
            raise
        raise StalledError(
            f"{_brief(what)} did not complete within {timeout.total_seconds():g} s; "
            "at least one rank did not make the same call, or stopped in it."
        ) from None


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, StillRunning) or "Timed out waiting" in str(error)
