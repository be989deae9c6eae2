"""Objects between ranks: pickle protocol 5, buffers out of band, exact sizes, over the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks import _groups
from allranks._buffers import dump, empty, load, sizes
from allranks._headers import Header, exchange, move
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


def _broadcast(
    call: str, data: Any, src: int, group: dist.ProcessGroup | None, error: str | None = None
) -> Any:
    who = _groups.members(call, group)
    buffers: list[Any] = []
    if src not in who.ranks:
        error = f"{call}: src={src} is not in this group of ranks {ranges(who.ranks)}"
    elif not error and src == who.ranks[who.rank]:
        buffers, error = _dump(data)
    headers = exchange(who, Header(f"{call} from src={src}", sizes(buffers), error))
    sender = who.ranks.index(src)
    if who.rank == sender:
        _transfer(who, call, buffers, [i for i in range(who.size) if i != sender], {})
        return data
    received = empty(headers[sender].data)
    _transfer(who, call, [], (), {sender: received})
    return _load(received, src)


def _gather(
    call: str, data: T, group: dist.ProcessGroup | None, receivers: Collection[int] | None
) -> list[T] | None:
    who = _groups.members(call, group)
    buffers, error = _dump(data)
    headers = exchange(who, Header(call, sizes(buffers), error))
    everyone = range(who.size)
    receivers = everyone if receivers is None else receivers
    receiving = who.rank in receivers
    incoming = {i: empty(headers[i].data) for i in everyone if receiving and i != who.rank}
    _transfer(who, call, buffers, [i for i in receivers if i != who.rank], incoming)
    if not receiving:
        return None
    return [data if i == who.rank else _load(incoming[i], who.ranks[i]) for i in everyone]


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
    who: Members,
    what: str,
    outgoing: Sequence[Any],
    receivers: Collection[int],
    incoming: dict[int, list[Any]],
) -> None:
    if who.group is None or who.size == 1:
        return
    group = _groups.cpu_group(who.group)
    flat = [_flat(buffer) for buffer in outgoing if buffer.nbytes]
    send = [(tensor, who.ranks[i]) for i in receivers for tensor in flat]
    filled = [(buffer, i) for i, buffers in incoming.items() for buffer in buffers if len(buffer)]
    receive = [(_flat(buffer), who.ranks[i]) for buffer, i in filled]
    move(group, send, receive, what)


def _flat(buffer: Any) -> torch.Tensor:
    """A buffer as a flat tensor of bytes; only one that is read-only is copied."""
    import torch

    view = memoryview(buffer)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)
