"""Collectives on tensors: all ranks wait, copy, gather, or reduce and share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from allranks._collectives.arguments import BITWISE, named_op, truth
from allranks._collectives.extremes import as_floats, as_keys, needs_keys
from allranks._collectives.flat import elementwise
from allranks._collectives.in_place import (
    is_tensor,
    torchs_op,
    why_in_graph,
    why_not_reduced,
)
from allranks._collectives.objects import gather_everywhere
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups
from allranks._transport.bulk import LARGE, IncomingBytes, reach, transfer
from allranks._transport.bundle import numbers, numbers_in
from allranks._transport.group_operations import (
    all_gather_single,
    broadcast_in_turn,
    send_and_receive,
    wait_for_collective,
)
from allranks._transport.headers import (
    Header,
    all_fit_inline,
    exchange,
    exchange_and_combine,
)
from allranks._transport.tensor_bytes import (
    as_bytes,
    contiguous,
    from_bytes,
    to_bytes,
    why_not_dense,
)
from allranks.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    import torch.distributed as dist

    from allranks._collectives.arguments import Op
    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")


@outside_graphs
def synchronize(*, group: Group | None = None) -> None:
    """Wait until every rank has come to this call. Collective.

    Args:
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        CollectiveError: this rank is not in the group, or ``setup`` was not called.
        MismatchError: the ranks made different calls.
        StalledError: a rank did not come within the group's timeout.
    """
    members = process_groups.members_of("synchronize", group)
    if members.group is None:
        return
    import torch
    import torch.distributed as dist

    if process_groups.has_backend(members.group, "cpu"):
        # A header that comes from everyone is a barrier, and tells one who made another call.
        exchange_and_combine(members, Header("synchronize"))
    else:
        dist.barrier(members.group, device_ids=[torch.accelerator.current_device_index()])


@overload
def all_gather(
    data: T,
    group: Group | None = None,
    device: torch.device | str | None = None,
    *,
    cat: Literal[False] = False,
) -> list[T]: ...


@overload
def all_gather(
    data: torch.Tensor,
    group: Group | None = None,
    device: torch.device | str | None = None,
    *,
    cat: Literal[True],
) -> torch.Tensor: ...


@outside_graphs
def all_gather(
    data: Any,
    group: Group | None = None,
    device: torch.device | str | None = None,
    *,
    cat: bool = False,
) -> Any:
    """Gather data from every rank onto every rank. Collective.

    Args:
        data: a tensor, whose sizes may differ between ranks in any dimension, but neither the
            number of dimensions nor the dtype; or anything that pickle can carry (numbers,
            arrays, trees), which may differ in any way.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        device: move a tensor there first.
        cat: give one tensor, the ranks' tensors one after the other along their first dimension,
            in which alone they may differ; those without dimensions make one of one dimension.

    Returns:
        One entry for each rank of the group, in the order of the ranks, each of the kind given,
        with its own exact size; a list of one in a world of one. Tensors are new and plain ones,
        without gradient, and may be parts of one allocation; of other data, this rank's entry is
        ``data`` itself. With ``cat`` the one tensor.

    Raises:
        CollectiveError: ``data`` cannot be carried, is no tensor with ``cat``, or this rank is
            not in the group.
        MismatchError: the ranks made different calls, or with tensors that do not fit together.
    """
    import torch

    cat, unclear = truth("cat", cat)
    if not is_tensor(data) and not cat and not unclear:
        return gather_everywhere("all_gather of objects", data, group)
    members = process_groups.members_of("all_gather", group)
    tensor, error = (data, unclear) if unclear else _gatherable(data, device, cat=cat)
    inline = (
        error is None and tensor.device.type == "cpu" and all_fit_inline(members, tensor.nbytes)
    )
    told = f"all_gather{'(cat=True)' if cat else ''} of {_kind(data)}"
    small = to_bytes(tensor) if inline else b""
    body = b"" if error else numbers([*tensor.shape, tensor.data_ptr()]) + small
    bodies = exchange(members, Header(told, body, error))
    parts = [_TensorPart.told(body, tensor.dim()) for body in bodies]
    if cat:
        _check_rows(members, [part.shape for part in parts])
    raw = _gathered(tensor, parts, members)
    if cat:
        rows = sum(part.shape[0] for part in parts)
        return raw.view(tensor.dtype).view(rows, *parts[0].shape[1:])
    raws: Any = torch.split(raw, [_nbytes(part.shape, tensor) for part in parts])
    pairs = zip(raws, parts, strict=True)
    return [raw.view(tensor.dtype).view(part.shape) for raw, part in pairs]


class _TensorPart(NamedTuple):
    """What a rank tells of its tensor.

    Attributes:
        shape: its sizes.
        address: where it lies in the rank's memory.
        inline: its bytes, where they are few.
    """

    shape: Sequence[int]
    address: int
    inline: bytes

    @classmethod
    def told(cls, body: bytes, dimensions: int) -> _TensorPart:
        """What a header's body tells."""
        end = 8 * dimensions + 8
        *shape, address = numbers_in(body[:end])
        return cls(shape, address, body[end:])


def _kind(data: Any) -> str:
    if not is_tensor(data):
        return f"a {type(data).__name__}"
    return f"a tensor of {data.dtype} with {data.dim()} dimensions"


def _gatherable(data: Any, device: Any, *, cat: bool) -> tuple[torch.Tensor, str | None]:
    """The tensor as it travels, or why it cannot."""
    import torch

    try:
        if not is_tensor(data):
            return data, f"all_gather: cat=True needs a tensor, not {brief_repr(data)}"
        moved = data if device is None else data.to(device)
        why = why_not_dense(moved)
        if why is None:
            tensor = contiguous(moved.detach().as_subclass(torch.Tensor))
            as_bytes(tensor)
            return tensor.reshape(1) if cat and not tensor.dim() else tensor, None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange()
        why = f"{type(error).__name__}: {error}"
    if not is_tensor(data):
        return data, f"all_gather: {why}"
    where = f"on {data.device}" if device is None else f"moved from {data.device} to {device}"
    return data, f"all_gather of a tensor of {data.dtype} {where}: {why}"


def _check_rows(members: Members, shapes: Sequence[Sequence[int]]) -> None:
    """All ranks see the same shapes, so all raise."""
    if len({tuple(shape[1:]) for shape in shapes}) > 1:
        told = "; ".join(
            f"rank {r}: {s}" for r, s in zip(members.ranks[:8], shapes[:8], strict=True)
        )
        raise MismatchError(
            f"all_gather(cat=True): the tensors differ in more than their first dimension: {told}"
        )


def _nbytes(shape: Sequence[int], tensor: torch.Tensor) -> int:
    import torch

    return torch.Size(shape).numel() * tensor.element_size()


def _gathered(tensor: torch.Tensor, parts: Sequence[_TensorPart], members: Members) -> torch.Tensor:
    """The bytes of all ranks' tensors, one after the other, in one flat tensor."""
    import torch

    sizes = [_nbytes(part.shape, tensor) for part in parts]
    if members.group is None:
        return as_bytes(tensor).clone()
    if tensor.is_cpu and all_fit_inline(members, max(sizes)):
        return from_bytes(b"".join(part.inline for part in parts), torch.uint8)
    over = process_groups.group_for_tensor(members.group, tensor)
    by_copy = not process_groups.has_backend(over, tensor.device.type)
    mine = as_bytes(tensor.cpu() if by_copy else tensor)
    raw = torch.empty(sum(sizes), dtype=torch.uint8, device=mine.device)
    # The address of a copy was not told.
    addresses = [part.address for part in parts] if tensor.is_cpu else []
    _fill(members, over, mine, torch.split(raw, sizes), addresses, raw)
    return raw.to(tensor.device)


def _fill(
    members: Members,
    over: dist.ProcessGroup,
    mine: torch.Tensor,
    into: Sequence[torch.Tensor],
    addresses: Sequence[int],
    raw: torch.Tensor,
) -> None:
    """Fill the parts of a flat tensor, each from its member."""
    largest = max(part.numel() for part in into)
    equal = all(part.numel() == largest for part in into)
    if equal and not (addresses and largest >= LARGE and reach(members).everywhere):
        all_gather_single(over, mine, raw, "all_gather")
        return
    into[members.rank].copy_(mine)
    if mine.is_cpu:
        _fill_from_each(members, mine, into, addresses)
    else:
        broadcast_in_turn(members, over, into)


def _fill_from_each(
    members: Members, mine: torch.Tensor, into: Sequence[torch.Tensor], addresses: Sequence[int]
) -> None:
    """Fill each member's part from there; from its memory, where the addresses are known."""
    peers = [i for i in range(members.size) if i != members.rank]
    incoming = {i: [IncomingBytes(into[i], addresses[i] if addresses else 0)] for i in peers}
    largest = max(part.numel() for part in into) if addresses else 0
    transfer(members, "all_gather", dict.fromkeys(peers, (mine.numpy(),)), incoming, largest)


@outside_graphs
def reduce_scatter(
    data: torch.Tensor | Sequence[torch.Tensor],
    group: Group | None = None,
    average: bool = False,
    *,
    op: Op = "sum",
) -> torch.Tensor:
    """Reduce part i over all ranks, and return it on member i. Collective.

    Args:
        data: a list with one tensor for each rank of the group, of any sizes, but the same ones
            on all ranks; or one tensor, which is split along its first dimension as
            ``torch.tensor_split`` does, so that the first ranks may get one row more. All of one
            dtype and device; left as they are.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        average: divide the sum by the number of ranks in the group.
        op: as in ``all_reduce``.

    Returns:
        A new tensor: this rank's part, combined over all ranks in their order. In a world of one
        a copy of the only part.

    Raises:
        CollectiveError: not one tensor for each rank, several dtypes or devices, a dtype that
            cannot be reduced so, a tensor that is part of an autograd graph, or this rank is not
            in the group. Nothing was sent.
        MismatchError: the ranks made different calls, or with tensors of different shapes.
    """
    members = process_groups.members_of("reduce_scatter", group)
    op = named_op(op, average=average)
    parts, why = _parts_of(data, members.size)
    why = why or _why_not_scattered(parts, op, members)
    shapes = "" if why else f" of tensors {parts[0].dtype}{[list(p.shape) for p in parts]}"
    error = f"reduce_scatter: {why}" if why else None
    exchange_and_combine(members, Header(f"reduce_scatter({op}){shapes}", error=error))
    return _scattered([contiguous(part.detach()) for part in parts], op, members)


def _parts_of(data: Any, count: int) -> tuple[Any, str | None]:
    """The parts for each rank, or why there are none."""
    try:
        if not is_tensor(data):
            return (list(data), None) if isinstance(data, (list, tuple)) else (data, None)
        if why := why_not_dense(data) or why_in_graph(data):
            return None, why
        return list(data.detach().tensor_split(count)) if data.dim() else data, None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks, by exchange_and_combine()
        return None, f"{type(error).__name__}: {error}"


def _why_not_scattered(parts: Any, op: str, members: Members) -> str | None:
    if not isinstance(parts, list) or not all(map(is_tensor, parts)):
        return f"expected a tensor with dimensions or a list of tensors, not {brief_repr(parts)}"
    if len(parts) != members.size:
        return f"expected one tensor for each of {members.size} ranks, not {len(parts)}"
    kinds = {(str(part.dtype), str(part.device)) for part in parts}
    if len(kinds) > 1:
        return f"the tensors are of several dtypes or devices: {sorted(kinds)}"
    for part in parts:
        if why := why_not_dense(part) or why_in_graph(part):
            return why
    return why_not_reduced(parts[0].dtype, parts[0].device.type, op)


def _scattered(parts: list[torch.Tensor], op: str, members: Members) -> torch.Tensor:
    """This rank's part: by the backend of its device, or by messages on the CPU."""
    mine = parts[members.rank]
    if members.group is None or members.size == 1:
        return mine.clone()
    by_backend = process_groups.has_backend(members.group, mine.device.type)
    if by_backend and not mine.is_cpu and op not in BITWISE:
        total = _scattered_by_backend(parts, op, members.group, mine)
    else:
        over = process_groups.cpu_group(members.group)
        total = _scattered_by_messages([part.cpu() for part in parts], op, over, members)
    return (total.div_(members.size) if op == "mean" else total).to(mine.device)


def _scattered_by_backend(
    parts: list[torch.Tensor], op: str, group: dist.ProcessGroup, mine: torch.Tensor
) -> torch.Tensor:
    import torch
    import torch.distributed as dist

    keyed = needs_keys(mine.dtype, op)
    sent = [as_keys(part, op) for part in parts] if keyed else parts
    total = torch.empty_like(as_keys(mine, op) if keyed else mine)
    work = dist.reduce_scatter(total, sent, torchs_op(op), group=group, async_op=True)
    wait_for_collective(group, work, total, "reduce_scatter")
    return as_floats(total, mine.dtype) if keyed else total


def _scattered_by_messages(
    parts: list[torch.Tensor], op: str, group: dist.ProcessGroup, members: Members
) -> torch.Tensor:
    """Each part goes straight to its rank, which combines them in the order of the ranks."""
    import torch

    mine = parts[members.rank]
    arrived = [mine if i == members.rank else torch.empty_like(mine) for i in range(members.size)]
    peers = [i for i in range(members.size) if i != members.rank]
    send = [(as_bytes(parts[i]), members.ranks[i]) for i in peers]
    receive = [(as_bytes(arrived[i]), members.ranks[i]) for i in peers]
    send_and_receive(group, send, receive, "reduce_scatter")
    total = arrived[0].clone()
    two = elementwise(op)
    for other in arrived[1:]:
        two(total, other, out=total)
    return total
