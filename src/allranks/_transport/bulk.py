"""Large data between ranks: read straight from a peer's memory where that works, else sent.

The ranks have told each other the sizes and addresses in the headers of their call. Members of a
group find out once who can read whose memory, at their first large transfer. When everything has
been read, all agree on that, since a sender's memory must stay as it is until then; where something
could not be read, it is sent after all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from allranks._system import peer_memory, processes
from allranks._system.typed_json import parsed, written
from allranks._system.waiting import BackgroundCall
from allranks._transport import process_groups
from allranks._transport.group_operations import send_and_receive
from allranks._transport.headers import Header, exchange, exchange_and_combine
from allranks._transport.tensor_bytes import flat
from allranks.errors import CollectiveError, PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    import torch.distributed as dist

    from allranks._transport.process_groups import Members

LARGE = 2**19
"""Bytes from one rank to another that are worth a second agreement (measured on two cores)."""

IN_TWO = 2**25
"""Bytes that two threads read faster than one (measured on two cores)."""


class IncomingBytes(NamedTuple):
    """A piece of memory to be filled.

    Attributes:
        into: a flat CPU tensor of bytes.
        address: where the bytes lie in the sender's memory.
    """

    into: torch.Tensor
    address: int


@dataclass(frozen=True)
class MemoryReach:
    """Whose memory the members of a group can read.

    Attributes:
        pids: the members' processes.
        readable: for each member, whether it can read each one's memory, one byte for each.
    """

    pids: Sequence[int]
    readable: Sequence[bytes]

    def reads(self, reader: int, owner: int) -> bool:
        """Whether a member can read another one's memory."""
        return bool(self.readable[reader][owner])

    @classmethod
    def nowhere(cls, size: int) -> MemoryReach:
        """Nobody's memory is read."""
        return cls([0] * size, [bytes(size)] * size)

    @cached_property
    def anywhere(self) -> bool:
        """Whether a member can read another one's memory."""
        return any(sum(row) > row[i] for i, row in enumerate(self.readable))

    @cached_property
    def everywhere(self) -> bool:
        """Whether each member can read all others' memory."""
        return all(map(all, self.readable))


def reach(members: Members) -> MemoryReach:
    """Who can read whom; found out once for a group. Collective at the group's first use."""
    if "reach" not in members.cache:
        members.cache["reach"] = _tried(members)
    found: MemoryReach = members.cache["reach"]
    return found


def _tried(members: Members) -> MemoryReach:
    where = processes.pid_space()
    probe, secret = peer_memory.present(where)
    told = exchange(members, Header("who may read my memory", written(probe).encode()))
    probes = [parsed(peer_memory.MemoryProbe, text) for text in told]
    mine = bytes(i == members.rank or peer_memory.readable(c, where) for i, c in enumerate(probes))
    readable = exchange(members, Header("whose memory I can read", mine))
    del secret  # All have tried to read it.
    return MemoryReach([probe.pid for probe in probes], readable)


def transfer(
    members: Members,
    what: str,
    outgoing: Mapping[int, Sequence[Any]],
    incoming: Mapping[int, Sequence[IncomingBytes]],
    largest: int,
) -> None:
    """Fill the memory of the members with each other's. Collective over the members.

    Args:
        members: takes part.
        what: names the call in errors.
        outgoing: buffers that go to a member of the group.
        incoming: what is to be filled by a member; of as many bytes as it sends.
        largest: the most bytes that go from one rank to another; all ranks know it.

    Raises:
        PeerFailedError: a peer is gone, and it is known which.
        CollectiveError: a peer is gone.
        StalledError: a rank did not come within the group's timeout.
    """
    if members.group is None or members.size == 1:
        return
    found = reach(members) if largest >= LARGE else MemoryReach.nowhere(members.size)
    # Where this ends early it stays: a peer may still be reading.
    members.cache["outgoing"] = outgoing
    problem = _moved(members, what, outgoing, incoming, found)
    try:
        if found.anywhere and _someone_could_not(members, what, problem):
            members.cache["reach"] = MemoryReach.nowhere(members.size)
            _moved(members, what, outgoing, incoming, members.cache["reach"])
    except RuntimeError as error:
        if problem is None or isinstance(error, PeerFailedError):
            raise
        raise CollectiveError(f"{what}: {problem}") from error
    del members.cache["outgoing"]


def _moved(
    members: Members,
    what: str,
    outgoing: Mapping[int, Sequence[Any]],
    incoming: Mapping[int, Sequence[IncomingBytes]],
    found: MemoryReach,
) -> str | None:
    """Read what can be read, and send the rest; why something could not be read, or None."""
    sent = [
        (i, b) for i, some in outgoing.items() for b in some if not found.reads(i, members.rank)
    ]
    flats = {id(buffer): flat(buffer) for _, buffer in sent}  # Each once: it may be a copy.
    send = [(flats[id(buffer)], members.ranks[i]) for i, buffer in sent]
    told = [(owner, piece) for owner, pieces in incoming.items() for piece in pieces]
    receive = [(p.into, members.ranks[i]) for i, p in told if not found.reads(members.rank, i)]
    direct = [(i, p) for i, p in told if found.reads(members.rank, i)]
    group = process_groups.cpu_group(cast("dist.ProcessGroup", members.group))
    return send_and_receive(group, send, receive, what, lambda: _read(members, found, direct))


def _someone_could_not(members: Members, what: str, problem: str | None) -> bool:
    """Whether any member failed to read; if none, memory may be changed again. Collective."""
    told = Header(f"the end of {what}", b"1" if problem else b"")

    def any_of(bodies: list[bytes]) -> bytes:
        return b"1" if any(bodies) else b""

    return bool(exchange_and_combine(members, told, any_of, fold=lambda told: [any_of(told)]))


def _read(
    members: Members, found: MemoryReach, pieces: Sequence[tuple[int, IncomingBytes]]
) -> str | None:
    """Read from the members' memory; why that could not be done, or None."""
    for owner, piece in pieces:
        pid = found.pids[owner]
        try:
            _read_piece(pid, piece)
        except OSError as error:
            told = f"the memory of rank {members.ranks[owner]} (pid {pid}) cannot be read"
            return f"{told}: {error.strerror}"
    return None


def _read_piece(pid: int, piece: IncomingBytes) -> None:
    """Read a large piece in two threads: the sender only waits, so that its core is free."""
    size = piece.into.numel()
    half = size // 2 if size >= IN_TWO else size
    second = BackgroundCall(lambda: _read_range(pid, piece, half, size)) if half < size else None
    _read_range(pid, piece, 0, half)
    if second:
        second.result(inf)


def _read_range(pid: int, piece: IncomingBytes, start: int, end: int) -> None:
    into = piece.into.data_ptr() + start
    peer_memory.read(pid, piece.address + start, into, end - start)
