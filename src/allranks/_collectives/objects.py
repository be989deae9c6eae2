"""Objects between ranks: pickle protocol 5, buffers out of band, exact sizes, over the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from allranks._collectives.pickling import addresses, dump, empty, load, sizes
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups
from allranks._transport.bulk import IncomingBytes, transfer
from allranks._transport.bundle import numbers, numbers_in
from allranks._transport.headers import Header, all_fit_inline, exchange
from allranks._transport.tensor_bytes import flat
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")


@outside_graphs
def gather_objects(
    data: T, group: Group | None = None, *, dst: int | None = None
) -> list[T] | None:
    """Gather an object from every rank onto one rank. Collective.

    Args:
        data: any object that pickle can carry; sizes may differ. CUDA tensors inside it arrive
            on the CPU.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        dst: the receiver's global rank; None means the group's first rank (rank 0 of WORLD).

    Returns:
        On the receiver the objects in the order of the ranks, a list of one in a world of one;
        None on the others.

    Raises:
        CollectiveError: a rank's object cannot be pickled (the same error on every rank), an
            object cannot be unpickled here (an error on this rank alone), or ``dst`` or this rank
            is not in the group. The group works on.
        MismatchError: the ranks made different calls.
    """
    if dst is None:
        return gather_to("gather_objects", data, group, receivers=(0,))
    return gather_to_rank("gather_objects", data, dst, group)


def gather_to_rank(
    call: str, data: T, dst: int, group: Group | None, error: str | None = None
) -> list[T] | None:
    """Gather each rank's object on one rank, under the name of the call that the ranks made.

    Args:
        call: the call in words.
        data: as for ``gather_objects``.
        dst: the receiver's global rank.
        group: as for ``gather_objects``.
        error: why this rank cannot make the call, or None.
    """
    members = process_groups.members_of(call, group)
    dst, why = members.peer("dst", dst)
    index = 0 if why else members.ranks.index(dst)
    error = f"{call}: {why}" if why else error
    return gather_to(f"{call} to rank {dst}", data, group, (index,), error)


@outside_graphs
def all_gather_objects(data: T, group: Group | None = None) -> list[T]:
    """Gather an object from every rank onto every rank. Collective.

    Args:
        data: any object that pickle can carry; sizes may differ.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        The objects in the order of the ranks; a list of one in a world of one.

    Raises:
        CollectiveError: as for ``gather_objects``.
        MismatchError: the ranks made different calls.
    """
    return gather_everywhere("all_gather_objects", data, group)


def gather_everywhere(call: str, data: T, group: Group | None) -> list[T]:
    """``all_gather_objects``, under the name of the call that the ranks made."""
    return cast("list[T]", gather_to(call, data, group, receivers=None))


@outside_graphs
def broadcast_object(data: T, src: int = 0, group: Group | None = None) -> T:
    """Send one rank's object to every rank. Collective.

    Args:
        data: on ``src`` any object that pickle can carry; ignored elsewhere.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        The sender's object; on the sender ``data`` itself.

    Raises:
        CollectiveError: as for ``gather_objects``, or ``src`` is not in the group.
        MismatchError: the ranks made different calls.
    """
    sent: T = broadcast_as("broadcast_object", data, src, group)
    return sent


@outside_graphs
def broadcast_object_list(
    object_list: list[Any],
    src: int,
    group: Group | None = None,
    device: str | None = None,  # noqa: ARG001 - objects always travel over the CPU
) -> None:
    """Replace the entries of a list by those of one rank's list, in place. Collective.

    Args:
        object_list: a list of one length on all ranks; its entries on ``src`` are sent.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        device: accepted for the sake of old callers; objects always travel over the CPU.

    Raises:
        CollectiveError: as for ``gather_objects``, or ``src`` is not in the group.
        MismatchError: the ranks made different calls, or their lists differ in length.
    """
    if isinstance(object_list, list):
        call, error = f"broadcast_object_list of {len(object_list)} objects", None
    else:
        call, error = "broadcast_object_list", f"{brief_repr(object_list)} is no list"
    object_list[:] = broadcast_as(call, object_list, src, group, error)


@outside_graphs
def scatter_objects(data: Sequence[T] | None, src: int = 0, group: Group | None = None) -> T:
    """Send each rank its own of one rank's objects. Collective.

    Args:
        data: on ``src`` a list or tuple with one object for each rank of the group, in the order
            of the ranks; ignored elsewhere.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        This rank's object; on the sender the very one that it gave.

    Raises:
        CollectiveError: as for ``gather_objects``, ``src`` is not in the group, or there is not
            one object for each rank.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of("scatter_objects", group)
    objects = list(data) if isinstance(data, (list, tuple)) else []
    src, error = _sender("scatter_objects", src, members)
    sends = not error and src == members.ranks[members.rank]
    if sends and len(objects) != members.size:
        given = f"{len(objects)} objects" if objects else brief_repr(data)
        error = (
            f"scatter_objects: expected one object for each of {members.size} ranks, not {given}"
        )
    each, why = _dump_each(objects if sends and not error else ())
    body = b"".join(_body(buffers, inline=False) for buffers in each)
    bodies = exchange(members, Header(f"scatter_objects from src={src}", body, error or why))
    sender = members.ranks.index(src)
    told = list(_all_told(bodies[sender]))
    largest = (
        max(one.nbytes for i, one in enumerate(told) if i != sender) if members.size > 1 else 0
    )
    if members.rank == sender:
        others = {i: b for i, b in enumerate(each) if i != sender}
        transfer(members, "scatter_objects", others, {}, largest)
        return cast("T", objects[sender])
    received = empty(told[members.rank].lengths)
    incoming = {sender: told[members.rank].incoming(received)}
    transfer(members, "scatter_objects", {}, incoming, largest)
    return cast("T", _load(received, src))


def swap_objects(
    call: str, objects: Sequence[Any], group: Group | None, error: str | None = None
) -> list[Any]:
    """Send each member its own of this rank's objects, and give what they sent here. Collective.

    Args:
        call: the call in words.
        objects: one for each member.
        group: the ranks that take part; None means WORLD.
        error: why this rank cannot make the call, or None.
    """
    members = process_groups.members_of(call, group)
    each, why = _dump_each(() if error else objects)
    inline = _fits_inline(members, [buffer for buffers in each for buffer in buffers])
    body = b"".join(_body(buffers, inline=inline) for buffers in each)
    bodies = exchange(members, Header(call, body, error or (f"{call}: {why}" if why else None)))
    told = [list(_all_told(one)) for one in bodies]
    peers = [i for i in range(members.size) if i != members.rank]
    received = {i: told[i][members.rank].received() for i in peers}
    incoming = {i: told[i][members.rank].incoming(received[i]) for i in peers}
    outgoing = {i: each[i] for i in peers if told[members.rank][i].nbytes}
    sent = [one.nbytes for i, row in enumerate(told) for j, one in enumerate(row) if i != j]
    transfer(members, call, outgoing, incoming, max(sent, default=0))
    mine = members.rank
    return [
        objects[i] if i == mine else _load(received[i], members.ranks[i])
        for i in range(members.size)
    ]


def _dump_each(objects: Sequence[Any]) -> tuple[list[list[Any]], str | None]:
    """The buffers of each object, and why one of them cannot be sent."""
    dumped = [_dump(one) for one in objects]
    return [buffers for buffers, _ in dumped], next((why for _, why in dumped if why), None)


def _sender(call: str, src: object, members: Members) -> tuple[int, str | None]:
    number, why = members.sender(src)
    return number, f"{call}: {why}" if why else None


def broadcast_as(
    call: str, data: Any, src: int, group: Group | None, error: str | None = None
) -> Any:
    """``broadcast_object``, under the name of the call that the ranks made.

    Small objects travel with the headers; all ranks know from those how much is to follow.

    Args:
        call: the call in words.
        data: as for ``broadcast_object``.
        src: as there.
        group: as there.
        error: why this rank cannot make the call, or None.
    """
    members = process_groups.members_of(call, group)
    buffers: list[Any] = []
    src, no_sender = _sender(call, src, members)
    error = no_sender or error
    if not error and src == members.ranks[members.rank]:
        buffers, error = _dump(data)
    body = _body(buffers, inline=_fits_inline(members, buffers)) if buffers else b""
    bodies = exchange(members, Header(f"{call} from src={src}", body, error))
    sender = members.ranks.index(src)
    told = _told(bodies[sender])
    if members.rank == sender:
        others = [i for i in range(members.size) if i != sender and told.nbytes]
        transfer(members, call, dict.fromkeys(others, buffers), {}, told.nbytes)
        return data
    received = told.received()
    transfer(members, call, {}, {sender: told.incoming(received)}, told.nbytes)
    return _load(received, src)


def gather_to(
    call: str,
    data: T,
    group: Group | None,
    receivers: Collection[int] | None,
    error: str | None = None,
) -> list[T] | None:
    """Gather each rank's object on some members, under the name of the call that the ranks made.

    Every rank sends; one that does not receive returns None.

    Args:
        call: the call in words.
        data: as for ``gather_objects``.
        group: as for ``gather_objects``.
        receivers: their indices within the group; None means all.
        error: why this rank cannot make the call, or None.
    """
    members = process_groups.members_of(call, group)
    buffers, unsendable = _dump(data)
    error = error or unsendable
    body = _body(buffers, inline=_fits_inline(members, buffers))
    told = list(map(_told, exchange(members, Header(call, body, error))))
    everyone = range(members.size)
    receivers = everyone if receivers is None else receivers
    others = [i for i in everyone if members.rank in receivers and i != members.rank]
    received = {i: told[i].received() for i in others}
    incoming = {i: told[i].incoming(received[i]) for i in others}
    outgoing = {i: buffers for i in receivers if told[members.rank].nbytes and i != members.rank}
    transfer(members, call, outgoing, incoming, _largest(told, receivers))
    if members.rank not in receivers:
        return None
    return [data if i == members.rank else _load(received[i], members.ranks[i]) for i in everyone]


class _BufferSizes(NamedTuple):
    """What a rank tells of an object's buffers.

    Attributes:
        lengths: their sizes in bytes.
        addresses: where they lie in its memory; none where their contents travel with this.
        contents: of all of them, one after the other, or nothing.
    """

    lengths: Sequence[int]
    addresses: Sequence[int]
    contents: bytes

    @property
    def nbytes(self) -> int:
        """Bytes that are still to travel."""
        return sum(self.lengths) if self.addresses else 0

    def received(self) -> list[Any]:
        """Buffers of these sizes, which hold the contents that have come."""
        buffers = empty(self.lengths)
        at = 0
        for buffer, length in zip(buffers, () if self.addresses else self.lengths, strict=False):
            memoryview(buffer)[:] = self.contents[at : at + length]
            at += length
        return buffers

    def incoming(self, buffers: Sequence[Any]) -> list[IncomingBytes]:
        """What is still to fill these buffers."""
        pairs = zip(buffers, self.addresses, strict=False)
        return [IncomingBytes(flat(buffer), address) for buffer, address in pairs]


def _largest(told: Sequence[_BufferSizes], receivers: Collection[int]) -> int:
    """The most bytes that go from one rank to another, the same on all ranks."""
    return max(one.nbytes * any(r != i for r in receivers) for i, one in enumerate(told))


def _fits_inline(members: Members, buffers: Sequence[Any]) -> bool:
    return all_fit_inline(members, sum(sizes(buffers)))


def _body(buffers: Sequence[Any], *, inline: bool) -> bytes:
    """The buffers' sizes, and their contents where these are small, else their addresses."""
    lengths = sizes(buffers)
    where = [] if inline else addresses(buffers)
    contents = b"".join(buffers) if inline else b""
    return numbers([inline, len(lengths), *lengths, *where]) + contents


def _told(body: bytes) -> _BufferSizes:
    inline, count = numbers_in(body[:16])
    at = 16 + 8 * count
    end = at if inline else at + 8 * count
    return _BufferSizes(numbers_in(body[16:at]), numbers_in(body[at:end]), body[end:])


def _all_told(body: bytes) -> Iterator[_BufferSizes]:
    """Of several, one after the other."""
    while body:
        told = _told(body)
        end = 0 if told.addresses else sum(told.lengths)
        yield told._replace(contents=told.contents[:end])
        body = told.contents[end:]


def _dump(data: Any) -> tuple[list[Any], str | None]:
    """An object's buffers, or why there are none."""
    try:
        return dump(data), None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        kind = type(data).__name__
        return [], f"its {kind} cannot be pickled: {type(error).__name__}: {error}"


def _load(buffers: Sequence[Any], sender: int) -> Any:
    try:
        return load(buffers)
    except Exception as error:
        raise CollectiveError(
            f"the object from rank {sender} ({sum(sizes(buffers))} bytes) cannot be unpickled "
            f"here: {type(error).__name__}: {error}"
        ) from error
