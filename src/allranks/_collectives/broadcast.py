"""``broadcast``: one rank's tensor, or tree of tensors and other data, on all ranks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from allranks._collectives import trees
from allranks._collectives.arguments import shown
from allranks._collectives.in_place import (
    check_call,
    completed_work,
    is_tensor,
    run_in_place,
    why_not_in_place,
)
from allranks._collectives.pickling import dump_bytes, load_bytes
from allranks._collectives.scalars import is_number
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._transport import process_groups
from allranks._transport.bundle import numbers, numbers_in
from allranks._transport.headers import (
    Header,
    exchange_and_combine,
    fits_inline,
)
from allranks._transport.tensor_bytes import (
    as_bytes,
    contiguous,
    from_bytes,
    is_plain,
    to_bytes,
)
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    import torch.distributed as dist

    from allranks._transport.process_groups import Group, Members

T = TypeVar("T")

SENDS = "broadcast_object sends anything"

BUCKET = 2**25
"""Bytes of tensors that travel as one message; a larger tensor travels alone, from where it is."""


@overload
def broadcast(
    tensor: torch.Tensor, src: int, group: Group | None = None, async_op: bool = False
) -> dist.Work | None: ...


@overload
def broadcast(
    tensor: T, src: int, group: Group | None = None, async_op: Literal[False] = False
) -> T: ...


@outside_graphs
def broadcast(tensor: Any, src: int, group: Group | None = None, async_op: bool = False) -> Any:
    """Copy one rank's data into the data of all ranks, in place. Collective.

    Args:
        tensor: a tensor of one shape and dtype on all ranks, read on ``src`` and overwritten
            elsewhere; or a tree (dict, list, tuple, namedtuple, dataclass), such as a module's
            ``state_dict()``, of one structure on all ranks: its tensors and arrays, of one shape
            and dtype on all ranks, are overwritten in place, and in a few large messages; for all
            else in it, and for a number, the sender's is returned.
        src: the sender's global rank.
        group: the ranks that take part; None means WORLD. All of them must make the call.
        async_op: return at once, for a tensor alone, which must then be contiguous.

    Returns:
        For a tensor None; with ``async_op`` torch's handle, to be waited for. For a tree one of
        the same type, with the same tensors and arrays in it; on the sender the tree itself.

    Raises:
        CollectiveError: ``src`` or this rank is not in the group; a tensor overlaps itself, is
            part of an autograd graph, or is not contiguous with ``async_op``; or something in the
            tree cannot be pickled. Nothing was sent.
        MismatchError: the ranks made different calls, or with trees that do not fit together (not
            verified for a bare tensor).
    """
    members = process_groups.members_of("broadcast", group)
    src, why = members.sender(src)
    if not is_tensor(tensor):
        unfit = "async_op=True needs a tensor" if async_op else None
        return _broadcast_tree(tensor, src, members, why or unfit)
    why = why or why_not_in_place(tensor, async_op=async_op)
    check_call(f"broadcast(src={src})", tensor, members, why)
    return _send(tensor, src, members, async_op=async_op)


def _send(tensor: Any, src: int, members: Members, *, async_op: bool = False) -> Any:
    """Overwrite a tensor by the sender's."""
    if members.group is None:
        return completed_work(async_op=async_op)
    import torch.distributed as dist

    def send(dense: torch.Tensor, over: dist.ProcessGroup) -> Any:
        return dist.broadcast(as_bytes(dense), src, group=over, async_op=True)

    sends = members.ranks[members.rank] == src
    return run_in_place(tensor, members.group, send, "broadcast", async_op=async_op, sends=sends)


class _TreeParts(NamedTuple):
    """A tree, by how its leaves travel.

    Attributes:
        flat: the tree, taken apart.
        tensors: what is overwritten; arrays are tensors on the same memory.
        others: which of the leaves are neither.
        told: the tree in words, which must be equal on all ranks.
    """

    flat: trees.FlatTree
    tensors: list[torch.Tensor]
    others: list[int]
    told: str

    @classmethod
    def of(cls, data: Any) -> _TreeParts:
        """Take a tree apart.

        Raises:
            CollectiveError: a leaf cannot be overwritten, or it is no tree and no number.
        """
        flat = trees.flatten(data)
        if flat.node is None and not (is_number(data) or _is_array(data)):
            raise CollectiveError(f"{shown(data)} is no tensor, number or tree of these; {SENDS}")
        found = [_overwritten(leaf, i, flat) for i, leaf in enumerate(flat.leaves)]
        tensors = [one for one in found if one is not None]
        others = [i for i, one in enumerate(found) if one is None]
        return cls(flat, tensors, others, flat.told(list(map(_told, found))))

    @property
    def fit_inline(self) -> bool:
        """Whether the tensors travel with the header; the same on all ranks."""
        on_cpu = all(tensor.is_cpu for tensor in self.tensors)
        return on_cpu and fits_inline(sum(tensor.nbytes for tensor in self.tensors))


def _broadcast_tree(data: Any, src: int, members: Members, why: str | None) -> Any:
    parts, error = _taken_apart(data)
    error = why or error
    sends = src == members.ranks[members.rank]
    inline = parts is not None and parts.fit_inline
    body, unsendable = _body(parts, inline=inline) if sends and parts and not error else (b"", None)
    error = error or unsendable
    told = f"broadcast(src={src}) of {parts.told}" if parts else "broadcast"
    header = Header(told, body, f"broadcast: {error}" if error else None)
    sent = exchange_and_combine(
        members, header, _the_senders, fold=lambda told: [_the_senders(told)]
    )
    if parts is None or members.size == 1:
        return data
    if not inline:
        _send_all(parts.tensors, src, members)
    return data if sends else _with_others(data, parts, sent, src)


def _the_senders(bodies: list[bytes]) -> bytes:
    """What the one rank that sends has sent; the others' bodies are empty."""
    return next(filter(None, bodies), b"")


def _taken_apart(data: Any) -> tuple[_TreeParts | None, str | None]:
    """The parts of a tree, or why it cannot be sent so."""
    try:
        return _TreeParts.of(data), None
    except CollectiveError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        return None, f"a {type(data).__name__}: {type(error).__name__}: {error}"


def _is_array(leaf: Any) -> bool:
    import numpy as np

    return type(leaf) in (np.ndarray, np.memmap)


def _overwritten(leaf: Any, index: int, flat: trees.FlatTree) -> torch.Tensor | None:
    """The tensor that is overwritten for a leaf; None for one that is replaced."""
    import torch

    why = None
    if isinstance(leaf, torch.Tensor):
        plain = leaf.detach()
        if leaf.is_leaf and is_plain(plain):  # Most are: the parameters and buffers of a module.
            return plain
        why = why_not_in_place(leaf)
        if not why:
            return plain.as_subclass(torch.Tensor)
    elif _is_array(leaf) and not leaf.dtype.hasobject:
        if leaf.flags.writeable:
            return torch.from_numpy(leaf)
        why = "the array cannot be written"
    if why:
        raise CollectiveError(f"{flat.paths[index]}: {why}")
    return None


def _told(tensor: torch.Tensor | None) -> str:
    return "any" if tensor is None else _shown(tensor.dtype, tensor.shape, tensor.device.type)


@lru_cache(maxsize=1024)
def _shown(dtype: torch.dtype, shape: Sequence[int], kind: str) -> str:
    return f"{dtype}{list(shape)}{'' if kind == 'cpu' else f' on {kind}'}"


def _body(parts: _TreeParts, *, inline: bool) -> tuple[bytes, str | None]:
    """What travels with the header, or why it cannot."""
    try:
        others = dump_bytes([parts.flat.leaves[i] for i in parts.others])
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        return b"", f"{brief_repr(parts.flat.leaves)}: {type(error).__name__}: {error}"
    raws = [to_bytes(contiguous(tensor)) for tensor in parts.tensors if inline]
    return b"".join([numbers([len(others)]), others, *raws]), None


def _with_others(data: Any, parts: _TreeParts, sent: bytes, src: int) -> Any:
    """The tree with the sender's other leaves, its tensors overwritten if they came with these."""
    (length,) = numbers_in(sent[:8])
    try:
        others = load_bytes(sent[8 : 8 + length])
    except Exception as error:
        raise CollectiveError(
            f"broadcast: what rank {src} sent cannot be unpickled here: "
            f"{type(error).__name__}: {error}"
        ) from error
    at = 8 + length
    for tensor in parts.tensors if len(sent) > at else ():
        raw = sent[at : at + tensor.nbytes]
        tensor.copy_(from_bytes(raw, tensor.dtype).view(tensor.shape))
        at += tensor.nbytes
    leaves = list(parts.flat.leaves)
    for index, other in zip(parts.others, others, strict=True):
        leaves[index] = other
    return trees.rebuild(data, iter(leaves), parts.flat.node)


def _send_all(tensors: Sequence[torch.Tensor], src: int, members: Members) -> None:
    """Overwrite tensors by the sender's, those of a device joined in large messages."""
    for bucket in _buckets(tensors):
        if len(bucket) == 1:
            _send(bucket[0], src, members)
        else:
            _send_joined(bucket, src, members)


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Tensors of one dtype and device, so many at a time; the same on all ranks."""
    alike: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        alike.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for some in alike.values():
        bucket: list[torch.Tensor] = []
        size = 0
        for tensor in some:
            if bucket and size + tensor.nbytes > BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket


def _send_joined(bucket: Sequence[torch.Tensor], src: int, members: Members) -> None:
    import torch

    sends = src == members.ranks[members.rank]
    sizes = [tensor.numel() for tensor in bucket]
    if sends:
        joined = torch.cat([tensor.reshape(-1) for tensor in bucket])
    else:
        joined = bucket[0].new_empty(sum(sizes))
    _send(joined, src, members)
    if not sends:
        parts: Any = torch.split(joined, sizes)
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
