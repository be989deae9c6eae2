"""Objects between ranks: pickle protocol 5, buffers out of band, exact sizes, over the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks import _groups
from allranks._buffers import dump, empty, load, sizes
from allranks._headers import Header, exchange, fits_inline, numbers, numbers_in
from allranks._messages import move
from allranks._rollcall import ranges
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import torch
    import torch.distributed as dist

    from allranks._groups import Members

T = TypeVar("T")


def gather_objects(data: T, group: dist.ProcessGroup | None = None) -> list[T] | None:
    """Gather an object from every rank onto the group's first rank. Collective.

    Args:
        data: any object that pickle can carry; sizes may differ. CUDA tensors inside it arrive
            on the CPU.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        On the group's first rank (rank 0 of WORLD) the objects in the order of the ranks, a list
        of one in a world of one; None on the others.

    Raises:
        CollectiveError: a rank's object cannot be pickled (the same error on every rank), an
            object cannot be unpickled here (an error on this rank alone), or this rank is not in
            the group. The group works on.
        MismatchError: the ranks made different calls.
    """
    return _gather("gather_objects", data, group, receivers=(0,))


def all_gather_objects(data: T, group: dist.ProcessGroup | None = None) -> list[T]:
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


def gather_everywhere(call: str, data: T, group: dist.ProcessGroup | None) -> list[T]:
    """``all_gather_objects``, under the name of the call that the ranks made."""
    return cast("list[T]", _gather(call, data, group, receivers=None))


def broadcast_object(data: T, src: int = 0, group: dist.ProcessGroup | None = None) -> T:
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
    sent: T = _broadcast("broadcast_object", data, src, group)
    return sent


def broadcast_object_list(
    object_list: list[Any],
    src: int,
    group: dist.ProcessGroup | None = None,
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
        call, error = "broadcast_object_list", f"{object_list!r:.60} is no list"
    object_list[:] = _broadcast(call, object_list, src, group, error)


def scatter_objects(
    data: Sequence[T] | None, src: int = 0, group: dist.ProcessGroup | None = None
) -> T:
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
    who = _groups.members("scatter_objects", group)
    objects = list(data) if isinstance(data, (list, tuple)) else []
    error = _no_such_sender("scatter_objects", src, who)
    sends = not error and src == who.ranks[who.rank]
    if sends and len(objects) != who.size:
        given = f"{len(objects)} objects" if objects else f"{data!r:.60}"
        error = f"scatter_objects: expected one object for each of {who.size} ranks, not {given}"
    each: list[list[Any]] = []
    for one in objects if sends and not error else ():
        buffers, why = _dump(one)
        each.append(buffers)
        error = error or why
    body = b"".join(numbers([len(b), *sizes(b)]) for b in each)
    bodies = exchange(who, Header(f"scatter_objects from src={src}", body, error))
    sender = who.ranks.index(src)
    if who.rank == sender:
        _transfer(who, "scatter_objects", {i: b for i, b in enumerate(each) if i != sender}, {})
        return cast("T", objects[sender])
    received = empty(_nth(numbers_in(bodies[sender]), who.rank))
    _transfer(who, "scatter_objects", {}, {sender: received})
    return cast("T", _load(received, src))


def _nth(counted: Sequence[int], index: int) -> Sequence[int]:
    """One list of several that follow each other, each after its length."""
    at = 0
    for _ in range(index):
        at += 1 + counted[at]
    return counted[at + 1 : at + 1 + counted[at]]


def _no_such_sender(call: str, src: int, who: Members) -> str | None:
    if src in who.ranks:
        return None
    return f"{call}: src={src} is not in this group of ranks {ranges(who.ranks)}"


def _broadcast(
    call: str, data: Any, src: int, group: dist.ProcessGroup | None, error: str | None = None
) -> Any:
    who = _groups.members(call, group)
    buffers: list[Any] = []
    error = _no_such_sender(call, src, who) or error
    if not error and src == who.ranks[who.rank]:
        buffers, error = _dump(data)
    body = _body(buffers, who) if buffers else b""
    bodies = exchange(who, Header(f"{call} from src={src}", body, error))
    sender = who.ranks.index(src)
    if who.rank == sender:
        large = not _is_inline(bodies[sender])
        others = [i for i in range(who.size) if large and i != sender]
        _transfer(who, call, dict.fromkeys(others, buffers), {})
        return data
    received = _buffers_in(bodies[sender])
    if not _is_inline(bodies[sender]):
        _transfer(who, call, {}, {sender: received})
    return _load(received, src)


def _gather(
    call: str, data: T, group: dist.ProcessGroup | None, receivers: Collection[int] | None
) -> list[T] | None:
    who = _groups.members(call, group)
    buffers, error = _dump(data)
    bodies = exchange(who, Header(call, _body(buffers, who), error))
    everyone = range(who.size)
    receivers = everyone if receivers is None else receivers
    receiving = who.rank in receivers
    incoming = {i: _buffers_in(bodies[i]) for i in everyone if receiving and i != who.rank}
    filled = {i: b for i, b in incoming.items() if not _is_inline(bodies[i])}
    large = not _is_inline(bodies[who.rank])
    outgoing = {i: buffers for i in receivers if large and i != who.rank}
    _transfer(who, call, outgoing, filled)
    if not receiving:
        return None
    return [data if i == who.rank else _load(incoming[i], who.ranks[i]) for i in everyone]


def _body(buffers: Sequence[Any], who: Members) -> bytes:
    """The buffers' sizes, and the buffers themselves where they are small."""
    lengths = sizes(buffers)
    inline = fits_inline(who, sum(lengths))
    return numbers([inline, len(lengths), *lengths]) + b"".join(buffers if inline else ())


def _is_inline(body: bytes) -> bool:
    return bool(numbers_in(body[:8])[0])


def _buffers_in(body: bytes) -> list[Any]:
    """Buffers of the sizes that a body tells, filled if it holds their contents."""
    _, count = numbers_in(body[:16])
    lengths = numbers_in(body[16 : 16 + 8 * count])
    buffers = empty(lengths)
    at = 16 + 8 * count
    for buffer, length in zip(buffers, lengths if _is_inline(body) else (), strict=False):
        memoryview(buffer)[:] = body[at : at + length]
        at += length
    return buffers


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


def _transfer(
    who: Members, what: str, outgoing: dict[int, list[Any]], incoming: dict[int, list[Any]]
) -> None:
    """Send and receive buffers of known sizes, by the members' ranks in the group."""
    if who.group is None or who.size == 1 or not (outgoing or incoming):
        return
    group = _groups.cpu_group(who.group)
    flat: dict[int, torch.Tensor] = {}
    for buffers in outgoing.values():
        for buffer in buffers:
            if buffer.nbytes and id(buffer) not in flat:
                flat[id(buffer)] = _flat(buffer)
    send = [(flat[id(b)], who.ranks[i]) for i, some in outgoing.items() for b in some if b.nbytes]
    receive = [(_flat(b), who.ranks[i]) for i, some in incoming.items() for b in some if len(b)]
    move(group, send, receive, what)


def _flat(buffer: Any) -> torch.Tensor:
    """A buffer as a flat tensor of bytes; only one that is read-only is copied."""
    import torch

    view = memoryview(buffer)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)
