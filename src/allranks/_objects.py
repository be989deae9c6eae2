"""Objects between ranks: pickle protocol 5, buffers out of band, exact sizes, over the CPU."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks import _groups
from allranks._headers import Header, exchange, move
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
        CollectiveError: a rank's object cannot be pickled (the same error on every rank, and the
            group works on), or this rank is not in the group.
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
        CollectiveError: a rank's object cannot be pickled, or this rank is not in the group.
        MismatchError: the ranks made different calls.
    """
    return cast("list[T]", _gather("all_gather_objects", data, group, receivers=None))


def broadcast_object(data: T, src: int = 0, group: dist.ProcessGroup | None = None) -> T:
    """Send one rank's object to every rank. Collective.

    Args:
        data: on ``src`` any object that pickle can carry; ignored elsewhere.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        The sender's object; on the sender ``data`` itself.

    Raises:
        CollectiveError: the object cannot be pickled, or ``src`` or this rank is not in the group.
        MismatchError: the ranks made different calls.
    """
    who = _groups.members("broadcast_object", group)
    sender = who.index("broadcast_object", src)
    buffers, error = _dump(data) if who.rank == sender else ([], None)
    headers = exchange(who, Header(f"broadcast_object(src={src})", _sizes(buffers), error))
    if who.rank == sender:
        _transfer(who, buffers, [i for i in range(who.size) if i != sender], {})
        return data
    received = _empty(headers[sender].data)
    _transfer(who, [], (), {sender: received})
    sent: T = _load(received, src)
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
        CollectiveError: an entry cannot be pickled, or ``src`` or this rank is not in the group.
        MismatchError: the ranks made different calls, or their lists differ in length.
    """
    who = _groups.members("broadcast_object_list", group)
    who.index("broadcast_object_list", src)
    exchange(who, Header(f"broadcast_object_list({len(object_list)} objects, src={src})"))
    object_list[:] = broadcast_object(object_list, src, group)


def _gather(
    call: str, data: T, group: dist.ProcessGroup | None, receivers: Collection[int] | None
) -> list[T] | None:
    who = _groups.members(call, group)
    buffers, error = _dump(data)
    headers = exchange(who, Header(call, _sizes(buffers), error))
    everyone = range(who.size)
    receivers = everyone if receivers is None else receivers
    receiving = who.rank in receivers
    incoming = {
        i: _empty(headers[i].data) for i in everyone if receiving and i != who.rank
    }
    _transfer(who, buffers, [i for i in receivers if i != who.rank], incoming)
    if not receiving:
        return None
    return [data if i == who.rank else _load(incoming[i], who.ranks[i]) for i in everyone]


class _Pickler(pickle.Pickler):
    """Carries tensors as out-of-band buffers, moved to the CPU."""

    def reducer_override(self, obj: Any) -> Any:
        import torch

        if type(obj) is not torch.Tensor or obj.layout != torch.strided or obj.is_quantized:
            return NotImplemented
        plain = obj.detach().cpu().contiguous().resolve_conj().resolve_neg()
        raw = plain.reshape(-1).view(torch.uint8) if plain.numel() else plain.new_empty(0).byte()
        arguments = (pickle.PickleBuffer(raw.numpy()), plain.dtype, plain.shape, obj.requires_grad)
        return _tensor, arguments


def _tensor(
    raw: Any, dtype: torch.dtype, shape: Sequence[int], requires_grad: bool  # noqa: FBT001
) -> torch.Tensor:
    import torch

    if not len(raw):
        return torch.empty(shape, dtype=dtype, requires_grad=requires_grad)
    flat = torch.frombuffer(raw, dtype=torch.uint8).view(dtype)
    return flat.reshape(shape).requires_grad_(requires_grad)


def _dump(data: Any) -> tuple[list[Any], str | None]:
    """An object's buffers, or why there are none."""
    outside: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5, buffer_callback=outside.append).dump(data)
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        told = f"its {type(data).__name__} cannot be pickled: {type(error).__name__}: {error}"
        return [], told
    return [stream.getbuffer(), *(buffer.raw() for buffer in outside)], None


def _sizes(buffers: Sequence[Any]) -> list[int]:
    return [buffer.nbytes for buffer in buffers]


def _empty(sizes: Sequence[int]) -> list[Any]:
    import numpy as np

    return [np.empty(size, dtype=np.uint8) for size in sizes]


def _load(buffers: Sequence[Any], sender: int) -> Any:
    try:
        return pickle.loads(buffers[0], buffers=buffers[1:])  # noqa: S301 - from our own job
    except Exception as error:
        size = sum(_sizes(buffers))
        raise CollectiveError(
            f"the object from rank {sender} ({size} bytes) cannot be unpickled here: "
            f"{type(error).__name__}: {error}"
        ) from error


def _transfer(
    who: Members,
    outgoing: Sequence[Any],
    receivers: Collection[int],
    incoming: dict[int, list[Any]],
) -> None:
    if who.group is None or who.size == 1:
        return
    group = _groups.cpu_group(who.group)
    flat = [_flat(buffer) for buffer in outgoing if buffer.nbytes]
    send = [(tensor, who.ranks[i]) for i in receivers for tensor in flat]
    receive = [
        (_flat(buffer), who.ranks[i]) for i, some in incoming.items() for buffer in some if len(buffer)
    ]
    move(group, send, receive, "objects")


def _flat(buffer: Any) -> torch.Tensor:
    """A buffer as a flat tensor of bytes; only one that is read-only is copied."""
    import torch

    view = memoryview(buffer)
    return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)
