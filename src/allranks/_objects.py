"""Objects between ranks: pickle protocol 5, buffers out of band, exact sizes, over the CPU."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any, TypeVar, cast

from allranks import _groups
from allranks._headers import Header, exchange, move
from allranks._rollcall import ranges
from allranks._tensors import as_bytes, contiguous, why_not_dense
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
        CollectiveError: the object cannot be pickled, or ``src`` or this rank is not in the group.
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
        CollectiveError: an entry cannot be pickled, or ``src`` or this rank is not in the group.
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
    headers = exchange(who, Header(f"{call} from src={src}", _sizes(buffers), error))
    sender = who.ranks.index(src)
    if who.rank == sender:
        _transfer(who, call, buffers, [i for i in range(who.size) if i != sender], {})
        return data
    received = _empty(headers[sender].data)
    _transfer(who, call, [], (), {sender: received})
    return _load(received, src)


def _gather(
    call: str, data: T, group: dist.ProcessGroup | None, receivers: Collection[int] | None
) -> list[T] | None:
    who = _groups.members(call, group)
    buffers, error = _dump(data)
    headers = exchange(who, Header(call, _sizes(buffers), error))
    everyone = range(who.size)
    receivers = everyone if receivers is None else receivers
    receiving = who.rank in receivers
    incoming = {i: _empty(headers[i].data) for i in everyone if receiving and i != who.rank}
    _transfer(who, call, buffers, [i for i in receivers if i != who.rank], incoming)
    if not receiving:
        return None
    return [data if i == who.rank else _load(incoming[i], who.ranks[i]) for i in everyone]


class _Pickler(pickle.Pickler):
    """Carries tensors as out-of-band buffers, moved to the CPU."""

    def reducer_override(self, obj: Any) -> Any:
        import numpy as np
        import torch

        if type(obj) is np.ndarray and not obj.flags.writeable:
            # A buffer that is read-only here would be so where it arrives.
            return obj.copy(order="K").__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        if type(obj) is not torch.Tensor or not _is_plain(obj):
            return _on_cpu(obj)
        plain = contiguous(obj.detach().cpu())
        raw: Any = as_bytes(plain).numpy()
        return _tensor, (pickle.PickleBuffer(raw), plain.dtype, plain.shape, obj.requires_grad)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes, type and shape are all there is to a tensor."""
    return why_not_dense(tensor) is None and not vars(tensor)


def _on_cpu(tensor: torch.Tensor) -> Any:
    """Carried as torch does it, which brings a Parameter's data back here as a plain tensor."""
    import torch

    if isinstance(tensor, torch.nn.Parameter) or tensor.device.type in ("cpu", "meta"):
        return NotImplemented
    carried: Any = tensor.cpu()
    return carried.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _tensor(raw: Any, dtype: torch.dtype, shape: Sequence[int], requires_grad: Any) -> torch.Tensor:
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
        return [stream.getbuffer(), *(buffer.raw() for buffer in outside)], None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        kind = type(data).__name__
        return [], f"its {kind} cannot be pickled: {type(error).__name__}: {error}"


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
