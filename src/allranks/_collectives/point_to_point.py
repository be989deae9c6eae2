"""``send`` and ``recv``: data from one rank to another, with a deadline."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._collectives.in_place import is_tensor
from allranks._collectives.pickling import dump, empty, load
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._system.typed_json import parsed, written
from allranks._transport import process_groups
from allranks._transport.bundle import numbers, numbers_in
from allranks._transport.group_operations import TAG, send_and_receive
from allranks._transport.tensor_bytes import flat, flat_bytes
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    import torch
    import torch.distributed as dist

    from allranks._transport.process_groups import Group, Members

    Message: TypeAlias = tuple[torch.Tensor, int]
    """A tensor, and the rank that it goes to, or comes from."""

FIRST = 1024
"""Bytes of the first message, of one size for all data, so that it always meets its match."""

FIRST_BODY = FIRST - 8
"""Bytes of what a message tells that its first part holds, after its length."""

TAGS = 2**20
"""How many tags there are."""


@outside_graphs
def send(
    data: Any,
    dst: int,
    *,
    tag: int = 0,
    group: Group | None = None,
    timeout: timedelta | float | None = None,
) -> None:
    """Send data to one rank, which calls ``recv``. Not collective: these two ranks alone call.

    Returns when the receiver has taken it, so that two ranks which both send first wait for each
    other.

    Args:
        data: a tensor of any shape and device, or anything that pickle can carry. The receiver
            need not know its shape or type. It travels over the CPU.
        dst: the receiver's global rank.
        tag: from 0 on; a message is received by a ``recv`` with the same tag.
        group: a group that both are in; None means WORLD.
        timeout: how long it may take, in seconds or as a timedelta; None means the group's timeout.
            After a timeout the group is given up: a message may still be under way.

    Raises:
        CollectiveError: ``dst`` is not another rank of the group, the data cannot be pickled, or a
            setting is wrong. Nothing was sent.
        StalledError: the receiver did not take it in time; the error names it, and where it stands.
        PeerFailedError: the receiver, or another rank, has failed or left.
    """
    way = _way("send", "dst", dst, tag, group, timeout)
    kind = data.device.type if is_tensor(data) else "cpu"
    try:
        pickled, *outside = dump(data)
    except Exception as error:
        why = f"a {type(data).__name__} cannot be pickled: {type(error).__name__}: {error}"
        raise CollectiveError(f"{way.what}: {why}") from error
    about = written(_About(kind, list(map(len, outside)))).encode()
    told = numbers([len(about)]) + about + bytes(pickled)
    first = (numbers([len(told)]) + told[:FIRST_BODY]).ljust(FIRST, b"\0")
    way.send([flat_bytes(first), flat_bytes(told[FIRST_BODY:]), *map(flat, outside)])


@outside_graphs
def recv(
    src: int,
    *,
    tag: int = 0,
    group: Group | None = None,
    timeout: timedelta | float | None = None,
) -> Any:
    """Receive what one rank sends by ``send``. Not collective: these two ranks alone call.

    Args:
        src: the sender's global rank.
        tag: as for ``send``.
        group: as for ``send``.
        timeout: as for ``send``.

    Returns:
        What was sent; a tensor as a plain one, on the type of device that it came from, where this
        process has one, else on the CPU.

    Raises:
        CollectiveError: ``src`` is not another rank of the group, or a setting is wrong; or what
            came cannot be unpickled here.
        StalledError: nothing came in time; the error names the sender, and where it stands.
        PeerFailedError: the sender, or another rank, has failed or left.
    """
    way = _way("recv", "src", src, tag, group, timeout)
    first = way.receive([FIRST])[0].tobytes()
    (length,) = numbers_in(first[:8])
    rest = way.receive([max(0, length - FIRST_BODY)])[0].tobytes()
    told = (first[8:] + rest)[:length]
    end = 8 + numbers_in(told[:8])[0]
    about = parsed(_About, told[8:end])
    buffers = [told[end:], *way.receive(about.lengths)]
    try:
        return _on_device(load(buffers), about.device)
    except Exception as error:
        raise CollectiveError(
            f"{way.what}: what came cannot be unpickled here: {type(error).__name__}: {error}"
        ) from error


class _About(NamedTuple):
    """What a message tells of itself.

    Attributes:
        device: the type of device that a tensor came from.
        lengths: the sizes of the buffers that follow the pickle.
    """

    device: str
    lengths: list[int]


class _Way(NamedTuple):
    """The way to or from another rank.

    Attributes:
        what: the call in words.
        peer: the other's global rank.
        over: the group.
        tag: torch's.
        limit: how long each message may take.
        pair: the global ranks of both ends.
    """

    what: str
    peer: int
    over: dist.ProcessGroup
    tag: int
    limit: timedelta
    pair: tuple[int, int]

    def send(self, tensors: Sequence[torch.Tensor]) -> None:
        pairs = [(tensor, self.peer) for tensor in tensors]
        self._exchange(pairs, [])

    def receive(self, lengths: Sequence[int]) -> list[Any]:
        buffers = empty(lengths)
        pairs = [(flat(buffer), self.peer) for buffer in buffers]
        self._exchange([], pairs)
        return buffers

    def _exchange(self, send: Sequence[Message], receive: Sequence[Message]) -> None:
        """Others of the group may have left: they have no part in it."""
        more: Any = {"tag": self.tag, "limit": self.limit, "ranks": self.pair}
        send_and_receive(self.over, send, receive, self.what, **more)


def _way(call: str, name: str, peer: Any, tag: Any, group: Group | None, timeout: Any) -> _Way:
    members = process_groups.members_of(call, group)
    rank, why = members.peer(name, peer)
    way = "to" if call == "send" else "from"
    what = f"{call} {way} rank {rank}"
    why = why or _why_not(members, rank, tag, timeout)
    if why or members.group is None:
        raise CollectiveError(f"{call}: {why}")
    limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout or 0)
    limit = process_groups.timeout(members.group) if timeout is None else limit
    pair = members.ranks[members.rank], rank
    return _Way(what, rank, members.group, TAG + 1 + tag, limit, pair)


def _why_not(members: Members, rank: int, tag: Any, timeout: Any) -> str | None:
    """Why no message can be sent so."""
    if members.group is None or members.ranks[members.rank] == rank:
        return f"rank {rank} is this rank, which has no other end"
    if not process_groups.has_backend(members.group, "cpu"):
        return "messages travel over the CPU, and this group has no backend for it, such as gloo"
    if type(tag) is not int or not 0 <= tag < TAGS:
        return f"tag={brief_repr(tag)} is no number from 0 to {TAGS - 1}"
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if timeout is not None and (type(seconds) not in (int, float) or not 0 < seconds < math.inf):
        return f"timeout={brief_repr(timeout)} is no number of seconds, and no timedelta, above 0"
    return None


def _on_device(data: Any, kind: str) -> Any:
    """A tensor on this process's device of the type that it came from."""
    import torch

    if kind == "cpu" or not is_tensor(data) or not torch.get_device_module(kind).is_available():
        return data
    return data.to(kind)
