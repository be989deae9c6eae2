"""``all_to_all``: each rank sends each rank its own part, of any size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast, overload

from allranks._collectives.arguments import truth
from allranks._collectives.in_place import is_tensor, why_in_graph
from allranks._collectives.objects import swap_objects
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups
from allranks._transport.bulk import IncomingBytes, transfer
from allranks._transport.bundle import numbers, numbers_in
from allranks._transport.group_operations import wait_for_collective
from allranks._transport.headers import Header, all_fit_inline, exchange
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

    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")


@overload
def all_to_all(
    data: torch.Tensor, group: Group | None = None, *, cat: Literal[False] = False
) -> list[torch.Tensor]: ...


@overload
def all_to_all(
    data: Sequence[T], group: Group | None = None, *, cat: Literal[False] = False
) -> list[T]: ...


@overload
def all_to_all(
    data: torch.Tensor | Sequence[torch.Tensor],
    group: Group | None = None,
    *,
    cat: Literal[True],
) -> torch.Tensor: ...


@outside_graphs
def all_to_all(data: Any, group: Group | None = None, *, cat: bool = False) -> Any:
    """Send part i to member i, and receive one part from each. Collective.

    The sizes travel with the call, and nothing is padded.

    Args:
        data: a list or tuple with one entry for each rank of the group: tensors of any sizes, of
            one dtype, device and number of dimensions on all ranks; or anything that pickle can
            carry. Or one tensor, which is split along its first dimension as
            ``torch.tensor_split`` does, so that the first ranks may get one row more. Left as
            they are.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        cat: give one tensor, what came one after the other along its first dimension.

    Returns:
        A list with what each rank of the group sent here, in the order of the ranks; with ``cat``
        one tensor. Tensors are new and plain ones, without gradient; of other data, this rank's
        own entry is the one given. In a world of one a list of the only part.

    Raises:
        CollectiveError: not one entry for each rank, several dtypes or devices, something that
            cannot be carried, or this rank is not in the group. Nothing was sent.
        MismatchError: the ranks made different calls, or with tensors that do not fit together.
    """
    import torch

    members = process_groups.members_of("all_to_all", group)
    cat, why = truth("cat", cat)
    parts, unfit = _parts_of(data, members.size)
    why = why or unfit
    tensors = not why and any(map(is_tensor, parts))
    if not why and not tensors and not cat:
        return swap_objects("all_to_all of objects", parts, group)
    why = why or _why_no_tensors(parts)
    error = f"all_to_all: {why}" if why else None
    kind = "" if why else f" of tensors of {parts[0].dtype} with {parts[0].dim()} dimensions"
    told = f"all_to_all{'(cat=True)' if cat else ''}{kind}"
    plain = [] if why else [_plain(part, cat=cat) for part in parts]
    tables = list(map(_Table.read, exchange(members, Header(told, _body(plain, members), error))))
    if cat:
        _check_rows(tables)
    received = _received(plain, tables, members)
    return torch.cat(received) if cat else received


def _parts_of(data: Any, count: int) -> tuple[list[Any], str | None]:
    """The parts for each rank, or why there are none."""
    try:
        if (
            is_tensor(data)
            and data.dim()
            and not (why := why_not_dense(data) or why_in_graph(data))
        ):
            return list(data.detach().tensor_split(count)), None
        if is_tensor(data):
            return [], why if data.dim() else "a tensor without dimensions cannot be split"
        parts = list(data) if isinstance(data, (list, tuple)) else None
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        return [], f"{type(error).__name__}: {error}"
    if parts is None:
        return [], f"expected a list or a tensor, not {brief_repr(data)}"
    if len(parts) != count:
        return [], f"expected one entry for each of {count} ranks, not {len(parts)}"
    return parts, None


def _why_no_tensors(parts: Sequence[Any]) -> str | None:
    for part in parts:
        if not is_tensor(part):
            return f"{brief_repr(part)} is no tensor, as others are"
        if why := why_not_dense(part) or why_in_graph(part):
            return why
    kinds = {(str(part.dtype), str(part.device), part.dim()) for part in parts}
    if len(kinds) > 1:
        return (
            f"the tensors are of several dtypes, devices or numbers of dimensions: {sorted(kinds)}"
        )
    return None


def _plain(part: Any, *, cat: bool) -> torch.Tensor:
    import torch

    plain = contiguous(part.detach().as_subclass(torch.Tensor))
    return plain.reshape(1) if cat and not plain.dim() else plain


class _Table(NamedTuple):
    """What a rank tells of the parts that it sends.

    Attributes:
        shapes: of each part.
        addresses: where each lies in its memory; none where their contents travel with this.
        contents: of all parts, one after the other, or nothing.
    """

    shapes: list[tuple[int, ...]]
    addresses: list[int]
    contents: bytes

    @classmethod
    def read(cls, body: bytes) -> _Table:
        """What a header's body tells."""
        inline, count, dims = numbers_in(body[:24])
        end = 24 + 8 * count * (dims + 1)
        rows = numbers_in(body[24:end])
        each = [rows[i : i + dims + 1] for i in range(0, len(rows), dims + 1)]
        addresses = [] if inline else [row[-1] for row in each]
        return cls([tuple(row[:-1]) for row in each], addresses, body[end:])

    def content_of(self, part: int, itemsize: int) -> bytes:
        """The bytes of one part, where they have come."""
        sizes = [math.prod(shape) * itemsize for shape in self.shapes]
        start = sum(sizes[:part])
        return self.contents[start : start + sizes[part]]


def _body(parts: Sequence[torch.Tensor], members: Members) -> bytes:
    if not parts:
        return b""
    on_cpu = parts[0].device.type == "cpu"
    inline = on_cpu and all_fit_inline(members, sum(part.nbytes for part in parts))
    rows = [number for part in parts for number in (*part.shape, part.data_ptr())]
    contents = b"".join(map(to_bytes, parts)) if inline else b""
    return numbers([inline, len(parts), parts[0].dim(), *rows]) + contents


def _check_rows(tables: Sequence[_Table]) -> None:
    """All ranks see the same shapes, so all raise."""
    rests = sorted({shape[1:] for table in tables for shape in table.shapes})
    if len(rests) > 1:
        raise MismatchError(
            "all_to_all(cat=True): the tensors differ in more than their first dimension: "
            + ", ".join(str([..., *rest]).replace("Ellipsis", "...") for rest in rests[:8])
        )


def _received(
    parts: Sequence[torch.Tensor], tables: Sequence[_Table], members: Members
) -> list[torch.Tensor]:
    """What each member has sent here."""
    import torch

    mine = parts[members.rank]
    into = [
        torch.empty(table.shapes[members.rank], dtype=mine.dtype, device=mine.device)
        for table in tables
    ]
    into[members.rank].copy_(mine)
    if members.group is None or members.size == 1:
        return into
    if not mine.is_cpu:
        _swap_on_device(parts, into, members)
        return into
    for i, table in enumerate(tables):
        if not table.addresses and i != members.rank:
            raw = from_bytes(table.content_of(members.rank, mine.element_size()), mine.dtype)
            into[i].copy_(raw.view(into[i].shape))
    _transfer(parts, into, tables, members)
    return into


def _transfer(
    parts: Sequence[torch.Tensor],
    into: Sequence[torch.Tensor],
    tables: Sequence[_Table],
    members: Members,
) -> None:
    """Move what did not come with the headers."""
    peers = [i for i in range(members.size) if i != members.rank]
    sends = tables[members.rank].addresses
    outgoing = {i: (as_bytes(parts[i]).numpy(),) for i in peers if sends}
    incoming = {
        i: [IncomingBytes(as_bytes(into[i]), tables[i].addresses[members.rank])]
        for i in peers
        if tables[i].addresses
    }
    sizes = [
        math.prod(shape) * parts[0].element_size()
        for i, table in enumerate(tables)
        for j, shape in enumerate(table.shapes)
        if i != j and table.addresses
    ]
    transfer(members, "all_to_all", outgoing, incoming, max(sizes, default=0))


def _swap_on_device(
    parts: Sequence[torch.Tensor], into: Sequence[torch.Tensor], members: Members
) -> None:
    """By the backend of the device; by the CPU where there is none."""
    import torch
    import torch.distributed as dist

    over = process_groups.group_for_tensor(cast("dist.ProcessGroup", members.group), parts[0])
    if process_groups.has_backend(over, parts[0].device.type):
        work: Any = dist.all_to_all(list(into), list(parts), group=over, async_op=True)
        wait_for_collective(over, work, into[0], "all_to_all")
        return
    swapped = swap_objects("all_to_all", [part.cpu() for part in parts], over)
    for one, other in zip(into, swapped, strict=True):
        one.copy_(torch.as_tensor(other))
